//! What requests from the network may take at a time: so many in all, so many of one caller, and so many bytes of bodies.
//! Nobody who may do something can keep others from doing anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that are worked on at a time: as many as there may be connections, so that slow bodies over HTTP/1.1 cannot
/// take all of them.
const MAX_REQUESTS: usize = 256;
/// Those of one caller: as many as a connection of HTTP/2 has.
const MAX_EACH: usize = 32;
/// What a request waits for a place among them.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes of bodies that are in memory as a whole, of all callers.
const MAX_BYTES: usize = 64 << 20;

/// Callers, as [`identity`](crate::access::Principal) tells them apart: what is shown of two may be the same.
type Who = [u8; 32];

/// The places of requests.
#[derive(Debug)]
pub(super) struct Shares {
    all: Arc<Semaphore>,
    /// Of those who have one, or wait for one.
    each: Mutex<HashMap<Who, Arc<Semaphore>>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// All of them are taken.
    All,
    /// Those of the caller are.
    Own,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// In this order: the caller's own is free before somebody looks whether it is the last.
    own: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
    shares: &'a Shares,
    who: Who,
}

impl Default for Shares {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_REQUESTS)), each: Mutex::default() }
    }
}

impl Shares {
    /// A place for a request of `who`, as soon as there is one.
    pub(super) async fn take(&self, who: Who) -> Result<Place<'_>, Taken> {
        let own = Arc::clone(self.each().entry(who).or_insert_with(|| Arc::new(Semaphore::new(MAX_EACH))));
        // From here on it is forgotten again, whatever comes.
        let mut place = Place { own: None, _all: None, shares: self, who };
        let until = tokio::time::Instant::now() + WAIT;
        let own = tokio::time::timeout_at(until, own.acquire_owned()).await;
        place.own = Some(own.ok().and_then(Result::ok).ok_or(Taken::Own)?);
        let all = tokio::time::timeout_at(until, Arc::clone(&self.all).acquire_owned()).await;
        place._all = Some(all.ok().and_then(Result::ok).ok_or(Taken::All)?);
        Ok(place)
    }

    fn each(&self) -> MutexGuard<'_, HashMap<Who, Arc<Semaphore>>> {
        // Nothing panics while it is locked.
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.own = None;
        let mut each = self.shares.each();
        // Those who hold or wait for a place of theirs hold the semaphore, too.
        if each.get(&self.who).is_some_and(|own| Arc::strong_count(own) == 1) {
            each.remove(&self.who);
        }
    }
}

/// The room for bodies.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// Part of the room, given back when it is dropped.
pub(super) type Roomful = OwnedSemaphorePermit;

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BYTES)))
    }
}

impl Room {
    /// Room for so many bytes, if there is.
    pub(super) fn take(&self, bytes: usize) -> Option<Roomful> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Who = [100; 32];
    const B: Who = [101; 32];

    #[tokio::test(start_paused = true)]
    async fn nobody_has_the_place_of_another() {
        let shares = Shares::default();
        let mut places = Vec::new();
        for _ in 0..MAX_EACH {
            places.push(shares.take(A).await.unwrap());
        }
        assert_eq!(shares.take(A).await.unwrap_err(), Taken::Own);
        for n in 1..MAX_REQUESTS / MAX_EACH {
            for _ in 0..MAX_EACH {
                places.push(shares.take([u8::try_from(n).unwrap(); 32]).await.unwrap());
            }
        }
        assert_eq!(shares.take(B).await.unwrap_err(), Taken::All);
        // Who waits gets the next that is free.
        let (place, ()) = tokio::join!(shares.take(A), async { drop(places.remove(0)) });
        drop(place.unwrap());
        drop(places);
        assert!(shares.each().is_empty(), "{:?}", shares.each());
        assert_eq!(shares.all.available_permits(), MAX_REQUESTS);
    }

    #[test]
    fn room_is_given_back() {
        let room = Room::default();
        let mut most = room.take(MAX_BYTES - 1).unwrap();
        most.merge(room.take(1).unwrap());
        assert!(room.take(1).is_none());
        drop(most);
        assert!(room.take(MAX_BYTES).is_some());
    }
}

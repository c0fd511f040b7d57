//! Who may have a connection over TCP: so many at a time in all and for each peer, and so many new ones a second. Pure.
//!
//! When all places are taken, the connection that has waited longest without proving to be anybody makes room: who fills
//! the places with silence pushes out silence, not those who work. Without such a one it is the caller with the most
//! connections who makes room, if these are many: a token that got lost must not keep all others out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use limiter_common::gcra::{Quota, Step};
use limiter_common::{Address, Nanos, Prefix};
use tokio::time::Instant;

use crate::http::Activity;

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Connections in all.
    pub(super) connections: usize,
    /// Connections of one peer: an IPv4 address, or an IPv6 /64.
    pub(super) per_peer: usize,
    /// Connections that a caller keeps when others want in, from wherever they are: as many as may have requests under way.
    pub(super) per_caller: usize,
    /// New connections of one peer: a second, and at once.
    pub(super) rate: (u64, u64),
    /// Peers that are remembered.
    pub(super) peers: usize,
}

impl Room {
    pub(super) const API: Self =
        Self { connections: 256, per_peer: 16, per_caller: 32, rate: (50, 100), peers: 1 << 14 };
}

/// Why somebody does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All places are taken by those who have proven who they are.
    Full,
    /// The peer has as many as one may have.
    PeerFull,
    /// The peer comes too often.
    TooOften,
}

/// The places.
#[derive(Debug)]
pub(super) struct Doors {
    room: Room,
    quota: Quota,
    peers: HashMap<Prefix, Peer>,
    /// In the order of arrival.
    connections: BTreeMap<u64, Arc<Activity>>,
    next: u64,
}

#[derive(Debug, Default)]
struct Peer {
    connections: usize,
    /// Theoretical arrival time of its next connection.
    tat: Nanos,
}

/// A place, to be given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    number: u64,
    peer: Prefix,
}

impl Doors {
    pub(super) fn new(room: Room) -> Self {
        let quota = Quota::packets(room.rate.0, room.rate.1).unwrap_or(Quota::UNLIMITED);
        Self { room, quota, peers: HashMap::new(), connections: BTreeMap::new(), next: 0 }
    }

    /// A place for a connection from `address`. The second value says whether another connection was turned out for it.
    pub(super) fn enter(
        &mut self,
        address: IpAddr,
        activity: &Arc<Activity>,
        now: Nanos,
    ) -> Result<(Place, bool), Refused> {
        let peer = peer(address);
        if self.peers.len() >= self.room.peers && !self.peers.contains_key(&peer) {
            // Only those that say anything are kept.
            self.peers.retain(|_, peer| peer.connections > 0 || peer.tat > now);
            if self.peers.len() >= self.room.peers {
                return Err(Refused::Full);
            }
        }
        let known = self.peers.entry(peer).or_default();
        match self.quota.step(known.tat, self.quota.cost(0), now) {
            Step::Admit(tat) => known.tat = tat,
            Step::Refuse => return Err(Refused::TooOften),
        }
        if known.connections >= self.room.per_peer {
            return Err(Refused::PeerFull);
        }
        let mut turned_out = false;
        if self.connections.len() >= self.room.connections {
            let makes_room = first_unknown(&self.connections)
                .or_else(|| quietest_of_the_greediest(&self.connections, self.room.per_caller));
            let Some(number) = makes_room else { return Err(Refused::Full) };
            self.connections[&number].turn_out();
            // Its place is free at once; what it gives back later is that of its peer alone.
            self.connections.remove(&number);
            turned_out = true;
        }
        known.connections += 1;
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, Arc::clone(activity));
        Ok((Place { number, peer }, turned_out))
    }

    /// The connection has ended.
    pub(super) fn leave(&mut self, place: &Place, now: Nanos) {
        self.connections.remove(&place.number);
        if let Some(peer) = self.peers.get_mut(&place.peer) {
            peer.connections = peer.connections.saturating_sub(1);
            if peer.connections == 0 && peer.tat <= now {
                self.peers.remove(&place.peer);
            }
        }
    }

    pub(super) fn open(&self) -> usize {
        self.connections.len()
    }
}

/// The one that has waited longest without proving to be anybody.
fn first_unknown(connections: &BTreeMap<u64, Arc<Activity>>) -> Option<u64> {
    connections.iter().find(|(_, activity)| activity.proven().is_none()).map(|(number, _)| *number)
}

/// Of the caller who has the most, and more than they keep, the one where nothing has happened for longest.
fn quietest_of_the_greediest(connections: &BTreeMap<u64, Arc<Activity>>, keeps: usize) -> Option<u64> {
    let mut callers: HashMap<&str, Vec<(Instant, u64)>> = HashMap::new();
    for (number, activity) in connections {
        if let Some(who) = activity.proven() {
            callers.entry(who).or_default().push((activity.quiet_since(), *number));
        }
    }
    let most = callers.into_values().max_by_key(Vec::len).filter(|most| most.len() > keeps)?;
    most.into_iter().min().map(|(_, number)| number)
}

/// A peer is an IPv4 address or an IPv6 /64: who has one address of those has them all.
fn peer(address: IpAddr) -> Prefix {
    let address = Address::from(address).canonical();
    match address {
        Address::V4(_) => Prefix::host(address),
        Address::V6(_) => Prefix::new(address, 64).unwrap_or(Prefix::host(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Patience;

    const ROOM: Room = Room { connections: 4, per_peer: 2, per_caller: 2, rate: (1, 3), peers: 8 };

    fn activity() -> Arc<Activity> {
        Activity::new(Patience::REMOTE)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_peer_has_so_many_places() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        let (first, _) = doors.enter(address("2001:db8::1"), &activity(), now).unwrap();
        doors.enter(address("2001:db8::2"), &activity(), now).unwrap();
        let refused = doors.enter(address("2001:db8::3"), &activity(), now);
        assert_eq!(refused, Err(Refused::PeerFull));
        assert!(doors.enter(address("2001:db8:0:1::"), &activity(), now).is_ok());
        doors.leave(&first, now);
        // The burst is used up by now.
        assert_eq!(doors.enter(address("2001:db8::3"), &activity(), now), Err(Refused::TooOften));
        let later = Nanos::from_secs(11);
        assert!(doors.enter(address("2001:db8::3"), &activity(), later).is_ok());
        assert_eq!(peer(address("::ffff:192.0.2.1")), peer(address("192.0.2.1")));
        assert_ne!(peer(address("192.0.2.1")), peer(address("192.0.2.2")));
    }

    #[tokio::test]
    async fn who_is_nobody_makes_room() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        let all: Vec<_> = (0..4).map(|_| activity()).collect();
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        all[0].prove(|| "0".to_owned());
        let mut places = Vec::new();
        for (n, one) in (0..).zip(&all) {
            let (place, turned_out) = doors.enter(from(n), one, now).unwrap();
            assert!(!turned_out);
            places.push(place);
        }
        let late = activity();
        assert!(doors.enter(from(9), &late, now).unwrap().1);
        // The second is gone: the first is somebody.
        all[1].turned_out().await;
        assert_eq!(doors.open(), 4);
        doors.leave(&places[1], now);
        assert_eq!(doors.open(), 4, "its place was taken already");
        all[2].prove(|| "2".to_owned());
        all[3].prove(|| "3".to_owned());
        late.prove(|| "9".to_owned());
        assert_eq!(doors.enter(from(10), &activity(), now), Err(Refused::Full));
        doors.leave(&places[0], now);
        assert!(doors.enter(from(10), &activity(), now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_does_not_keep_all_places() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        let all: Vec<_> = (0..4).map(|_| activity()).collect();
        for (n, one) in (0..).zip(&all) {
            doors.enter(from(n), one, now).unwrap();
            one.prove(|| if n == 0 { "token:work" } else { "token:lost" }.to_owned());
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        // Something is going on there.
        all[1].begin();
        let late = activity();
        assert!(doors.enter(from(8), &late, now).unwrap().1);
        let told = tokio::time::timeout(std::time::Duration::from_secs(1), all[2].turned_out()).await;
        assert!(told.is_ok(), "another one had to go");
        late.prove(|| "token:other".to_owned());
        assert_eq!(doors.enter(from(9), &activity(), now), Err(Refused::Full), "two are what one may keep");
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        for n in 0..8 {
            let (place, _) = doors.enter(IpAddr::from([192, 0, 2, n]), &activity(), now).unwrap();
            doors.leave(&place, now);
        }
        assert_eq!(doors.enter(address("192.0.2.9"), &activity(), now), Err(Refused::Full));
        assert!(doors.enter(address("192.0.2.9"), &activity(), Nanos::from_secs(11)).is_ok());
        assert_eq!(doors.peers.len(), 1);
    }
}

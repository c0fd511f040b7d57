//! The keys of the issuer that are in use: those that were read last. If that was elsewhere than the configuration says
//! now, they are used for some minutes at most. Pure: the time is an argument.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::keys::Keys;
use crate::config::{Jwks, OAuth};

/// So long keys serve after the configuration has begun to name another place, if they cannot be had there. An issuer that
/// has moved is not missed meanwhile; and whoever has taken over the former place is believed no longer than this, which is
/// also how long a key is believed that an issuer withdraws.
const MOVE: Duration = Duration::from_secs(5 * 60);

/// What is known of an issuer's keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Keyring {
    keys: Keys,
    /// Where they are from; `None` if there are none.
    from: Option<Place>,
    /// Where the configuration says that they are.
    place: Option<Place>,
    /// Since when that is not where they are from.
    moved: Option<Instant>,
    /// Why they are not as they are there.
    unread: Option<String>,
}

/// Whose keys, and where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    issuer: String,
    jwks: Jwks,
}

impl Keyring {
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// As the configuration says from now on, or still, before anything more was read.
    pub(super) fn configured(&self, oauth: Option<&OAuth>, now: Instant) -> Self {
        let Some(OAuth { issuer, jwks, .. }) = oauth else { return Self::default() };
        let place = Place { issuer: issuer.clone(), jwks: jwks.clone() };
        let mut ring = self.clone();
        if ring.place.as_ref() != Some(&place) {
            ring.unread = Some(format!("the keys {place} were not read yet"));
            ring.place = Some(place);
        }
        ring.settled(now)
    }

    /// After an attempt to read them.
    pub(super) fn read(&self, outcome: Result<Keys, String>, now: Instant) -> Self {
        let mut ring = self.clone();
        match outcome {
            Ok(keys) => {
                (ring.keys, ring.unread) = (keys, None);
                ring.from = ring.place.clone();
            }
            Err(why) => {
                let place = ring.place.as_ref().map(Place::to_string).unwrap_or_default();
                ring.unread = Some(format!("cannot use the keys {place}: {why}"));
            }
        }
        ring.settled(now)
    }

    /// What operators should know, as a sentence.
    pub(super) fn problem(&self) -> Option<String> {
        let why = self.unread.as_ref()?;
        let then = match &self.from {
            None => "no JWT is accepted".to_owned(),
            Some(from) if Some(from) == self.place.as_ref() => "those of before are used".to_owned(),
            Some(from) => format!("those {from} are used for {} min at most", MOVE.as_secs() / 60),
        };
        Some(format!("api.oauth: {why}; {then}"))
    }

    /// Without keys that are not to be used any more. Those of one issuer are never used for another.
    fn settled(mut self, now: Instant) -> Self {
        self.moved = match (&self.from, &self.place) {
            (Some(from), Some(place)) if from.issuer == place.issuer && from != place => {
                Some(self.moved.unwrap_or(now))
            }
            _ => None,
        };
        let over = self.moved.is_some_and(|moved| now.saturating_duration_since(moved) >= MOVE);
        let issuer = |place: &Option<Place>| place.as_ref().map(|place| place.issuer.clone());
        if over || issuer(&self.from) != issuer(&self.place) {
            (self.keys, self.from, self.moved) = (Keys::default(), None, None);
        }
        self
    }
}

/// As in "the keys in FILE".
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.jwks {
            Jwks::File(path) => write!(f, "in {}", path.display()),
            Jwks::Url(url) => write!(f, "at {url}"),
        }
    }
}

#[cfg(test)]
mod tests;

//! The claims themselves, packed: 8 bytes of key for IPv4, 20 for IPv6, and 12 bytes of value.

use limiter_common::abi::Entry;
use limiter_common::{Address, Nanos, Prefix};

use super::packed::PackedMap;
use super::terms::TermsId;
use super::{Key, OwnerId};
use crate::config::Action;

/// All claims, sorted by [`Key`].
#[derive(Debug, Default)]
pub(super) struct Claims {
    v4: PackedMap<KeyV4, Stored>,
    v6: PackedMap<KeyV6, Stored>,
}

/// What is kept of [`super::Terms`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(4))]
pub(super) struct Stored {
    until: Nanos,
    terms: TermsId,
}

impl Stored {
    pub(super) fn new(until: Nanos, terms: TermsId) -> Self {
        Self { until, terms }
    }

    pub(super) fn until(self) -> Nanos {
        self.until
    }

    pub(super) fn terms(self) -> TermsId {
        self.terms
    }

    pub(super) fn expires(self) -> bool {
        self.until() != Nanos::NEVER
    }

    /// What the kernel is told of a claim to do `action`.
    pub(super) fn entry(self, action: Action) -> Entry {
        match action {
            Action::Block => Entry { block_until: self.until().0, ..Entry::NONE },
            Action::Allow => Entry { allow_until: self.until().0, ..Entry::NONE },
        }
    }
}

/// From the highest bit: address, length (8 bits), action (8), owner (16). Sorts as [`Key`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KeyV4(u64);

/// Sorts as [`Key`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KeyV6 {
    address: [u8; 16],
    length: u8,
    action: Action,
    owner: OwnerId,
}

impl KeyV4 {
    fn new(address: [u8; 4], length: u8, action: Action, owner: OwnerId) -> Self {
        let [a, b, c, d] = address;
        let [e, f] = owner.0.to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, length, u8::from(action == Action::Allow), e, f]))
    }

    fn key(self) -> Key {
        let [a, b, c, d, length, allow, e, f] = self.0.to_be_bytes();
        let action = if allow == 0 { Action::Block } else { Action::Allow };
        let owner = OwnerId(u16::from_be_bytes([e, f]));
        Key { prefix: prefix(Address::V4([a, b, c, d]), length), action, owner }
    }
}

impl KeyV6 {
    fn key(self) -> Key {
        let Self { address, length, action, owner } = self;
        Key { prefix: prefix(Address::V6(address), length), action, owner }
    }
}

fn prefix(address: Address, length: u8) -> Prefix {
    Prefix::new(address, length).unwrap_or(Prefix::host(address))
}

/// A key of either family.
enum Packed {
    V4(KeyV4),
    V6(KeyV6),
}

fn pack(key: Key) -> Packed {
    let Key { prefix, action, owner } = key;
    let length = prefix.length();
    match prefix.address() {
        Address::V4(address) => Packed::V4(KeyV4::new(address, length, action, owner)),
        Address::V6(address) => Packed::V6(KeyV6 { address, length, action, owner }),
    }
}

impl Claims {
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub(super) fn get(&self, key: Key) -> Option<Stored> {
        match pack(key) {
            Packed::V4(key) => self.v4.get(&key),
            Packed::V6(key) => self.v6.get(&key),
        }
    }

    /// Returns what was there.
    pub(super) fn insert(&mut self, key: Key, stored: Stored) -> Option<Stored> {
        match pack(key) {
            Packed::V4(key) => self.v4.insert(key, stored),
            Packed::V6(key) => self.v6.insert(key, stored),
        }
    }

    /// Inserts a claim on a prefix that has none. False if it has; then nothing is changed.
    pub(super) fn insert_alone(&mut self, key: Key, stored: Stored) -> bool {
        match pack(key) {
            Packed::V4(key) => self.v4.insert_alone(key, stored, |other| other.0 >> 24 == key.0 >> 24),
            Packed::V6(key) => self.v6.insert_alone(key, stored, |other| {
                (other.address, other.length) == (key.address, key.length)
            }),
        }
    }

    /// Returns what was there.
    pub(super) fn remove(&mut self, key: Key) -> Option<Stored> {
        match pack(key) {
            Packed::V4(key) => self.v4.remove(&key),
            Packed::V6(key) => self.v6.remove(&key),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, Stored)> {
        let v4 = self.v4.iter().map(|(key, stored)| (key.key(), stored));
        v4.chain(self.v6.iter().map(|(key, stored)| (key.key(), stored)))
    }

    /// The claims from `first` on, which itself may be there or not.
    pub(super) fn starting_at(&self, first: Key) -> impl Iterator<Item = (Key, Stored)> {
        let (v4, v6) = match pack(first) {
            Packed::V4(first) => (Some(self.v4.starting_at(first)), None),
            Packed::V6(first) => (None, Some(self.v6.starting_at(first))),
        };
        // Behind IPv4 comes IPv6.
        let all_v6 = v4.is_some().then(|| self.v6.iter());
        let v4 = v4.into_iter().flatten().map(|(key, stored)| (key.key(), stored));
        let v6 = v6.into_iter().flatten().chain(all_v6.into_iter().flatten());
        v4.chain(v6.map(|(key, stored)| (key.key(), stored)))
    }

    /// Each prefix with the union of the claims on exactly it.
    pub(super) fn unions(&self) -> impl Iterator<Item = (Prefix, Entry)> {
        let mut claims = self.iter().peekable();
        std::iter::from_fn(move || {
            let (Key { prefix, action, .. }, stored) = claims.next()?;
            let mut union = stored.entry(action);
            while let Some((key, stored)) = claims.next_if(|(key, _)| key.prefix == prefix) {
                union = union.union(stored.entry(key.action));
            }
            Some((prefix, union))
        })
    }

    /// The claims on exactly `prefix`.
    pub(super) fn at(&self, prefix: Prefix) -> impl Iterator<Item = (Key, Stored)> {
        let first = Key { prefix, action: Action::Block, owner: OwnerId::FIRST };
        let (v4, v6) = match pack(first) {
            Packed::V4(first) => (Some(self.v4.starting_at(first)), None),
            Packed::V6(first) => (None, Some(self.v6.starting_at(first))),
        };
        let v4 = v4.into_iter().flatten().map(|(key, stored)| (key.key(), stored));
        let all = v4.chain(v6.into_iter().flatten().map(|(key, stored)| (key.key(), stored)));
        all.take_while(move |(key, _)| key.prefix == prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The promise of the module, on which the memory of the daemon rests.
    #[test]
    fn sizes() {
        assert_eq!(size_of::<(KeyV4, [u32; 2])>(), 16);
        assert_eq!(size_of::<KeyV6>(), 20);
        assert_eq!(size_of::<Stored>(), 12);
    }

    #[test]
    fn keys_sort_as_claims_do() {
        let mut keys = Vec::new();
        for text in ["10.0.0.0/8", "10.0.0.0/9", "10.0.0.0", "255.255.255.255", "::/0", "::", "2001:db8::/33"]
        {
            for action in [Action::Block, Action::Allow] {
                for owner in [OwnerId::FIRST, OwnerId(7), OwnerId(256), OwnerId(u16::MAX)] {
                    keys.push(Key { prefix: text.parse().unwrap(), action, owner });
                }
            }
        }
        let mut claims = Claims::default();
        for key in keys.iter().rev() {
            claims.insert(*key, Stored::new(Nanos(1), TermsId::default()));
        }
        keys.sort_unstable();
        assert!(claims.iter().map(|(key, _)| key).eq(keys.iter().copied()));
        for (i, key) in keys.iter().enumerate() {
            assert!(claims.starting_at(*key).map(|(key, _)| key).eq(keys[i..].iter().copied()), "{key:?}");
            assert_eq!(claims.at(key.prefix).count(), 8);
        }
    }
}

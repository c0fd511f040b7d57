//! When claims expire: what comes next, in 16 bytes a moment for IPv4, and 32 for IPv6.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use limiter_common::{Address, Nanos, Prefix};

use crate::prefixes::PrefixV4;

/// Moments at which claims expire. May hold some of claims that are gone or were given other terms.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    v4: BinaryHeap<Reverse<(Nanos, PrefixV4)>>,
    v6: BinaryHeap<Reverse<(Nanos, Prefix)>>,
}

impl Expiries {
    pub(super) fn push(&mut self, until: Nanos, prefix: Prefix) {
        match prefix.address() {
            Address::V4(address) => self.v4.push(Reverse((until, PrefixV4::new(address, prefix.length())))),
            Address::V6(_) => self.v6.push(Reverse((until, prefix))),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The next moment.
    pub(super) fn next(&self) -> Option<Nanos> {
        let v4 = self.v4.peek().map(|Reverse((until, _))| *until);
        let v6 = self.v6.peek().map(|Reverse((until, _))| *until);
        v4.into_iter().chain(v6).min()
    }

    /// Takes out a prefix with claims that may have expired by `now`.
    pub(super) fn pop(&mut self, now: Nanos) -> Option<Prefix> {
        if self.v4.peek().is_some_and(|Reverse((until, _))| *until <= now) {
            return self.v4.pop().map(|Reverse((_, packed))| packed.prefix());
        }
        self.v6.peek().filter(|Reverse((until, _))| *until <= now)?;
        self.v6.pop().map(|Reverse((_, prefix))| prefix)
    }
}

impl FromIterator<(Nanos, Prefix)> for Expiries {
    fn from_iter<I: IntoIterator<Item = (Nanos, Prefix)>>(moments: I) -> Self {
        let mut expiries = Self::default();
        moments.into_iter().for_each(|(until, prefix)| expiries.push(until, prefix));
        expiries
    }
}

//! What is listed.

use std::collections::HashSet;
use std::fmt;

use limiter_common::{Address, Prefix};

use super::frame::Family;
use crate::sources::{listed_v4, listed_v6, random};

/// IPv4 prefixes of each length in a million: a mixture of single addresses, as feeds of attackers have, and of
/// networks, as feeds of hijacked or hostile ones have. Together they cover some 15 % of the address space.
const LENGTHS: [(u8, u32); 22] = [
    (8, 1),
    (10, 2),
    (11, 4),
    (12, 10),
    (13, 20),
    (14, 60),
    (15, 150),
    (16, 1_500),
    (17, 1_500),
    (18, 3_000),
    (19, 8_000),
    (20, 14_000),
    (21, 18_000),
    (22, 50_000),
    (23, 50_000),
    (24, 330_000),
    (25, 8_000),
    (26, 8_000),
    (27, 8_000),
    (28, 10_000),
    (29, 20_000),
    (32, 469_753),
];

/// A blocklist. All entries end at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    entries: Entries,
    deadline: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entries {
    /// The first so many listed sources: addresses of IPv4, /64s of IPv6.
    Sources { family: Family, count: u32 },
    /// IPv4 prefixes of realistic lengths.
    Prefixes(Vec<Prefix>),
}

impl List {
    /// `count` single IPv4 addresses, or IPv6 /64s.
    pub(super) const fn sources(family: Family, count: u32) -> Self {
        Self { entries: Entries::Sources { family, count }, deadline: super::subject::FOR_GOOD }
    }

    /// About a million different IPv4 prefixes of realistic lengths.
    pub(super) fn prefixes_v4() -> Self {
        let mut seen = HashSet::new();
        let mut prefixes = Vec::new();
        let mut number = 3 << 40;
        for (len, count) in LENGTHS {
            let mut wanted = count;
            while wanted > 0 {
                number += 1;
                let address = crate::sources::any_v4(random(number)).to_be_bytes();
                if let Some(prefix) = Prefix::new(Address::V4(address), len)
                    && seen.insert(prefix)
                {
                    prefixes.push(prefix);
                    wanted -= 1;
                }
            }
        }
        // Lists are not sorted by length.
        prefixes.sort_by_cached_key(|prefix| match prefix.address() {
            Address::V4(bytes) => {
                random(u64::from(u32::from_be_bytes(bytes)) << 8 | u64::from(prefix.length()))
            }
            Address::V6(_) => 0,
        });
        Self { entries: Entries::Prefixes(prefixes), deadline: super::subject::FOR_GOOD }
    }

    /// The same, blocked until `deadline`, in nanoseconds of the kernel's monotonic clock.
    pub(super) fn until(self, deadline: u64) -> Self {
        Self { deadline, ..self }
    }

    pub(super) fn deadline(&self) -> u64 {
        self.deadline
    }

    pub(super) fn len(&self) -> u32 {
        match &self.entries {
            Entries::Sources { count, .. } => *count,
            Entries::Prefixes(prefixes) => u32::try_from(prefixes.len()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn family(&self) -> Family {
        match &self.entries {
            Entries::Sources { family, .. } => *family,
            Entries::Prefixes(_) => Family::V4,
        }
    }

    pub(super) fn are_hosts(&self) -> bool {
        matches!(self.entries, Entries::Sources { family: Family::V4, .. })
    }

    /// Everything that is listed, once.
    pub(super) fn prefixes(&self) -> Box<dyn Iterator<Item = Prefix> + '_> {
        match &self.entries {
            Entries::Sources { family: Family::V4, count } => {
                Box::new((0..*count).map(|index| Prefix::host(Address::V4(listed_v4(index).to_be_bytes()))))
            }
            Entries::Sources { family: Family::V6, count } => Box::new((0..*count).filter_map(|index| {
                let [a, b, c, d, e, f, g, h] = listed_v6(index).to_be_bytes();
                Prefix::new(Address::V6([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]), 64)
            })),
            Entries::Prefixes(prefixes) => Box::new(prefixes.iter().copied()),
        }
    }

    /// An IPv4 address that is not listed.
    pub(super) fn unlisted_v4(&self) -> Option<u32> {
        let listed: Vec<Prefix> = self.prefixes().collect();
        let is_listed = |address: u32| {
            let address = Address::V4(address.to_be_bytes());
            listed.iter().any(|prefix| prefix.contains(address))
        };
        (0..1_000).map(crate::sources::resident_v4).find(|address| !is_listed(*address))
    }

    /// Share of all packets of [any source](crate::model::Model::Any) that comes from a listed one.
    pub(super) fn share(&self) -> f64 {
        // Octets that packets come from: twice as often from 63 as from each other, see `sources`.
        const OCTETS: f64 = 223.0;
        const OFTEN: u32 = 63;
        let addresses = OCTETS * f64::from(1 << 24);
        match &self.entries {
            // The listed ones are drawn likewise.
            Entries::Sources { family: Family::V4, count } => {
                f64::from(*count) * (OCTETS + 2.0) / OCTETS / addresses
            }
            Entries::Sources { family: Family::V6, .. } => 0.0,
            Entries::Prefixes(prefixes) => {
                // Where prefixes start, and how far the widest of them reaches.
                let mut ranges: Vec<(u32, u32)> = prefixes
                    .iter()
                    .filter_map(|prefix| match (prefix.address(), prefix.last()) {
                        (Address::V4(first), Address::V4(last)) => {
                            Some((u32::from_be_bytes(first), u32::from_be_bytes(last)))
                        }
                        _ => None,
                    })
                    .collect();
                ranges.sort_unstable();
                let (mut covered, mut next) = (0.0, 0_u64);
                for (first, last) in ranges {
                    let octets = if first >> 24 == OFTEN { 2.0 } else { 1.0 };
                    let end = u64::from(last) + 1;
                    let new = end.saturating_sub(next.max(first.into()));
                    #[expect(clippy::cast_precision_loss, reason = "at most 2^32")]
                    let new = new as f64;
                    covered += new * octets;
                    next = next.max(end);
                }
                covered / addresses
            }
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.entries {
            Entries::Sources { family: Family::V4, .. } => "IPv4 addresses",
            Entries::Sources { family: Family::V6, .. } => "IPv6 /64s",
            Entries::Prefixes(_) => "IPv4 prefixes",
        };
        write!(f, "{} {what}", super::size(self.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, Parameters};

    #[test]
    fn listed_sources_are_different() {
        for family in [Family::V4, Family::V6] {
            let list = List::sources(family, 300_000);
            let different: HashSet<Prefix> = list.prefixes().collect();
            assert_eq!(different.len(), 300_000, "{family:?}");
        }
    }

    /// The mutator's sources are those of the list, as often as its model says.
    #[test]
    fn models_draw_from_the_list() {
        const COUNT: u32 = 100_000;
        let listed: HashSet<Prefix> = List::sources(Family::V4, COUNT).prefixes().collect();
        let parameters = Parameters { listed: COUNT, hot: listed_v4(7).into() };
        let check = |model: Model, expected: f64, most_different: usize| {
            let sources: Vec<u32> = (0..100_000).map(|number| model.source_v4(&parameters, number)).collect();
            let is_listed = |source: &u32| listed.contains(&Prefix::host(Address::V4(source.to_be_bytes())));
            let share =
                f64::from(u32::try_from(sources.iter().filter(|source| is_listed(source)).count()).unwrap());
            assert!((share / 1e5 - expected).abs() < 0.01, "{model:?}: {share} instead of {expected}");
            let different: HashSet<u32> = sources.iter().copied().collect();
            assert!(different.len() <= most_different, "{model:?}: {} sources", different.len());
            assert!(different.len() * 3 > most_different, "{model:?}: {} sources", different.len());
            let honest = |source: &u32| matches!(source >> 24, 1..=126 | 128..=223);
            assert!(different.iter().all(honest), "{model:?}");
        };
        check(Model::Hot, 1.0, 1);
        check(Model::Residents, 0.0, 1 << 16);
        check(Model::Any, 0.0, 100_000);
        check(Model::Listed, 1.0, 100_000);
        check(Model::SomeListed, 1.0, 1 << 16);
        check(Model::Mixed, 0.7, 100_000);
    }

    #[test]
    fn prefixes_make_a_million_and_leave_most_addresses_out() {
        let list = List::prefixes_v4();
        assert_eq!(list.len(), 1_000_000);
        let share = list.share();
        assert!((0.1..0.25).contains(&share), "{share}");
    }
}

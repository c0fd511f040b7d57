//! The guards: what may not be blocked, so that nobody locks themselves out. Pure; [`crate::host`] gathers the facts.
//!
//! Whatever becomes a claim went through here: [`Admitted`] cannot be made otherwise.

pub mod brake;
mod refused;
pub mod share;

use std::collections::BTreeMap;
use std::fmt;

use limiter_common::{Address, Prefix};

use crate::config::Action;
use crate::prefixes::Prefixes;

/// The shortest prefixes that can be blocked without force.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;
/// Up to so many prefixes for each guard are asked about one by one; more are searched for what overlaps the guards.
const FEW: usize = 4;
/// Refusals that are told one by one; the others are only counted.
const TOLD: usize = 100;

/// What must stay reachable, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// Prefix to what it is: `the default gateway`.
    guarded: BTreeMap<Prefix, String>,
    /// A bit for each length that is in use, by family.
    lengths_v4: u64,
    lengths_v6: [u64; 3],
}

impl Guards {
    /// Guards nothing but the loopback.
    #[must_use]
    pub fn new() -> Self {
        let mut guards = Self::default();
        let loopbacks = [
            Prefix::new(Address::V4([127, 0, 0, 0]), 8),
            Some(Prefix::host(Address::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]))),
        ];
        for loopback in loopbacks.into_iter().flatten() {
            guards.add(loopback, "the loopback");
        }
        guards
    }

    /// Guards `prefix`, which is `what`. The first word on a prefix stays.
    pub fn add(&mut self, prefix: Prefix, what: impl Into<String>) {
        self.guarded.entry(prefix).or_insert_with(|| what.into());
        self.note_length(prefix);
    }

    /// The same, but the last word counts.
    pub fn put(&mut self, prefix: Prefix, what: impl Into<String>) {
        self.guarded.insert(prefix, what.into());
        self.note_length(prefix);
    }

    fn note_length(&mut self, prefix: Prefix) {
        let (word, bit) = (prefix.length() / 64, prefix.length() % 64);
        match prefix.address() {
            Address::V4(_) => self.lengths_v4 |= 1 << prefix.length(),
            Address::V6(_) => {
                if let Some(lengths) = self.lengths_v6.get_mut(usize::from(word)) {
                    *lengths |= 1 << bit;
                }
            }
        }
    }

    /// Why `action` on `prefix` is refused.
    #[must_use]
    pub fn refusal(&self, action: Action, prefix: Prefix) -> Option<Refusal> {
        let refused = |why| Some(Refusal { prefix, why });
        match action {
            Action::Allow if prefix.length() == 0 => refused("would allow everybody".to_owned()),
            Action::Allow => None,
            Action::Block => {
                let widest = if prefix.address().is_v4() { WIDEST_V4 } else { WIDEST_V6 };
                if prefix.length() < widest {
                    return refused(format!("is wider than /{widest}"));
                }
                let (guarded, what) = self.overlapping(prefix)?;
                refused(if guarded == prefix {
                    format!("is {what}")
                } else if guarded.covers(prefix) {
                    format!("lies in {guarded}, {what}")
                } else {
                    format!("contains {guarded}, {what}")
                })
            }
        }
    }

    /// Those of `prefixes`, which are sorted, of which [`Self::refusal`] may say something: few of a million.
    fn suspects(&self, prefixes: &Prefixes) -> Prefixes {
        if prefixes.len() <= FEW * self.guarded.len() {
            return prefixes.clone();
        }
        let widest = |prefix: &Prefix| if prefix.address().is_v4() { WIDEST_V4 } else { WIDEST_V6 };
        let mut suspects: Prefixes =
            prefixes.iter().filter(|prefix| prefix.length() < widest(prefix)).collect();
        for guarded in self.guarded.keys() {
            prefixes.within(*guarded).for_each(|prefix| suspects.push(prefix));
            let wider = (0..guarded.length()).filter_map(|length| Prefix::new(guarded.address(), length));
            wider.filter(|wider| prefixes.contains(*wider)).for_each(|prefix| suspects.push(prefix));
        }
        suspects.sort();
        suspects
    }

    /// A guarded prefix that shares an address with `prefix`.
    fn overlapping(&self, prefix: Prefix) -> Option<(Prefix, &str)> {
        let in_use = |length: &u8| match prefix.address() {
            Address::V4(_) => self.lengths_v4 >> length & 1 == 1,
            Address::V6(_) => {
                let word = self.lengths_v6.get(usize::from(*length / 64)).copied().unwrap_or(0);
                word >> (length % 64) & 1 == 1
            }
        };
        let mut covering = (0..=prefix.length()).filter(in_use).filter_map(|length| {
            let wider = Prefix::new(prefix.address(), length)?;
            self.guarded.get_key_value(&wider)
        });
        // What lies within sorts directly behind.
        let found = covering.next().or_else(|| {
            let next = self.guarded.range(prefix..).next();
            next.filter(|(guarded, _)| prefix.covers(**guarded))
        });
        found.map(|(guarded, what)| (*guarded, what.as_str()))
    }
}

/// Prefixes that may become claims, sorted and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    action: Action,
    prefixes: Prefixes,
}

impl Admitted {
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    #[must_use]
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }
}

/// One prefix that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub prefix: Prefix,
    /// Completes "PREFIX …".
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.prefix, self.why)
    }
}

/// Everything that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    pub count: usize,
    /// The first 100.
    pub told: Vec<Refusal>,
}

impl Refusals {
    /// The refusals, each in a line.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.told.iter().map(Refusal::to_string)
    }
}

/// Admits a request as a whole, or not at all. With `force`, the guards are not asked.
///
/// # Errors
///
/// What the guards refuse.
pub fn admit(
    guards: &Guards,
    action: Action,
    mut prefixes: Prefixes,
    force: bool,
) -> Result<Admitted, Refusals> {
    if force {
        prefixes.sort();
        return Ok(Admitted { action, prefixes });
    }
    let (admitted, refusals) = admit_what_may(guards, action, prefixes);
    if refusals.count == 0 { Ok(admitted) } else { Err(refusals) }
}

/// Admits what the guards do not refuse: for lists, which nobody can ask.
#[must_use]
pub fn admit_what_may(guards: &Guards, action: Action, mut prefixes: Prefixes) -> (Admitted, Refusals) {
    prefixes.sort();
    let mut refusals = Refusals::default();
    let mut refused = Prefixes::default();
    for prefix in guards.suspects(&prefixes).iter() {
        if let Some(refusal) = guards.refusal(action, prefix) {
            refused.push(prefix);
            refusals.count += 1;
            if refusals.told.len() < TOLD {
                refusals.told.push(refusal);
            }
        }
    }
    if !refused.is_empty() {
        prefixes.retain(|prefix| !refused.contains(prefix));
    }
    (Admitted { action, prefixes }, refusals)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn guards() -> Guards {
        let mut guards = Guards::new();
        guards.add(prefix("192.0.2.10"), "an address of this machine (eth0)");
        guards.add(prefix("10.0.0.0/8"), "protected by the configuration");
        guards.add(prefix("2001:db8::53"), "a DNS server");
        guards.add(prefix("fe80::1"), "the default gateway");
        guards
    }

    #[track_caller]
    fn check(action: Action, text: &str, expected: Option<&str>) {
        let refusal = guards().refusal(action, prefix(text)).map(|refusal| refusal.to_string());
        assert_eq!(refusal.as_deref(), expected);
    }

    #[test]
    fn what_overlaps_a_guarded_prefix_is_refused() {
        use Action::Block;

        check(Block, "192.0.2.10", Some("192.0.2.10 is an address of this machine (eth0)"));
        check(
            Block,
            "192.0.2.0/24",
            Some("192.0.2.0/24 contains 192.0.2.10, an address of this machine (eth0)"),
        );
        check(Block, "10.1.2.3", Some("10.1.2.3 lies in 10.0.0.0/8, protected by the configuration"));
        check(Block, "10.0.0.0/8", Some("10.0.0.0/8 is protected by the configuration"));
        check(Block, "2001:db8::/32", Some("2001:db8::/32 contains 2001:db8::53, a DNS server"));
        check(Block, "fe80::1", Some("fe80::1 is the default gateway"));
        check(Block, "127.0.0.53", Some("127.0.0.53 lies in 127.0.0.0/8, the loopback"));
        check(Block, "::1", Some("::1 is the loopback"));
        for free in ["192.0.2.9", "192.0.2.11", "192.0.2.0/29", "11.0.0.0/8", "2001:db8::52", "2001:db9::/32"]
        {
            check(Block, free, None);
        }
    }

    #[test]
    fn wide_prefixes_are_refused() {
        check(Action::Block, "64.0.0.0/7", Some("64.0.0.0/7 is wider than /8"));
        check(Action::Block, "0.0.0.0/0", Some("0.0.0.0/0 is wider than /8"));
        check(Action::Block, "64.0.0.0/8", None);
        check(Action::Block, "3000::/15", Some("3000::/15 is wider than /16"));
        check(Action::Block, "3000::/16", None);
        check(Action::Allow, "0.0.0.0/0", Some("0.0.0.0/0 would allow everybody"));
        check(Action::Allow, "0.0.0.0/1", None);
        check(Action::Allow, "192.0.2.10", None);
    }

    #[test]
    fn a_request_is_admitted_as_a_whole_and_a_list_in_part() {
        let asked = || ["192.0.2.1", "10.1.2.3", "192.0.2.1", "10.0.0.1"].into_iter().map(prefix).collect();
        let refusals = admit(&guards(), Action::Block, asked(), false).unwrap_err();
        assert_eq!(refusals.count, 2);
        let forced = admit(&guards(), Action::Block, asked(), true).unwrap();
        assert!(forced.prefixes().iter().eq(["10.0.0.1", "10.1.2.3", "192.0.2.1"].map(prefix)));
        let (some, refusals) = admit_what_may(&guards(), Action::Block, asked());
        assert!(some.prefixes().iter().eq([prefix("192.0.2.1")]));
        assert_eq!(refusals.count, 2);
    }

    #[test]
    fn many_prefixes_are_checked_like_few() {
        let wide = ["64.0.0.0/7", "0.0.0.0/0", "::/0", "3000::/15"].into_iter().map(prefix);
        let hosts = (0..100).map(|n| Prefix::host(Address::V4([198, 51, 100, n])));
        let (admitted, refusals) = admit_what_may(&guards(), Action::Block, hosts.chain(wide).collect());
        assert_eq!((admitted.prefixes().len(), refusals.count), (100, 4));
        let everybody = (0..100).map(|n| Prefix::host(Address::V4([10, 0, 0, n]))).chain([prefix("::/0")]);
        let (admitted, refusals) = admit_what_may(&guards(), Action::Allow, everybody.collect());
        assert_eq!((admitted.prefixes().len(), refusals.count), (100, 1));
    }

    /// Against the definition, in a small universe.
    #[test]
    fn guards_refuse_exactly_what_overlaps() {
        let all: BTreeSet<Prefix> = (24..=32)
            .flat_map(|length| (0..16).map(move |last| (length, last * 16)))
            .filter_map(|(length, last)| Prefix::new(Address::V4([198, 51, 100, last]), length))
            .collect();
        for guarded in &all {
            let mut guards = Guards::default();
            guards.add(*guarded, "guarded");
            for asked in &all {
                let refused = guards.refusal(Action::Block, *asked).is_some();
                assert_eq!(refused, guarded.overlaps(*asked), "{guarded} {asked}");
            }
            let (admitted, refusals) = admit_what_may(&guards, Action::Block, all.iter().copied().collect());
            assert!(all.len() > FEW * guards.guarded.len(), "they are searched, not asked one by one");
            let free = || all.iter().copied().filter(|asked| !guarded.overlaps(*asked));
            assert!(admitted.prefixes().iter().eq(free()), "{guarded}");
            assert_eq!(refusals.count, all.len() - free().count());
        }
    }
}

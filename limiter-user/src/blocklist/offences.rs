//! Who was blocked before, so that repeat offenders are blocked for longer.
//!
//! Each owner has a [`Ladder`]. The level of an offender says which step of it the last block took. It rises by one with
//! each block that begins after the last one would have ended, and falls by one for each [`Ladder::forget`] that passes
//! after that end. While the last block would run, the level stays, whoever reports the offender once more: what comes in
//! late is about the same visit. So does it when the block was taken back meanwhile; a new one is of the same level.
//!
//! An offender is an IPv4 address, or the /64 that an IPv6 address is in, since that is what one host has. A prefix that is
//! wider is an offender of its own.
//!
//! Time is in seconds since 1970, since levels outlive boots. A clock that is wrong makes levels fall sooner or later; no
//! block depends on it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use limiter_common::{Address, Prefix};

use super::OwnerId;
use super::packed::PackedMap;

/// Offenders that are remembered; of more, those are forgotten first that would be anyway.
const MAX_OFFENDERS: usize = 1 << 20;
/// Steps that a ladder may have.
pub const MAX_STEPS: usize = 32;
/// The shortest IPv6 prefix whose addresses are one offender.
const ONE_HOST_V6: u8 = 64;

/// How long blocks of an owner last, and how soon that is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// Seconds of the first block, the second, and so on; the last one counts for all that follow. At least one.
    pub steps: Vec<u64>,
    /// Seconds after the end of the last block in which a level is forgotten.
    pub forget: u64,
}

impl Default for Ladder {
    /// 10 minutes, an hour, a day, a week; 30 days.
    fn default() -> Self {
        Self { steps: vec![600, 3600, 86_400, 604_800], forget: 30 * 86_400 }
    }
}

impl Ladder {
    /// The seconds of a block of `level`, from 1.
    fn seconds(&self, level: u8) -> u64 {
        let step = self.steps.get(usize::from(level.saturating_sub(1)));
        step.or(self.steps.last()).copied().unwrap_or(600)
    }

    /// The highest level.
    fn top(&self) -> u8 {
        u8::try_from(self.steps.len().clamp(1, MAX_STEPS)).unwrap_or(1)
    }
}

/// What is remembered of an offender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offence {
    /// From 1: the step that the last block took.
    pub level: u8,
    /// When that block ends, whether it was taken back or not. Seconds since 1970.
    pub ends: u64,
}

impl Offence {
    /// The level that is left at `now`; 0 if it is forgotten.
    #[must_use]
    pub fn level_at(self, ladder: &Ladder, now: u64) -> u8 {
        let forgotten = now.saturating_sub(self.ends) / ladder.forget.max(1);
        self.level.min(ladder.top()).saturating_sub(u8::try_from(forgotten).unwrap_or(u8::MAX))
    }

    /// When nothing of it is left.
    #[must_use]
    pub fn forgotten(self, ladder: &Ladder) -> u64 {
        let levels = u64::from(self.level.min(ladder.top()));
        self.ends.saturating_add(levels.saturating_mul(ladder.forget.max(1)))
    }
}

/// An offender under an owner. Sorts by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offender {
    address: [u8; 16],
    is_v4: bool,
    length: u8,
    owner: OwnerId,
}

impl Offender {
    /// Whoever sends from `prefix`.
    #[must_use]
    pub fn new(prefix: Prefix, owner: OwnerId) -> Self {
        let length = prefix.length();
        match prefix.address() {
            Address::V4([a, b, c, d]) => {
                let address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                Self { address, is_v4: true, length, owner }
            }
            Address::V6(mut address) => {
                if length > ONE_HOST_V6 {
                    address[8..].fill(0);
                }
                Self { address, is_v4: false, length: length.min(ONE_HOST_V6), owner }
            }
        }
    }

    #[must_use]
    pub fn prefix(self) -> Prefix {
        let [a, b, c, d, ..] = self.address;
        let address = if self.is_v4 { Address::V4([a, b, c, d]) } else { Address::V6(self.address) };
        Prefix::new(address, self.length).unwrap_or(Prefix::host(address))
    }

    #[must_use]
    pub fn owner(self) -> OwnerId {
        self.owner
    }
}

/// [`Offence`], packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, packed(1))]
struct Kept {
    level: u8,
    /// Enough until 2106.
    ends: u32,
}

impl Kept {
    fn new(offence: Offence) -> Self {
        Self { level: offence.level, ends: u32::try_from(offence.ends).unwrap_or(u32::MAX) }
    }

    fn offence(self) -> Offence {
        Offence { level: self.level, ends: u64::from(self.ends) }
    }
}

/// All offenders: about 50 bytes for each.
#[derive(Debug, Default)]
pub struct Offences {
    known: PackedMap<Offender, Kept>,
    /// When they may be forgotten, in seconds since 1970. Holds some who were blocked again since, too.
    forgotten: BinaryHeap<Reverse<(u32, Offender)>>,
}

impl Offences {
    /// What is remembered of `offender`, as it was when its last block began.
    #[must_use]
    pub fn get(&self, offender: Offender) -> Option<Offence> {
        self.known.get(&offender).map(Kept::offence)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.len() == 0
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Offender, Offence)> {
        self.known.iter().map(|(offender, kept)| (offender, kept.offence()))
    }

    /// The block that `offender` gets at `now`, and for how many seconds. Changes nothing; [`Self::set`] does.
    #[must_use]
    pub fn next(&self, offender: Offender, ladder: &Ladder, now: u64) -> (Offence, u64) {
        let last = self.get(offender);
        let level = match last {
            Some(last) if last.ends > now => last.level.clamp(1, ladder.top()),
            Some(last) => last.level_at(ladder, now).saturating_add(1).min(ladder.top()),
            None => 1,
        };
        let seconds = ladder.seconds(level);
        let ends = now.saturating_add(seconds).max(last.map_or(0, |last| last.ends));
        (Offence { level, ends }, seconds)
    }

    /// Remembers `offence`, or forgets the offender. Returns what was remembered.
    pub fn set(&mut self, offender: Offender, offence: Option<Offence>, ladder: &Ladder) -> Option<Offence> {
        let Some(offence) = offence else {
            return self.known.remove(&offender).map(Kept::offence);
        };
        let forgotten = u32::try_from(offence.forgotten(ladder)).unwrap_or(u32::MAX);
        self.forgotten.push(Reverse((forgotten, offender)));
        let former = self.known.insert(offender, Kept::new(offence));
        self.compact();
        former.map(Kept::offence)
    }

    /// Takes out an offender of whom nothing is left at `now`, or one too many.
    pub fn pop<'a>(
        &mut self,
        ladder: impl Fn(OwnerId) -> &'a Ladder,
        now: u64,
    ) -> Option<(Offender, Offence)> {
        while let Some(Reverse((moment, offender))) = self.forgotten.peek().copied() {
            let over = self.known.len() > MAX_OFFENDERS;
            if !over && u64::from(moment) > now {
                return None;
            }
            self.forgotten.pop();
            let Some(offence) = self.get(offender) else { continue };
            let due = u32::try_from(offence.forgotten(ladder(offender.owner))).unwrap_or(u32::MAX);
            if due > moment {
                // Blocked again since, or the ladder is another one.
                self.forgotten.push(Reverse((due, offender)));
                continue;
            }
            self.known.remove(&offender);
            return Some((offender, offence));
        }
        None
    }

    /// Keeps moments that mean nothing from piling up.
    fn compact(&mut self) {
        if self.forgotten.len() <= 2 * self.known.len() + 1024 {
            return;
        }
        let moments = std::mem::take(&mut self.forgotten).into_vec();
        let mut latest: Vec<(Offender, u32)> =
            moments.into_iter().map(|Reverse((moment, offender))| (offender, moment)).collect();
        latest.sort_unstable_by_key(|(offender, moment)| (*offender, Reverse(*moment)));
        latest.dedup_by_key(|(offender, _)| *offender);
        latest.retain(|(offender, _)| self.known.get(offender).is_some());
        self.forgotten = latest.into_iter().map(|(offender, moment)| Reverse((moment, offender))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn offender(prefix: &str) -> Offender {
        Offender::new(prefix.parse().unwrap(), OwnerId::default())
    }

    /// A block of `prefix` that begins at `now`: its level, and its seconds.
    fn begin(offences: &mut Offences, prefix: &str, now: u64) -> (u8, u64) {
        let (ladder, offender) = (Ladder::default(), offender(prefix));
        let (offence, seconds) = offences.next(offender, &ladder, now);
        offences.set(offender, Some(offence), &ladder);
        (offence.level, seconds)
    }

    #[test]
    fn blocks_get_longer_and_that_is_forgotten() {
        let mut offences = Offences::default();
        let mut begin = |now| begin(&mut offences, "192.0.2.1", now);
        assert_eq!(begin(1_000), (1, 600));
        // Reports of the same visit come in late.
        assert_eq!(begin(1_001), (1, 600));
        assert_eq!(begin(1_600), (1, 600));
        // That one has ended.
        assert_eq!(begin(2_200), (2, 3600));
        assert_eq!(begin(5_800), (3, DAY));
        assert_eq!(begin(5_800 + DAY), (4, 7 * DAY));
        let end = 5_800 + 8 * DAY;
        assert_eq!(begin(end), (4, 7 * DAY));
        let end = end + 7 * DAY;
        // Two months later, two levels are forgotten.
        assert_eq!(begin(end + 60 * DAY), (3, DAY));
        let end = end + 61 * DAY;
        assert_eq!(begin(end + 30 * DAY - 1), (4, 7 * DAY));
        let end = end + 37 * DAY;
        assert_eq!(begin(end + 400 * DAY), (1, 600));
        // The clock went back.
        assert_eq!(begin(5), (1, 600));
    }

    #[test]
    fn a_ladder_that_got_shorter_counts_at_once() {
        let (mut offences, long) = (Offences::default(), Ladder::default());
        offences.set(offender("192.0.2.1"), Some(Offence { level: 4, ends: 100 }), &long);
        let short = Ladder { steps: vec![5, 7], forget: 10 };
        assert_eq!(offences.next(offender("192.0.2.1"), &short, 100).0.level, 2);
        assert_eq!(offences.next(offender("192.0.2.1"), &short, 110).1, 7);
        assert_eq!(offences.next(offender("192.0.2.1"), &short, 120).1, 5);
    }

    #[test]
    fn what_one_host_has_is_one_offender() {
        assert_eq!(offender("2001:db8::1"), offender("2001:db8::ffff:0:0:2"));
        assert_eq!(offender("2001:db8::1").prefix().to_string(), "2001:db8::/64");
        assert!(offender("2001:db8::1") != offender("2001:db8:0:1::1"));
        assert!(offender("192.0.2.1") != offender("192.0.2.2"));
        for own in ["192.0.2.1", "192.0.2.0/24", "2001:db8::/48", "2001:db8::/64"] {
            assert_eq!(offender(own).prefix().to_string(), own);
        }
    }

    #[test]
    fn who_is_forgotten_goes() {
        let (ladder, mut offences) = (Ladder { steps: vec![10], forget: 100 }, Offences::default());
        let of = |_| &ladder;
        let block = |offences: &mut Offences, prefix, now| {
            let (offence, _) = offences.next(offender(prefix), &ladder, now);
            offences.set(offender(prefix), Some(offence), &ladder);
        };
        block(&mut offences, "192.0.2.1", 1_000);
        block(&mut offences, "192.0.2.2", 1_000);
        block(&mut offences, "192.0.2.2", 1_050);
        assert_eq!(offences.pop(of, 1_109), None);
        let first = offences.pop(of, 1_110).unwrap();
        assert_eq!(first, (offender("192.0.2.1"), Offence { level: 1, ends: 1_010 }));
        assert_eq!(offences.pop(of, 1_159), None);
        assert_eq!(offences.pop(of, 1_160).map(|(gone, _)| gone), Some(offender("192.0.2.2")));
        assert!(offences.is_empty() && offences.pop(of, u64::MAX).is_none());
    }

    #[test]
    fn of_too_many_the_first_to_be_forgotten_go() {
        let (ladder, mut offences) = (Ladder::default(), Offences::default());
        let host = |n: u32| Offender::new(Prefix::host(Address::V4(n.to_be_bytes())), OwnerId::default());
        let more = 1_000;
        let all = u32::try_from(MAX_OFFENDERS).unwrap() + more;
        // Blocked one after the other, but for those at the end, who were blocked long ago.
        for n in 0..all {
            let ends = if n < all - more { 1_000_000 + u64::from(n) } else { 5 };
            offences.set(host(n), Some(Offence { level: 1, ends }), &ladder);
            // Again and again, which is no more to remember.
            offences.set(host(0), Some(Offence { level: 1, ends: 9_000_000 }), &ladder);
        }
        assert!(offences.forgotten.len() <= 2 * offences.len() + 1024);
        let mut gone = 0;
        while let Some((offender, _)) = offences.pop(|_| &ladder, 1_000_000) {
            assert!(offender >= host(all - more), "{:?}", offender.prefix());
            gone += 1;
        }
        assert_eq!((gone, offences.len()), (more, MAX_OFFENDERS));
    }
}

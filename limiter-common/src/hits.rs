//! Which blocked sources still send, and how much: a small table of those that were dropped most often of late.
//!
//! To write something for every dropped frame would cost more than to drop it, so one in [`SAMPLE`] is recorded, and a
//! source that is seldom seen gives way to one that is seen more often. What is told is an estimate: right within
//! [`SAMPLE`] times the square root of the number of samples, for as long as the source keeps its place.

use crate::hash::{low_bits, mix};
use crate::nanos::Nanos;
use crate::slots::Word;

/// Of so many dropped frames, one is recorded: a power of two.
pub const SAMPLE: u64 = 128;
/// Places in a set.
pub const WAYS: usize = 4;

/// One source. Free if `packets` is 0.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Hit<W> {
    /// The halves of the address; IPv4 as an IPv4-mapped one.
    pub high: W,
    pub low: W,
    /// An estimate of the frames dropped; [`BUSY`] while the place changes hands.
    pub packets: W,
    /// When the last of them was recorded, in nanoseconds.
    pub seen: W,
}

/// The places that a source can have.
pub type Set<W> = [Hit<W>; WAYS];

/// Instead of a number of packets.
pub const BUSY: u64 = u64::MAX;

/// After so many bits of nanoseconds without a sample, about a minute, a source counts half as much.
const HALF_LIFE: u32 = 36;

/// Which of `count` sets, a power of two, a source is in.
#[inline(always)]
#[must_use]
pub const fn set_of(high: u64, low: u64, count: u32, secret: [u64; 2]) -> u32 {
    low_bits(mix(mix(low, secret) ^ high, secret), count)
}

/// Records a dropped frame of this source.
#[inline(always)]
pub fn record<W: Word>(set: &Set<W>, high: u64, low: u64, now: Nanos) {
    let mut least = (u64::MAX, 0, None);
    for hit in set {
        let packets = hit.packets.load();
        if packets == BUSY {
            continue;
        }
        if packets > 0 && hit.high.load() == high && hit.low.load() == low {
            // If another CPU was faster, its sample stands for this one.
            hit.packets.compare_exchange(packets, packets.wrapping_add(SAMPLE));
            set_to(&hit.seen, now.0);
            return;
        }
        let age = now.0.saturating_sub(hit.seen.load()) >> HALF_LIFE;
        let weight = if age < 64 { packets >> age } else { 0 };
        if weight < least.0 {
            least = (weight, packets, Some(hit));
        }
    }
    let (_, packets, Some(hit)) = least else { return };
    if hit.packets.compare_exchange(packets, BUSY) == packets {
        set_to(&hit.high, high);
        set_to(&hit.low, low);
        set_to(&hit.seen, now.0);
        set_to(&hit.packets, SAMPLE);
    }
}

/// A store, by the one operation that words have.
#[inline(always)]
fn set_to<W: Word>(word: &W, value: u64) {
    word.compare_exchange(word.load(), value);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn packets(set: &Set<AtomicU64>, low: u64) -> u64 {
        let hit = set.iter().find(|hit| Word::load(&hit.low) == low);
        hit.map_or(0, |hit| Word::load(&hit.packets))
    }

    #[test]
    fn frequent_sources_keep_their_place() {
        let set = Set::<AtomicU64>::default();
        let second = |n: u64| Nanos(n * 1_000_000_000);
        for n in 0..1_000 {
            record(&set, 0, 7, second(10));
            record(&set, 0, 1_000 + n, second(10));
        }
        assert_eq!(packets(&set, 7), 1_000 * SAMPLE);
        assert_eq!(packets(&set, 1_999), SAMPLE);
    }

    #[test]
    fn who_is_silent_for_long_gives_way() {
        let set = Set::<AtomicU64>::default();
        let minute = |n: u64| Nanos(n << HALF_LIFE);
        for source in 1..=4 {
            for _ in 0..100 {
                record(&set, 0, source, minute(u64::from(source == 1) * 20 + 1));
            }
        }
        for _ in 0..2 {
            record(&set, 0, 9, minute(30));
        }
        assert_eq!((packets(&set, 9), packets(&set, 1)), (2 * SAMPLE, 100 * SAMPLE));
    }

    #[test]
    fn an_address_has_two_halves() {
        let set = Set::<AtomicU64>::default();
        record(&set, 1, 7, Nanos(1));
        record(&set, 2, 7, Nanos(1));
        assert_eq!(set.iter().filter(|hit| Word::load(&hit.packets) == SAMPLE).count(), 2);
    }
}

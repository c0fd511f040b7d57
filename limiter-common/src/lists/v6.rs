//! IPv6.

#[cfg(target_has_atomic = "64")]
mod writer;

use super::{DEADLINE_BITS, FOR_GOOD, Listed};
use crate::hash::{low_bits, mix};
use crate::slots::Word;

#[cfg(target_has_atomic = "64")]
pub use writer::{Scratch, Writer};

/// Entries in a bucket, which is two neighbouring cache lines.
pub const ENTRIES: usize = 4;
/// Words of the filter, 64 bits each.
pub const FILTER_WORDS: usize = 1 << 19;
/// Words of prefix lengths in use that are shorter than a /64, eight in each; and as many of the others.
pub const LENGTH_WORDS: usize = 8;

/// One prefix. Its place is free if `length` or `deadlines` is 0.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot<W> {
    /// The first and the second half of the address.
    high: W,
    low: W,
    /// 1 more than the length; 0 if the place was never taken.
    length: W,
    /// 29 bits blocked until, 29 bits allowed until, and in the upper 6 how often the place was taken, so that a reader
    /// sees it when the prefix changes under its eyes.
    deadlines: W,
}

/// A bucket of the exact table, taken from the first place on; so it is full if the last was ever taken.
pub type Bucket<W> = [Slot<W>; ENTRIES];

const FILTER_BITS: u32 = 1 << 25;
const TURN_AT: u32 = 2 * DEADLINE_BITS;

/// The tables, for reading.
pub trait Memory {
    type Word: Word;

    /// Below [`FILTER_WORDS`].
    fn filter(&self, index: u32) -> Option<&Self::Word>;
    fn bucket(&self, index: u32) -> Option<&Bucket<Self::Word>>;
    /// How many buckets there are: a power of two.
    fn buckets(&self) -> u32;
    /// 0 if there are no entries at all.
    fn any(&self) -> Option<&Self::Word>;
    /// Each byte is a length in use below 64, plus 1; or 0. If the first word is 0, all are.
    fn short(&self) -> Option<&[Self::Word; LENGTH_WORDS]>;
    /// The same of lengths from 64 to 128.
    fn long(&self) -> Option<&[Self::Word; LENGTH_WORDS + 1]>;
    fn secret(&self) -> [u64; 2];

    /// `so_far`, and what the exact table says of exactly this prefix. The kernel makes it a function of its own, which
    /// the verifier checks once.
    #[inline(always)]
    fn join(&self, key: Key, so_far: Listed) -> Listed
    where
        Self: Sized,
    {
        so_far.union(probe(self, key))
    }
}

/// A prefix as it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The halves of the address; bits behind the length are 0.
    pub high: u64,
    pub low: u64,
    /// 1 more than the length.
    pub length: u64,
}

impl Key {
    /// `length` is at most 128.
    #[inline(always)]
    const fn new(high: u64, low: u64, length: u32) -> Self {
        let (high, low) = match length {
            0..64 => (high & !(u64::MAX >> length), 0),
            64 => (high, 0),
            65..128 => (high, low & !(u64::MAX >> (length - 64))),
            _ => (high, low),
        };
        Self { high, low, length: length as u64 + 1 }
    }

    /// Where it can be: the second bucket only if the first was full.
    #[inline(always)]
    const fn places(self, secret: [u64; 2], buckets: u32) -> (u32, u32) {
        let hash = mix(mix(self.low ^ self.length << 48, secret) ^ self.high, secret);
        let first = low_bits(hash, buckets);
        let second = low_bits(hash >> 32, buckets);
        (first, if second == first { first ^ (buckets > 1) as u32 } else { second })
    }
}

/// The bit of the filter for a prefix that is not longer than a /64. Longer ones share that of their /64.
#[inline(always)]
const fn filter_bit(high: u64, length: u32, secret: [u64; 2]) -> (u32, u32) {
    let hash = mix(high ^ (length as u64) << 1, secret);
    let bit = low_bits(hash, FILTER_BITS);
    (bit >> 6, bit & 63)
}

/// [`lookup`], if it can be told from the filter alone: nothing is listed in the /64, and no shorter prefix anywhere.
#[inline(always)]
pub fn quick<M: Memory>(memory: &M, high: u64) -> Option<Listed> {
    if memory.any()?.load() == 0 {
        return Some(Listed::NONE);
    }
    let shorter = memory.short()?[0].load() != 0;
    (!shorter && !filtered(memory, high, 64)).then_some(Listed::NONE)
}

/// What the tables say of the address with these halves.
#[inline(always)]
pub fn lookup<M: Memory>(memory: &M, high: u64, low: u64) -> Listed {
    let mut listed = Listed::NONE;
    if filtered(memory, high, 64) {
        listed = long(memory, high, low);
    }
    let Some(lengths) = memory.short() else { return listed };
    for word in lengths {
        let mut lengths = word.load();
        for _ in 0..8 {
            if lengths == 0 {
                break;
            }
            let length = (lengths & 0xff) as u32;
            lengths >>= 8;
            // Masked for the verifier, which does not know what the daemon writes.
            let key = Key::new(high, 0, length.wrapping_sub(1) & 63);
            if length != 0 && filtered(memory, key.high, length - 1) {
                listed = memory.join(key, listed);
            }
        }
    }
    listed
}

/// What is listed within the /64.
#[inline(always)]
fn long<M: Memory>(memory: &M, high: u64, low: u64) -> Listed {
    let mut listed = Listed::NONE;
    let Some(lengths) = memory.long() else { return listed };
    for word in lengths {
        let mut lengths = word.load();
        for _ in 0..8 {
            if lengths == 0 {
                break;
            }
            let length = (lengths & 0xff) as u32;
            lengths >>= 8;
            if length != 0 {
                listed = memory.join(Key::new(high, low, (length - 1) & 0xff), listed);
            }
        }
    }
    listed
}

#[inline(always)]
fn filtered<M: Memory>(memory: &M, high: u64, length: u32) -> bool {
    let (index, bit) = filter_bit(high, length, memory.secret());
    memory.filter(index).is_none_or(|word| word.load() >> bit & 1 != 0)
}

/// What the exact table says of exactly this prefix.
#[inline(always)]
pub fn probe<M: Memory>(memory: &M, key: Key) -> Listed {
    let (first, second) = key.places(memory.secret(), memory.buckets());
    let Some(bucket) = memory.bucket(first) else { return Listed::NONE };
    let listed = scan(bucket, key);
    if !listed.is_none() || bucket[ENTRIES - 1].length.load() == 0 {
        return listed;
    }
    memory.bucket(second).map_or(Listed::NONE, |bucket| scan(bucket, key))
}

#[inline(always)]
fn scan<W: Word>(bucket: &Bucket<W>, key: Key) -> Listed {
    let mut listed = 0;
    for slot in bucket {
        let before = slot.deadlines.load();
        if slot.high.load() != key.high || slot.low.load() != key.low || slot.length.load() != key.length {
            continue;
        }
        let deadlines = slot.deadlines.load();
        // Else it was taken by another prefix meanwhile. New deadlines of the same one are fine.
        if (before ^ deadlines) >> TURN_AT == 0 {
            listed |= deadlines;
        }
    }
    Listed::new(listed & FOR_GOOD, listed >> DEADLINE_BITS & FOR_GOOD)
}

//! IPv4.

#[cfg(target_has_atomic = "64")]
mod writer;

use core::hint::cold_path;

use super::{DEADLINE_BITS, FOR_GOOD, Listed};
use crate::hash::{low_bits, multiply};
use crate::slots::Word;

#[cfg(target_has_atomic = "64")]
pub use writer::{Scratch, Writer};

/// Words in a bucket, which is one cache line.
pub const WORDS: usize = 8;
/// Words of the level: one for each /19. Its top bit says which of two forms it has:
///
/// - 0: there are no prefixes but hosts in it, and none contain it. Each host has two of the other bits, see
///   `host_bits`; where one of them is 0, nothing is listed.
/// - 1: there are cells of two bits for the 32 /24s in it. The last one has one of its bits only, and so is
///   never settled by `BLOCKED` or `ALLOWED`.
///
/// So what is listed as single addresses, which is most, disturbs far fewer of its neighbours than there are in a /24.
pub const LEVEL_WORDS: usize = 1 << 19;
/// Words of `wide`: 64 /24s each.
pub const WIDE_WORDS: usize = 1 << 18;
/// Words of prefix lengths in use, eight in each.
pub const LENGTH_WORDS: usize = 4;

/// A bucket of the exact table. A word is a whole entry of one action, or 0 if it was never taken:
///
/// | bits | |
/// |---|---|
/// | 33 | the prefix, see [`key`] |
/// | 1 | whether the prefix may have a word of the other action too |
/// | 1 | whether it is allowed; else it is blocked |
/// | 29 | the deadline |
///
/// An entry is mostly at its `home`. A word that was taken is not 0 again, unless nothing went on from its bucket, so
/// where there is a 0 nothing did: entries go on to their second bucket only when the first is full.
pub type Bucket<W> = [W; WORDS];

/// Bit of a word that says which of the two deadlines it has.
const ALLOW: u64 = 1 << DEADLINE_BITS;
/// Bit of a word that says that there may be another one for the other action.
const TWIN: u64 = ALLOW << 1;
const KEY_AT: u32 = DEADLINE_BITS + 2;
#[cfg(target_has_atomic = "64")]
/// Holds the place of an entry that is gone: the search goes on behind it. No prefix has this key.
const REMOVED: u64 = 1;

/// The top bit of a word of the level, if it has cells.
const CELLS: u64 = 1 << 63;

// What is known of a /24 without looking closer. The fourth, 3, is that nothing of this is.

/// All of it is blocked for good, and no entry allows any of it.
const BLOCKED: u64 = 0;
/// All of it is allowed for good.
const ALLOWED: u64 = 1;
/// No entry has an address in it.
const NOTHING: u64 = 2;

/// The tables, for reading.
pub trait Memory {
    type Word: Word;

    /// Below [`LEVEL_WORDS`].
    fn level(&self, index: u32) -> Option<&Self::Word>;
    /// Below [`WIDE_WORDS`]. A bit says that prefixes contain the /24 or lie in it, so that looking closer means to
    /// look for them too.
    fn wide(&self, index: u32) -> Option<&Self::Word>;
    fn bucket(&self, index: u32) -> Option<&Bucket<Self::Word>>;
    /// How many buckets there are: a power of two.
    fn buckets(&self) -> u32;
    /// Whether there are no entries at all, if that is quicker to tell than what the level says.
    fn is_empty(&self) -> bool;
    /// Each byte is the length of some prefix that is not a host, plus 1; or 0. If the first word is 0, all are.
    fn lengths(&self) -> Option<&[Self::Word; LENGTH_WORDS]>;
    /// One of two, 0 or 1, for the two hashes. By itself, since a packet mostly needs the first alone.
    fn secret(&self, which: usize) -> u64;

    /// `so_far`, and what the exact table says of the prefix with this [`key`]. The kernel makes it a function of its
    /// own, which the verifier checks once.
    #[inline(always)]
    fn join(&self, key: u64, so_far: Listed) -> Listed
    where
        Self: Sized,
    {
        so_far.union(probe(self, key))
    }
}

/// A prefix as a number of 33 bits: its bits, then a one, then zeros.
#[inline(always)]
#[must_use]
pub const fn key(address: u32, length: u32) -> u64 {
    let behind = 32 - length;
    ((address as u64 >> behind) << 1 | 1) << behind
}

/// The bits that a host has in a word of the level: one for the /25 in the /19, so that it can be told which /24s have
/// hosts, and one by its [`hash`]. It has only the other one if one of them is the top bit.
#[inline(always)]
const fn host_bits(address: u32, hash: u64) -> u64 {
    (1 << (address >> 7 & 63) | 1 << (hash >> 26)) & !CELLS
}

/// 32 bits. The lower ones say where a key is, the upper ones which bit a host has, for tables of up to 2^26 buckets.
#[inline(always)]
const fn hash(key: u64, first_secret: u64) -> u64 {
    multiply(key, first_secret)
}

/// Where a key with this [`hash`] can be: the second bucket only if the first was full.
#[inline(always)]
const fn places(key: u64, hash: u64, second_secret: u64, buckets: u32) -> (u32, u32) {
    let first = low_bits(hash, buckets);
    // By another hash, so that keys which share one bucket do not share the other.
    let second = low_bits(multiply(key, second_secret), buckets);
    (first, if second == first { first ^ (buckets > 1) as u32 } else { second })
}

/// Which word of its first bucket a key with this [`hash`] has, if it is free.
///
/// A reader who goes through a bucket from its start leaves the loop at any of its words, which the CPU cannot foresee; and it
/// learns that it went wrong only when the bucket has come from memory, with nothing else to do meanwhile. The word that most
/// entries are at is foreseen.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "less than `WORDS`")]
const fn home(hash: u64) -> usize {
    (hash >> (u32::BITS - WORDS.ilog2())) as usize
}

/// How many of four times as many addresses as there are `buckets`, each `step` behind the last one, come into the fullest of
/// them, up to 255. The number of buckets is a power of two; what is in them does not matter.
///
/// Lists are full of addresses in a row. A hash that is linear spreads them well with nearly every secret, and badly with a few.
pub fn fullest(secret: u64, step: u32, buckets: &mut [u8]) -> u8 {
    buckets.fill(0);
    let count = u32::try_from(buckets.len()).unwrap_or(1 << 31);
    for number in 0..count.saturating_mul(4) {
        let place = low_bits(multiply(key(number.wrapping_mul(step), 32), secret), count);
        if let Some(bucket) = buckets.get_mut(place as usize) {
            *bucket = bucket.saturating_add(1);
        }
    }
    buckets.iter().copied().max().unwrap_or(0)
}

/// What the tables say of `address`.
#[inline(always)]
pub fn lookup<M: Memory>(memory: &M, address: u32) -> Listed {
    quick(memory, address).unwrap_or_else(|| closer(memory, address))
}

/// The same, if it can be told from at most one cache line of each table.
#[inline(always)]
pub fn quick<M: Memory>(memory: &M, address: u32) -> Option<Listed> {
    if memory.is_empty() {
        return Some(Listed::NONE);
    }
    let cell = address >> 8;
    // Tables have all these places, so `None` does not come up; and if it did, it would be looked at again.
    let mut level = memory.level(cell >> 5)?.load();
    if level & CELLS != 0 {
        match level >> (address >> 7 & 62) & 3 {
            NOTHING => return Some(Listed::NONE),
            BLOCKED => return Some(Listed::BLOCKED),
            ALLOWED => return Some(Listed::ALLOWED),
            _ => {}
        }
        if memory.lengths()?[0].load() != 0 && memory.wide(cell >> 6)?.load() >> (cell & 63) & 1 != 0 {
            return None;
        }
        // Hosts have no bits here.
        level = u64::MAX;
    }
    let key = key(address, 32);
    let hash = hash(key, memory.secret(0));
    if !level & host_bits(address, hash) != 0 {
        return Some(Listed::NONE);
    }
    let bucket = memory.bucket(low_bits(hash, memory.buckets()))?;
    let word = bucket.get(home(hash))?.load();
    if word >> KEY_AT == key {
        return of_word(word);
    }
    cold_path();
    for word in bucket {
        let word = word.load();
        if word >> KEY_AT == key {
            return of_word(word);
        }
    }
    // The second bucket is not looked at here.
    (!is_full(bucket)).then_some(Listed::NONE)
}

/// Whether entries may have gone on to their second bucket.
#[inline(always)]
fn is_full<W: Word>(bucket: &Bucket<W>) -> bool {
    bucket.iter().all(|word| word.load() != 0)
}

/// What a word says by itself.
#[inline(always)]
const fn of_word(word: u64) -> Option<Listed> {
    match word & (TWIN | ALLOW | FOR_GOOD) {
        // What most entries are, said as a constant: what follows from it needs no instructions.
        FOR_GOOD => Some(Listed::BLOCKED),
        rest => {
            cold_path();
            if rest & TWIN != 0 { None } else { Some(deadline(rest)) }
        }
    }
}

/// What a word says, without its key and without a twin.
#[inline(always)]
const fn deadline(rest: u64) -> Listed {
    // The bit of the action moves the deadline by 32 bits, or by none.
    Listed((rest & FOR_GOOD) << ((rest & ALLOW) >> (DEADLINE_BITS - 5)))
}

/// The same without the short cut, for an address of which the level does not say all.
#[inline(always)]
pub fn closer<M: Memory>(memory: &M, address: u32) -> Listed {
    let mut listed = memory.join(key(address, 32), Listed::NONE);
    let cell = address >> 8;
    let wide = memory.wide(cell >> 6).is_none_or(|word| word.load() >> (cell & 63) & 1 != 0);
    if !wide {
        return listed;
    }
    let Some(lengths) = memory.lengths() else { return listed };
    for word in lengths {
        let mut lengths = word.load();
        for _ in 0..8 {
            let length = (lengths & 0xff) as u32;
            if length != 0 {
                // Masked for the verifier, which does not know what the daemon writes.
                listed = memory.join(key(address, (length - 1) & 31), listed);
            }
            lengths >>= 8;
            if lengths == 0 {
                break;
            }
        }
    }
    listed
}

/// What the exact table says of exactly the prefix with this [`key`].
#[inline(always)]
pub fn probe<M: Memory>(memory: &M, key: u64) -> Listed {
    let hash = hash(key, memory.secret(0));
    let (first, second) = places(key, hash, memory.secret(1), memory.buckets());
    let Some(bucket) = memory.bucket(first) else { return Listed::NONE };
    let listed = scan(bucket, key);
    if !is_full(bucket) {
        return listed;
    }
    match memory.bucket(second) {
        Some(bucket) => listed.union(scan(bucket, key)),
        None => listed,
    }
}

/// What a bucket says of a key.
#[inline(always)]
fn scan<W: Word>(bucket: &Bucket<W>, key: u64) -> Listed {
    let mut listed = 0;
    for word in bucket {
        let rest = word.load() ^ key << KEY_AT;
        if rest >> KEY_AT == 0 {
            // There is one word for each action at most.
            listed |= deadline(rest).0;
        }
    }
    Listed(listed)
}

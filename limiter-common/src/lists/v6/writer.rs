//! The writing side of IPv6.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Bucket, ENTRIES, Key, LENGTH_WORDS, Memory, Slot, TURN_AT, filter_bit, probe};
use crate::lists::lengths::{keep_lengths, use_length};
use crate::lists::{DEADLINE_BITS, FOR_GOOD, Listed, NoPlace, store};

/// The tables, for the one who writes them.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// [`super::FILTER_WORDS`].
    pub filter: &'a [AtomicU64],
    pub any: &'a AtomicU64,
    pub short: &'a [AtomicU64; LENGTH_WORDS],
    pub long: &'a [AtomicU64; LENGTH_WORDS + 1],
    /// A power of two.
    pub exact: &'a [Bucket<AtomicU64>],
    /// The same for as long as the tables exist.
    pub secret: [u64; 2],
}

impl Memory for Writer<'_> {
    type Word = AtomicU64;

    fn filter(&self, index: u32) -> Option<&AtomicU64> {
        self.filter.get(index as usize)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<AtomicU64>> {
        self.exact.get(index as usize)
    }

    fn buckets(&self) -> u32 {
        u32::try_from(self.exact.len()).unwrap_or(u32::MAX)
    }

    fn any(&self) -> Option<&AtomicU64> {
        Some(self.any)
    }

    fn short(&self) -> Option<&[AtomicU64; LENGTH_WORDS]> {
        Some(self.short)
    }

    fn long(&self) -> Option<&[AtomicU64; LENGTH_WORDS + 1]> {
        Some(self.long)
    }

    fn secret(&self) -> [u64; 2] {
        self.secret
    }
}

/// Memory that [`Writer::tidy`] needs meanwhile: as many words as the filter has.
#[derive(Debug)]
pub struct Scratch<'a> {
    pub filter: &'a mut [u64],
}

impl Writer<'_> {
    /// Gives the prefix of `length` bits these deadlines; [`Listed::NONE`] takes it out. Packets are judged by the old
    /// ones or by the new ones.
    ///
    /// # Errors
    ///
    /// If the exact table has to grow first; nothing was changed.
    pub fn set(&self, address: u128, length: u32, listed: Listed) -> Result<(), NoPlace> {
        let key = key(address, length);
        if !listed.is_none() {
            self.use_length(length);
        }
        if let Some(slot) = self.find(key) {
            let turn = slot.deadlines.load(Ordering::Relaxed) >> TURN_AT;
            slot.deadlines.store(deadlines(listed, turn), Ordering::Release);
        } else if !listed.is_none() {
            self.put(key, listed)?;
        }
        if !listed.is_none() {
            let (index, bit) = filter_bit(key.high, length.min(64), self.secret);
            if let Some(word) = self.filter.get(index as usize) {
                store(word, word.load(Ordering::Relaxed) | 1 << bit);
            }
            store(self.any, 1);
        }
        Ok(())
    }

    /// The deadlines of exactly this prefix.
    #[must_use]
    pub fn get(&self, address: u128, length: u32) -> Listed {
        probe(self, key(address, length))
    }

    /// Tells `ask` of each cache line that [`Self::set`] needs, as in IPv4.
    #[inline]
    pub fn ahead(&self, address: u128, length: u32, ask: impl Fn(&AtomicU64)) {
        let key = key(address, length);
        let (first, _) = key.places(self.secret, self.buckets());
        if let Some(bucket) = self.bucket(first) {
            ask(&bucket[0].length);
            ask(&bucket[ENTRIES - 1].length);
        }
        let (index, _) = filter_bit(key.high, length.min(64), self.secret);
        if let Some(word) = self.filter.get(index as usize) {
            ask(word);
        }
    }

    /// The place of a prefix; also if it is not listed any more, as long as nobody else has taken it.
    fn find(&self, key: Key) -> Option<&Slot<AtomicU64>> {
        let (first, second) = key.places(self.secret, self.buckets());
        let is = |slot: &&Slot<AtomicU64>| {
            [(&slot.high, key.high), (&slot.low, key.low), (&slot.length, key.length)]
                .iter()
                .all(|(word, wanted)| word.load(Ordering::Relaxed) == *wanted)
        };
        let bucket = self.bucket(first)?;
        let full = bucket[ENTRIES - 1].length.load(Ordering::Relaxed) != 0;
        bucket.iter().find(is).or_else(|| if full { self.bucket(second)?.iter().find(is) } else { None })
    }

    /// Stores a new entry in a free place.
    fn put(&self, key: Key, listed: Listed) -> Result<(), NoPlace> {
        let (first, second) = key.places(self.secret, self.buckets());
        let slot = self.free(first).or_else(|| self.free(second));
        let slot = slot.or_else(|| self.vacate(first)).or_else(|| self.vacate(second)).ok_or(NoPlace)?;
        occupy(slot, key, listed);
        Ok(())
    }

    fn free(&self, bucket: u32) -> Option<&Slot<AtomicU64>> {
        let none = |slot: &&Slot<AtomicU64>| slot.deadlines.load(Ordering::Relaxed) & !(!0 << TURN_AT) == 0;
        self.bucket(bucket)?.iter().find(none)
    }

    /// Moves an entry of a full bucket to its second one: first it is in both, and then readers go on to the second,
    /// since this one stays full. Never the other way round: who has seen the first bucket already would not find it
    /// there.
    fn vacate(&self, bucket: u32) -> Option<&Slot<AtomicU64>> {
        self.bucket(bucket)?.iter().find(|slot| {
            let Some((key, listed)) = decode(slot) else { return false };
            let (first, second) = key.places(self.secret, self.buckets());
            let Some(to) = (if first == bucket { self.free(second) } else { None }) else { return false };
            occupy(to, key, listed);
            let turn = slot.deadlines.load(Ordering::Relaxed) >> TURN_AT;
            slot.deadlines.store(deadlines(Listed::NONE, turn), Ordering::Release);
            true
        })
    }

    /// Calls `each` for every entry.
    pub fn entries(&self, mut each: impl FnMut(u128, u32, Listed)) {
        for slot in self.exact.iter().flatten() {
            if let Some((key, listed)) = decode(slot) {
                each(u128::from(key.high) << 64 | u128::from(key.low), length(key), listed);
            }
        }
    }

    /// Places that hold an entry, and places that are taken at all.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        self.exact.iter().flatten().fold((0, 0), |(live, taken), slot| {
            let used = slot.length.load(Ordering::Relaxed) != 0;
            (live + usize::from(decode(slot).is_some()), taken + usize::from(used))
        })
    }

    /// Copies all entries to another exact table, which is empty and not in use yet.
    ///
    /// # Errors
    ///
    /// If that one is too small.
    pub fn copy_to(&self, exact: &[Bucket<AtomicU64>]) -> Result<(), NoPlace> {
        let to = Writer { exact, ..*self };
        self.exact.iter().flatten().filter_map(decode).try_for_each(|(key, listed)| to.put(key, listed))
    }

    fn use_length(&self, length: u32) {
        use_length(if length < 64 { self.short } else { self.long }, length);
    }

    /// Takes out entries of a second bucket that are in their first one too: [`Self::vacate`] was cut off.
    fn drop_copies(&self) {
        for (index, bucket) in self.exact.iter().enumerate() {
            for slot in bucket {
                let Some((key, _)) = decode(slot) else { continue };
                let (first, _) = key.places(self.secret, self.buckets());
                let same = |other| decode(other).is_some_and(|(other, _)| other == key);
                if first as usize != index && self.bucket(first).is_some_and(|bucket| bucket.iter().any(same))
                {
                    let turn = slot.deadlines.load(Ordering::Relaxed) >> TURN_AT;
                    slot.deadlines.store(deadlines(Listed::NONE, turn), Ordering::Release);
                }
            }
        }
    }

    /// Makes the filter and the lengths say exactly what the entries do. What a writer left half done, having ended in the
    /// middle, is done. Other packets are judged alike before, meanwhile and after. What removed entries hold is taken by
    /// others, and freed by the next [`Self::copy_to`].
    pub fn tidy(&self, scratch: &mut Scratch<'_>) {
        scratch.filter.fill(0);
        self.drop_copies();
        let mut used = [0u64; 3];
        for (key, _) in self.exact.iter().flatten().filter_map(decode) {
            let length = length(key);
            self.use_length(length);
            if let Some(word) = used.get_mut(length as usize / 64) {
                *word |= 1 << (length % 64);
            }
            let (index, bit) = filter_bit(key.high, length.min(64), self.secret);
            if let Some(word) = scratch.filter.get_mut(index as usize) {
                *word |= 1 << bit;
            }
        }
        for (word, new) in self.filter.iter().zip(scratch.filter.iter()) {
            store(word, *new);
        }
        let used = |length| used.get(length / 64).is_some_and(|word| word >> (length % 64) & 1 != 0);
        store(self.any, u64::from(self.fill().0 > 0));
        keep_lengths(self.short, used);
        keep_lengths(self.long, used);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "halves")]
fn key(address: u128, length: u32) -> Key {
    Key::new((address >> 64) as u64, address as u64, length)
}

fn length(key: Key) -> u32 {
    u32::try_from(key.length.saturating_sub(1)).unwrap_or(128)
}

fn decode(slot: &Slot<AtomicU64>) -> Option<(Key, Listed)> {
    let deadlines = slot.deadlines.load(Ordering::Relaxed);
    let listed = Listed::new(deadlines & FOR_GOOD, deadlines >> DEADLINE_BITS & FOR_GOOD);
    let [high, low, length] = [&slot.high, &slot.low, &slot.length].map(|word| word.load(Ordering::Relaxed));
    (!listed.is_none() && (1..=129).contains(&length)).then_some((Key { high, low, length }, listed))
}

/// Makes a free place the one of this entry. The deadlines come last: until then it says nothing.
fn occupy(slot: &Slot<AtomicU64>, key: Key, listed: Listed) {
    let turn = slot.deadlines.load(Ordering::Relaxed) >> TURN_AT;
    slot.high.store(key.high, Ordering::Release);
    slot.low.store(key.low, Ordering::Release);
    slot.length.store(key.length, Ordering::Release);
    slot.deadlines.store(deadlines(listed, turn + 1), Ordering::Release);
}

fn deadlines(listed: Listed, turn: u64) -> u64 {
    listed.block() | listed.allow() << DEADLINE_BITS | turn << TURN_AT
}

const _: () = assert!(
    super::FILTER_BITS as usize == super::FILTER_WORDS * 64
        && ENTRIES * size_of::<Slot<u64>>() == 128
        && LENGTH_WORDS * 8 == 64
);

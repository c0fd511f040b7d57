//! The writing side of IPv4.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    ALLOW, Bucket, CELLS, KEY_AT, LENGTH_WORDS, LEVEL_WORDS, Memory, REMOVED, TWIN, WIDE_WORDS, WORDS,
    deadline, hash, home, host_bits, is_full, key, places, probe,
};
use crate::hash::low_bits;
use crate::lists::lengths::{keep_lengths, use_length};
use crate::lists::{FOR_GOOD, Listed, NoPlace, store};

/// Even bits: the lower ones of all cells of a level word.
const LOW: u64 = 0x5555_5555_5555_5555;
/// Prefixes up to this length contain whole /24s.
const CELL: u32 = 24;
/// Bits of an address within the /19 of a word of the level.
const LEVEL_BITS: u32 = 13;

/// The tables, for the one who writes them.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// [`super::LEVEL_WORDS`].
    pub level: &'a [AtomicU64],
    /// [`WIDE_WORDS`].
    pub wide: &'a [AtomicU64],
    pub lengths: &'a [AtomicU64; LENGTH_WORDS],
    pub any: &'a AtomicU64,
    /// A power of two.
    pub exact: &'a [Bucket<AtomicU64>],
    /// The same for as long as the tables exist.
    pub secret: [u64; 2],
}

impl Memory for Writer<'_> {
    type Word = AtomicU64;

    fn level(&self, index: u32) -> Option<&AtomicU64> {
        self.level.get(index as usize)
    }

    fn wide(&self, index: u32) -> Option<&AtomicU64> {
        self.wide.get(index as usize)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<AtomicU64>> {
        self.exact.get(index as usize)
    }

    fn buckets(&self) -> u32 {
        u32::try_from(self.exact.len()).unwrap_or(u32::MAX)
    }

    fn is_empty(&self) -> bool {
        self.any.load(Ordering::Relaxed) == 0
    }

    fn lengths(&self) -> Option<&[AtomicU64; LENGTH_WORDS]> {
        Some(self.lengths)
    }

    fn secret(&self, which: usize) -> u64 {
        self.secret.get(which).copied().unwrap_or_default()
    }
}

/// Memory that [`Writer::tidy`] needs meanwhile.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// As many as the level has.
    pub level: &'a mut [u64],
    /// As many again.
    pub hosts: &'a mut [u64],
    /// As many as `wide` has.
    pub wide: &'a mut [u64],
    /// A bit for each bucket.
    pub overflowed: &'a mut [u64],
}

impl Writer<'_> {
    /// Gives the prefix of `length` bits at `address` these deadlines; [`Listed::NONE`] takes it out.
    ///
    /// Packets are judged by the old ones or by the new ones. If a prefix is to be blocked later and allowed
    /// sooner at once, also by something in between that both have in common.
    ///
    /// # Errors
    ///
    /// If the exact table has to grow first; then one of the deadlines may have been set.
    pub fn set(&self, address: u32, length: u32, listed: Listed) -> Result<(), NoPlace> {
        let before = probe(self, key(address, length));
        if listed.allow() > before.allow() {
            self.raise(address, length, ALLOW, listed.allow())?;
        }
        if listed.block() > before.block() {
            self.raise(address, length, 0, listed.block())?;
        }
        if listed.block() < before.block() {
            self.lower(address, length, 0, listed.block());
        }
        if listed.allow() < before.allow() {
            self.lower(address, length, ALLOW, listed.allow());
        }
        Ok(())
    }

    /// The deadlines of exactly this prefix.
    #[must_use]
    pub fn get(&self, address: u32, length: u32) -> Listed {
        probe(self, key(address, length))
    }

    /// Lists a prefix of which nothing is listed yet, if one look at its first bucket tells that there is nothing and
    /// that there is room: true of most entries of long lists, and much quicker than [`Self::set`]. False if that is
    /// not so; then nothing is changed.
    #[must_use]
    pub fn add(&self, address: u32, length: u32, listed: Listed) -> bool {
        let (action, deadline) = match (listed.block(), listed.allow()) {
            (deadline, 0) if deadline > 0 => (0, deadline),
            (0, deadline) if deadline > 0 => (ALLOW, deadline),
            _ => return false,
        };
        let key = key(address, length);
        let (first, _) = self.places(key);
        let Some(bucket) = self.bucket(first) else { return false };
        let words: [u64; WORDS] = core::array::from_fn(|index| bucket[index].load(Ordering::Relaxed));
        // If it was full, the prefix may be in its second bucket.
        if !words.contains(&0) || words.iter().any(|word| word >> KEY_AT == key) {
            return false;
        }
        if length < 32 {
            use_length(self.lengths, length);
        }
        let Some(place) = self.settle(first, key) else { return false };
        place.store(key << KEY_AT | action | deadline, Ordering::Release);
        self.lead_to(address, length, action, deadline);
        true
    }

    /// Tells `ask` of each cache line that [`Self::add`] needs. Asking for those of some entries ahead makes the waits for
    /// memory overlap, which is most of what it takes to fill a large table.
    #[inline]
    pub fn ahead(&self, address: u32, length: u32, ask: impl Fn(&AtomicU64)) {
        let (first, _) = self.places(key(address, length));
        if let Some(bucket) = self.bucket(first) {
            ask(&bucket[0]);
        }
        if let Some(word) = self.level.get((address >> LEVEL_BITS) as usize) {
            ask(word);
        }
    }

    fn raise(&self, address: u32, length: u32, action: u64, deadline: u64) -> Result<(), NoPlace> {
        if length < 32 {
            use_length(self.lengths, length);
        }
        let entry = key(address, length) << KEY_AT | action;
        let twin = match self.find(entry ^ ALLOW) {
            Some(other) => {
                store(other, other.load(Ordering::Relaxed) | TWIN);
                TWIN
            }
            None => 0,
        };
        self.put(entry | twin | deadline)?;
        self.lead_to(address, length, action, deadline);
        Ok(())
    }

    /// Makes the small tables lead to an entry that was put in its place.
    fn lead_to(&self, address: u32, length: u32, action: u64, deadline: u64) {
        if length < 32 {
            self.widen(address, length);
        }
        let settles = length <= CELL && deadline == FOR_GOOD;
        self.each_level_word(address, length, |word, cells| {
            if length == 32 && word & CELLS == 0 {
                return word | host_bits(address, self.hash(key(address, length)));
            }
            let known = expand(word);
            let nothing = !(known | known >> 1) & cells;
            let unsettled = !(known >> 1) & cells;
            pack(match (action, settles) {
                (ALLOW, true) => known | cells | cells << 1,
                (ALLOW, false) => (known | unsettled << 1) & !unsettled,
                (_, true) => known | nothing,
                (_, false) => known | nothing << 1,
            })
        });
        if self.any.load(Ordering::Relaxed) == 0 {
            store(self.any, 1);
        }
    }

    fn lower(&self, address: u32, length: u32, action: u64, deadline: u64) {
        if length <= CELL {
            // What is settled may be so by this entry: from now on the entries tell.
            self.each_level_word(address, length, |word, cells| {
                if word & CELLS == 0 {
                    return word;
                }
                let known = expand(word);
                let lowered = if action == ALLOW {
                    let allowed = known & known >> 1 & cells;
                    known & !allowed
                } else {
                    let blocked = known & !(known >> 1) & cells;
                    (known & !blocked) | blocked << 1
                };
                pack(lowered)
            });
        }
        let entry = key(address, length) << KEY_AT | action;
        let Some(word) = self.find(entry) else { return };
        if deadline > 0 {
            let twin = word.load(Ordering::Relaxed) & TWIN;
            word.store(entry | twin | deadline, Ordering::Release);
        } else {
            word.store(REMOVED, Ordering::Release);
            if let Some(other) = self.find(entry ^ ALLOW) {
                store(other, other.load(Ordering::Relaxed) & !TWIN);
            }
        }
    }

    fn hash(&self, key: u64) -> u64 {
        hash(key, self.secret[0])
    }

    fn places(&self, key: u64) -> (u32, u32) {
        places(key, self.hash(key), self.secret[1], self.buckets())
    }

    /// The place of an entry, whatever its deadline.
    fn find(&self, entry: u64) -> Option<&AtomicU64> {
        let (first, second) = self.places(entry >> KEY_AT);
        let is = |word: &&AtomicU64| word.load(Ordering::Relaxed) & !(TWIN | FOR_GOOD) == entry;
        let bucket = self.bucket(first)?;
        // Most are not full, and then the second would be one more cache line that is not at hand.
        bucket
            .iter()
            .find(is)
            .or_else(|| if is_full(bucket) { self.bucket(second)?.iter().find(is) } else { None })
    }

    /// Stores an entry in its place, or in a free one.
    fn put(&self, entry: u64) -> Result<(), NoPlace> {
        match self.find(entry & !(TWIN | FOR_GOOD)) {
            Some(place) => {
                place.store(entry, Ordering::Release);
                Ok(())
            }
            None => self.put_new(entry),
        }
    }

    /// [`Self::put`] for an entry that is not there.
    fn put_new(&self, entry: u64) -> Result<(), NoPlace> {
        let (first, second) = self.places(entry >> KEY_AT);
        let place = self.settle(first, entry >> KEY_AT).or_else(|| self.free(second));
        let place = place.or_else(|| self.vacate(first)).or_else(|| self.vacate(second));
        place.ok_or(NoPlace)?.store(entry, Ordering::Release);
        Ok(())
    }

    fn free(&self, bucket: u32) -> Option<&AtomicU64> {
        self.bucket(bucket)?.iter().find(is_free)
    }

    /// A free place for a key in its first bucket: its [`home`], if that is free or can be made so.
    ///
    /// A guest there that has its home elsewhere is copied to a place behind it, and is in both until its former place is
    /// taken. Never to one before: a reader who has passed that one already would find it in neither.
    fn settle(&self, first: u32, key: u64) -> Option<&AtomicU64> {
        let bucket = self.bucket(first)?;
        let index = home(self.hash(key));
        let own = bucket.get(index)?;
        if is_free(&own) {
            return Some(own);
        }
        let free = bucket.iter().position(|word| is_free(&word))?;
        let guest = own.load(Ordering::Relaxed);
        let hash = self.hash(guest >> KEY_AT);
        if home(hash) == index && low_bits(hash, self.buckets()) == first {
            return bucket.get(free);
        }
        match bucket.get(index + 1..)?.iter().find(is_free) {
            Some(behind) => {
                behind.store(guest, Ordering::Release);
                Some(own)
            }
            None => bucket.get(free),
        }
    }

    /// Whether a host that is listed is where readers look first.
    #[cfg(test)]
    pub(in crate::lists) fn is_at_home(&self, address: u32) -> bool {
        let key = key(address, 32);
        let bucket = self.bucket(self.places(key).0);
        bucket.is_some_and(|bucket| bucket[home(self.hash(key))].load(Ordering::Relaxed) >> KEY_AT == key)
    }

    /// Copies an entry of a full bucket to its second one: until its place here is taken it is in both, and then readers
    /// go on to the second, since this one stays full. Never the other way round: who has seen the first bucket already
    /// would not find it there.
    fn vacate(&self, bucket: u32) -> Option<&AtomicU64> {
        self.bucket(bucket)?.iter().find(|word| {
            let entry = word.load(Ordering::Relaxed);
            let (first, second) = self.places(entry >> KEY_AT);
            let to = if first == bucket { self.free(second) } else { None };
            to.inspect(|to| to.store(entry, Ordering::Release)).is_some()
        })
    }

    /// Marks the /24s of a prefix.
    fn widen(&self, address: u32, length: u32) {
        for (index, cells) in cells(address, length, 64) {
            if let Some(word) = self.wide.get(index) {
                store(word, word.load(Ordering::Relaxed) | cells);
            }
        }
    }

    /// Replaces the level words of the /24s of a prefix: `make` gets each, and the lower bits of the cells concerned.
    fn each_level_word(&self, address: u32, length: u32, make: impl Fn(u64, u64) -> u64) {
        for (index, cells) in cells(address, length, 32) {
            if let Some(word) = self.level.get(index) {
                store(word, make(word.load(Ordering::Relaxed), spread(cells)));
            }
        }
    }

    /// Calls `each` for every entry, with its deadline as the only one: a prefix that is both blocked and allowed comes
    /// twice.
    pub fn entries(&self, mut each: impl FnMut(u32, u32, Listed)) {
        for word in self.exact.iter().flatten() {
            if let Some((address, length, listed)) = decode(word.load(Ordering::Relaxed)) {
                each(address, length, listed);
            }
        }
    }

    /// Words that hold an entry, and words that are taken at all.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        let words = self.exact.iter().flatten().map(|word| word.load(Ordering::Relaxed));
        words.fold((0, 0), |(live, taken), word| {
            (live + usize::from(word > REMOVED), taken + usize::from(word != 0))
        })
    }

    /// Copies all entries to another exact table, which is empty and not in use yet.
    ///
    /// # Errors
    ///
    /// If that one is too small.
    pub fn copy_to(&self, exact: &[Bucket<AtomicU64>]) -> Result<(), NoPlace> {
        let to = Writer { exact, ..*self };
        let words = self.exact.iter().flatten().map(|word| word.load(Ordering::Relaxed));
        words.filter(|word| *word > REMOVED).try_for_each(|word| to.put_new(word))
    }

    /// Makes the level, `wide` and the lengths say exactly what the entries do, and frees what removed entries hold. What a
    /// writer left half done, having ended in the middle, is done. Other packets are judged alike before, meanwhile and
    /// after.
    pub fn tidy(&self, scratch: &mut Scratch<'_>) {
        scratch.level.fill(0);
        scratch.hosts.fill(0);
        scratch.wide.fill(0);
        scratch.overflowed.fill(0);
        let mut lengths = [0u64; LENGTH_WORDS];
        self.drop_copies();
        self.gather(scratch, &mut lengths);
        (0..32)
            .filter(|length| bit(&lengths, *length as usize))
            .for_each(|length| use_length(self.lengths, length));
        for (word, new) in self.wide.iter().zip(scratch.wide.iter()) {
            store(word, word.load(Ordering::Relaxed) | *new);
        }
        for (word, new) in self.level.iter().zip(scratch.level.iter()) {
            store(word, *new);
        }
        // Behind the level, so that who looks closer still looks wide.
        for (word, new) in self.wide.iter().zip(scratch.wide.iter()) {
            store(word, *new);
        }
        store(self.any, u64::from(self.fill().0 > 0));
        keep_lengths(self.lengths, |length| bit(&lengths, length));
        let full = |index: usize| bit(scratch.overflowed, index);
        for (_, bucket) in self.exact.iter().enumerate().filter(|(index, _)| !full(*index)) {
            for word in bucket.iter().filter(is_free) {
                store(word, 0);
            }
        }
    }

    /// Takes out entries that are in their bucket twice, or in their first bucket too: [`Self::settle`] or [`Self::vacate`] was
    /// cut off.
    fn drop_copies(&self) {
        for (index, bucket) in self.exact.iter().enumerate() {
            for (at, word) in bucket.iter().enumerate() {
                let entry = word.load(Ordering::Relaxed);
                if entry <= REMOVED {
                    continue;
                }
                let same =
                    |other: &AtomicU64| (other.load(Ordering::Relaxed) ^ entry) & !(TWIN | FOR_GOOD) == 0;
                let (first, _) = self.places(entry >> KEY_AT);
                let elsewhere = first as usize != index
                    && self.bucket(first).is_some_and(|bucket| bucket.iter().any(same));
                if elsewhere || bucket.iter().take(at).any(same) {
                    store(word, REMOVED);
                }
            }
        }
    }

    /// What the small tables should be, in `scratch`, which is zeros.
    fn gather(&self, scratch: &mut Scratch<'_>, used: &mut [u64; LENGTH_WORDS]) {
        for (index, bucket) in self.exact.iter().enumerate() {
            for word in bucket.iter().map(|word| word.load(Ordering::Relaxed)) {
                let Some((address, length, listed)) = decode(word) else { continue };
                let (first, _) = self.places(word >> KEY_AT);
                if first as usize != index {
                    set_bit(scratch.overflowed, first as usize);
                }
                if length < 32 {
                    set_bit(used, length as usize);
                    each(scratch.wide, cells(address, length, 64), |word, cells| word | cells);
                    each(scratch.hosts, cells(address, length, 32), |word, _| word | CELLS);
                } else {
                    let bits = host_bits(address, self.hash(word >> KEY_AT));
                    each(scratch.hosts, cells(address, length, 32), |word, _| word | bits);
                }
                if !settles(length, listed) {
                    // For now: Closer means that nothing is allowed in it, Allowed that something is.
                    let allowed = listed.allow() > 0;
                    let mark = move |word, cells: u64| {
                        let cells = spread(cells);
                        word | cells << 1 | if allowed { cells } else { 0 }
                    };
                    each(scratch.level, cells(address, length, 32), mark);
                }
            }
        }
        let settling = |scratch: &mut Scratch<'_>, with: Listed, make: fn(u64, u64) -> u64| {
            self.entries(|address, length, listed| {
                if settles(length, listed) && listed == with {
                    each(scratch.level, cells(address, length, 32), |word, cells| make(word, spread(cells)));
                }
            });
        };
        settling(scratch, Listed::BLOCKED, |word, cells| {
            let free = !(word & word >> 1) & cells;
            (word | free) & !(free << 1)
        });
        for word in scratch.level.iter_mut() {
            let allowed = *word & *word >> 1 & LOW;
            *word &= !allowed;
        }
        settling(scratch, Listed::ALLOWED, |word, cells| word | cells | cells << 1);
        for (word, hosts) in scratch.level.iter_mut().zip(scratch.hosts.iter()) {
            *word = better(*word, *hosts);
        }
    }
}

/// Whether an entry may be put there.
fn is_free(word: &&AtomicU64) -> bool {
    word.load(Ordering::Relaxed) <= REMOVED
}

/// What a word of the level of either form says of each /24, in the two bits that are easier to reckon with: 0 nothing,
/// 1 blocked, 2 closer, 3 allowed. Closer are at least all /24s that have hosts.
fn expand(word: u64) -> u64 {
    if word & CELLS != 0 {
        (word & LOW) << 1 | !word >> 1 & LOW
    } else {
        // The last /25 has no bit of its own.
        ((word | word >> 1) & LOW) << 1 | if word == 0 { 0 } else { CELLS }
    }
}

/// The form with cells that says so, except that the last cell is settled by nothing.
fn pack(known: u64) -> u64 {
    let settled = known & CELLS >> 1;
    let known = (known | settled << 1) & !settled;
    (!known & LOW) << 1 | known >> 1 & LOW
}

/// A word of the level that says what is `known` of each /24, or that of these hosts if it leads closer in vain less
/// often. `hosts` with the bit of cells says that there are others than hosts.
fn better(known: u64, hosts: u64) -> u64 {
    // Of as many addresses: those in these /24s, and those whose two bits are set by chance.
    let closer = known >> 1 & !known & LOW;
    let (by_cells, by_hosts) = (closer.count_ones() * 128, hosts.count_ones().pow(2));
    if hosts & CELLS == 0 && by_hosts <= by_cells { hosts } else { pack(known) }
}

/// Whether an entry says all about the /24s in it, as far as it has the last word.
fn settles(length: u32, listed: Listed) -> bool {
    length <= CELL && (listed == Listed::BLOCKED || listed == Listed::ALLOWED)
}

fn decode(word: u64) -> Option<(u32, u32, Listed)> {
    let key = word >> KEY_AT;
    let behind = key.trailing_zeros();
    let length = 32u32.checked_sub(behind)?;
    let address = u32::try_from(key >> behind >> 1 << behind).ok()?;
    Some((address, length, deadline(word)))
}

/// The /24s that a prefix contains or lies in, as words of `per_word` of them: index, and bits.
fn cells(address: u32, length: u32, per_word: u32) -> impl Iterator<Item = (usize, u64)> {
    let first = address >> 8;
    let last = first + ((1 << CELL.saturating_sub(length)) - 1);
    (first / per_word..=last / per_word).map(move |index| {
        let start = first.max(index * per_word) - index * per_word;
        let end = last.min(index * per_word + (per_word - 1)) - index * per_word;
        (index as usize, (u64::MAX >> (63 - (end - start))) << start)
    })
}

/// Bit i becomes bit 2i.
fn spread(cells: u64) -> u64 {
    let x = cells & 0xffff_ffff;
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    let x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let x = (x | x << 2) & 0x3333_3333_3333_3333;
    (x | x << 1) & LOW
}

fn each(words: &mut [u64], cells: impl Iterator<Item = (usize, u64)>, make: impl Fn(u64, u64) -> u64) {
    for (index, cells) in cells {
        if let Some(word) = words.get_mut(index) {
            *word = make(*word, cells);
        }
    }
}

fn bit(words: &[u64], index: usize) -> bool {
    words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 != 0)
}

fn set_bit(words: &mut [u64], index: usize) {
    if let Some(word) = words.get_mut(index / 64) {
        *word |= 1 << (index % 64);
    }
}

const _: () =
    assert!(WIDE_WORDS * 64 == 1 << CELL && LEVEL_WORDS == 1 << (32 - LEVEL_BITS) && WORDS * 8 == 64);

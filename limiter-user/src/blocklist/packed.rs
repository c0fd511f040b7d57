//! A sorted map for millions of small entries, which takes little more than the bytes of its keys and values.
//!
//! A `BTreeMap` that is filled in ascending order, as imports fill it, is half empty afterwards; this one is full. An
//! entry moves at most [`CHUNK`] others, so a single change is not dear either.

use std::cell::Cell;

/// Entries of a full chunk.
const CHUNK: usize = 512;
/// Entries that a chunk makes room for at a time.
const STEP: usize = 64;

/// A sorted map.
#[derive(Debug, Clone)]
pub(super) struct PackedMap<K, V> {
    /// The first key of each chunk, apart from the chunks since searches begin here.
    firsts: Vec<K>,
    /// None is empty, and each lies before the next.
    chunks: Vec<Chunk<K, V>>,
    len: usize,
    /// Where the last key belonged: most searches are for a neighbour.
    recent: Cell<usize>,
}

/// Some entries, in order: the value of `keys[i]` is `values[i]`.
#[derive(Debug, Clone)]
struct Chunk<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for PackedMap<K, V> {
    fn default() -> Self {
        Self { firsts: Vec::new(), chunks: Vec::new(), len: 0, recent: Cell::new(0) }
    }
}

impl<K: Copy, V: Copy> Chunk<K, V> {
    /// All entries but the first `skipped`.
    fn entries(&self, skipped: usize) -> impl Iterator<Item = (K, V)> {
        self.keys.iter().copied().zip(self.values.iter().copied()).skip(skipped)
    }

    fn insert(&mut self, at: usize, key: K, value: V) {
        if self.keys.len() == self.keys.capacity() {
            // What comes behind all others is likely to be followed by more.
            let more = if at == self.keys.len() { at.clamp(STEP, STEP.max(CHUNK - at)) } else { STEP };
            self.keys.reserve_exact(more);
            self.values.reserve_exact(more);
        }
        self.keys.insert(at, key);
        self.values.insert(at, value);
    }

    fn split_off(&mut self, at: usize) -> Self {
        let rest = Self { keys: self.keys.split_off(at), values: self.values.split_off(at) };
        self.keys.shrink_to_fit();
        self.values.shrink_to_fit();
        rest
    }
}

impl<K: Ord + Copy, V: Copy> PackedMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The chunk that `key` is in, if it is there at all; `None` if there are no chunks.
    fn chunk_of(&self, key: &K) -> Option<usize> {
        let recent = self.recent.get();
        if self.firsts.get(recent).is_some_and(|first| first <= key)
            && self.firsts.get(recent + 1).is_none_or(|next| key < next)
        {
            return Some(recent);
        }
        let number = self.firsts.partition_point(|first| first <= key).saturating_sub(1);
        self.recent.set(number);
        (!self.firsts.is_empty()).then_some(number)
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let chunk = self.chunks.get(self.chunk_of(key)?)?;
        let at = chunk.keys.binary_search(key).ok()?;
        chunk.values.get(at).copied()
    }

    /// Returns the value that was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some((number, place)) = self.place(&key) else {
            self.insert_first(key, value);
            return None;
        };
        match place {
            Ok(at) => Some(std::mem::replace(&mut self.chunks[number].values[at], value)),
            Err(at) => {
                self.insert_at(number, at, key, value);
                None
            }
        }
    }

    /// Inserts an entry unless one of its neighbours is like it. False if one is; then nothing is changed.
    pub(super) fn insert_alone(&mut self, key: K, value: V, like: impl Fn(&K) -> bool) -> bool {
        let Some((number, place)) = self.place(&key) else {
            self.insert_first(key, value);
            return true;
        };
        let Err(at) = place else { return false };
        let keys = &self.chunks[number].keys;
        let before = match at.checked_sub(1) {
            Some(before) => keys.get(before),
            None => number.checked_sub(1).and_then(|number| self.chunks[number].keys.last()),
        };
        let behind = keys.get(at).or_else(|| self.firsts.get(number + 1));
        if before.is_some_and(&like) || behind.is_some_and(&like) {
            return false;
        }
        self.insert_at(number, at, key, value);
        true
    }

    /// The chunk that `key` is in, or would be, and its place there; `None` if there are no chunks.
    fn place(&self, key: &K) -> Option<(usize, Result<usize, usize>)> {
        let number = self.chunk_of(key)?;
        let keys = &self.chunks.get(number)?.keys;
        // Most come in order.
        let behind_all = keys.last().is_some_and(|last| last < key);
        Some((number, if behind_all { Err(keys.len()) } else { keys.binary_search(key) }))
    }

    fn insert_first(&mut self, key: K, value: V) {
        self.insert_chunk(0, Chunk { keys: vec![key], values: vec![value] });
        self.len += 1;
    }

    /// Inserts an entry that is not there, where it belongs.
    fn insert_at(&mut self, number: usize, at: usize, key: K, value: V) {
        let chunk = &mut self.chunks[number];
        self.len += 1;
        if chunk.keys.len() < CHUNK {
            chunk.insert(at, key, value);
            if at == 0 {
                self.firsts[number] = key;
            }
        } else if at == CHUNK {
            // Not split, so that what comes in ascending order leaves full chunks behind.
            self.insert_chunk(number + 1, Chunk { keys: vec![key], values: vec![value] });
        } else {
            let mut rest = chunk.split_off(CHUNK / 2);
            if at <= CHUNK / 2 {
                chunk.insert(at, key, value);
                if at == 0 {
                    self.firsts[number] = key;
                }
            } else {
                rest.insert(at - CHUNK / 2, key, value);
            }
            self.insert_chunk(number + 1, rest);
        }
    }

    fn insert_chunk(&mut self, number: usize, chunk: Chunk<K, V>) {
        self.firsts.insert(number, chunk.keys[0]);
        self.chunks.insert(number, chunk);
    }

    /// Returns the value that was there.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let number = self.chunk_of(key)?;
        let chunk = &mut self.chunks[number];
        let at = chunk.keys.binary_search(key).ok()?;
        chunk.keys.remove(at);
        let value = chunk.values.remove(at);
        self.len -= 1;
        if chunk.keys.is_empty() {
            self.firsts.remove(number);
            self.chunks.remove(number);
        } else {
            self.firsts[number] = chunk.keys[0];
            self.tidy(number);
        }
        Some(value)
    }

    /// Joins a chunk of which little is left with a neighbour like it, and gives back what it does not need.
    fn tidy(&mut self, number: usize) {
        let len = |number: usize| self.chunks.get(number).map_or(CHUNK, |chunk| chunk.keys.len());
        let pairs = [Some(number), number.checked_sub(1)];
        let joined = pairs.into_iter().flatten().find(|left| len(*left) + len(left + 1) <= CHUNK / 2);
        if let Some(left) = joined {
            self.firsts.remove(left + 1);
            let mut right = self.chunks.remove(left + 1);
            self.chunks[left].keys.append(&mut right.keys);
            self.chunks[left].values.append(&mut right.values);
        }
        let Chunk { keys, values } = &mut self.chunks[joined.unwrap_or(number)];
        if keys.capacity() > keys.len() + 2 * STEP {
            keys.shrink_to(keys.len() + STEP);
            values.shrink_to(keys.len() + STEP);
        }
    }

    /// The entries from `first` on, which itself may be there or not.
    pub(super) fn starting_at(&self, first: K) -> impl Iterator<Item = (K, V)> {
        let number = self.chunk_of(&first).unwrap_or(0);
        let (begun, rest) = match self.chunks.get(number..) {
            Some([begun, rest @ ..]) => (Some(begun), rest),
            _ => (None, &[][..]),
        };
        let begun = begun.map(|chunk| chunk.entries(chunk.keys.partition_point(|key| *key < first)));
        begun.into_iter().flatten().chain(rest.iter().flat_map(|chunk| chunk.entries(0)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.chunks.iter().flat_map(|chunk| chunk.entries(0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[track_caller]
    fn check(map: &PackedMap<u32, u32>, model: &BTreeMap<u32, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model.iter().map(|(key, value)| (*key, *value))));
        assert!(map.chunks.iter().all(|chunk| !chunk.keys.is_empty() && chunk.keys.len() <= CHUNK));
        assert!(map.firsts.iter().eq(map.chunks.iter().map(|chunk| &chunk.keys[0])));
    }

    #[test]
    fn random_changes_follow_a_model() {
        let mut seed = 1_u64;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((seed >> 33) % u64::from(below)).unwrap()
        };
        let (mut map, mut model) = (PackedMap::default(), BTreeMap::new());
        for round in 0..12 {
            // It grows, shrinks to nothing nearly, and grows again.
            for step in 0..6_000 {
                let key = random(8_000);
                if random(8) < if round % 4 < 2 { 6 } else { 1 } {
                    if random(2) == 0 {
                        let like = |other: &u32| other / 2 == key / 2;
                        let alone = model.range(key & !1..=key | 1).next().is_none();
                        assert_eq!(map.insert_alone(key, step, like), alone, "{key}");
                        if alone {
                            model.insert(key, step);
                        }
                        continue;
                    }
                    assert_eq!(map.insert(key, step), model.insert(key, step));
                } else {
                    assert_eq!(map.remove(&key), model.remove(&key));
                }
                let key = random(8_000);
                assert_eq!(map.get(&key), model.get(&key).copied());
                if step % 100 == 0 {
                    let found = map.starting_at(key).take(3);
                    assert!(found.eq(model.range(key..).take(3).map(|(key, value)| (*key, *value))), "{key}");
                }
            }
            check(&map, &model);
        }
        for key in 0..8_000 {
            assert_eq!(map.remove(&key), model.remove(&key));
        }
        check(&map, &model);
        assert_eq!(map.starting_at(0).next(), None);
    }

    #[test]
    fn what_comes_in_order_leaves_full_chunks() {
        let mut map = PackedMap::default();
        for key in 0..100_000_u32 {
            map.insert(key, key);
        }
        assert_eq!(map.chunks.len(), 100_000_usize.div_ceil(CHUNK));
        let room: usize = map.chunks.iter().map(|chunk| chunk.keys.capacity()).sum();
        assert!(room < 101_000, "{room}");
        for key in (0..100_000).filter(|key| key % 64 != 0) {
            map.remove(&key);
        }
        let room: usize = map.chunks.iter().map(|chunk| chunk.keys.capacity()).sum();
        assert!(room < 4_000 && map.chunks.len() < 16, "{room} in {} chunks", map.chunks.len());
    }
}

//! A bounded memory of what passes by itself: failures, quotas and peers, of which others can make new ones.

use std::collections::HashMap;
use std::hash::Hash;

use limiter_common::Nanos;

/// Values until a time, of at most so many keys.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    most: usize,
    values: HashMap<K, (Nanos, V)>,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, values: HashMap::new() }
    }

    /// The value of `key`, unless its time has passed.
    pub(crate) fn get(&self, key: &K, now: Nanos) -> Option<&V> {
        self.values.get(key).filter(|(until, _)| *until > now).map(|(_, value)| value)
    }

    /// Remembers it until a time. If there is no room, the one whose time passes first is forgotten, and all whose time
    /// has passed already.
    pub(crate) fn put(&mut self, key: K, value: V, until: Nanos, now: Nanos) {
        if self.values.len() >= self.most && !self.values.contains_key(&key) {
            self.values.retain(|_, (until, _)| *until > now);
            if self.values.len() >= self.most {
                let first =
                    self.values.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone());
                first.map(|first| self.values.remove(&first));
            }
        }
        self.values.insert(key, (until, value));
    }

    pub(crate) fn forget(&mut self, key: &K) {
        self.values.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_first_makes_room() {
        let mut recent = Recent::new(2);
        recent.put("a", 1, Nanos(10), Nanos(0));
        recent.put("b", 2, Nanos(5), Nanos(0));
        recent.put("a", 3, Nanos(20), Nanos(1));
        assert_eq!((recent.get(&"a", Nanos(19)), recent.get(&"a", Nanos(20))), (Some(&3), None));
        recent.put("c", 4, Nanos(7), Nanos(1));
        assert_eq!((recent.get(&"b", Nanos(1)), recent.get(&"c", Nanos(1))), (None, Some(&4)));
        recent.put("d", 5, Nanos(30), Nanos(25));
        assert_eq!((recent.values.len(), recent.get(&"d", Nanos(25))), (1, Some(&5)));
        recent.forget(&"d");
        assert_eq!(recent.get(&"d", Nanos(25)), None);
    }
}

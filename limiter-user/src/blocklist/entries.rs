//! What the claims on prefixes amount to in the kernel's tries, where only the longest match is found.

use std::collections::BTreeMap;

use limiter_common::abi::Entry;
use limiter_common::{Address, Prefix};

use crate::dataplane::Change;

/// All listed prefixes that are not hosts.
#[derive(Debug)]
pub(super) struct Prefixes {
    nodes: BTreeMap<Prefix, Node>,
    /// Prefixes of each length, by family: most lengths are not in use, and need not be looked up.
    lengths_v4: [u32; 32],
    lengths_v6: [u32; 128],
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// What is claimed of exactly this prefix; [`Entry::NONE`] if the node shall go.
    own: Entry,
    /// `own` joined with that of all prefixes that contain it: what is in the kernel.
    effective: Entry,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), lengths_v4: [0; 32], lengths_v6: [0; 128] }
    }
}

impl Prefixes {
    /// Sets what is claimed of exactly `prefix`, to be followed by [`Self::update`].
    pub(super) fn set(&mut self, prefix: Prefix, own: Entry) {
        self.nodes.entry(prefix).or_default().own = own;
    }

    /// Brings everything within `touched` up to date, and adds the changes of the kernel's trie to `changes`.
    ///
    /// If all of `touched` was raised, or all was lowered, their order does not matter: whatever is the longest match
    /// of an address in between says something between what was said before and what is said after.
    pub(super) fn update(&mut self, mut touched: Vec<Prefix>, changes: &mut Vec<Change>) {
        touched.sort_unstable();
        touched.dedup();
        let mut gone = Vec::new();
        let mut within: Option<Prefix> = None;
        for prefix in touched {
            // A prefix sorts before everything it contains, which was then brought up to date with it.
            if within.is_none_or(|within| !within.covers(prefix)) {
                within = Some(prefix);
                self.update_tree(prefix, changes, &mut gone);
            }
        }
        for prefix in gone {
            if self.nodes.remove(&prefix).is_some_and(|node| !node.effective.is_none()) {
                self.count_length(prefix, false);
            }
        }
    }

    fn update_tree(&mut self, root: Prefix, changes: &mut Vec<Change>, gone: &mut Vec<Prefix>) {
        let mut inherited = vec![(root, self.above(root))];
        let mut new = Vec::new();
        for (prefix, node) in self.nodes.range_mut(root..).take_while(|(prefix, _)| root.covers(**prefix)) {
            while inherited.len() > 1 && inherited.last().is_some_and(|(above, _)| !above.covers(*prefix)) {
                inherited.pop();
            }
            if node.own.is_none() {
                changes.push(Change { prefix: *prefix, entry: Entry::NONE });
                gone.push(*prefix);
                continue;
            }
            let above = inherited.last().map_or(Entry::NONE, |(_, entry)| *entry);
            let effective = node.own.union(above);
            inherited.push((*prefix, effective));
            if node.effective.is_none() {
                new.push(*prefix);
            }
            if node.effective != effective {
                node.effective = effective;
                changes.push(Change { prefix: *prefix, entry: effective });
            }
        }
        for prefix in new {
            self.count_length(prefix, true);
        }
    }

    /// What prefixes that contain `prefix`, without itself, say of it.
    fn above(&self, prefix: Prefix) -> Entry {
        self.lookup(prefix)
            .find(|(found, _)| *found != prefix)
            .map_or(Entry::NONE, |(_, node)| node.effective)
    }

    /// The entry of the longest prefix that contains all of `prefix`, or is it.
    pub(super) fn longest(&self, prefix: Prefix) -> Entry {
        self.lookup(prefix).next().map_or(Entry::NONE, |(_, node)| node.effective)
    }

    /// The prefixes that contain all of `prefix`, and itself, longest first.
    pub(super) fn covering(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        self.lookup(prefix).map(|(prefix, _)| prefix)
    }

    fn lookup(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &Node)> {
        let address = prefix.address();
        let lengths = self.lengths(address);
        let in_use = |length: &u8| lengths.get(usize::from(*length)).is_some_and(|count| *count > 0);
        (0..=prefix.length()).rev().filter(in_use).filter_map(move |length| {
            let wider = Prefix::new(address, length)?;
            self.nodes.get(&wider).map(|node| (wider, node))
        })
    }

    fn lengths(&self, address: Address) -> &[u32] {
        match address {
            Address::V4(_) => &self.lengths_v4,
            Address::V6(_) => &self.lengths_v6,
        }
    }

    fn count_length(&mut self, prefix: Prefix, more: bool) {
        let lengths: &mut [u32] = match prefix.address() {
            Address::V4(_) => &mut self.lengths_v4,
            Address::V6(_) => &mut self.lengths_v6,
        };
        if let Some(count) = lengths.get_mut(usize::from(prefix.length())) {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
    }
}

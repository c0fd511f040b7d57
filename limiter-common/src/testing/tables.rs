//! [`Tables`] in memory, filled from a list of prefixes as the daemon fills the maps.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use crate::abi::{Entry, Limits};
use crate::parse::Lengths;
use crate::slots::{self, Cell, Charge, Key, Set};
use crate::{Address, Nanos, Prefix, Tables};

/// What the four list maps hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    pub addresses: BTreeMap<Address, Entry>,
    /// No hosts. Each entry holds its own deadlines and those of all prefixes that contain it.
    pub prefixes: BTreeMap<Prefix, Entry>,
}

impl Installed {
    /// The maps that stand for these lists, by the rule of [`Entry`]. What is said of one prefix several times counts
    /// together.
    #[must_use]
    pub fn from_lists(lists: &[(Prefix, Entry)]) -> Self {
        let mut installed = Self::default();
        for (prefix, entry) in lists {
            if prefix.is_host() {
                let slot = installed.addresses.entry(prefix.address()).or_default();
                *slot = slot.union(*entry);
            } else {
                let inherited = lists
                    .iter()
                    .filter(|(wider, _)| wider.covers(*prefix))
                    .fold(Entry::NONE, |all, (_, wider)| all.union(*wider));
                installed.prefixes.insert(*prefix, inherited);
            }
        }
        installed
    }

    /// The lookup of the maps: the exact entry joined with the longest matching prefix.
    #[must_use]
    pub fn entry(&self, source: &Address) -> Entry {
        let exact = self.addresses.get(source).copied().unwrap_or_default();
        let longest = (0..=source.bits())
            .rev()
            .filter_map(|len| self.prefixes.get(&Prefix::new(*source, len)?))
            .next()
            .copied()
            .unwrap_or_default();
        exact.union(longest)
    }
}

/// Lists, limits and rate state in memory.
#[derive(Debug)]
pub struct MemoryTables {
    pub installed: Installed,
    pub lengths: Lengths,
    /// [`Limits::NONE`] counts as no limits at all.
    pub limits: Box<Limits>,
    sets: Vec<Set<AtomicU64>>,
    cells: Vec<Cell<AtomicU64>>,
}

/// Any secret will do where nobody attacks.
const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const SETS: u32 = 1 << 10;
const CELLS: u32 = 1 << 8;

impl MemoryTables {
    /// Empty rate state behind these lists and limits.
    #[must_use]
    pub fn new(lists: &[(Prefix, Entry)], limits: Limits, super_frames: bool) -> Self {
        Self {
            installed: Installed::from_lists(lists),
            lengths: Lengths { super_frames },
            limits: Box::new(limits),
            sets: (0..SETS).map(|_| Set::default()).collect(),
            cells: (0..CELLS).map(|_| Cell::default()).collect(),
        }
    }
}

impl Tables for MemoryTables {
    fn entry(&self, source: &Address) -> Entry {
        self.installed.entry(source)
    }

    fn lengths(&self) -> Lengths {
        self.lengths
    }

    fn limits(&self) -> Option<&Limits> {
        (*self.limits != Limits::NONE).then_some(&*self.limits)
    }

    fn charge(&self, source: &Address, policy: usize, bytes: u32, now: Nanos) -> Option<Charge> {
        let policy = self.limits.policies.get(policy)?;
        let key = Key::new(source, policy.id, SECRET);
        let set = self.sets.get(usize::try_from(key.set(SETS)).ok()?)?;
        let cell = self.cells.get(usize::try_from(key.cell(policy, self.limits.cells)).ok()?)?;
        Some(slots::charge(set, cell, &key, policy, bytes, now))
    }
}

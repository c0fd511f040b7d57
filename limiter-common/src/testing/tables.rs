//! [`Tables`] in memory, filled from a list of prefixes as the daemon fills the maps.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use crate::abi::{Entry, Limits, MAX_BATCHES};
use crate::lists::Listed;
use crate::parse::Lengths;
use crate::slots::{self, Batch, Charge, Key, Policy, Rates, Set};
use crate::{Address, Nanos, Prefix, Tables};

/// What is listed, as a plain model of [`crate::lists`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed(pub BTreeMap<Prefix, Entry>);

impl Installed {
    /// What is said of one prefix several times counts together.
    #[must_use]
    pub fn from_lists(lists: &[(Prefix, Entry)]) -> Self {
        let mut installed = Self::default();
        for (prefix, entry) in lists {
            let slot = installed.0.entry(*prefix).or_default();
            *slot = slot.union(*entry);
        }
        installed
    }

    /// The union of all entries that contain `source`.
    #[must_use]
    pub fn entry(&self, source: &Address) -> Entry {
        (0..=source.bits())
            .filter_map(|len| self.0.get(&Prefix::new(*source, len)?))
            .fold(Entry::NONE, |all, entry| all.union(*entry))
    }
}

/// Lists, limits and rate state in memory.
#[derive(Debug)]
pub struct MemoryTables {
    pub installed: Installed,
    pub lengths: Lengths,
    /// [`Limits::NONE`] counts as no limits at all.
    pub limits: Box<Limits>,
    rates: MemoryRates,
}

/// Rate state in memory.
#[derive(Debug)]
pub struct MemoryRates {
    pub sets: Vec<Set<AtomicU64>>,
    pub gates: Vec<AtomicU64>,
    pub cells: Vec<AtomicU64>,
    /// Of each CPU.
    pub batches: Vec<Vec<Batch<AtomicU64>>>,
    /// That all charges come from.
    pub cpu: usize,
}

impl MemoryRates {
    /// Nobody has sent anything yet. All counts are powers of two.
    #[must_use]
    pub fn new(sets: usize, gates: usize, cells: usize) -> Self {
        let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            gates: words(gates),
            cells: words(cells),
            batches: (0..CPUS).map(|_| (0..MAX_BATCHES).map(|_| Batch::default()).collect()).collect(),
            cpu: 0,
        }
    }

    /// Charges one packet; `None` if the policy's shares are larger than the tables.
    pub fn charge(&self, source: &Address, policy: &Policy, bytes: u32, now: Nanos) -> Option<Charge> {
        // As in the kernel.
        if policy.is_of_packets_alone()
            && let Some(conforms) = slots::step_alone(self, source, policy, now)
        {
            return Some(if conforms { Charge::Conforms } else { Charge::OverPackets });
        }
        let key = Key::new(source, policy.id, SECRET);
        slots::charge(
            policy,
            |unit, act| slots::step(self, &key, policy, (unit, act), bytes, now),
            |act| slots::step_shared(self, key.network, policy, act, bytes, now),
        )
    }
}

impl Rates for MemoryRates {
    type Word = AtomicU64;

    fn secret(&self) -> [u64; 2] {
        SECRET
    }

    fn sets(&self) -> u32 {
        u32::try_from(self.sets.len()).unwrap_or(u32::MAX)
    }

    fn set(&self, index: u32) -> Option<&Set<AtomicU64>> {
        self.sets.get(usize::try_from(index).ok()?)
    }

    fn gate(&self, index: u32) -> Option<&AtomicU64> {
        self.gates.get(usize::try_from(index).ok()?)
    }

    fn cell(&self, index: u32) -> Option<&AtomicU64> {
        self.cells.get(usize::try_from(index).ok()?)
    }

    fn batch(&self, index: u32) -> Option<&Batch<AtomicU64>> {
        self.batches.get(self.cpu)?.get(usize::try_from(index).ok()?)
    }

    fn cpu_bits(&self) -> u32 {
        CPUS.ilog2()
    }
}

/// Any secret will do where nobody attacks.
const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const SETS: usize = 1 << 10;
const CELLS: usize = 1 << 8;
/// A power of two.
pub const CPUS: usize = 4;

impl MemoryTables {
    /// Empty rate state behind these lists and limits.
    #[must_use]
    pub fn new(lists: &[(Prefix, Entry)], limits: Limits, super_frames: bool) -> Self {
        Self {
            installed: Installed::from_lists(lists),
            lengths: Lengths { super_frames },
            limits: Box::new(limits),
            rates: MemoryRates::new(SETS, CELLS, CELLS),
        }
    }
}

impl Tables for MemoryTables {
    fn listed(&self, source: &Address) -> Listed {
        Listed::from_entry(self.installed.entry(source))
    }

    fn lengths(&self) -> Lengths {
        self.lengths
    }

    fn limits(&self) -> Option<&Limits> {
        (*self.limits != Limits::NONE).then_some(&*self.limits)
    }

    fn charge(&self, source: &Address, policy: usize, bytes: u32, now: Nanos) -> Option<Charge> {
        let policy = self.limits.policies.get(policy)?;
        self.rates.charge(source, policy, bytes, now)
    }
}

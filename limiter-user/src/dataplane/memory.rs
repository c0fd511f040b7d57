//! Both halves in memory: for tests of everything above the kernel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use limiter_common::abi::{Count, Entry};
use limiter_common::{Prefix, Reason};

use super::{ApplyError, Change, Hit, InterfaceCounts, Reader, Table, TableCapacity, Writer};

/// Tables in memory. Clones share them, so a test can keep one and look at what the other was told.
#[derive(Debug, Clone)]
pub struct MemoryDataplane {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    lists: BTreeMap<Prefix, Entry>,
    /// Entries in each table.
    used: BTreeMap<&'static str, u32>,
    capacity: u32,
    counts: BTreeMap<String, [Count; Reason::ALL.len()]>,
    hits: Vec<Hit>,
    refusal: Option<i32>,
}

impl MemoryDataplane {
    /// Empty tables of `capacity` entries each.
    pub fn new(capacity: u32) -> Self {
        let state = State {
            lists: BTreeMap::new(),
            used: BTreeMap::new(),
            capacity,
            counts: BTreeMap::new(),
            hits: Vec::new(),
            refusal: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// What is in the lists, in the order of prefixes.
    pub fn lists(&self) -> Vec<Change> {
        let state = self.lock();
        state.lists.iter().map(|(prefix, entry)| Change { prefix: *prefix, entry: *entry }).collect()
    }

    /// Resizes the tables; entries above the new capacity stay.
    pub fn set_capacity(&self, capacity: u32) {
        self.lock().capacity = capacity;
    }

    /// Makes every change fail with this error number, until `None` is set.
    pub fn refuse(&self, errno: Option<i32>) {
        self.lock().refusal = errno;
    }

    /// Counts one frame of `bytes` on `interface`.
    pub fn count(&self, interface: &str, reason: Reason, bytes: u64) {
        let mut state = self.lock();
        let counts =
            state.counts.entry(interface.to_owned()).or_insert([Count::default(); Reason::ALL.len()]);
        let count = &mut counts[usize::from(reason.index())];
        count.packets += 1;
        count.bytes += bytes;
    }

    /// Adds a blocked source that sends.
    pub fn hit(&self, hit: Hit) {
        self.lock().hits.push(hit);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer for MemoryDataplane {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        let mut state = self.lock();
        for Change { prefix, entry } in changes {
            let table = Table::of(*prefix).name();
            if let Some(errno) = state.refusal {
                return Err(ApplyError::Kernel { table, error: std::io::Error::from_raw_os_error(errno) });
            }
            let State { lists, used, capacity, .. } = &mut *state;
            let used = used.entry(table).or_default();
            if entry.is_none() {
                *used -= u32::from(lists.remove(prefix).is_some());
            } else if *used < *capacity || lists.contains_key(prefix) {
                *used += u32::from(lists.insert(*prefix, *entry).is_none());
            } else {
                return Err(ApplyError::Full { table, capacity: *capacity });
            }
        }
        Ok(())
    }

    fn installed(&mut self) -> Result<Vec<Change>, ApplyError> {
        Ok(self.lists())
    }
}

impl Reader for MemoryDataplane {
    fn counts(&self) -> std::io::Result<Vec<InterfaceCounts>> {
        let state = self.lock();
        Ok(state
            .counts
            .iter()
            .map(|(interface, counts)| InterfaceCounts {
                interface: interface.clone(),
                counts: Reason::ALL.iter().copied().zip(counts.iter().copied()).collect(),
            })
            .collect())
    }

    fn hits(&self) -> std::io::Result<Vec<Hit>> {
        Ok(self.lock().hits.clone())
    }

    fn capacities(&self) -> Vec<TableCapacity> {
        let capacity = self.lock().capacity;
        Table::ALL.iter().map(|table| TableCapacity { table: table.name(), capacity }).collect()
    }
}

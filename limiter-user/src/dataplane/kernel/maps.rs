//! The maps as file descriptors, wherever they come from.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use limiter_common::abi::{self, MAPS, MapKind, MapSpec};

use super::bpf::{self, MapInfo};
use super::mapped::Mapped;
use crate::config::Capacity;

/// The kernel's number of a map type (`enum bpf_map_type`).
pub(super) const fn kind_number(kind: MapKind) -> u32 {
    match kind {
        MapKind::Array => 2,
        MapKind::PerCpuArray => 6,
    }
}

/// Entries of a map under a configuration; those of a table that grows, at first.
pub(super) fn entries(spec: &MapSpec, capacity: &Capacity) -> u32 {
    let ways = u32::try_from(limiter_common::slots::WAYS).unwrap_or(1);
    let sets = capacity.sources.div_ceil(ways).clamp(1, 1 << 24).next_power_of_two();
    // Names are what identifies maps everywhere else too.
    match spec.name {
        name if name == abi::SLOTS.name => sets,
        _ => spec.entries,
    }
}

/// A map in the kernel.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    info: MapInfo,
}

impl Map {
    /// Makes one, all zeros, that nobody else knows yet.
    pub(super) fn create(spec: &MapSpec, entries: u32) -> io::Result<Self> {
        let shape = [kind_number(spec.kind), spec.key_size, spec.value_size, entries, spec.flags];
        Self::new(bpf::map_create(shape, spec.name)?)
    }

    /// The one that is pinned at `path`.
    pub(super) fn pinned(path: &Path) -> io::Result<Self> {
        Self::new(bpf::get(path)?)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = bpf::map_info(fd.as_fd())?;
        Ok(Self { fd, info })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn info(&self) -> &MapInfo {
        &self.info
    }

    pub(super) fn entries(&self) -> u32 {
        self.info.max_entries
    }

    /// Its values as memory.
    pub(super) fn mapped(&self) -> io::Result<Mapped> {
        Mapped::new(self.fd.as_fd(), &self.info)
    }
}

/// Tables that are replaced by larger ones as needed.
pub(super) const GROWING: [&MapSpec; 2] = [&abi::EXACT_V4, &abi::EXACT_V6];

/// All maps of [`MAPS`]. Tables can be replaced by larger ones.
#[derive(Debug)]
pub(super) struct Maps {
    by_name: BTreeMap<&'static str, RwLock<Arc<Map>>>,
}

impl Maps {
    /// The maps that are pinned in `directory`.
    pub(super) fn pinned(directory: &Path) -> anyhow::Result<Self> {
        let mut by_name = BTreeMap::new();
        for spec in MAPS {
            let path = directory.join(spec.name);
            let map = Map::pinned(&path).with_context(|| format!("cannot open {}", path.display()))?;
            by_name.insert(spec.name, RwLock::new(Arc::new(map)));
        }
        Ok(Self { by_name })
    }

    pub(super) fn get(&self, spec: &MapSpec) -> Arc<Map> {
        Arc::clone(&self.slot(spec).read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on `map` is the one of `spec`.
    pub(super) fn replace(&self, spec: &MapSpec, map: Arc<Map>) {
        *self.slot(spec).write().unwrap_or_else(PoisonError::into_inner) = map;
    }

    pub(super) fn capacity(&self, spec: &MapSpec) -> u32 {
        self.get(spec).entries()
    }

    fn slot(&self, spec: &MapSpec) -> &RwLock<Arc<Map>> {
        self.by_name.get(spec.name).expect("every map of the ABI was collected")
    }
}

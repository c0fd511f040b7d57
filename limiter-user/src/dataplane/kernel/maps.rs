//! The maps as file descriptors, wherever they come from.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use limiter_common::abi::{self, MAPS, MapKind, MapSpec};

use super::bpf::{self, MapInfo};
use crate::config::Capacity;

/// The kernel's number of a map type (`enum bpf_map_type`).
pub(super) const fn kind_number(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash => 1,
        MapKind::Array => 2,
        MapKind::PerCpuArray => 6,
        MapKind::LpmTrie => 11,
    }
}

/// Entries of a map under a configuration.
pub(super) fn entries(spec: &MapSpec, capacity: &Capacity) -> u32 {
    let ways = u32::try_from(limiter_common::slots::WAYS).unwrap_or(1);
    let sets = capacity.sources.div_ceil(ways).clamp(1, 1 << 24).next_power_of_two();
    // Names are what identifies maps everywhere else too.
    match spec.name {
        name if name == abi::ADDRESSES_V4.name => capacity.addresses_v4,
        name if name == abi::ADDRESSES_V6.name => capacity.addresses_v6,
        name if name == abi::PREFIXES_V4.name => capacity.prefixes_v4,
        name if name == abi::PREFIXES_V6.name => capacity.prefixes_v6,
        name if name == abi::SLOTS.name => sets,
        _ => spec.entries,
    }
}

/// All maps of [`MAPS`].
#[derive(Debug)]
pub(super) struct Maps {
    by_name: BTreeMap<&'static str, (OwnedFd, MapInfo)>,
}

impl Maps {
    /// The maps that are pinned in `directory`.
    pub(super) fn pinned(directory: &Path) -> anyhow::Result<Self> {
        let mut by_name = BTreeMap::new();
        for spec in MAPS {
            let path = directory.join(spec.name);
            let open = || {
                let map = bpf::get(&path)?;
                let info = bpf::map_info(map.as_fd())?;
                io::Result::Ok((map, info))
            };
            by_name.insert(spec.name, open().with_context(|| format!("cannot open {}", path.display()))?);
        }
        Ok(Self { by_name })
    }

    pub(super) fn fd(&self, spec: &MapSpec) -> BorrowedFd<'_> {
        self.entry(spec).0.as_fd()
    }

    pub(super) fn capacity(&self, spec: &MapSpec) -> u32 {
        self.entry(spec).1.max_entries
    }

    fn entry(&self, spec: &MapSpec) -> &(OwnedFd, MapInfo) {
        self.by_name.get(spec.name).expect("every map of the ABI was collected")
    }
}

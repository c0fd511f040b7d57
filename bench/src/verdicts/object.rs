//! The programs of `bench/ebpf`, loaded.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, anyhow};
use aya::maps::Map;
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};

/// Which of them. `include_bytes_aligned!`, since the ELF parser asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Empty,
    Floor,
    Hash,
    Lpm,
    Lru,
    Mutator,
}

impl Name {
    const fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Floor => "floor",
            Self::Hash => "hash",
            Self::Lpm => "lpm",
            Self::Lru => "lru",
            Self::Mutator => "mutator",
        }
    }

    fn object(self) -> &'static [u8] {
        match self {
            Self::Empty => aya::include_bytes_aligned!(env!("BENCH_EMPTY_OBJECT")),
            Self::Floor => aya::include_bytes_aligned!(env!("BENCH_FLOOR_OBJECT")),
            Self::Hash => aya::include_bytes_aligned!(env!("BENCH_HASH_OBJECT")),
            Self::Lpm => aya::include_bytes_aligned!(env!("BENCH_LPM_OBJECT")),
            Self::Lru => aya::include_bytes_aligned!(env!("BENCH_LRU_OBJECT")),
            Self::Mutator => aya::include_bytes_aligned!(env!("BENCH_MUTATOR_OBJECT")),
        }
    }
}

/// A program in the kernel, and its maps. They go when it is dropped.
#[derive(Debug)]
pub(super) struct Object {
    ebpf: Ebpf,
    program: OwnedFd,
}

impl Object {
    /// Loads a program with these constants, and maps of these sizes.
    pub(super) fn load(
        name: Name,
        constants: &[(&'static str, u64)],
        entries: &[(&'static str, u32)],
    ) -> anyhow::Result<Self> {
        let label = name.label();
        let mut loader = EbpfLoader::new();
        for (constant, value) in constants {
            loader.override_global(constant, value, true);
        }
        for (map, entries) in entries {
            loader.map_max_entries(map, (*entries).max(1));
        }
        let mut ebpf = loader.load(name.object()).with_context(|| format!("cannot prepare {label}"))?;
        let program = ebpf.program_mut(label).ok_or_else(|| anyhow!("there is no program {label}"))?;
        let program: &mut Xdp = program.try_into().with_context(|| format!("program {label}"))?;
        program.load().with_context(|| format!("the kernel refused {label}"))?;
        let program = program.fd().with_context(|| format!("program {label}"))?;
        let program = program.as_fd().try_clone_to_owned().context("cannot keep a program")?;
        Ok(Self { ebpf, program })
    }

    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// One of its maps.
    pub(super) fn map(&self, name: &str) -> anyhow::Result<BorrowedFd<'_>> {
        match self.ebpf.map(name) {
            Some(
                Map::Array(map)
                | Map::HashMap(map)
                | Map::LpmTrie(map)
                | Map::LruHashMap(map)
                | Map::PerCpuArray(map)
                | Map::ProgramArray(map),
            ) => Ok(map.fd().as_fd()),
            map => Err(anyhow!("there is no map {name}, but {map:?}")),
        }
    }
}

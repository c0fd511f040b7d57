//! All maps, in the order of `limiter_common::abi`, which describes them.

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::btf_map;
use limiter_common::abi::{self, Count, InterfaceName, Lengths};
use limiter_common::hits;
use limiter_common::lists::{v4, v6};
use limiter_common::slots::{Batch, Set};

use crate::word::KernelWord;

/// `$name<types, entries, flags>` as the ABI table has them.
macro_rules! sized {
    ($map:ident<$($type:ty),+>, $spec:ident) => {
        $map<$($type,)+ { abi::$spec.entries as usize }, { abi::$spec.flags as usize }>
    };
}

#[btf_map(name = "level_v4")]
pub(crate) static LEVEL_V4: sized!(Array<KernelWord>, LEVEL_V4) = Array::new();

#[btf_map(name = "wide_v4")]
pub(crate) static WIDE_V4: sized!(Array<KernelWord>, WIDE_V4) = Array::new();

#[btf_map(name = "exact_v4")]
pub(crate) static EXACT_V4: sized!(Array<v4::Bucket<KernelWord>>, EXACT_V4) = Array::new();

#[btf_map(name = "filter_v6")]
pub(crate) static FILTER_V6: sized!(Array<KernelWord>, FILTER_V6) = Array::new();

#[btf_map(name = "exact_v6")]
pub(crate) static EXACT_V6: sized!(Array<v6::Bucket<KernelWord>>, EXACT_V6) = Array::new();

#[btf_map(name = "lengths")]
pub(crate) static LENGTHS: sized!(Array<Lengths<KernelWord>>, LENGTHS) = Array::new();

#[btf_map(name = "hits")]
pub(crate) static HITS: sized!(Array<hits::Set<KernelWord>>, HITS) = Array::new();

#[btf_map(name = "slots")]
pub(crate) static SLOTS: sized!(Array<Set<KernelWord>>, SLOTS) = Array::new();

#[btf_map(name = "cells")]
pub(crate) static CELLS: sized!(Array<KernelWord>, CELLS) = Array::new();

#[btf_map(name = "gate")]
pub(crate) static GATE: sized!(Array<KernelWord>, GATE) = Array::new();

#[btf_map(name = "counters")]
pub(crate) static COUNTERS: sized!(PerCpuArray<Count>, COUNTERS) = PerCpuArray::new();

/// Kept for the daemon; the program knows its slot from its settings.
#[btf_map(name = "interfaces")]
pub(crate) static INTERFACES: sized!(Array<InterfaceName>, INTERFACES) = Array::new();

/// Likewise.
#[btf_map(name = "secret")]
pub(crate) static SECRET: sized!(Array<[u64; 2]>, SECRET) = Array::new();

/// Not shared between programs, and not pinned: a new program takes new batches.
#[btf_map(name = "batches")]
pub(crate) static BATCHES: PerCpuArray<Batch<KernelWord>, { abi::MAX_BATCHES }> = PerCpuArray::new();

/// Lines logged in the current second of this CPU. Not shared between programs, and not pinned.
#[btf_map(name = "log_budget")]
pub(crate) static LOG_BUDGET: PerCpuArray<crate::account::LogBudget, 1> = PerCpuArray::new();

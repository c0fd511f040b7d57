//! All maps, in the order of `limiter_common::abi`, which describes them.

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use limiter_common::abi::{self, Count, Entry, InterfaceName};
use limiter_common::slots::Set;

use crate::word::KernelWord;

/// `$name<types, entries, flags>` as the ABI table has them.
macro_rules! sized {
    ($map:ident<$($type:ty),+>, $spec:ident) => {
        $map<$($type,)+ { abi::$spec.entries as usize }, { abi::$spec.flags as usize }>
    };
}

#[btf_map(name = "addresses_v4")]
pub(crate) static ADDRESSES_V4: sized!(HashMap<[u8; 4], Entry>, ADDRESSES_V4) = HashMap::new();

#[btf_map(name = "addresses_v6")]
pub(crate) static ADDRESSES_V6: sized!(HashMap<[u8; 16], Entry>, ADDRESSES_V6) = HashMap::new();

/// An [`Entry`] in words of 32 bits, which is how the kernel aligns values behind keys of 4 bytes.
pub(crate) type EntryWords = [u32; 4];

#[btf_map(name = "prefixes_v4")]
pub(crate) static PREFIXES_V4: sized!(LpmTrie<[u8; 4], EntryWords>, PREFIXES_V4) = LpmTrie::new();

#[btf_map(name = "prefixes_v6")]
pub(crate) static PREFIXES_V6: sized!(LpmTrie<[u8; 16], Entry>, PREFIXES_V6) = LpmTrie::new();

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

/// Lines logged in the current second of this CPU. Not shared between programs, and not pinned.
#[btf_map(name = "log_budget")]
pub(crate) static LOG_BUDGET: PerCpuArray<crate::account::LogBudget, 1> = PerCpuArray::new();

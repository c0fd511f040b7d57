//! The object in the interpreter, with maps as the daemon makes them and lists as it writes them.

use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya_obj::{EbpfSectionKind, generated::bpf_map_type};
use limiter_common::{
    Address, Prefix, Reason,
    abi::{self, Count, Entry, Lengths, Limits, MapSpec, Settings},
    lists::{Listed, v4, v6},
};

use crate::{
    machine::{Instruction, Kind, Machine, Map},
    object,
};

/// What programs return.
pub(super) const XDP_DROP: u64 = 1;
pub(super) const XDP_PASS: u64 = 2;

/// A program of the object with these settings, limits and lists, whose clock says `now`.
pub(super) fn machine(
    bytes: &[u8],
    program: &str,
    settings: &Settings,
    limits: &Limits,
    lists: &[(Prefix, Entry)],
    now: u64,
) -> Result<Machine> {
    let mut object = object::configured(bytes, settings, limits)?;
    let taken: Vec<_> = std::mem::take(&mut object.maps).into_iter().collect();
    let numbered = taken.iter().zip(0..).map(|((name, map), number)| (name.as_str(), number, map));
    object::link(&mut object, numbered)?;
    let section = object.programs.get(program).with_context(|| format!("no program {program}"))?;
    let function = &object.functions[&section.function_key()];
    let mut maps = taken.iter().map(|(name, map)| in_memory(name, map)).collect::<Result<Vec<_>>>()?;
    list(&mut maps, settings.secret, lists)?;
    Ok(Machine::new(
        function.instructions.iter().map(Instruction::from).collect(),
        object::symbols(&object, function),
        maps,
        now,
    ))
}

/// Frames that were counted for a reason.
pub(super) fn counted(machine: &Machine, reason: Reason) -> Result<u64> {
    let at = abi::counter_index(0, reason.index()) as usize * size_of::<Count>();
    let bytes = machine.values(abi::COUNTERS.name)?.get(at..at + size_of::<u64>());
    let bytes = bytes.with_context(|| format!("no counter for {}", reason.label()))?;
    // The number of packets comes first.
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

fn in_memory(name: &str, map: &aya_obj::Map) -> Result<Map> {
    const ARRAY: u32 = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    const PER_CPU_ARRAY: u32 = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32;
    let globals = map.section_kind() == EbpfSectionKind::Rodata;
    let (kind, entries) = match map.map_type() {
        _ if globals => (Kind::Globals, 0),
        ARRAY => (Kind::Array, map.max_entries()),
        PER_CPU_ARRAY => (Kind::PerCpuArray, map.max_entries()),
        _ => (Kind::Other, 0),
    };
    let value_size = if globals { map.data().len() } else { map.value_size() as usize };
    let size = value_size.checked_mul(entries as usize).with_context(|| format!("the size of map {name}"))?;
    let values = if globals { map.data().to_vec() } else { vec![0; size] };
    Ok(Map { name: name.to_owned(), kind, value_size, values })
}

/// Writes the lists into their maps, as the daemon does.
fn list(maps: &mut [Map], secret: [u64; 2], lists: &[(Prefix, Entry)]) -> Result<()> {
    if lists.is_empty() {
        return Ok(());
    }
    let words = |count| (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let (level, wide, filter) = (words(v4::LEVEL_WORDS), words(v4::WIDE_WORDS), words(v6::FILTER_WORDS));
    let exact_v4: Vec<v4::Bucket<AtomicU64>> =
        (0..abi::EXACT_V4.entries).map(|_| Default::default()).collect();
    let exact_v6: Vec<v6::Bucket<AtomicU64>> =
        (0..abi::EXACT_V6.entries).map(|_| Default::default()).collect();
    let lengths = Lengths::default();
    let Lengths { v4_any, v6_any, v4: v4_lengths, v6_short: short, v6_long: long } = &lengths;
    let (level, wide, exact) = (&level, &wide, &exact_v4);
    let v4 = v4::Writer { level, wide, lengths: v4_lengths, any: v4_any, exact, secret };
    let v6 = v6::Writer { filter: &filter, any: v6_any, short, long, exact: &exact_v6, secret };
    for (prefix, entry) in lists {
        let (length, listed) = (prefix.length().into(), Listed::from_entry(*entry));
        let done = match prefix.address() {
            Address::V4(address) => v4.set(u32::from_be_bytes(address), length, listed),
            Address::V6(address) => v6.set(u128::from_be_bytes(address), length, listed),
        };
        done.map_err(|full| anyhow!("{prefix} has no place in its table: {full:?}"))?;
    }
    fill(maps, &abi::LEVEL_V4, level)?;
    fill(maps, &abi::WIDE_V4, wide)?;
    fill(maps, &abi::EXACT_V4, &exact_v4)?;
    fill(maps, &abi::FILTER_V6, &filter)?;
    fill(maps, &abi::EXACT_V6, &exact_v6)?;
    fill(maps, &abi::LENGTHS, &[lengths])
}

/// Gives a map these values.
fn fill<T: Words>(maps: &mut [Map], spec: &MapSpec, values: &[T]) -> Result<()> {
    let map = maps.iter_mut().find(|map| map.name == spec.name);
    let map = map.with_context(|| format!("no map {}", spec.name))?;
    // SAFETY: a live slice without padding, as `Words` promises, which nothing else writes to any more.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
    ensure!(map.values.len() == bytes.len(), "the map {} has another size", spec.name);
    map.values.copy_from_slice(bytes);
    Ok(())
}

/// What is nothing but words.
///
/// # Safety
///
/// There is no padding.
unsafe trait Words {}

// SAFETY: one word.
unsafe impl Words for AtomicU64 {}
// SAFETY: an array of words.
unsafe impl Words for v4::Bucket<AtomicU64> {}
// SAFETY: an array of slots, which are four words each and `repr(C)`.
unsafe impl Words for v6::Bucket<AtomicU64> {}
// SAFETY: words and arrays of words, and `repr(C)`.
unsafe impl Words for Lengths<AtomicU64> {}

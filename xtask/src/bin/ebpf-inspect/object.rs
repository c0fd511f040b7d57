//! The eBPF object as the daemon prepares it: read-only globals set, references to maps and functions resolved.

use std::{collections::HashMap, os::fd::RawFd};

use anyhow::{Context as _, Result};
use aya_obj::{Function, Map, Object};
use limiter_common::{
    abi::{self, Limits, MapSpec, POLICY_ALL, POLICY_SERVICES, Service, Settings},
    gcra::Quota,
    slots::{Policy, Share},
};

/// The protocol of the services.
const UDP: u8 = 17;

/// What the daemon tells a program whose interface has lists and nothing else.
pub(crate) fn settings() -> Settings {
    Settings {
        secret: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        // Of a kernel with 250 ticks a second, as most are.
        tick: 4_000_000,
        sets: abi::SLOTS.entries,
        buckets_v4: abi::EXACT_V4.entries,
        buckets_v6: abi::EXACT_V6.entries,
        ..Settings::default()
    }
}

/// All sources held to packets and bits, and as many services limited.
pub(crate) fn limits(services: usize) -> Limits {
    let mut limits = Limits::NONE;
    let bits = Quota::bits(1_000_000, 1_000_000).unwrap_or(Quota::UNLIMITED);
    for (id, policy) in (1..).zip(&mut limits.policies[..POLICY_SERVICES + services]) {
        *policy = Policy { bits, ..packets(id) };
    }
    for (port, service) in (1..).zip(&mut limits.services[..services]) {
        *service = Service::new(UDP, Some(port));
        limits.service_count += 1;
    }
    limits
}

/// All sources held to packets.
pub(crate) fn packet_limit() -> Limits {
    let mut limits = Limits::NONE;
    limits.policies[POLICY_ALL] = packets(1);
    limits
}

fn packets(id: u32) -> Policy {
    let packets = Quota::packets(1000, 1000).unwrap_or(Quota::UNLIMITED);
    let all = |table: &MapSpec| Share { at: 0, count: table.entries };
    Policy { packets, packet_gates: all(&abi::GATE), packet_cells: all(&abi::CELLS), id, ..Policy::UNLIMITED }
}

/// The object with these globals.
pub(crate) fn configured(bytes: &[u8], settings: &Settings, limits: &Limits) -> Result<Object> {
    let mut object = Object::parse(bytes).context("parsing it")?;
    let globals =
        [(abi::SETTINGS_GLOBAL, (bytes_of(settings), true)), (abi::LIMITS_GLOBAL, (bytes_of(limits), true))];
    object.patch_map_data(HashMap::from(globals)).context("setting the globals")?;
    Ok(object)
}

/// Puts these descriptors of maps into the instructions, and every function that a program calls behind it.
pub(crate) fn link<'a>(
    object: &mut Object,
    maps: impl Iterator<Item = (&'a str, RawFd, &'a Map)>,
) -> Result<()> {
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(maps, &text)?;
    object.relocate_calls(&text)?;
    Ok(())
}

/// Where in a linked program each function begins.
pub(crate) fn symbols(object: &Object, program: &Function) -> Vec<(usize, String)> {
    // Functions lose their names when they are linked, but not their types.
    let begins = |function: &Function| function.func_info.func_info.first().map(|info| info.type_id);
    let names: HashMap<u32, &str> =
        object.functions.values().filter_map(|function| Some((begins(function)?, &*function.name))).collect();
    let name = |id: u32| names.get(&id).map_or_else(|| format!("type {id}"), |name| (*name).to_owned());
    let infos = program.func_info.func_info.iter();
    infos.map(|info| (info.insn_off as usize, name(info.type_id))).collect()
}

/// The bytes of a value as the program sees it.
fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: the memory of a live value. `Settings` and `Limits` have no padding: the ABI's tests say so.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

//! Loads the object: creates maps, and programs with their settings and limits.

use std::io;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use limiter_common::abi::{self, Lengths, Limits, MAPS, MapSpec, Settings};

use super::maps::{Map, Maps, entries};
use super::object::OBJECT;
use super::{AttachMode, bpf, counters};
use crate::config::{self, Capacity};
use crate::host;

/// The logarithm of so many CPUs that nobody is promised too much, if nobody knows how many there are.
const MANY_CPUS: u32 = 10;

/// A global as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Global<T>(T);

// SAFETY: `repr(C)` integers without padding, as the size assertions of `abi` make sure.
unsafe impl Pod for Global<Settings> {}
// SAFETY: likewise.
unsafe impl Pod for Global<Limits> {}

/// Lines of the verifier's log that are shown; the last ones say what is wrong.
const VERIFIER_LINES: usize = 12;

/// Creates all maps, and pins them in `directory`.
pub(super) fn create_maps(directory: &Path, capacity: &Capacity) -> io::Result<()> {
    MAPS.iter().try_for_each(|spec| {
        let map = Map::create(spec, entries(spec, capacity))?;
        bpf::pin(map.fd(), &directory.join(spec.name))
    })
}

/// What the program of an interface is for: the one place that says it, for the daemon and for measurements alike.
pub(super) fn settings(
    maps: &Maps,
    secret: [u64; 2],
    interface: &config::Interface,
    slot: u32,
    mode: AttachMode,
    log_drops: bool,
) -> Settings {
    Settings {
        secret,
        fixed_now: 0,
        tick: host::tick(),
        sets: maps.capacity(&abi::SLOTS),
        buckets_v4: maps.capacity(&abi::EXACT_V4),
        buckets_v6: maps.capacity(&abi::EXACT_V6),
        slot,
        limited: u32::from(interface.limited),
        super_frames: u32::from(mode == AttachMode::Generic),
        log_drops: u32::from(log_drops),
        cpu_bits: counters::possible_cpus()
            .map_or(MANY_CPUS, |cpus| cpus.next_power_of_two().trailing_zeros()),
        listed_v4: u32::from(is_anything_listed(maps)),
        reserved: 0,
    }
}

/// Whether there are IPv4 entries. Only a hint, so no when it cannot be told.
fn is_anything_listed(maps: &Maps) -> bool {
    let mut value = [0; size_of::<Lengths<u64>>()];
    let read = bpf::lookup(maps.get(&abi::LENGTHS).fd(), &[0; 4], &mut value);
    let any = offset_of!(Lengths<u64>, v4_any);
    read.is_ok() && value[any..any + size_of::<u64>()] != [0; size_of::<u64>()]
}

/// The same for a program over another table of `spec`.
pub(super) fn resize(settings: &mut Settings, spec: &MapSpec, entries: u32) {
    if *spec == abi::EXACT_V4 {
        settings.buckets_v4 = entries;
    } else if *spec == abi::EXACT_V6 {
        settings.buckets_v6 = entries;
    }
}

/// Prepares the object over the maps pinned in `directory`; the programs are not in the kernel yet.
pub(super) fn open(directory: &Path, settings: &Settings, limits: &Limits) -> Result<Ebpf, EbpfError> {
    open_with(directory, None, settings, limits)
}

/// The same with another map, by name, than the one that is pinned there.
pub(super) fn open_with(
    directory: &Path,
    other: Option<(&str, &Path)>,
    settings: &Settings,
    limits: &Limits,
) -> Result<Ebpf, EbpfError> {
    let (settings, limits) = (Global(*settings), Global(*limits));
    let path = |spec: &MapSpec| match other {
        Some((name, path)) if name == spec.name => path.to_owned(),
        Some(_) | None => directory.join(spec.name),
    };
    let paths: Vec<PathBuf> = MAPS.iter().map(path).collect();
    let mut loader = EbpfLoader::new();
    for (spec, path) in MAPS.iter().zip(&paths) {
        loader.map_pin_path(spec.name, path.as_path());
    }
    loader
        .override_global(abi::SETTINGS_GLOBAL, &settings, true)
        .override_global(abi::LIMITS_GLOBAL, &limits, true)
        .load(OBJECT)
}

/// Loads one program of the object into the kernel.
pub(super) fn program<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = object.program_mut(name).ok_or_else(|| anyhow!("the object has no program {name}"))?;
    let program: &mut Xdp = program.try_into().with_context(|| format!("program {name}"))?;
    match program.load() {
        Ok(()) => Ok(program),
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            let end = lines.get(lines.len().saturating_sub(VERIFIER_LINES)..).unwrap_or_default();
            Err(anyhow!("the kernel refused the program {name}: {io_error}\n{}", end.join("\n")))
        }
        Err(error) => Err(error).with_context(|| format!("cannot load the program {name}")),
    }
}

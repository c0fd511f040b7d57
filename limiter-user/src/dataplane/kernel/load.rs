//! Loads the object: creates maps, and programs with their settings and limits.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod};
use limiter_common::abi::{self, Limits, MAPS, Settings};

use super::AttachMode;
use super::maps::{Maps, entries};
use super::object::OBJECT;
use crate::config::{self, Capacity};
use crate::host;

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

/// Creates those maps that are not pinned in `directory` yet, and pins them there.
pub(super) fn create_maps(directory: &Path, capacity: &Capacity) -> Result<(), EbpfError> {
    let paths = map_paths(directory);
    let mut loader = EbpfLoader::new();
    for (spec, path) in MAPS.iter().zip(&paths) {
        loader.map_max_entries(spec.name, entries(spec, capacity)).map_pin_path(spec.name, path.as_path());
    }
    loader.load(OBJECT).map(drop)
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
        slot,
        limited: u32::from(interface.limited),
        super_frames: u32::from(mode == AttachMode::Generic),
        log_drops: u32::from(log_drops),
        reserved: 0,
    }
}

/// Prepares the object over the maps pinned in `directory`; the programs are not in the kernel yet.
pub(super) fn open(directory: &Path, settings: &Settings, limits: &Limits) -> Result<Ebpf, EbpfError> {
    let (settings, limits) = (Global(*settings), Global(*limits));
    let paths = map_paths(directory);
    let mut loader = EbpfLoader::new();
    for (spec, path) in MAPS.iter().zip(&paths) {
        loader.map_pin_path(spec.name, path.as_path());
    }
    loader
        .override_global(abi::SETTINGS_GLOBAL, &settings, true)
        .override_global(abi::LIMITS_GLOBAL, &limits, true)
        .load(OBJECT)
}

fn map_paths(directory: &Path) -> Vec<PathBuf> {
    MAPS.iter().map(|spec| directory.join(spec.name)).collect()
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

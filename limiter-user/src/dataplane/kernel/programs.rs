//! Programs: how one is made for an interface, and which of them are where, so that all can be moved to a larger table.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, anyhow};
use limiter_common::abi::{self, MapSpec};
use limiter_common::lists::v4;

use super::lists::Replace;
use super::log::KernelLog;
use super::maps::{GROWING, Map, Maps};
use super::pins::{self, Pins};
use super::{AttachMode, bpf, load};
use crate::config;

/// What a program is made for.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) interface: config::Interface,
    /// The interface's place in the counters.
    pub(super) slot: u32,
    pub(super) mode: AttachMode,
}

/// A program in the kernel that is on no interface yet. Its object must live until it is attached.
pub(super) struct Program {
    object: aya::Ebpf,
    name: &'static str,
    pub(super) frags: bool,
    pub(super) id: u32,
    /// As the kernel describes it.
    info: bpf::Program,
}

impl Program {
    pub(super) fn fd(&self) -> anyhow::Result<OwnedFd> {
        let loaded = self.object.program(self.name).ok_or_else(|| anyhow!("the program is gone"))?;
        let loaded: &aya::programs::Xdp = loaded.try_into().context("not an XDP program")?;
        let fd: BorrowedFd<'_> = loaded.fd().context("the program is not loaded")?.as_fd();
        fd.try_clone_to_owned().context("out of file descriptors")
    }
}

/// Makes programs, and knows those that this process put on interfaces.
#[derive(Debug)]
pub(super) struct Programs {
    pins: Arc<Pins>,
    maps: Arc<Maps>,
    secret: [u64; 2],
    frags: bool,
    log_drops: bool,
    log: KernelLog,
    /// By interface.
    placed: Mutex<BTreeMap<String, Placed>>,
}

/// A program on an interface.
#[derive(Debug)]
struct Placed {
    job: Job,
    link: OwnedFd,
    program_id: u32,
    info: bpf::Program,
}

/// The right to load programs and to put them in place. While one is being put in place, no table can be replaced, or
/// it would start with the former one.
pub(super) struct Placing<'a> {
    programs: &'a Programs,
    placed: MutexGuard<'a, BTreeMap<String, Placed>>,
}

/// A table that is about to take the place of the one that `spec` names.
#[derive(Clone, Copy)]
struct Successor<'a> {
    spec: &'a MapSpec,
    table: &'a Map,
    path: &'a Path,
}

impl Programs {
    pub(super) fn new(
        pins: Arc<Pins>,
        maps: Arc<Maps>,
        secret: [u64; 2],
        frags: bool,
        log_drops: bool,
    ) -> Self {
        let log = KernelLog::new(Arc::clone(&maps));
        Self { pins, maps, secret, frags, log_drops, log, placed: Mutex::default() }
    }

    pub(super) fn log(&self) -> &KernelLog {
        &self.log
    }

    /// Waits for whoever is placing a program.
    pub(super) fn placing(&self) -> Placing<'_> {
        Placing { programs: self, placed: self.placed.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Whether the program with this id is the one that was last put on `interface`.
    pub(super) fn put_there(&self, interface: &str, program_id: u32) -> bool {
        self.placing().placed.get(interface).is_some_and(|placed| placed.program_id == program_id)
    }

    /// The program on `interface`, if it is the one with this id that was put there.
    pub(super) fn placed(&self, interface: &str, program_id: u32) -> Option<bpf::Program> {
        let placing = self.placing();
        let placed = placing.placed.get(interface).filter(|placed| placed.program_id == program_id)?;
        Some(placed.info.clone())
    }

    /// Renames pins of tables that are in use already: programs are loaded over what is pinned.
    fn finish_renaming(&self) -> anyhow::Result<()> {
        for spec in GROWING {
            let (path, pinned) = (self.pins.spare_map_path(spec), self.pins.map_path(spec));
            if path.exists() {
                fs::rename(&path, &pinned).map_err(|error| pins::cannot_pin(&pinned, error))?;
            }
        }
        Ok(())
    }

    fn load(&self, job: &Job, successor: Option<Successor<'_>>) -> anyhow::Result<Program> {
        let Job { interface, slot, mode } = job;
        if successor.is_none() {
            self.finish_renaming()?;
        }
        let mut settings = load::settings(&self.maps, self.secret, interface, *slot, *mode, self.log_drops);
        if let Some(Successor { spec, table, .. }) = successor {
            load::resize(&mut settings, spec, table.entries());
        }
        let name = if self.frags { abi::PROGRAM_FRAGS } else { abi::PROGRAM_LINEAR };
        let replaced = successor.map(|Successor { spec, path, .. }| (spec.name, path));
        let mut object = load::open_with(&self.pins.directory(), replaced, &settings, &interface.limits)
            .context("cannot prepare the program")?;
        let loaded = load::program(&mut object, name)?;
        let id = loaded.info().context("cannot ask for the program's id")?.id();
        let fd = loaded.fd().context("the program is not loaded")?.as_fd();
        let info = bpf::info_of_program(fd).context("cannot ask for the program's tables")?;
        Ok(Program { object, name, frags: self.frags, id, info })
    }
}

/// By an atomic update of each link that this process made, and of the pin. Programs see the former table or this one; what
/// an earlier process put on interfaces keeps the former one until it is replaced.
impl Replace for Programs {
    fn replace_table(&self, spec: &MapSpec, table: Map) -> anyhow::Result<()> {
        let path = self.pins.spare_map_path(spec);
        // First, since whoever loads a program takes a spare pin for one that could not be renamed.
        let mut placing = self.placing();
        pins::remove_stale(&path)?;
        bpf::pin(table.fd(), &path).map_err(|error| pins::cannot_pin(&path, error))?;
        let moved = placing.move_to(Successor { spec, table: &table, path: &path });
        if let Err(error) = moved {
            // What is left behind is removed at the next start.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        // The links have it by now, so it is the one to write to, whatever the pin says. If it keeps the former name, the
        // next program that is loaded needs it renamed first, and the next start finds the former table and brings it
        // up to date.
        self.maps.replace(spec, Arc::new(table));
        let pinned = self.pins.map_path(spec);
        if let Err(error) = fs::rename(&path, &pinned) {
            tracing::warn!("cannot rename {} to {}: {error}", path.display(), pinned.display());
        }
        Ok(())
    }
}

impl Placing<'_> {
    /// Loads a program over the tables that are in use.
    pub(super) fn load(&self, job: &Job) -> anyhow::Result<Program> {
        self.programs.load(job, None)
    }

    /// Notes that `program` is on its interface, held by `link`.
    pub(super) fn put(&mut self, job: Job, link: OwnedFd, program: Program) {
        let (name, program_id, info) = (job.interface.name.clone(), program.id, program.info);
        if self.programs.log_drops {
            self.programs.log.add(&name, program.object);
        }
        self.placed.insert(name, Placed { job, link, program_id, info });
    }

    /// Notes that there is no program on the interface any more.
    pub(super) fn remove(&mut self, interface: &str) {
        self.placed.remove(interface);
        self.programs.log.remove(interface);
    }

    /// Loads all programs over `successor`, then replaces those that run.
    fn move_to(&mut self, successor: Successor<'_>) -> anyhow::Result<()> {
        // The interfaces of some may be gone.
        self.placed
            .retain(|_, placed| bpf::link_info(placed.link.as_fd()).is_ok_and(|link| link.ifindex != 0));
        let mut ready = Vec::new();
        for (name, placed) in &*self.placed {
            let program = self.programs.load(&placed.job, Some(successor));
            ready.push((name.clone(), program.with_context(|| format!("interface {name}"))?));
        }
        for (name, program) in ready {
            let Some(placed) = self.placed.get_mut(&name) else { continue };
            match program.fd().and_then(|fd| Ok(bpf::link_update(placed.link.as_fd(), fd.as_fd())?)) {
                Ok(()) => {
                    placed.program_id = program.id;
                    placed.info = program.info;
                    if self.programs.log_drops {
                        self.programs.log.add(&name, program.object);
                    }
                }
                // The others have moved already. This one keeps its former program, with lists that stay as they were;
                // whoever looks after the interface sees that, and tries again.
                Err(error) => tracing::warn!("interface {name} keeps the former tables: {error:#}"),
            }
        }
        Ok(())
    }
}

/// Attempts at a secret that [`spreads`]; one in four does.
const DRAWS: usize = 64;
/// Distances of addresses in lists: neighbours, every so many hosts, one of each network.
const STEPS: [u32; 10] = [1, 2, 3, 4, 5, 8, 10, 16, 256, 65_536];
/// Buckets of small tables and of large ones.
const TABLES: [usize; 3] = [1 << 10, 1 << 13, 1 << 16];
/// Of four in the mean. So many have room.
const FULLEST: u8 = 8;

/// The hash secret of this machine's tables: drawn once, kept as long as the tables.
pub(super) fn secret(maps: &Maps) -> io::Result<[u64; 2]> {
    const KEY: [u8; 4] = [0; 4];
    let map = maps.get(&abi::SECRET);
    let mut bytes = [0; 16];
    bpf::lookup(map.fd(), &KEY, &mut bytes)?;
    if bytes == [0; 16] {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&word_that_spreads()?.to_ne_bytes());
        }
        bpf::update(map.fd(), &KEY, &bytes)?;
    }
    let (first, second) = bytes.split_at(8);
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    Ok([word(first), word(second)])
}

/// A random word, of the quarter of all that spread regular lists.
fn word_that_spreads() -> io::Result<u64> {
    let mut word = 0;
    for _ in 0..DRAWS {
        let mut bytes = [0; 8];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        // An odd one takes nothing away from the keys.
        word = u64::from_ne_bytes(bytes) | 1;
        if spreads(word) {
            break;
        }
    }
    Ok(word)
}

/// Whether addresses that lie in a row, or in regular steps, share the buckets of [`v4`] about evenly.
fn spreads(secret: u64) -> bool {
    STEPS.iter().all(|step| {
        TABLES.iter().all(|buckets| v4::fullest(secret, *step, &mut vec![0; *buckets]) <= FULLEST)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_put_neighbours_together_are_not_taken() {
        // A step of one address goes nearly nowhere.
        assert!(!spreads(1));
        assert!(!spreads((1 << 32) + 1));
        let mut random = 1_u64;
        let good = (0..100).filter(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            spreads(random | 1)
        });
        let good = good.count();
        assert!((10..60).contains(&good), "{good} of 100");
        assert!(spreads(word_that_spreads().unwrap()));
    }
}

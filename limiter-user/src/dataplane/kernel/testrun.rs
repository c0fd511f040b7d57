//! The real programs on frames of one's choice, without an interface: `BPF_PROG_TEST_RUN`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, anyhow};
use limiter_common::Reason;
use limiter_common::abi::{self, Count, Limits, MAPS, MapSpec, Settings};
use rustix::mount::{MountFlags, UnmountFlags};

use super::lists::{KernelWriter, Replace};
use super::maps::{Map, Maps};
use super::{AttachMode, bpf, counters, load};
use crate::config::{self, Capacity};
use crate::dataplane::{ApplyError, Writer};

/// `XDP_DROP` and `XDP_PASS`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Which of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// For frames in one buffer.
    Linear,
    /// For frames in several.
    Frags,
}

/// What became of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it would have gone on to the stack.
    pub passed: bool,
    /// The one reason that was counted.
    pub reason: Reason,
    /// Bytes that were counted.
    pub bytes: u64,
}

/// Both programs over maps of their own, which nobody else sees.
#[derive(Debug)]
pub struct TestPrograms {
    maps: Arc<Maps>,
    lists: Lists,
    linear: Loaded,
    frags: Loaded,
    slot: u32,
    cpus: usize,
}

#[derive(Debug)]
struct Loaded {
    fd: OwnedFd,
    verified: u32,
}

impl TestPrograms {
    /// Loads both.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or no bpffs can be mounted for a moment.
    pub fn load(settings: &Settings, limits: &Limits, capacity: &Capacity) -> anyhow::Result<Self> {
        let mut programs = Self::load_all(std::slice::from_ref(settings), limits, capacity)?;
        programs.pop().context("no programs")
    }

    /// Loads both for each of `settings`, all over the same maps. The numbers of sets and cells are replaced by those
    /// of the tables.
    ///
    /// # Errors
    ///
    /// As for [`Self::load`].
    pub fn load_all(
        settings: &[Settings],
        limits: &Limits,
        capacity: &Capacity,
    ) -> anyhow::Result<Vec<Self>> {
        let scratch = Scratch::mount()?;
        let secret = settings.first().map(|settings| settings.secret).unwrap_or_default();
        let lists = Lists::create(&scratch, capacity, secret)?;
        // Programs that run here do not move to larger tables.
        lists.writer().grow_to_capacity().context("cannot make the tables large")?;
        let maps = &lists.maps;
        let load = |settings: &Settings| {
            let settings = Settings {
                secret,
                sets: maps.capacity(&abi::SLOTS),
                buckets_v4: maps.capacity(&abi::EXACT_V4),
                buckets_v6: maps.capacity(&abi::EXACT_V6),
                ..*settings
            };
            Self::over(&scratch, &lists, &settings, limits)
        };
        settings.iter().map(load).collect()
    }

    /// Loads both with the settings and limits that the daemon gives to `interface` in native mode, over lists that
    /// `fill` makes before.
    ///
    /// # Errors
    ///
    /// As for [`Self::load`], and if `fill` fails.
    pub fn of_interface(
        interface: &config::Interface,
        capacity: &Capacity,
        fill: impl FnOnce(&mut dyn Writer) -> Result<(), ApplyError>,
    ) -> anyhow::Result<Self> {
        // Fixed, so that two runs are alike.
        const SECRET: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
        let scratch = Scratch::mount()?;
        let lists = Lists::create(&scratch, capacity, SECRET)?;
        fill(&mut lists.writer()).context("cannot fill the lists")?;
        let settings = load::settings(&lists.maps, SECRET, interface, 0, AttachMode::Native, false);
        Self::over(&scratch, &lists, &settings, &interface.limits)
    }

    fn over(scratch: &Scratch, lists: &Lists, settings: &Settings, limits: &Limits) -> anyhow::Result<Self> {
        let mut object = load::open(&scratch.0, settings, limits).context("cannot prepare the programs")?;
        let linear = Loaded::new(&mut object, abi::PROGRAM_LINEAR)?;
        let frags = Loaded::new(&mut object, abi::PROGRAM_FRAGS)?;
        let (lists, cpus) = (lists.clone(), counters::possible_cpus()?);
        Ok(Self { maps: Arc::clone(&lists.maps), lists, linear, frags, slot: settings.slot, cpus })
    }

    /// The lists.
    pub fn writer(&self) -> Box<dyn Writer> {
        Box::new(self.lists.writer())
    }

    /// A program, for a test run of one's own or to be called by another program.
    pub fn program(&self, entry: Entry) -> BorrowedFd<'_> {
        self.loaded(entry).fd.as_fd()
    }

    /// What was counted so far, over all CPUs.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be read.
    pub fn counted(&self) -> io::Result<Vec<(Reason, Count)>> {
        Ok(Reason::ALL.iter().copied().zip(self.counts()?).collect())
    }

    /// Bytes of kernel memory that each map takes, by name.
    ///
    /// # Errors
    ///
    /// If procfs does not say.
    pub fn memory(&self) -> io::Result<Vec<(&'static str, u64)>> {
        MAPS.iter().map(|spec| Ok((spec.name, bytes_of_kernel_memory(self.maps.get(spec).fd())?))).collect()
    }

    /// Instructions that the verifier followed for this program.
    pub fn verified_instructions(&self, entry: Entry) -> u32 {
        self.loaded(entry).verified
    }

    /// Forgets all rate state.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn reset_rates(&self) -> anyhow::Result<()> {
        for spec in [&abi::SLOTS, &abi::CELLS, &abi::GATE] {
            let zeros = vec![0; spec.value_size as usize];
            for index in 0..self.maps.capacity(spec) {
                bpf::update(self.maps.get(spec).fd(), &index.to_ne_bytes(), &zeros)?;
            }
        }
        Ok(())
    }

    /// Runs one frame. With `first_buffer`, only that many bytes are in the first buffer (Linux 6.18); the linear
    /// program takes no such frames.
    ///
    /// # Errors
    ///
    /// If the kernel refuses (for instance frames shorter than an Ethernet header), or the program did anything but
    /// count one reason and pass or drop.
    pub fn run(&self, entry: Entry, frame: &[u8], first_buffer: Option<u32>) -> anyhow::Result<Outcome> {
        let before = self.counts()?;
        let (verdict, _) = bpf::test_run(self.program(entry), frame, first_buffer, 1)
            .context("the kernel refused the test run")?;
        let passed = match verdict {
            XDP_PASS => true,
            XDP_DROP => false,
            other => return Err(anyhow!("the program returned {other}")),
        };
        let after = self.counts()?;
        let mut changed = before.iter().zip(&after).zip(Reason::ALL).filter(|((a, b), _)| a != b);
        match (changed.next(), changed.next()) {
            (Some(((before, after), reason)), None) if after.packets == before.packets + 1 => {
                Ok(Outcome { passed, reason: *reason, bytes: after.bytes - before.bytes })
            }
            _ => Err(anyhow!("the program did not count exactly one frame: {before:?} became {after:?}")),
        }
    }

    /// Mean nanoseconds per run.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn time(&self, entry: Entry, frame: &[u8], repeat: u32) -> anyhow::Result<u32> {
        let (_, nanos) = bpf::test_run(self.program(entry), frame, None, repeat)
            .context("the kernel refused the test run")?;
        Ok(nanos)
    }

    fn counts(&self) -> io::Result<Vec<Count>> {
        Reason::ALL.iter().map(|reason| counters::count(&self.maps, self.cpus, self.slot, *reason)).collect()
    }

    fn loaded(&self, entry: Entry) -> &Loaded {
        match entry {
            Entry::Linear => &self.linear,
            Entry::Frags => &self.frags,
        }
    }
}

impl Loaded {
    fn new(object: &mut aya::Ebpf, name: &str) -> anyhow::Result<Self> {
        let program = load::program(object, name)?;
        let info = program.info().with_context(|| format!("program {name}"))?;
        let fd = program.fd().with_context(|| format!("program {name}"))?.as_fd().try_clone_to_owned()?;
        Ok(Self { fd, verified: info.verified_instruction_count().unwrap_or(0) })
    }
}

/// What a writer of lists needs.
#[derive(Debug, Clone)]
struct Lists {
    maps: Arc<Maps>,
    unattached: Arc<Unattached>,
    capacity: Capacity,
    secret: [u64; 2],
}

impl Lists {
    fn create(scratch: &Scratch, capacity: &Capacity, secret: [u64; 2]) -> anyhow::Result<Self> {
        load::create_maps(&scratch.0, capacity).context("cannot create the maps")?;
        let maps = Arc::new(Maps::pinned(&scratch.0)?);
        let unattached = Arc::new(Unattached { directory: scratch.0.clone(), maps: Arc::clone(&maps) });
        Ok(Self { maps, unattached, capacity: *capacity, secret })
    }

    fn writer(&self) -> KernelWriter {
        let (maps, unattached) = (Arc::clone(&self.maps), Arc::clone(&self.unattached));
        KernelWriter::new(maps, unattached, self.capacity, self.secret)
    }
}

/// Replaces tables as long as no program is loaded, which ends with the [`Scratch`].
#[derive(Debug)]
struct Unattached {
    directory: PathBuf,
    maps: Arc<Maps>,
}

impl Replace for Unattached {
    fn replace_table(&self, spec: &MapSpec, table: Map) -> anyhow::Result<()> {
        let path = self.directory.join(format!(":{}", spec.name));
        bpf::pin(table.fd(), &path).context("programs for tests do not move to larger tables")?;
        std::fs::rename(&path, self.directory.join(spec.name)).context("cannot rename a pin")?;
        self.maps.replace(spec, Arc::new(table));
        Ok(())
    }
}

/// A bpffs of our own, for as long as the maps have to be found by path.
struct Scratch(PathBuf);

impl Scratch {
    fn mount() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("limiter-testrun-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let scratch = Self(path);
        rustix::mount::mount("bpf", &scratch.0, "bpf", MountFlags::empty(), Some(c"mode=700"))
            .context("cannot mount a bpffs")?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Fails if it was not mounted, which leaves nothing to do.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// What the kernel keeps for the map behind `map`, in bytes.
///
/// # Errors
///
/// If procfs does not say.
pub fn bytes_of_kernel_memory(map: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no memlock in the description of a map"))
}

/// Mean nanoseconds per run of a program that does nothing: what [`TestPrograms::time`] is to be compared with.
///
/// # Errors
///
/// If the kernel refuses.
pub fn time_nothing(frame: &[u8], repeat: u32) -> anyhow::Result<u32> {
    let program = super::features::nothing().context("the kernel refused the empty program")?;
    Ok(bpf::test_run(program.as_fd(), frame, None, repeat)?.1)
}

/// Whether the program with this number, which may be on an interface, passes `frame`. It counts it, too.
///
/// # Errors
///
/// If there is no such program, or the kernel refuses.
pub fn passes(program_id: u32, frame: &[u8]) -> anyhow::Result<bool> {
    let program = bpf::program(program_id).context("no such program")?;
    let (verdict, _) =
        bpf::test_run(program.as_fd(), frame, None, 1).context("the kernel refused the test run")?;
    match verdict {
        XDP_PASS => Ok(true),
        XDP_DROP => Ok(false),
        other => Err(anyhow!("the program returned {other}")),
    }
}

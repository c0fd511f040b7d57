//! The real kernel side: maps, programs and links. Only this module and its children know aya and bpf(2).
//!
//! The order for whoever starts it: [`Dataplane::open`] (maps are there, the lock is held, nothing is attached that
//! was not before), fill the lists through [`Dataplane::writer`], [`Protection::protect`] each interface, then
//! [`Protection::settle`].

mod attach;
mod bpf;
mod counters;
mod detach;
mod features;
mod links;
mod lists;
mod load;
mod log;
mod mapped;
mod maps;
mod netlink;
mod object;
mod pins;
mod programs;
pub mod testrun;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use self::counters::KernelReader;
use self::lists::KernelWriter;
use self::maps::Maps;
use self::pins::{Opened, Pins};
use self::programs::Programs;
use crate::config;
use crate::dataplane::{Reader, Writer};

pub use self::attach::Protection;
pub use self::detach::{Daemon, Detached, detach};
pub use self::features::{Features, MINIMUM_KERNEL, probe};
pub use self::log::KernelLog;

/// Where and how large.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// A directory on a bpffs; pins live in `v<ABI>` below it. Mounted and created if it is not there.
    pub pins_directory: PathBuf,
    pub capacity: config::Capacity,
    /// Log a sample of the drops, at debug level.
    pub log_drops: bool,
    /// Replace XDP programs that somebody else attached.
    pub replace: bool,
}

/// Does what takes more privileges than [`Dataplane::open`] and all that follows: raises `RLIMIT_MEMLOCK`, and mounts a bpffs
/// for the pins directory if there is none.
///
/// # Errors
///
/// As [`Dataplane::open`].
pub fn prepare(pins_directory: &Path) -> anyhow::Result<()> {
    // First, since what it says of a kernel is worth more than that nothing can be mounted.
    probe()?;
    pins::require_bpffs(pins_directory)
}

/// The maps, and the lock that keeps a second daemon out. Dropping it leaves enforcement on.
#[derive(Debug)]
pub struct Dataplane {
    pins: Arc<Pins>,
    maps: Arc<Maps>,
    programs: Arc<Programs>,
    capacity: config::Capacity,
    secret: [u64; 2],
    features: Features,
    adopted: bool,
    notes: Vec<String>,
    replace: bool,
}

impl Dataplane {
    /// Creates the maps, or adopts those of an earlier run after checking each of them. Attaches nothing; what an
    /// earlier run attached keeps running.
    ///
    /// # Errors
    ///
    /// Names what is missing or in the way, and the remedy: the kernel is too old, the pins directory is on no bpffs
    /// and none can be mounted, another daemon holds the lock, the pins there do not fit.
    pub fn open(options: &OpenOptions) -> anyhow::Result<Self> {
        let features = probe()?;
        let pins = Pins::lock(&options.pins_directory)?;
        let Opened { maps, adopted, notes } = pins.open_maps(&options.capacity)?;
        let (pins, maps) = (Arc::new(pins), Arc::new(maps));
        let secret = programs::secret(&maps).context("cannot keep the hash secret")?;
        let (frags, log_drops) = (features.frags, options.log_drops);
        let programs = Programs::new(Arc::clone(&pins), Arc::clone(&maps), secret, frags, log_drops);
        Ok(Self {
            pins,
            maps,
            programs: Arc::new(programs),
            capacity: options.capacity,
            secret,
            features,
            adopted,
            notes,
            replace: options.replace,
        })
    }

    /// Whether there was something of an earlier run: lists may hold entries, programs may be attached.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// What an operator should know about the start, as sentences: pins migrated, tables rebuilt.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What this kernel can do.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The lists. There shall be one writer at a time.
    pub fn writer(&self) -> Box<dyn Writer> {
        let (maps, programs) = (Arc::clone(&self.maps), Arc::clone(&self.programs));
        Box::new(KernelWriter::new(maps, programs, self.capacity, self.secret))
    }

    /// The counters and capacities.
    ///
    /// # Errors
    ///
    /// If the number of CPUs cannot be read, or a map cannot be mapped.
    pub fn reader(&self) -> anyhow::Result<Arc<dyn Reader>> {
        Ok(Arc::new(
            KernelReader::new(Arc::clone(&self.maps), self.capacity)
                .context("cannot read the kernel's counters")?,
        ))
    }

    /// Programs and links.
    ///
    /// # Errors
    ///
    /// If the pins cannot be read.
    pub fn protection(&self) -> anyhow::Result<Protection> {
        let (pins, maps, programs) =
            (Arc::clone(&self.pins), Arc::clone(&self.maps), Arc::clone(&self.programs));
        Protection::new(pins, maps, programs, self.replace)
    }
}

/// How an interface is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl AttachMode {
    /// The word in metrics, JSON and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    pub interface: String,
    pub ifindex: u32,
    pub mode: AttachMode,
    /// Whether frames of more than one buffer (jumbo frames, hardware GRO) can be received.
    pub frags: bool,
    /// The kernel's number of the program.
    pub program_id: u32,
    /// It has the tables of another ABI version or former ones, whose lists stay as they were; or another process put it
    /// there, and what it has cannot be told without `CAP_SYS_ADMIN`.
    pub superseded: bool,
}

/// Why an interface is not protected.
#[derive(Debug)]
pub enum ProtectError {
    /// There is no such interface now; protect it when it appears.
    NoInterface { interface: String },
    /// Somebody else's XDP program is there. Its name takes `CAP_SYS_ADMIN`.
    Stranger { interface: String, id: u32, name: Option<String> },
    /// Anything else, with the remedy if it is known.
    Failed { interface: String, error: anyhow::Error },
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface { interface } => write!(f, "interface {interface} does not exist"),
            Self::Stranger { interface, id, name } => {
                write!(f, "interface {interface} has an XDP program that is not limiter's (id {id}, ")?;
                match name {
                    Some(name) => write!(f, "name {name:?}")?,
                    None => write!(f, "`bpftool prog show id {id}` tells whose")?,
                }
                f.write_str("); take it off, or start limiterd with --replace")
            }
            Self::Failed { interface, error } => write!(f, "cannot protect interface {interface}: {error:#}"),
        }
    }
}

impl std::error::Error for ProtectError {}

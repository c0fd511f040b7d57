//! The real kernel side: maps, programs and links. Only this module and its children know aya and bpf(2).
//!
//! The order for whoever starts it: [`Dataplane::open`] (maps are there, the lock is held, nothing is attached that
//! was not before), fill the lists through [`Dataplane::writer`], [`Protection::protect`] each interface, then
//! [`Protection::settle`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config;
use crate::dataplane::{Reader, Writer};

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

/// The maps, and the lock that keeps a second daemon out. Dropping it leaves enforcement on.
#[derive(Debug)]
pub struct Dataplane {}

impl Dataplane {
    /// Creates the maps, or adopts those of an earlier run after checking each of them. Attaches nothing; what an
    /// earlier run attached keeps running.
    ///
    /// # Errors
    ///
    /// Names what is missing or in the way, and the remedy: the kernel is too old, the pins directory is on no bpffs
    /// and none can be mounted, another daemon holds the lock, the pins there do not fit.
    pub fn open(options: &OpenOptions) -> anyhow::Result<Self> {
        anyhow::bail!("{}: not implemented", options.pins_directory.display())
    }

    /// Whether there was something of an earlier run: lists may hold entries, programs may be attached.
    pub fn adopted(&self) -> bool {
        false
    }

    /// What an operator should know about the start, as sentences: pins migrated, tables rebuilt.
    pub fn notes(&self) -> &[String] {
        &[]
    }

    /// The lists. There shall be one writer at a time.
    ///
    /// # Errors
    ///
    /// If file descriptors run out.
    pub fn writer(&self) -> anyhow::Result<Box<dyn Writer>> {
        anyhow::bail!("not implemented")
    }

    /// The counters and capacities.
    ///
    /// # Errors
    ///
    /// If file descriptors run out.
    pub fn reader(&self) -> anyhow::Result<Arc<dyn Reader>> {
        anyhow::bail!("not implemented")
    }

    /// Programs and links.
    ///
    /// # Errors
    ///
    /// If file descriptors run out.
    pub fn protection(&self) -> anyhow::Result<Protection> {
        anyhow::bail!("not implemented")
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
}

/// Why an interface is not protected.
#[derive(Debug)]
pub enum ProtectError {
    /// There is no such interface now; protect it when it appears.
    NoInterface { interface: String },
    /// Somebody else's XDP program is there.
    Stranger { interface: String, id: u32, name: String },
    /// Anything else, with the remedy if it is known.
    Failed { interface: String, error: anyhow::Error },
}

impl fmt::Display for ProtectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface { interface } => write!(f, "interface {interface} does not exist"),
            Self::Stranger { interface, id, name } => write!(
                f,
                "interface {interface} has an XDP program that is not limiter's (id {id}, name {name:?}); take it off, \
                 or start limiterd with --replace"
            ),
            Self::Failed { interface, error } => write!(f, "cannot protect interface {interface}: {error:#}"),
        }
    }
}

impl std::error::Error for ProtectError {}

/// Puts programs on interfaces.
#[derive(Debug)]
pub struct Protection {}

impl Protection {
    /// Loads a program with the interface's limits and puts it there: by atomic update if an earlier program of
    /// limiter runs there (also one of another ABI version), else by a new pinned link. To be called again when the
    /// limits change or the interface was re-created.
    ///
    /// # Errors
    ///
    /// See [`ProtectError`]. Whatever protected the interface before still does.
    pub fn protect(&mut self, interface: &config::Interface) -> Result<Attached, ProtectError> {
        Err(ProtectError::NoInterface { interface: interface.name.clone() })
    }

    /// How the interface is protected at this moment, as the kernel tells it; `None` if it is not, for instance
    /// because it was removed and re-created.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn attached(&self, name: &str) -> anyhow::Result<Option<Attached>> {
        anyhow::bail!("{name}: not implemented")
    }

    /// Names of all interfaces that have a link, configured or not.
    ///
    /// # Errors
    ///
    /// If the pins cannot be read.
    pub fn linked(&self) -> anyhow::Result<Vec<String>> {
        anyhow::bail!("not implemented")
    }

    /// Takes the program off the interface and gives its counter slot back. Whether there was one.
    ///
    /// # Errors
    ///
    /// If the pin cannot be removed.
    pub fn release(&mut self, name: &str) -> anyhow::Result<bool> {
        anyhow::bail!("{name}: not implemented")
    }

    /// Removes pins of other ABI versions and of tables that were rebuilt, with links that were not taken over. To be
    /// called when all configured interfaces are protected. Returns what it did, as sentences.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn settle(&mut self) -> anyhow::Result<Vec<String>> {
        anyhow::bail!("not implemented")
    }

    /// The log lines of the programs that this protects, now and later; run it as a task.
    pub fn log(&self) -> KernelLog {
        KernelLog {}
    }
}

/// Carries the log lines of the kernel side over to the log of the process, at their level (debug).
#[derive(Debug)]
pub struct KernelLog {}

impl KernelLog {
    /// Runs until it is dropped.
    pub async fn run(self) {
        std::future::pending::<()>().await;
    }
}

/// What [`detach`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detached {
    /// Interfaces that had a link and are free now.
    pub interfaces: Vec<String>,
    /// Whether all maps were removed too: only if no interface was left out.
    pub maps_removed: bool,
    /// Process that holds the lock: a daemon that is still running and may protect the interfaces again.
    pub daemon: Option<u32>,
}

/// Takes limiter off `interfaces`, or off all if there are none, and removes the pins; needs no daemon.
///
/// # Errors
///
/// If a pin cannot be removed. Nothing pinned is no error.
pub fn detach(pins_directory: &Path, interfaces: &[String]) -> anyhow::Result<Detached> {
    anyhow::bail!("{}, {interfaces:?}: not implemented", pins_directory.display())
}

//! A directory for one test, with a BPF file system in it, that is gone afterwards: when its owner is dropped, when the
//! process is interrupted, and, after a kill -9, when the next process starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// All directories are called `limiter-<process>-<number>-<purpose>`.
const PREFIX: &str = "limiter-";

/// What has to go when the process is interrupted.
static ALIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// See the module.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Errors
    ///
    /// If this is not root.
    pub fn new(purpose: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static FIRST: Once = Once::new();
        FIRST.call_once(|| {
            sweep();
            if let Err(error) = remove_on_signals() {
                eprintln!("interrupting this run will leave directories behind: {error}");
            }
        });
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{purpose}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("failed to create {}", path.display()))?;
        alive().push(path.clone());
        let scratch = Self { path };
        let bpffs = scratch.bpffs();
        fs::create_dir(&bpffs)?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(|| {
            format!("failed to mount a BPF file system on {}: root is needed", bpffs.display())
        })?;
        Ok(scratch)
    }

    /// Where `name` is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A mounted BPF file system of its own.
    pub fn bpffs(&self) -> PathBuf {
        self.path("bpf")
    }

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// If the disk is full.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(path)
    }

    /// All files called `*.log`, with their content.
    pub fn logs(&self) -> Vec<(String, String)> {
        let Ok(files) = fs::read_dir(&self.path) else { return Vec::new() };
        let mut logs: Vec<_> = files
            .filter_map(|file| {
                let path = file.ok()?.path();
                let name = path.file_name()?.to_string_lossy().into_owned();
                name.ends_with(".log").then(|| (name, fs::read_to_string(&path).unwrap_or_default()))
            })
            .collect();
        logs.sort();
        logs
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        alive().retain(|path| *path != self.path);
        remove(&self.path);
    }
}

fn alive() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove(path: &Path) {
    // Detached, since a killed daemon may take a moment to let go of its files.
    while umount2(&path.join("bpf"), MntFlags::MNT_DETACH).is_ok() {}
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("failed to remove {}: {error}", path.display());
    }
}

/// Removes what processes left that are not there any more.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let owner = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            remove(&path);
        }
    }
}

/// Daemons need no care here: the kernel kills them with the thread that started them.
fn remove_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            for path in alive().drain(..) {
                remove(&path);
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

//! The directory on the bpffs, which is what outlives the daemon.
//!
//! ```text
//! <pins directory>/            flock: one daemon
//!   v<ABI>/<map>               the maps
//!   v<ABI>/links/<interface>   the links
//!   v<other>/…                 another ABI version, or tables of another size: superseded, links still enforcing
//! ```
//!
//! A set of maps is made under another name and renamed, so a directory is complete or not there. bpffs reserves dots
//! in names; interface names that have some are escaped.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use limiter_common::abi::{self, ABI_VERSION, MAPS, MapSpec};
use rustix::fs::{FlockOperation, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;

use super::bpf;
use super::links::{PinnedLink, look_at};
use super::maps::{Maps, entries, kind_number};
use super::{lists, load};
use crate::config::Capacity;

/// Where bpffs is mounted on most systems.
const USUAL_MOUNT: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC`.
const BPFFS: i64 = 0xcafe_4a11;
const LINKS: &str = "links";
/// What names of pins start with that wait for another one. No interface can have a colon in its name
/// (`dev_valid_name`).
const SPARE: char = ':';

/// The pins directory, held against a second daemon.
#[derive(Debug)]
pub(super) struct Pins {
    base: PathBuf,
    /// The flock goes with it.
    _lock: OwnedFd,
}

/// What [`Pins::open_maps`] found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) maps: Maps,
    /// Some pins of an earlier run were there.
    pub(super) adopted: bool,
    pub(super) notes: Vec<String>,
}

/// What is wrong with a pinned map.
enum Misfit {
    /// Another size than configured: made anew.
    Capacity(String),
    /// Not this program's map at all.
    Foreign(String),
}

impl Pins {
    /// Makes sure that `base` is a directory on a bpffs, and locks it.
    pub(super) fn lock(base: &Path) -> anyhow::Result<Self> {
        require_bpffs(base)?;
        match (try_lock(base)?, holder(base)) {
            (Some(lock), _) => Ok(Self { base: base.to_owned(), _lock: lock }),
            (None, Some(pid)) => {
                bail!("another limiterd (pid {pid}) uses the pins directory {}", base.display())
            }
            (None, None) => bail!("another limiterd uses the pins directory {}", base.display()),
        }
    }

    /// The directory of this ABI version.
    pub(super) fn directory(&self) -> PathBuf {
        current(&self.base)
    }

    /// Adopts the pinned maps, or makes them; those of another size than `capacity` are made anew.
    pub(super) fn open_maps(&self, capacity: &Capacity) -> anyhow::Result<Opened> {
        let directory = self.directory();
        let fresh = self.base.join(format!("v{ABI_VERSION}-new"));
        // Of a run that died in the middle: between the two renames below this is all there is of counters and secret.
        if !directory.is_dir() && Maps::pinned(&fresh).is_ok() {
            fs::rename(&fresh, &directory).map_err(|error| cannot_pin(&directory, error))?;
        }
        remove_set(&fresh)?;
        let mut notes = Vec::new();
        let others = superseded(&self.base)?;
        if !others.is_empty() {
            notes.push(format!(
                "taking over from {}",
                others.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            ));
        }

        let mut kept = Vec::new();
        let found = directory.is_dir();
        if found {
            let mut resized = false;
            for spec in MAPS {
                let path = directory.join(spec.name);
                match check(&path, spec, entries(spec, capacity))? {
                    Ok(map) => kept.push((spec, map)),
                    Err(Misfit::Capacity(text)) => {
                        resized = true;
                        notes.push(text);
                    }
                    Err(Misfit::Foreign(text)) => bail!(
                        "{text}; this is not limiter's, or was damaged: take it off with `limiter detach`, and start \
                         again"
                    ),
                }
            }
            if !resized {
                let maps = Maps::pinned(&directory)?;
                return Ok(Opened { maps, adopted: true, notes });
            }
            // Programs that run need all of their lists as they are: of what moves from one table to another, a shared
            // one would lose it, and the other not get it.
            kept.retain(|(spec, _)| !is_list(spec));
        }

        fs::create_dir(&fresh).map_err(|error| cannot_pin(&fresh, error))?;
        fs::create_dir(fresh.join(LINKS)).map_err(|error| cannot_pin(&fresh, error))?;
        for (spec, map) in kept {
            let path = fresh.join(spec.name);
            bpf::pin(map.as_fd(), &path).map_err(|error| cannot_pin(&path, error))?;
        }
        load::create_maps(&fresh, capacity)
            .with_context(|| format!("cannot create and pin the maps in {}", fresh.display()))?;
        if found {
            let copied = lists::copy(&Maps::pinned(&directory)?, Arc::new(Maps::pinned(&fresh)?))
                .context("cannot copy the lists to the new tables")?;
            notes.extend(copied.iter().map(|table| format!("table {table} is too small for what was in it")));
            // Its links keep enforcing, with the old tables, until each interface is protected anew.
            let aside = free_path(|number| self.base.join(format!("v{ABI_VERSION}-old-{number}")));
            fs::rename(&directory, &aside).map_err(|error| cannot_pin(&aside, error))?;
        }
        fs::rename(&fresh, &directory).map_err(|error| cannot_pin(&directory, error))?;
        let maps = Maps::pinned(&directory)?;
        Ok(Opened { maps, adopted: found || !others.is_empty(), notes })
    }

    /// Where the link of `interface` is to be pinned.
    pub(super) fn link_path(&self, interface: &str) -> PathBuf {
        self.directory().join(LINKS).join(escape(interface))
    }

    /// A free path for a link that has to make way for a moment.
    pub(super) fn spare_link_path(&self) -> PathBuf {
        let links = self.directory().join(LINKS);
        free_path(|number| links.join(format!("{SPARE}{number}")))
    }

    /// All pinned links: this version's first, then superseded ones.
    pub(super) fn links(&self) -> anyhow::Result<Vec<PinnedLink>> {
        let mut found = look_at(links(&self.directory())?);
        for set in superseded(&self.base)? {
            found.extend(look_at(links(&set)?));
        }
        Ok(found)
    }

    /// Sets of other versions and sizes.
    pub(super) fn superseded(&self) -> anyhow::Result<Vec<PathBuf>> {
        superseded(&self.base)
    }
}

/// Locks the pins directory; `None` if somebody else did.
pub(super) fn try_lock(base: &Path) -> anyhow::Result<Option<OwnedFd>> {
    let directory = rustix::fs::open(base, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("pins directory {}", base.display()))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot lock the pins directory {}", base.display()));
        }
    }
    // Whoever held the lock before may have removed it.
    let locked = rustix::fs::fstat(&directory).map(|stat| stat.st_ino).ok();
    if locked != fs::metadata(base).map(|metadata| metadata.ino()).ok() {
        bail!("the pins directory {} was removed just now; try again", base.display());
    }
    Ok(Some(directory))
}

fn current(base: &Path) -> PathBuf {
    base.join(format!("v{ABI_VERSION}"))
}

/// The first path that nothing is at.
fn free_path(path: impl Fn(u32) -> PathBuf) -> PathBuf {
    (1..).map(path).find(|path| !path.exists()).expect("numbers do not run out")
}

/// All sets of pins below `base`.
pub(super) fn sets(base: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut sets: Vec<PathBuf> = entries_of(base)?
        .into_iter()
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let version = name.strip_prefix('v').and_then(|rest| rest.split('-').next());
            version.is_some_and(|number| number.parse::<u32>().is_ok()) && path.is_dir()
        })
        .collect();
    sets.sort();
    Ok(sets)
}

fn superseded(base: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let current = current(base);
    let mut sets = sets(base)?;
    sets.retain(|set| *set != current);
    Ok(sets)
}

/// Paths of the links in a set.
pub(super) fn links(set: &Path) -> anyhow::Result<Vec<PathBuf>> {
    entries_of(&set.join(LINKS))
}

/// The interface that a link's path is named after.
pub(super) fn interface_of(link: &Path) -> Option<String> {
    Some(unescape(link.file_name()?.to_str()?))
}

/// Whether this is a path of [`Pins::spare_link_path`].
pub(super) fn is_spare(link: &Path) -> bool {
    link.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(SPARE))
}

/// Paths in a directory; none if it does not exist.
fn entries_of(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", directory.display())),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("cannot read {}", directory.display()))?;
    paths.sort();
    Ok(paths)
}

/// Detaches the link that is pinned at `path`, and removes the pin.
///
/// Without the first, the kernel would detach some time after the last reference is gone.
pub(super) fn remove_link(path: &Path) -> anyhow::Result<()> {
    if let Ok(link) = bpf::get(path) {
        // Fails if the interface is gone, which leaves nothing to detach.
        let _ = bpf::link_detach(link.as_fd());
    }
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Removes a set with all that is pinned in it; its links are detached.
pub(super) fn remove_set(set: &Path) -> anyhow::Result<()> {
    for link in links(set)? {
        remove_link(&link)?;
    }
    for path in [set.join(LINKS)].into_iter().chain(entries_of(set)?) {
        let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    match fs::remove_dir(set) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", set.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_list(spec: &MapSpec) -> bool {
    [abi::ADDRESSES_V4, abi::ADDRESSES_V6, abi::PREFIXES_V4, abi::PREFIXES_V6].contains(spec)
}

/// Opens a pinned map if it is what `spec` says, with `wanted` entries.
fn check(path: &Path, spec: &MapSpec, wanted: u32) -> anyhow::Result<Result<OwnedFd, Misfit>> {
    let map = match bpf::get(path) {
        Ok(map) => map,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Err(Misfit::Foreign(format!("{} is missing", path.display()))));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let Ok(info) = bpf::map_info(map.as_fd()) else {
        return Ok(Err(Misfit::Foreign(format!("{} is not a map", path.display()))));
    };
    let differences: Vec<String> = [
        ("type", info.kind, kind_number(spec.kind)),
        ("key size", info.key_size, spec.key_size),
        ("value size", info.value_size, spec.value_size),
        ("flags", info.flags, spec.flags),
    ]
    .into_iter()
    .filter(|(_, found, wanted)| found != wanted)
    .map(|(what, found, wanted)| format!("{what} {found} instead of {wanted}"))
    .collect();
    if !differences.is_empty() {
        return Ok(Err(Misfit::Foreign(format!("{} has {}", path.display(), differences.join(", ")))));
    }
    if info.max_entries != wanted {
        let text =
            format!("table {} rebuilt with {wanted} entries instead of {}", spec.name, info.max_entries);
        return Ok(Err(Misfit::Capacity(text)));
    }
    Ok(Ok(map))
}

/// Creates `base`, mounting a bpffs if there is none below it.
fn require_bpffs(base: &Path) -> anyhow::Result<()> {
    let existing = base.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !is_bpffs(existing)? {
        let mount_point = if base.starts_with(USUAL_MOUNT) { Path::new(USUAL_MOUNT) } else { base };
        if mount_point == base {
            fs::create_dir_all(base).with_context(|| format!("cannot create {}", base.display()))?;
            if !entries_of(base)?.is_empty() {
                bail!(
                    "the pins directory {} is not on a bpffs and holds other files; set [pins] directory to a \
                     directory below {USUAL_MOUNT}",
                    base.display()
                );
            }
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("bpf", mount_point, "bpf", flags, Some(c"mode=700")).with_context(|| {
            format!(
                "the pins directory {} is not on a bpffs, and none can be mounted; try: mount -t bpf bpf {}",
                base.display(),
                mount_point.display()
            )
        })?;
    }
    fs::create_dir_all(base).map_err(|error| cannot_pin(base, error))?;
    let stat = rustix::fs::statvfs(base).with_context(|| format!("pins directory {}", base.display()))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        bail!(
            "the bpffs of the pins directory {} is read-only; remount it: mount -o remount,rw {USUAL_MOUNT}",
            base.display()
        );
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> anyhow::Result<bool> {
    let stat = rustix::fs::statfs(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(stat.f_type == BPFFS)
}

/// What to do when something cannot be made on the bpffs.
pub(super) fn cannot_pin(path: &Path, error: io::Error) -> anyhow::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EROFS) => "the bpffs is read-only; remount it read-write",
        Some(libc::ENOSPC) => "the bpffs has no space left",
        Some(libc::EPERM) if path.to_string_lossy().contains('.') => {
            "bpffs allows no dots in names; choose another [pins] directory"
        }
        Some(libc::EPERM | libc::EACCES) => "limiterd needs root, or CAP_BPF and write access there",
        _ => "is it on a bpffs?",
    };
    anyhow::Error::new(error).context(format!("cannot pin {} ({remedy})", path.display()))
}

/// The process that holds the lock of the pins directory, if one does.
pub(super) fn holder(base: &Path) -> Option<u32> {
    let metadata = fs::metadata(base).ok()?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    // "1: FLOCK  ADVISORY  WRITE 1234 00:1f:42 0 EOF"
    fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&file.as_str()))
            .then(|| fields.get(4)?.parse().ok())?
    })
}

/// A file name for an interface: bpffs reserves dots.
fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::{escape, unescape};

    #[test]
    fn interface_names_survive_as_file_names() {
        for name in ["eth0", "eth0.100", "odd%2ename", "a%b.c", "%25.%2e"] {
            assert!(!escape(name).contains('.'), "{name}");
            assert_eq!(unescape(&escape(name)), name);
        }
    }
}

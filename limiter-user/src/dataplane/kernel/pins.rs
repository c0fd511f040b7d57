//! The directory on the bpffs, which is what outlives the daemon.
//!
//! ```text
//! <pins directory>/            flock: one daemon
//!   v<ABI>/<map>               the maps
//!   v<ABI>/:<map>              one that is about to take the place of another
//!   v<ABI>/links/<interface>   the links
//!   v<other>/…                 another ABI version: superseded, links still enforcing
//! ```
//!
//! A set of maps is made under another name and renamed, so a directory is complete or not there; and so is a map that
//! replaces another one. bpffs reserves dots in names; interface names that have some are escaped.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use limiter_common::abi::{ABI_VERSION, MAPS, MapSpec};
use rustix::fs::{FlockOperation, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountFlags;

use super::bpf;
use super::links::{PinnedLink, look_at};
use super::load;
use super::maps::{GROWING, Map, Maps, entries, kind_number};
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
    Size(String),
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

    /// Adopts the pinned maps, or makes them.
    pub(super) fn open_maps(&self, capacity: &Capacity) -> anyhow::Result<Opened> {
        let directory = self.directory();
        let fresh = self.base.join(format!("v{ABI_VERSION}-new"));
        // Of a run that died in the middle.
        remove_set(&fresh)?;
        let mut notes = Vec::new();
        let others = superseded(&self.base)?;
        if !others.is_empty() {
            notes.push(format!(
                "taking over from {}",
                others.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            ));
        }

        if directory.is_dir() {
            self.fit(capacity, &mut notes)?;
            return Ok(Opened { maps: Maps::pinned(&directory)?, adopted: true, notes });
        }
        fs::create_dir(&fresh).map_err(|error| cannot_pin(&fresh, error))?;
        fs::create_dir(fresh.join(LINKS)).map_err(|error| cannot_pin(&fresh, error))?;
        load::create_maps(&fresh, capacity)
            .with_context(|| format!("cannot create and pin the maps in {}", fresh.display()))?;
        fs::rename(&fresh, &directory).map_err(|error| cannot_pin(&directory, error))?;
        Ok(Opened { maps: Maps::pinned(&directory)?, adopted: !others.is_empty(), notes })
    }

    /// Checks the pinned maps, and makes those anew that have another size than they should. What runs keeps the former
    /// ones until its program is replaced; only rates are lost, since tables of lists grow by themselves.
    fn fit(&self, capacity: &Capacity, notes: &mut Vec<String>) -> anyhow::Result<()> {
        let mut misfits = Vec::new();
        for spec in MAPS {
            remove_stale(&self.spare_map_path(spec))?;
            match check(&self.map_path(spec), spec, entries(spec, capacity))? {
                Ok(()) => {}
                Err(Misfit::Size(text)) => {
                    misfits.push(spec);
                    notes.push(text);
                }
                Err(Misfit::Foreign(text)) => bail!(
                    "{text}; this is not limiter's, or was damaged: take it off with `limiter detach`, and start \
                     again"
                ),
            }
        }
        for spec in misfits {
            let path = self.spare_map_path(spec);
            let map = Map::create(spec, entries(spec, capacity))
                .with_context(|| format!("cannot create the map {}", spec.name))?;
            bpf::pin(map.fd(), &path).map_err(|error| cannot_pin(&path, error))?;
            fs::rename(&path, self.map_path(spec)).map_err(|error| cannot_pin(&path, error))?;
        }
        Ok(())
    }

    /// Where a map is pinned.
    pub(super) fn map_path(&self, spec: &MapSpec) -> PathBuf {
        self.directory().join(spec.name)
    }

    /// Where a map is pinned that is to take the place of another one.
    pub(super) fn spare_map_path(&self, spec: &MapSpec) -> PathBuf {
        self.directory().join(format!("{SPARE}{}", spec.name))
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

    /// Sets of other versions.
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

/// Removes what a run left that died before a rename.
pub(super) fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether the map that is pinned at `path` is what `spec` says, with `wanted` entries; tables that grow may have more.
fn check(path: &Path, spec: &MapSpec, wanted: u32) -> anyhow::Result<Result<(), Misfit>> {
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
    let found = info.max_entries;
    if GROWING.contains(&spec) {
        let fits = found.is_power_of_two();
        let text = format!("{} has {found} entries, which is no power of two", path.display());
        return Ok(if fits { Ok(()) } else { Err(Misfit::Foreign(text)) });
    }
    if found != wanted {
        let text = format!("table {} made anew with {wanted} entries instead of {found}", spec.name);
        return Ok(Err(Misfit::Size(text)));
    }
    Ok(Ok(()))
}

/// Creates `base`, mounting a bpffs if there is none below it.
pub(super) fn require_bpffs(base: &Path) -> anyhow::Result<()> {
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
        Some(libc::EPERM | libc::EACCES) => {
            "limiterd needs CAP_BPF, and to own the directory: did another user's limiterd make it?"
        }
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

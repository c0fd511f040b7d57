//! Takes limiter off interfaces without a daemon: the way out when everything else is broken.

use std::fs;
use std::path::Path;

use super::links::look_at;
use super::pins;

/// What [`detach`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detached {
    /// Interfaces that had a link and are free now.
    pub interfaces: Vec<String>,
    /// Whether the maps were removed too: only if no interface keeps its program, and no daemon needs them.
    pub maps_removed: bool,
    /// A daemon is running, and may protect the interfaces again.
    pub daemon: Option<Daemon>,
    /// What could not be removed, and why.
    pub problems: Vec<String>,
}

/// Who holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Daemon {
    /// `None` if it is not to be seen from here.
    pub pid: Option<u32>,
}

/// Takes limiter off `interfaces`, or off all if none are named, and removes the pins; needs no daemon, and keeps one
/// from starting meanwhile. Pins of every ABI version go. What cannot be removed keeps nothing else from it.
///
/// # Errors
///
/// If the pins cannot be read. Nothing pinned is no error.
pub fn detach(pins_directory: &Path, interfaces: &[String]) -> anyhow::Result<Detached> {
    let mut detached = Detached::default();
    if !pins_directory.exists() {
        return Ok(detached);
    }
    let lock = pins::try_lock(pins_directory)?;
    if lock.is_none() {
        detached.daemon = Some(Daemon { pid: pins::holder(pins_directory) });
    }
    let mut kept = false;
    let mut problem = |error: anyhow::Error| detached.problems.push(format!("{error:#}"));
    let mut links = Vec::new();
    for set in pins::sets(pins_directory)? {
        match pins::links(&set) {
            Ok(paths) => links.extend(look_at(paths)),
            Err(error) => problem(error),
        }
    }
    for link in links {
        let interface = link.interface();
        if !interfaces.is_empty() && !interfaces.contains(&interface) {
            kept = true;
            continue;
        }
        match pins::remove_link(&link.path) {
            Ok(()) => detached.interfaces.push(interface),
            Err(error) => problem(error),
        }
    }
    detached.interfaces.sort();
    detached.interfaces.dedup();
    // A running daemon still needs its maps.
    if !kept && detached.problems.is_empty() && lock.is_some() {
        for set in pins::sets(pins_directory)? {
            match pins::remove_set(&set) {
                Ok(()) => detached.maps_removed = true,
                Err(error) => detached.problems.push(format!("{error:#}")),
            }
        }
        // Stays if it is a mount point, or holds something else.
        let _ = fs::remove_dir(pins_directory);
    }
    Ok(detached)
}

//! Takes limiter off interfaces without a daemon: the way out when everything else is broken.

use std::fs;
use std::path::Path;

use super::pins;

/// What [`detach`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detached {
    /// Interfaces that had a link and are free now.
    pub interfaces: Vec<String>,
    /// Whether the maps were removed too: only if no interface keeps its program.
    pub maps_removed: bool,
    /// Process that holds the lock: a daemon that is still running and may protect the interfaces again.
    pub daemon: Option<u32>,
}

/// Takes limiter off `interfaces`, or off all if none are named, and removes the pins; needs no daemon. Pins of every
/// ABI version go.
///
/// # Errors
///
/// If a pin cannot be removed. Nothing pinned is no error.
pub fn detach(pins_directory: &Path, interfaces: &[String]) -> anyhow::Result<Detached> {
    let mut detached = Detached { daemon: pins::holder(pins_directory), ..Detached::default() };
    let mut kept = false;
    for set in pins::sets(pins_directory)? {
        for path in pins::links(&set)? {
            let interface = pins::interface_of(&path).unwrap_or_default();
            if !interfaces.is_empty() && !interfaces.contains(&interface) {
                kept = true;
                continue;
            }
            pins::remove_link(&path)?;
            detached.interfaces.push(interface);
        }
    }
    detached.interfaces.sort();
    detached.interfaces.dedup();
    // A running daemon still needs its maps.
    if !kept && detached.daemon.is_none() {
        for set in pins::sets(pins_directory)? {
            pins::remove_set(&set)?;
            detached.maps_removed = true;
        }
        // Stays if it is a mount point, or holds something else.
        let _ = fs::remove_dir(pins_directory);
    }
    Ok(detached)
}

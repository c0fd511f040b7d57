//! What monitoring is told: a [`Snapshot`] of numbers that others hold, turned into text by [`exposition`]. Reads only.

pub mod exposition;
pub mod server;

use std::sync::Arc;
use std::time::SystemTime;

use crate::control::protocol::InterfaceStatus;
use crate::control::server::Traffic;
use crate::dataplane::{InterfaceCounts, TableCapacity};
use crate::enforcer::Summary;
use crate::hook::Counts;

/// What the daemon's root knows, published after every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonState {
    pub started: SystemTime,
    pub interfaces: Vec<InterfaceStatus>,
    pub reload: LastReload,
}

/// How the last attempt to load the configuration ended; the start counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastReload {
    pub successful: bool,
    /// The last one that was successful.
    pub succeeded_at: SystemTime,
}

/// Everything that one scrape shows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub version: &'static str,
    pub abi: u32,
    pub daemon: Arc<DaemonState>,
    pub summary: Arc<Summary>,
    pub counts: Vec<InterfaceCounts>,
    pub capacities: Vec<TableCapacity>,
    pub traffic: Arc<Traffic>,
    pub hooks: Vec<Arc<Counts>>,
}

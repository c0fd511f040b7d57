//! Pinned links, and whose they are.
//!
//! The name of a pin tells which interface it was made for. Interfaces are renamed, though, also two of them to each
//! other's names, so a link belongs to the interface that it is on, and only a dead one to the name of its pin.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::netlink::{self, Running};
use super::{bpf, pins};

/// What is pinned among the links.
#[derive(Debug)]
pub(super) struct PinnedLink {
    pub(super) path: PathBuf,
    pub(super) state: LinkState,
}

#[derive(Debug)]
pub(super) enum LinkState {
    Live(Live),
    /// The interface is gone, at least from this network namespace, or the program was taken off.
    Dead,
    Unreadable(io::Error),
}

/// A link that holds a program on an interface right now.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) link: OwnedFd,
    /// The kernel's number of the link; several pins can have the same one.
    pub(super) id: u32,
    pub(super) ifindex: u32,
    /// The interface's name at this moment.
    pub(super) interface: String,
    pub(super) running: Running,
}

impl PinnedLink {
    pub(super) fn look(path: PathBuf) -> Self {
        let state = match live(&path) {
            Ok(Some(live)) => LinkState::Live(live),
            Ok(None) => LinkState::Dead,
            Err(error) => LinkState::Unreadable(error),
        };
        Self { path, state }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match &self.state {
            LinkState::Live(live) => Some(live),
            LinkState::Dead | LinkState::Unreadable(_) => None,
        }
    }

    /// The interface that it is on; if on none, the one that it is named after.
    pub(super) fn interface(&self) -> String {
        match self.live() {
            Some(live) => live.interface.clone(),
            None => self.named_after(),
        }
    }

    pub(super) fn named_after(&self) -> String {
        pins::interface_of(&self.path).unwrap_or_default()
    }
}

pub(super) fn look_at(paths: Vec<PathBuf>) -> Vec<PinnedLink> {
    paths.into_iter().map(PinnedLink::look).collect()
}

fn live(path: &std::path::Path) -> io::Result<Option<Live>> {
    let link = bpf::get(path)?;
    let info = bpf::link_info(link.as_fd())?;
    if !info.is_xdp() || info.ifindex == 0 {
        return Ok(None);
    }
    let Some(interface) = netlink::name_of(info.ifindex) else { return Ok(None) };
    // Another interface of this namespace can have the index that it has in its own.
    let running = match netlink::running(info.ifindex) {
        Ok(running) => running,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        Err(error) => return Err(error),
    };
    let running = running.into_iter().find(|running| running.program_id == info.program_id);
    let (id, ifindex) = (info.id, info.ifindex);
    Ok(running.map(|running| Live { link, id, ifindex, interface, running }))
}

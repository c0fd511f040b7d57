//! What rtnetlink says about XDP on an interface: links do not tell their mode, and programs that were attached
//! without a link appear only here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::AttachMode;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;

const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_ATTACHED: u16 = 2;

/// `XDP_ATTACHED_SKB`.
const ATTACHED_GENERIC: u8 = 2;

const HEADER: usize = 16;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;

/// A program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) program_id: u32,
    pub(super) mode: AttachMode,
}

/// Index of the interface with this name in the process's network namespace.
pub(super) fn index_of(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// Name of the interface with this index in the process's network namespace.
pub(super) fn name_of(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as large as the function demands.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    let name: &[u8] = if found.is_null() { return None } else { &name };
    Some(std::ffi::CStr::from_bytes_until_nul(name).ok()?.to_string_lossy().into_owned())
}

/// The XDP programs on an interface.
pub(super) fn running(ifindex: u32) -> io::Result<Vec<Running>> {
    let reply = request(RTM_GETLINK, ifindex, &[])?;
    let mut programs = Vec::new();
    for (kind, xdp) in attributes(reply.get(HEADER + LINK_HEADER..).unwrap_or_default()) {
        if kind != IFLA_XDP {
            continue;
        }
        let generic =
            attributes(xdp).any(|(kind, value)| kind == IFLA_XDP_ATTACHED && value == [ATTACHED_GENERIC]);
        for (kind, value) in attributes(xdp) {
            let Ok(value) = value.try_into() else { continue };
            let mode = match kind {
                IFLA_XDP_SKB_PROG_ID => AttachMode::Generic,
                IFLA_XDP_DRV_PROG_ID | IFLA_XDP_HW_PROG_ID => AttachMode::Native,
                IFLA_XDP_PROG_ID if generic => AttachMode::Generic,
                IFLA_XDP_PROG_ID => AttachMode::Native,
                _ => continue,
            };
            let running = Running { program_id: u32::from_ne_bytes(value), mode };
            if running.program_id != 0 && !programs.contains(&running) {
                programs.push(running);
            }
        }
    }
    Ok(programs)
}

/// Takes off a program that was attached without a link.
pub(super) fn detach(ifindex: u32, mode_flag: u32) -> io::Result<()> {
    let mut xdp = Vec::new();
    push_attribute(&mut xdp, IFLA_XDP_FD, &(-1i32).to_ne_bytes());
    push_attribute(&mut xdp, IFLA_XDP_FLAGS, &mode_flag.to_ne_bytes());
    let mut attributes = Vec::new();
    push_attribute(&mut attributes, IFLA_XDP | NLA_F_NESTED, &xdp);
    request(RTM_SETLINK, ifindex, &attributes).map(drop)
}

fn push_attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    buffer.extend(len.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.extend(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

/// Sends a request about one interface; returns the message that answers it.
fn request(kind: u16, ifindex: u32, attributes: &[u8]) -> io::Result<Vec<u8>> {
    // SAFETY: no pointers.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just now.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };

    let ack = if kind == RTM_GETLINK { 0 } else { NLM_F_ACK };
    let len = u32::try_from(HEADER + LINK_HEADER + attributes.len()).map_err(io::Error::other)?;
    let mut message = Vec::new();
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | ack).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(ifindex.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(attributes);
    // SAFETY: the buffer is readable for its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }

    let mut reply = vec![0; 1 << 16];
    // SAFETY: the buffer is writable for its length.
    let received = unsafe { libc::recv(socket.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0) };
    let Ok(received) = usize::try_from(received) else {
        return Err(io::Error::last_os_error());
    };
    reply.truncate(received);
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink reply");
    let kind: [u8; 2] = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).ok_or_else(malformed)?;
    match u16::from_ne_bytes(kind) {
        RTM_NEWLINK => Ok(reply),
        NLMSG_ERROR => {
            let code = reply.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
            match i32::from_ne_bytes(code.ok_or_else(malformed)?) {
                0 => Ok(Vec::new()),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            }
        }
        _ => Err(malformed()),
    }
}

/// The type and value of each attribute.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [len0, len1, kind0, kind1, ..] = *rest else { return None };
        let len = usize::from(u16::from_ne_bytes([len0, len1]));
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([kind0, kind1]) & !NLA_F_NESTED, value))
    })
}

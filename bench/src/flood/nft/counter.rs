//! Reads counters of nftables over netlink: nft itself reads all sets first, which takes seconds.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use limiter_tests::Namespace;

/// From `include/uapi/linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const GET_OBJECT: u16 = 10 << 8 | 19;
const NEW_OBJECT: u16 = 10 << 8 | 18;
const NETDEV: u8 = 5;
const TABLE: u16 = 1;
const NAME: u16 = 2;
const TYPE: u16 = 3;
const DATA: u16 = 4;
const COUNTER: u32 = 1;
const PACKETS: u16 = 2;
/// Without the flags in the upper bits.
const ATTRIBUTE: u16 = 0x3fff;
/// `struct nlmsghdr`, and that with `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const MESSAGE: usize = HEADER + 4;

/// Asks the nftables of one namespace.
#[derive(Debug)]
pub(super) struct Counters {
    socket: OwnedFd,
}

impl Counters {
    pub(super) fn of(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.enter(|| {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            // SAFETY: no pointers.
            let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("cannot talk to nftables");
            }
            // SAFETY: just opened, and nobody else knows it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })?;
        Ok(Self { socket })
    }

    /// Packets that the counter `name` of a table of the family netdev counted.
    pub(super) fn packets(&self, table: &str, name: &str) -> Result<u64> {
        self.send(&request(table, name)).context("cannot ask nftables")?;
        let mut answer = [0; 1024];
        let len = self.receive(&mut answer).context("nftables does not answer")?;
        let answer = answer.get(..len).unwrap_or_default();
        let kind = answer.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(kind.try_into().ok()?)));
        if kind != Some(NEW_OBJECT) {
            bail!("nftables has no counter {name}");
        }
        let data = answer.get(MESSAGE..).and_then(|attributes| attribute(attributes, DATA));
        let packets = data.and_then(|data| attribute(data, PACKETS)?.try_into().ok());
        Ok(u64::from_be_bytes(packets.with_context(|| format!("the counter {name} has no packets"))?))
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of `message`.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn receive(&self, answer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of `answer`.
        let len = unsafe { libc::recv(self.socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        usize::try_from(len).map_err(|_negative| io::Error::last_os_error())
    }
}

fn request(table: &str, name: &str) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    // Version and resource 0.
    message.extend([NETDEV, 0, 0, 0]);
    for (kind, value) in [(TABLE, table), (NAME, name)] {
        let value = [value.as_bytes(), &[0]].concat();
        push(&mut message, kind, &value);
    }
    push(&mut message, TYPE, &COUNTER.to_be_bytes());
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX).to_ne_bytes();
    let flags = u16::try_from(libc::NLM_F_REQUEST).unwrap_or(1).to_ne_bytes();
    message.splice(..8, [&len[..], &GET_OBJECT.to_ne_bytes(), &flags].concat());
    message
}

/// Appends an attribute, padded to 4 bytes.
fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The first attribute of this kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (head, _) = attributes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = attributes.get(4..len)?;
        if u16::from_ne_bytes([head[2], head[3]]) & ATTRIBUTE == kind {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others() {
        let mut message = Vec::new();
        push(&mut message, 7, b"other");
        push(&mut message, 3 | 1 << 15, b"wanted");
        assert_eq!(attribute(&message, 3), Some(&b"wanted"[..]));
        assert_eq!(attribute(&message, 4), None);
        assert_eq!(attribute(&[8, 0, 1], 1), None);
    }
}

//! The sysfs of a network namespace: it shows the interfaces of the namespace that it was mounted in, so ours is mounted
//! for a moment, and nowhere.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use limiter_tests::Namespace;

/// `FSCONFIG_CMD_CREATE` of `include/uapi/linux/mount.h`.
const CREATE: libc::c_uint = 6;

/// It goes when it is dropped.
#[derive(Debug)]
pub(super) struct Sysfs {
    root: OwnedFd,
}

impl Sysfs {
    /// That of `namespace`.
    pub(super) fn of(namespace: &Namespace) -> Result<Self> {
        let root = namespace.enter(|| mount().context("cannot mount sysfs"))?;
        Ok(Self { root })
    }

    /// Sets an attribute of an interface.
    pub(super) fn set(&self, interface: &str, attribute: &str, value: &str) -> Result<()> {
        let path = self.path(interface, attribute);
        fs::write(&path, value).with_context(|| format!("cannot set {attribute} of {interface} to {value}"))
    }

    /// The number of an interface.
    pub(super) fn index(&self, interface: &str) -> Result<u32> {
        let text = fs::read_to_string(self.path(interface, "ifindex"))
            .with_context(|| format!("there is no interface {interface}"))?;
        text.trim().parse().with_context(|| format!("the index of {interface}"))
    }

    /// Packets that an interface received.
    pub(super) fn received(&self, interface: &str) -> Result<Received> {
        let path = self.path(interface, "statistics/rx_packets");
        let file = File::open(&path).with_context(|| format!("there are no statistics of {interface}"))?;
        Ok(Received { file })
    }

    fn path(&self, interface: &str, attribute: &str) -> String {
        format!("/proc/self/fd/{}/class/net/{interface}/{attribute}", self.root.as_raw_fd())
    }
}

/// The driver's count of received packets. That of veth counts what its NAPI took out of the ring, whatever then became
/// of it, and counts it when it is done.
#[derive(Debug)]
pub(super) struct Received {
    file: File,
}

impl Received {
    pub(super) fn count(&self) -> Result<u64> {
        let mut text = [0; 32];
        let len = self.file.read_at(&mut text, 0).context("cannot read the packets received")?;
        let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default()).into_owned();
        text.trim().parse().context("the packets received")
    }
}

fn mount() -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero.
    let context = unsafe { descriptor(libc::syscall(libc::SYS_fsopen, c"sysfs".as_ptr(), 0)) }?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: the command takes neither key nor value.
    if unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, null, null, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers.
    unsafe { descriptor(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0)) }
}

/// # Safety
///
/// `result` is that of a system call that returns a new descriptor or fails.
unsafe fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the caller says that it is new, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

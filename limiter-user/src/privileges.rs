//! What the daemon may do that its user may not: a few capabilities, kept because something needs them at any time, and
//! nothing else from before the first thread on.
//!
//! Kept, always:
//!
//! - `CAP_BPF`: maps and programs are made again when a table grows, at a reload, and for an interface that comes back.
//! - `CAP_NET_ADMIN`: an XDP program is loaded and put on an interface, or one of somebody else is taken off.
//! - `CAP_PERFMON`: without it, the verifier refuses the program, which subtracts pointers to learn how long a frame is.
//!
//! Kept where the configuration asks for it: see [`Needs`]. Given up are all others, in every set, and the way to get any
//! by exec (`no_new_privs`). What takes more is done before: mounting a bpffs, raising `RLIMIT_MEMLOCK`, and giving
//! sockets to their groups. Files go by owner and mode from then on, also for root.

use std::fs;
use std::io;
use std::net::SocketAddr;

use anyhow::Context;
use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Sets are 64 bits wide, whatever the kernel knows of them.
const WIDTH: u32 = 64;

/// What decides whether more has to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Needs {
    /// `CAP_NET_BIND_SERVICE`: one of the addresses has a port that is not for everybody. It is tried again until it is
    /// there, so this may be at any time.
    pub(crate) low_port: bool,
    /// `CAP_SYS_ADMIN`, with `--replace`: programs in the way may hang on links, which are found by looking at those of all.
    pub(crate) strangers: bool,
    /// `CAP_SYS_ADMIN`: before Linux 5.8 there is no `CAP_BPF`. limiter needs a later one, but is to get as far as saying
    /// so.
    pub(crate) before_cap_bpf: bool,
}

impl Needs {
    /// For this kernel.
    pub(crate) fn new(listen: impl IntoIterator<Item = SocketAddr>, replace: bool) -> Self {
        let first = number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
        let last = number("/proc/sys/kernel/cap_last_cap");
        Self {
            low_port: listen.into_iter().any(|address| u32::from(address.port()) < first),
            strangers: replace,
            before_cap_bpf: last.is_some_and(|last| last < CapabilitySet::BPF.bits().trailing_zeros()),
        }
    }

    pub(crate) fn kept(self) -> CapabilitySet {
        let mut kept = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON;
        kept.set(CapabilitySet::NET_BIND_SERVICE, self.low_port);
        kept.set(CapabilitySet::SYS_ADMIN, self.strangers || self.before_cap_bpf);
        kept
    }
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Gives up all but `kept`, for good; returns what is left, which is less if there was less. To be called while there is one
/// thread: others would keep what they have.
///
/// The bounding set takes `CAP_SETPCAP`. Who starts without it keeps that set, of which nothing can be had any more.
///
/// # Errors
///
/// If the kernel refuses, which it has no reason to.
pub(crate) fn reduce(kept: CapabilitySet) -> anyhow::Result<CapabilitySet> {
    for bit in 0..WIDTH {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(Errno::PERM) => {
                tracing::debug!("the bounding set stays as it is: that takes CAP_SETPCAP");
                break;
            }
            Err(error) => return Err(error).context("cannot lower the bounding set of capabilities"),
        }
    }
    thread::clear_ambient_capability_set().context("cannot give up ambient capabilities")?;
    let had = thread::capabilities(None).context("cannot read the capabilities")?;
    let left = had.permitted & kept;
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    thread::set_capabilities(None, sets).context("cannot give up capabilities")?;
    thread::set_no_new_privs(true).context("cannot set no_new_privs")?;
    Ok(left)
}

/// As people write them.
pub(crate) fn names(set: CapabilitySet) -> String {
    let names: Vec<String> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    if names.is_empty() { "no capabilities".to_owned() } else { names.join(", ") }
}

/// What to say to who may not read a file, which surprises root.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (limiterd goes by owner and mode, also as root: see what user it runs as)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_depends_on_what_is_asked_for() {
        let names = |needs: Needs| names(needs.kept());
        assert_eq!(names(Needs::default()), "CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF");
        let low_port = Needs { low_port: true, ..Needs::default() };
        assert_eq!(names(low_port), "CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF");
        for needs in [
            Needs { strangers: true, ..Needs::default() },
            Needs { before_cap_bpf: true, ..Needs::default() },
        ] {
            assert_eq!(names(needs), "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF");
        }
        assert_eq!(super::names(CapabilitySet::empty()), "no capabilities");
    }

    #[test]
    fn needs_come_from_ports_and_options() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(Needs::new([at(9743), at(9742)], false), Needs::default());
        let privileged = number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap() > 443;
        assert_eq!(Needs::new([at(9743), at(443)], false).low_port, privileged);
        assert!(Needs::new([], true).strangers);
    }

    /// In a thread, since each has sets of its own, and this is not for the other tests.
    #[test]
    fn what_is_given_up_is_gone() {
        let reduced = std::thread::spawn(|| {
            let had = thread::capabilities(None).unwrap().permitted;
            let kept = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
            assert_eq!(reduce(kept).unwrap(), had & kept);
            let left = thread::capabilities(None).unwrap();
            assert_eq!(left.permitted, had & kept);
            assert_eq!(left.effective, had & kept);
            assert_eq!(left.inheritable, CapabilitySet::empty());
            assert!(thread::no_new_privs().unwrap());
            if had.contains(CapabilitySet::SETPCAP) {
                assert!(!thread::capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap());
            }
            // There is no way back.
            let again = CapabilitySets { permitted: had, ..left };
            assert!(had == left.permitted || thread::set_capabilities(None, again).is_err());
        });
        reduced.join().unwrap();
    }
}

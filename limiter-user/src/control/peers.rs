//! Who may use the control socket: root, and the members of one group. The kernel vouches for both at the moment of
//! `connect`, so nothing is looked up in `/proc`, where another process could have taken the number.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, bail};
use tokio::net::UnixStream;

/// Supplementary groups that are read; more than this is refused (`NGROUPS_MAX` of Linux).
const MAX_GROUPS: usize = 65_536;

/// Root and the members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operators {
    /// Beside root.
    pub group: Option<u32>,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Operators {
    /// Those in the group called `name`, or with that number.
    ///
    /// # Errors
    ///
    /// If there is no such group.
    pub fn new(group: Option<&str>) -> anyhow::Result<Self> {
        let Some(name) = group else { return Ok(Self { group: None }) };
        if let Ok(gid) = name.parse() {
            return Ok(Self { group: Some(gid) });
        }
        const PATH: &str = "/etc/group";
        let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
        match find_group(&text, name) {
            Some(gid) => Ok(Self { group: Some(gid) }),
            None => bail!(
                "control.group: there is no group {name} in {PATH}; make it with: groupadd --system {name}"
            ),
        }
    }

    #[must_use]
    pub fn admit(&self, peer: &Peer) -> bool {
        peer.uid == 0 || self.group.is_some_and(|group| peer.gid == group || peer.groups.contains(&group))
    }
}

/// `NAME:PASSWORD:GID:MEMBERS` (group(5)).
fn find_group(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

impl Peer {
    /// # Errors
    ///
    /// If the kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups: groups(stream)? })
    }
}

/// The supplementary groups of the peer when it connected (`SO_PEERGROUPS`, Linux 4.13, unix(7)).
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let size = size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the pointer and `length` describe `groups`, whose elements may hold any bits, and which lives
        // longer than the call.
        let outcome = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let needed = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
        if outcome == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() || needed > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_group_are_operators() {
        let nobody = Peer { uid: 1000, gid: 1000, groups: vec![4, 24] };
        let primary = Peer { uid: 1000, gid: 27, groups: vec![] };
        let supplementary = Peer { uid: 1000, gid: 1000, groups: vec![4, 27] };
        let root = Peer { uid: 0, gid: 0, groups: vec![] };
        let open = Operators { group: Some(27) };
        let closed = Operators { group: None };
        assert!(
            !open.admit(&nobody) && open.admit(&primary) && open.admit(&supplementary) && open.admit(&root)
        );
        assert!(!closed.admit(&primary) && !closed.admit(&supplementary) && closed.admit(&root));
        // No group must not mean group 0.
        assert!(!closed.admit(&Peer { uid: 1000, gid: 0, groups: vec![0] }));
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\nlimiters:x:998:\nlimiter:x:999:alice,bob\n";
        assert_eq!(find_group(text, "limiter"), Some(999));
        assert_eq!(find_group(text, "limit"), None);
        assert_eq!(Operators::new(Some("42")).unwrap(), Operators { group: Some(42) });
        let error = Operators::new(Some("no-such-group")).unwrap_err().to_string();
        assert!(error.contains("no-such-group"), "{error}");
    }

    #[tokio::test]
    async fn the_kernel_names_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(&a).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
    }
}

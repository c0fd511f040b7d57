//! Who may use the control socket: root, the members of a group, and to look, those of another. The kernel vouches for both at the moment of
//! `connect`, so nothing is looked up in `/proc`, where another process could have taken the number.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, bail};
use tokio::net::UnixStream;

use crate::config::Control;

/// Supplementary groups that are read; more than this is refused (`NGROUPS_MAX` of Linux).
const MAX_GROUPS: usize = 65_536;

/// The groups that have a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operators {
    /// May do everything, beside root.
    pub group: Option<u32>,
    /// May look.
    pub readers: Option<u32>,
}

/// What somebody on the control socket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Operator,
    /// Look, and change nothing.
    Reader,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Operators {
    /// Those in the groups of `[control]`, by name or number.
    ///
    /// # Errors
    ///
    /// If there is no such group.
    pub fn new(control: &Control) -> anyhow::Result<Self> {
        Ok(Self {
            group: number("control.group", control.group.as_deref())?,
            readers: number("control.readers", control.readers.as_deref())?,
        })
    }

    #[must_use]
    pub fn role(&self, peer: &Peer) -> Option<Role> {
        let member =
            |group: Option<u32>| group.is_some_and(|group| peer.gid == group || peer.groups.contains(&group));
        if peer.uid == 0 || member(self.group) {
            Some(Role::Operator)
        } else {
            member(self.readers).then_some(Role::Reader)
        }
    }
}

/// The number of the group that `key` of the configuration names.
pub(crate) fn number(key: &str, group: Option<&str>) -> anyhow::Result<Option<u32>> {
    let Some(name) = group else { return Ok(None) };
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    const PATH: &str = "/etc/group";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    match find_group(&text, name) {
        Some(gid) => Ok(Some(gid)),
        None => bail!("{key}: there is no group {name} in {PATH}; make it with: groupadd --system {name}"),
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
    fn root_and_the_groups_have_roles() {
        let in_groups = |gid, groups: &[u32]| Peer { uid: 1000, gid, groups: groups.to_vec() };
        let nobody = in_groups(1000, &[4, 24]);
        let primary = in_groups(27, &[]);
        let supplementary = in_groups(1000, &[4, 27]);
        let reader = in_groups(1000, &[28]);
        let both = in_groups(28, &[27]);
        let root = Peer { uid: 0, gid: 0, groups: vec![] };
        let open = Operators { group: Some(27), readers: Some(28) };
        let closed = Operators::default();
        for (peer, expected) in [
            (&nobody, None),
            (&primary, Some(Role::Operator)),
            (&supplementary, Some(Role::Operator)),
            (&reader, Some(Role::Reader)),
            (&both, Some(Role::Operator)),
            (&root, Some(Role::Operator)),
        ] {
            assert_eq!(open.role(peer), expected, "{peer:?}");
        }
        assert_eq!(closed.role(&primary), None);
        assert_eq!(closed.role(&root), Some(Role::Operator));
        // No group must not mean group 0.
        assert_eq!(closed.role(&in_groups(0, &[0])), None);
    }

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let text = "root:x:0:\nlimiters:x:998:\nlimiter:x:999:alice,bob\n";
        assert_eq!(find_group(text, "limiter"), Some(999));
        assert_eq!(find_group(text, "limit"), None);
        assert_eq!(number("control.group", Some("42")).unwrap(), Some(42));
        let error = number("control.group", Some("no-such-group")).unwrap_err().to_string();
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

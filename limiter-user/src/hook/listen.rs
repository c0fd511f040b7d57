//! The socket of a hook: its directory and its [file](SocketFile), and never taken from somebody who listens.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::Context;

use crate::config::Hook;
use crate::control::peers;
use crate::socket_file::{SocketFile, require_free};

/// Listens where `hook` says. The daemon's user may write to the socket, and its group. Needs no runtime.
///
/// # Errors
///
/// If there is no such group, if somebody listens there, if the file is not a socket, or if the file system refuses.
pub(super) fn bind(hook: &Hook) -> anyhow::Result<(UnixDatagram, SocketFile)> {
    let path = hook.socket.as_path();
    let group = peers::number("group", hook.group.as_deref())?;
    if let Some(directory) = path.parent() {
        open_the_way(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    require_free(path, "choose another socket")?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    SocketFile::place(path, group, mode, |path| {
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

/// Makes `directory` if it is not there. One that limiterd made for its control socket lets nobody through but operators:
/// the way through it is opened, and it stays closed to those who want to list it. The sockets have modes of their own.
fn open_the_way(directory: &Path) -> io::Result<()> {
    let metadata = match fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
            // The mode that it is made with is subject to the umask.
            return fs::set_permissions(directory, fs::Permissions::from_mode(0o755));
        }
        Err(error) => return Err(error),
    };
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() == rustix::process::geteuid().as_raw() && mode == 0o750 {
        fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o001))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let top = tempfile::tempdir().unwrap();
        let mut hook = Hook::new("nginx", top.path().join("run/nginx.sock"));
        let bound = bind(&hook).unwrap();
        assert_eq!((mode(&hook.socket), mode(hook.socket.parent().unwrap())), (0o600, 0o755));
        let taken = bind(&hook).unwrap_err().to_string();
        assert!(taken.starts_with("somebody listens at "), "{taken}");
        drop(bound);
        assert!(!hook.socket.exists());

        // As after a kill: a file, and nobody behind it.
        drop(UnixDatagram::bind(&hook.socket).unwrap());
        hook.group = Some(rustix::process::getegid().as_raw().to_string());
        let bound = bind(&hook).unwrap();
        assert_eq!(mode(&hook.socket), 0o660);
        // Somebody else's is not removed.
        fs::remove_file(&hook.socket).unwrap();
        fs::write(&hook.socket, "no socket").unwrap();
        drop(bound);
        let other = bind(&hook).unwrap_err().to_string();
        assert!(other.contains("not a socket"), "{other}");

        hook.group = Some("no such group".to_owned());
        assert!(bind(&hook).unwrap_err().to_string().contains("no such group"));
    }

    #[test]
    fn the_directory_of_the_control_socket_lets_others_through() {
        let top = tempfile::tempdir().unwrap();
        let hook = Hook::new("nginx", top.path().join("nginx.sock"));
        for (before, after) in [(0o750, 0o751), (0o700, 0o700), (0o755, 0o755)] {
            fs::set_permissions(top.path(), fs::Permissions::from_mode(before)).unwrap();
            drop(bind(&hook).unwrap());
            assert_eq!(mode(top.path()), after);
        }
    }
}

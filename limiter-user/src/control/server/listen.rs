//! The control socket: its directory and its [file](SocketFile), and never taken from somebody who listens.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::Path;

use anyhow::Context;
use tokio::net::{UnixListener, UnixStream};

use crate::control::peers::Operators;
use crate::socket_file::{SocketFile, give_to, require_free};

/// A listening socket that nobody is accepted from yet; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: net::UnixListener,
    file: SocketFile,
}

/// One of this runtime.
#[derive(Debug)]
pub(super) struct Listening {
    listener: UnixListener,
    /// `None`: it is somebody else's.
    _file: Option<SocketFile>,
}

/// Listens at `path`, for `operators` only. Needs no runtime: it comes before privileges are given up.
///
/// # Errors
///
/// If somebody listens there, if the file is not a socket, or if the file system refuses.
pub fn bind(path: &Path, operators: Operators) -> anyhow::Result<Socket> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        make(directory, path, operators)
            .with_context(|| format!("cannot make {} for the control socket", directory.display()))?;
    }
    require_free(path, "set control.socket")?;

    let (_, mode) = modes(operators);
    let bind = |path: &Path| {
        let listener = net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let (listener, file) = SocketFile::place(path, operators.group, mode, bind)?;
    Ok(Socket { listener, file })
}

/// Makes the directory of the socket at `path`, for `operators` only. One that an earlier start made, perhaps for another
/// group, is made over; what others use is left alone.
fn make(directory: &Path, path: &Path, operators: Operators) -> io::Result<()> {
    if directory.exists() {
        if !is_ours(directory, path)? {
            return Ok(());
        }
    } else {
        if let Some(parent) = directory.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        fs::DirBuilder::new().mode(0o700).create(directory)?;
    }
    let group = operators.group.unwrap_or_else(|| rustix::process::getegid().as_raw());
    give_to(directory, group)?;
    // The mode that it is made with is subject to the umask.
    fs::set_permissions(directory, fs::Permissions::from_mode(modes(operators).0))
}

/// The modes of the directory and of the socket. A file has one group: with a second one that may look, everybody may
/// connect, and it is the credentials that decide.
fn modes(operators: Operators) -> (u32, u32) {
    if operators.readers.is_some() { (0o755, 0o666) } else { (0o750, 0o660) }
}

/// Whether `directory` looks like one that [`make`] made: closed to others, and for nothing but the socket.
fn is_ours(directory: &Path, path: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(directory)?;
    if !metadata.is_dir()
        || metadata.uid() != rustix::process::geteuid().as_raw()
        || !matches!(metadata.mode() & 0o7777, 0o700 | 0o750)
    {
        return Ok(false);
    }
    for entry in fs::read_dir(directory)? {
        if Some(entry?.file_name().as_os_str()) != path.file_name() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Socket {
    pub(super) fn listen(self) -> io::Result<Listening> {
        Ok(Listening { listener: UnixListener::from_std(self.listener)?, _file: Some(self.file) })
    }

    /// Accepts from the same queue, for as long as this socket is kept.
    pub(super) fn share(&self) -> io::Result<Listening> {
        Ok(Listening { listener: UnixListener::from_std(self.listener.try_clone()?)?, _file: None })
    }
}

impl Listening {
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_of_an_earlier_start_is_made_over_and_others_are_not() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("run/limiter.sock");
        let directory = path.parent().unwrap();
        let operators = Operators { group: Some(rustix::process::getegid().as_raw()), readers: None };
        // As under a umask of 077.
        fs::DirBuilder::new().mode(0o700).create(directory).unwrap();
        let first = bind(&path, operators).unwrap();
        assert_eq!(mode(directory), 0o750);
        drop(first);

        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        drop(bind(&path, operators).unwrap());
        assert_eq!(mode(directory), 0o755, "others may look into it");

        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(directory.join("something"), "else").unwrap();
        drop(bind(&path, operators).unwrap());
        assert_eq!(mode(directory), 0o700, "it has something else in it");
    }

    #[test]
    fn the_group_of_the_directory_follows_the_configuration() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("run/limiter.sock");
        for group in [1, 2] {
            drop(bind(&path, Operators { group: Some(group), readers: None }).unwrap());
            assert_eq!(fs::symlink_metadata(path.parent().unwrap()).unwrap().gid(), group);
        }
    }
}

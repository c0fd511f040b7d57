//! Files of Unix sockets: made so that they never exist with the wrong owner or mode, and removed by nobody but who made
//! them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The file of a socket; goes with its owner.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file, so that nobody else's is removed.
    identity: (u64, u64),
}

impl SocketFile {
    /// Has `bind` make the socket under another name and renames it to `path`: with the right group and mode from the
    /// first moment, and in place of a stale one in one step. Whether the path [is free](require_free) is the caller's
    /// question.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub(crate) fn place<S>(
        path: &Path,
        group: Option<u32>,
        mode: u32,
        bind: impl FnOnce(&Path) -> io::Result<S>,
    ) -> anyhow::Result<(S, Self)> {
        let shown = path.display();
        let mut name = OsString::from(".");
        name.push(path.file_name().with_context(|| format!("{shown} is not a name for a socket"))?);
        name.push(format!(".{}", std::process::id()));
        let hidden = path.with_file_name(name);
        let _ = fs::remove_file(&hidden);
        let placed = (|| {
            let socket = bind(&hidden)?;
            if let Some(group) = group {
                give_to(&hidden, group)?;
            }
            fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
            let metadata = fs::symlink_metadata(&hidden)?;
            fs::rename(&hidden, path)?;
            io::Result::Ok((
                socket,
                Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) },
            ))
        })();
        placed.map_err(|error| {
            let _ = fs::remove_file(&hidden);
            anyhow::Error::new(error).context(format!("cannot make the socket {shown}"))
        })
    }
}

/// Refuses a path at which something is that must not be replaced. `otherwise` says what to do then: `choose another
/// socket`.
///
/// # Errors
///
/// If somebody has the socket, if the file is none, or if the file system refuses.
pub(crate) fn require_free(path: &Path, otherwise: &str) -> anyhow::Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{shown}")),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{shown} is there and not a socket; remove it or {otherwise}")
        }
        Ok(_) => {
            // Refused where nobody has the socket any more, whatever its kind; one of another kind that somebody has is of
            // the wrong type. Either way nobody is waited for.
            let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
            if !asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                bail!("somebody listens at {shown}; is another limiterd running? {otherwise} for this one")
            }
            Ok(())
        }
    }
}

/// Gives a file to a group: a member of it may, others need `CAP_CHOWN`.
pub(crate) fn give_to(path: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, None, Some(group)).map_err(|error| {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return error;
        }
        let why = format!(
            "it cannot be given to group {group}: limiterd is not in it, and can do that as root at its start only; \
             restart limiterd, or put its user into the group"
        );
        io::Error::new(error.kind(), why)
    })
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // If it stays, the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

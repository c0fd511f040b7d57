//! Files of Unix sockets: made so that they never exist with the wrong owner or mode, and removed by nobody but who made
//! them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The file of a socket; goes with its owner.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file, so that nobody else's is removed.
    identity: (u64, u64),
}

impl SocketFile {
    /// Has `bind` make the socket under another name and renames it to `path`: with the right group and mode from the
    /// first moment, and in place of a stale one in one step. Whether somebody listens there is the caller's question.
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
            std::os::unix::fs::chown(&hidden, None, group)?;
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

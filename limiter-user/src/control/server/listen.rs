//! The socket file: made so that it never exists with the wrong owner or mode, and never taken from somebody who
//! listens.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::net::{UnixListener, UnixStream};

use crate::control::peers::Operators;

/// A listening socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that nobody else's is removed.
    identity: (u64, u64),
}

/// Listens at `path`, for `operators` only.
///
/// # Errors
///
/// If somebody listens there, if the file is not a socket, or if the file system refuses.
pub async fn bind(path: &Path, operators: Operators) -> anyhow::Result<Socket> {
    let shown = path.display();
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        && !directory.exists()
    {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .and_then(|()| std::os::unix::fs::chown(directory, None, operators.group))
            .with_context(|| format!("cannot make {} for the control socket", directory.display()))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("control socket {shown}")),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{shown} is there and not a socket; remove it or set control.socket")
        }
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
                bail!(
                    "somebody listens at {shown}; is another limiterd running? set control.socket for this one"
                )
            }
        }
    }

    // Made under another name and renamed: with the right owner and mode from the first moment, and in place of a
    // stale one in one step.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().with_context(|| format!("{shown} is not a name for a socket"))?);
    name.push(format!(".{}", std::process::id()));
    let hidden = path.with_file_name(name);
    let _ = fs::remove_file(&hidden);
    let listener =
        UnixListener::bind(&hidden).with_context(|| format!("cannot make the control socket {shown}"))?;
    let placed = (|| {
        std::os::unix::fs::chown(&hidden, None, operators.group)?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o660))?;
        let metadata = fs::symlink_metadata(&hidden)?;
        fs::rename(&hidden, path)?;
        io::Result::Ok((metadata.dev(), metadata.ino()))
    })();
    match placed {
        Ok(identity) => Ok(Socket { listener, path: path.to_owned(), identity }),
        Err(error) => {
            let _ = fs::remove_file(&hidden);
            Err(error).with_context(|| format!("cannot make the control socket {shown}"))
        }
    }
}

impl Socket {
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // If it stays, the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

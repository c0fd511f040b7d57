//! The file of the store: what may be opened, and where a damaged one goes.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, StorageError};

use super::{CACHE, guarded};

/// Damaged files that are kept. The last one is replaced when there are more, since the first is the most telling.
const KEPT: usize = 5;

/// Why there is no open file.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Something stands in the way that may pass: permissions, a full disk, another process.
    Unusable(String),
    /// It is no database that this version understands.
    Corrupt(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => f.write_str(why),
            Self::Corrupt(why) => write!(f, "damaged: {why}"),
        }
    }
}

/// Opens the database at `path` after checking all of it, or makes one. True if it was made.
pub(super) fn open(path: &Path) -> Result<(Database, bool), OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(error.to_string());
    if let Some(directory) = path.parent() {
        make_directory(directory).map_err(unusable)?;
    }
    let new = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(OpenError::Corrupt("not a regular file".to_owned())),
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(unusable(error)),
    };
    let mut failure = None;
    let opened = guarded(|| {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true).create(path).map_err(|error| {
            failure = Some(classified(&error));
            redb::Error::from(error)
        })
    });
    match opened {
        Ok(database) => Ok((database, new)),
        Err(why) => Err(failure.unwrap_or(OpenError::Corrupt(why))),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else the library finds wrong is wrong with the file"
)]
fn classified(error: &DatabaseError) -> OpenError {
    let text = error.to_string();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::Unusable(format!("another process uses it: {text}"))
        }
        // Reading past the end or a wrong magic number comes as an error of this kind.
        DatabaseError::Storage(StorageError::Io(error))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            OpenError::Unusable(text)
        }
        _ => OpenError::Corrupt(text),
    }
}

/// Only root reads reasons and addresses.
fn make_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Whether the disk would take a write to the file.
pub(super) fn is_writable(path: &Path) -> bool {
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else {
        return false;
    };
    rustix::fs::fstatvfs(&file).is_ok_and(|disk| disk.f_bavail > 0)
}

/// Renames a damaged file; returns its new path.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let numbered = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{number}"));
        PathBuf::from(name)
    };
    let free = (1..KEPT).map(numbered).find(|aside| fs::symlink_metadata(aside).is_err());
    let aside = free.unwrap_or_else(|| numbered(KEPT));
    if fs::symlink_metadata(&aside).is_ok_and(|found| found.is_dir()) {
        fs::remove_dir_all(&aside)?;
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}

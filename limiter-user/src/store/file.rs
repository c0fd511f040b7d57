//! The file of the store: what may be opened, and where a damaged one goes.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::Database;

use super::CACHE;

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

/// What there was before the database was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Something,
    /// A file with nothing in it, as a file system may leave it after a power cut.
    Emptiness,
    Nothing,
}

/// Opens the database at `path` after checking all of it, or makes one.
pub(super) fn open(path: &Path) -> Result<(Database, Before), OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(error.to_string());
    if let Some(directory) = path.parent() {
        make_directory(directory).map_err(unusable)?;
    }
    let before = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(OpenError::Corrupt("not a regular file".to_owned())),
        Ok(found) if found.len() == 0 => Before::Emptiness,
        Ok(_) => Before::Something,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Before::Nothing,
        Err(error) => return Err(unusable(error)),
    };
    let opened = guarded(|| {
        let mut builder = redb::Builder::new();
        Ok(builder.set_cache_size(CACHE).set_check_integrity_on_open(true).create(path)?)
    });
    opened.map(|database| (database, before))
}

/// Runs the library, which panics at some damage that it does not expect.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, OpenError> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| classified(&error)),
        Err(_) => Err(OpenError::Corrupt("the database library gave up".to_owned())),
    }
}

/// Closes a database. That writes to the file, and so is no safer with a damaged one than all else.
pub(super) fn close(database: Database) {
    // What was committed is in the file, whatever comes of it.
    let _ = guarded(|| {
        drop(database);
        Ok(())
    });
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else the library finds wrong is wrong with the file"
)]
fn classified(error: &redb::Error) -> OpenError {
    let text = error.to_string();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            OpenError::Unusable(format!("another process uses it: {text}"))
        }
        // Reading past the end or a wrong magic number comes as an error of this kind.
        redb::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            OpenError::Corrupt(text)
        }
        redb::Error::Io(_) | redb::Error::PreviousIo => OpenError::Unusable(text),
        _ => OpenError::Corrupt(text),
    }
}

/// Only root reads reasons and addresses.
fn make_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Renames a damaged file; returns its new path.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
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

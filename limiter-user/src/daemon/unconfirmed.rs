//! A configuration that is rolled back unless somebody confirms it. The text of the one before is kept beside the state, so
//! that a daemon that is killed in between goes on waiting, and does not take a configuration from the disk again that
//! nobody confirmed in time.
//!
//! Rolled back is what the text of the configuration says, not the files that it names: lists, keys, certificates.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use limiter_common::Nanos;
use serde::{Deserialize, Serialize};

use crate::control::protocol::UnconfirmedChange;
use crate::enforcer::Now;
use crate::replace::{remove, replace};
use crate::sha256::{self, hex};

/// Beside the state: a line of JSON, and a line with its SHA-256.
const FILE: &str = "unconfirmed-config";
/// Bytes; a configuration that needs more cannot come back.
const LONGEST: u64 = 64 * 1024 * 1024;
/// What such a change is called.
pub(super) const WHAT: &str = "config.reload";

/// What happens if nobody confirms it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unconfirmed {
    pub(super) id: u64,
    /// Who asked for it.
    pub(super) actor: String,
    /// When it is rolled back, by the clock of the boot.
    pub(super) ends: Nanos,
    /// It was.
    pub(super) is_over: bool,
    /// The text that was in force before.
    pub(super) former: String,
    /// The hash of the one that is tried.
    tried: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    id: u64,
    actor: String,
    boot: String,
    /// By the clock of that boot, by the wall clock, and how long it was until then; nanoseconds.
    ends: u64,
    wall: u64,
    left: u64,
    is_over: bool,
    tried: String,
    former: String,
}

impl Unconfirmed {
    /// `tried` comes into force, `former` was, and comes back after so many seconds.
    pub(super) fn new(actor: &str, seconds: u64, former: &str, tried: &str, now: Now) -> Self {
        let since = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: u64::try_from(since.as_millis()).unwrap_or(0),
            actor: actor.to_owned(),
            ends: now.boot.saturating_add(Nanos::from_secs(seconds)),
            is_over: false,
            former: former.to_owned(),
            tried: hash(tried),
        }
    }

    /// Whether it is this text that is not confirmed.
    pub(super) fn tries(&self, text: &str) -> bool {
        self.tried == hash(text)
    }

    pub(super) fn told(&self) -> UnconfirmedChange {
        UnconfirmedChange {
            id: self.id.to_string(),
            what: WHAT.to_owned(),
            owner: "operator".to_owned(),
            actor: self.actor.clone(),
            claims: 0,
            seconds_left: 0,
        }
    }

    /// What is found at a start; nothing if there is no such file.
    ///
    /// # Errors
    ///
    /// A sentence, if it cannot be read or is not as it was written.
    pub(super) fn read(directory: &Path, boot: [u8; 16], now: Now) -> Result<Option<Self>, String> {
        let path = directory.join(FILE);
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let document = text.split_once('\n').filter(|(json, sum)| sum.trim_end() == hash(json));
        let document = document.and_then(|(json, _)| serde_json::from_str::<Document>(json).ok());
        let Some(document) = document else {
            return Err(format!("{} is damaged, and left alone", path.display()));
        };
        let Document { id, actor, boot: of, ends, wall, left, is_over, tried, former } = document;
        let ends = match of == hex(&boot) {
            true => Nanos(ends),
            // The wall clock has to do, but never gives more time than there was.
            false => now.boot.saturating_add(Nanos(wall.saturating_sub(now.wall_nanos()).min(left))),
        };
        Ok(Some(Self { id, actor, ends, is_over, former, tried }))
    }

    /// Writes it, for good when this returns.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    pub(super) fn write(&self, directory: &Path, boot: [u8; 16], now: Now) -> io::Result<()> {
        let left = self.ends.saturating_sub(now.boot).0;
        let document = Document {
            id: self.id,
            actor: self.actor.clone(),
            boot: hex(&boot),
            ends: self.ends.0,
            wall: now.wall_nanos().saturating_add(left),
            left,
            is_over: self.is_over,
            tried: self.tried.clone(),
            former: self.former.clone(),
        };
        let json = serde_json::to_string(&document)?;
        let text = format!("{json}\n{}\n", hash(&json));
        if text.len() as u64 > LONGEST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the configuration is too long"));
        }
        replace(&directory.join(FILE), text.as_bytes())
    }
}

/// The daemon does not start before this returns: nothing but a file of ours is read, and nothing is waited for.
fn read(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut text = String::new();
    if file.take(LONGEST + 1).read_to_string(&mut text)? as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too long"));
    }
    Ok(text)
}

/// Nothing has to be confirmed any more, for good when this returns.
///
/// # Errors
///
/// If the disk refuses.
pub(super) fn forget(directory: &Path) -> io::Result<()> {
    remove(&directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

fn hash(text: &str) -> String {
    hex(&sha256::of(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn at(boot: u64, wall: u64) -> Now {
        Now { boot: Nanos::from_secs(boot), wall: UNIX_EPOCH + Duration::from_secs(wall) }
    }

    #[test]
    fn it_survives_a_boot_and_every_flipped_bit_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(Unconfirmed::read(path, [1; 16], at(1_000, 5_000)), Ok(None));
        let change = Unconfirmed::new("uid:0", 60, "former = \"\u{e9}\"\n", "tried", at(1_000, 5_000));
        change.write(path, [1; 16], at(1_000, 5_000)).unwrap();
        assert!(change.tries("tried") && !change.tries("tried "));
        // The wall clock counts in another boot alone, and never gives more time.
        for (boot, now, ends) in
            [(1, at(1_030, 9_000), 1_060), (2, at(3, 5_040), 23), (2, at(3, 100), 63), (2, at(3, 9_000), 3)]
        {
            let read = Unconfirmed::read(path, [boot; 16], now).unwrap().unwrap();
            assert_eq!(read, Unconfirmed { ends: Nanos::from_secs(ends), ..change.clone() });
        }
        let written = fs::read(path.join(FILE)).unwrap();
        for bit in 0..(written.len() - 1) * 8 {
            let mut damaged = written.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(path.join(FILE), &damaged).unwrap();
            assert!(Unconfirmed::read(path, [1; 16], at(1_000, 5_000)).is_err(), "bit {bit}");
        }
        forget(path).unwrap();
        forget(path).unwrap();
        assert_eq!(Unconfirmed::read(path, [1; 16], at(1_000, 5_000)), Ok(None));
    }

    #[test]
    fn nothing_but_a_file_of_ours_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let why = || Unconfirmed::read(directory.path(), [1; 16], at(1_000, 5_000)).unwrap_err();
        Unconfirmed::new("uid:0", 60, "former", "tried", at(1_000, 5_000))
            .write(directory.path(), [1; 16], at(1_000, 5_000))
            .unwrap();
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(why().contains("cannot be read"), "{}", why());
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(LONGEST + 1).unwrap();
        assert!(why().contains("too long"), "{}", why());
        fs::remove_file(&path).unwrap();
        // Nobody writes into it: opening it would wait for that.
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert!(why().contains("not a file"), "{}", why());
    }
}

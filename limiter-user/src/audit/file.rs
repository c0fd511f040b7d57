//! The files of the trail: `audit.jsonl` is written, `audit-NUMBER.jsonl` were put away, each named after its first
//! record, and `audit.head` says which record was the last.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{DAEMON, Event, Link, Options, Record, stamp};

/// The file that is written.
pub(super) const CURRENT: &str = "audit.jsonl";
/// What the last record was.
pub(super) const HEAD: &str = "audit.head";
/// Longer than any record.
const MAX_LINE: u64 = 1 << 17;

/// The last record of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) seq: u64,
    /// The [`Link`] to it.
    pub(super) hash: String,
}

/// The trail as it is written.
#[derive(Debug)]
pub(super) struct File {
    options: Options,
    /// `None`: it cannot be written.
    open: Option<Open>,
    /// The last record.
    seq: u64,
    link: Link,
    /// Records that could not be written since.
    missed: u64,
    /// Why not.
    why: Option<String>,
    /// What was found at the start, for good.
    found: Option<String>,
    /// Something was written since the disk was last waited for.
    dirty: bool,
}

#[derive(Debug)]
struct Open {
    file: fs::File,
    size: u64,
}

impl File {
    /// Opens or begins the trail.
    pub(super) fn open(options: Options, now: SystemTime) -> Self {
        let mut trail = Self {
            options,
            open: None,
            seq: 0,
            link: Link::none(),
            missed: 0,
            why: None,
            found: None,
            dirty: false,
        };
        if let Err(error) = trail.resume(now) {
            trail.why = Some(error.to_string());
        }
        trail
    }

    /// What an operator should know.
    pub(super) fn problem(&self) -> Option<String> {
        let directory = self.options.directory.display();
        let unwritten = self.why.as_ref().map(|why| {
            format!(
                "the audit trail in {directory} cannot be written, {} records are missing: {why}",
                self.missed
            )
        });
        unwritten.or_else(|| self.found.clone())
    }

    /// Takes up the trail where it ended.
    fn resume(&mut self, now: SystemTime) -> io::Result<()> {
        let directory = &self.options.directory;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(CURRENT);
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).append(true).create(true).mode(0o600);
        let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())));
        }
        let mut size = file.metadata()?.len();
        let end = tail(&file, size)?;
        let mut note = None;
        match &end {
            // Nothing in it: the one that was put away before it, or the head, tells how to go on.
            Tail { last: None, cut: 0 } => {}
            Tail { last: Some(line), .. } if Last::of(line).is_some() => {}
            Tail { .. } => {
                let aside = set_aside(&path)?;
                file = options.open(&path)?;
                size = 0;
                note =
                    Some(format!("the audit trail was damaged; what there was is now {}", aside.display()));
            }
        }
        if size > 0 && end.cut > 0 {
            // Of a record that nobody was told about: the daemon was killed while it wrote it.
            file.set_len(size - end.cut)?;
            size -= end.cut;
            note = Some(format!("{} bytes of a record that was not finished were taken off", end.cut));
        }
        let last = end.last.as_deref().filter(|_| size > 0).and_then(Last::of);
        let head = read_head(directory);
        (self.seq, self.link) = match (last, head) {
            (Some(last), _) => (last.seq, last.link),
            (None, Some(head)) => (head.seq, Link(head.hash)),
            (None, None) => (0, Link::none()),
        };
        self.open = Some(Open { file, size });
        if let Some(note) = note {
            tracing::warn!("{note}");
            self.found = Some(note.clone());
            self.say("audit.recovered", &note, now);
        }
        Ok(())
    }

    /// A record of the daemon's own.
    fn say(&mut self, what: &str, reason: &str, now: SystemTime) {
        let event = Event { actor: DAEMON, what, reason: Some(reason), ..Event::default() };
        self.append(event.record(now));
    }

    /// Writes a record. If that fails, it is counted, and tried again with the next one.
    pub(super) fn append(&mut self, record: Record) {
        let outcome = self.try_to_append(record);
        match outcome {
            Ok(()) => {
                if let Some(why) = self.why.take() {
                    let missed = std::mem::take(&mut self.missed);
                    tracing::info!(
                        "the audit trail can be written again; {missed} records are missing: {why}"
                    );
                }
            }
            Err(error) => {
                if self.why.is_none() {
                    tracing::warn!("the audit trail cannot be written: {error}");
                }
                self.missed += 1;
                self.why = Some(error.to_string());
                self.open = None;
            }
        }
    }

    fn try_to_append(&mut self, mut record: Record) -> io::Result<()> {
        if self.open.is_none() {
            // Its tail may be half a record by now.
            self.resume(SystemTime::now())?;
        }
        if self.missed > 0 {
            record.missed = Some(self.missed);
        }
        if self.open.as_ref().is_some_and(|open| open.size >= self.options.size) {
            self.rotate()?;
        }
        record.seq = self.seq + 1;
        record.prev.clone_from(&self.link.0);
        let mut line = serde_json::to_vec(&record)?;
        let link = Link::to(&line);
        line.push(b'\n');
        let Some(open) = &mut self.open else {
            // What `resume` had to say could not be written.
            return Err(io::Error::other(self.why.clone().unwrap_or_default()));
        };
        if let Err(error) = open.file.write_all(&line) {
            // Half a record is no record. If it stays, it is taken off when the trail is taken up again.
            let _ = open.file.set_len(open.size);
            return Err(error);
        }
        open.size += line.len() as u64;
        (self.seq, self.link) = (record.seq, link);
        self.dirty = true;
        Ok(())
    }

    /// Puts the file away and begins another one.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let directory = &self.options.directory;
        let path = directory.join(CURRENT);
        let first = first_seq(&path)?.unwrap_or(self.seq);
        // Names sort as the records do.
        fs::rename(&path, directory.join(format!("audit-{first:020}.jsonl")))?;
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        self.open = Some(Open { file, size: 0 });
        let away = put_away(directory)?;
        for old in away.iter().take(away.len().saturating_sub(self.options.keep)) {
            fs::remove_file(old)?;
        }
        Ok(())
    }

    /// Brings what was written to the disk, when there is nothing else to do.
    pub(super) fn rest(&mut self) {
        if let Err(error) = self.sync() {
            self.why = Some(error.to_string());
            self.open = None;
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        if let Some(open) = &self.open {
            open.file.sync_data()?;
        }
        write_head(&self.options.directory, &Head { seq: self.seq, hash: self.link.0.clone() })?;
        self.dirty = false;
        Ok(())
    }
}

/// What a line says of itself.
pub(super) struct Last {
    pub(super) seq: u64,
    pub(super) prev: Link,
    /// To this line.
    pub(super) link: Link,
}

impl Last {
    /// `None` if it is no record.
    pub(super) fn of(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
            prev: String,
        }
        let Numbered { seq, prev } = serde_json::from_slice(line).ok()?;
        Some(Self { seq, prev: Link(prev), link: Link::to(line) })
    }
}

/// How a file ends.
struct Tail {
    /// The last whole line.
    last: Option<Vec<u8>>,
    /// Bytes behind it.
    cut: u64,
}

fn tail(file: &fs::File, size: u64) -> io::Result<Tail> {
    let length = size.min(2 * MAX_LINE);
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, size - length)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let cut = length - whole as u64;
    let lines = bytes[..whole].strip_suffix(b"\n");
    let last = lines.and_then(|lines| lines.rsplit(|byte| *byte == b'\n').next()).map(<[u8]>::to_vec);
    Ok(Tail { last, cut })
}

/// The number of the first record of a file.
fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_LINE).read_to_end(&mut bytes)?;
    Ok(bytes.split(|byte| *byte == b'\n').next().and_then(Last::of).map(|first| first.seq))
}

/// The files that were put away, oldest first.
pub(super) fn put_away(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut found: Vec<PathBuf> = paths.into_iter().filter(|path| number(path).is_some()).collect();
    found.sort();
    Ok(found)
}

/// The number of the record that the file at `path` begins with.
pub(super) fn named(path: &Path) -> u64 {
    number(path).unwrap_or(1)
}

/// That of a file that was put away.
fn number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// `None` if there is none that can be read.
pub(super) fn read_head(directory: &Path) -> Option<Head> {
    let bytes = fs::read(directory.join(HEAD)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write_head(directory: &Path, head: &Head) -> io::Result<()> {
    let hidden = directory.join(format!(".{HEAD}"));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&hidden)?;
    file.write_all(&serde_json::to_vec(head)?)?;
    fs::rename(&hidden, directory.join(HEAD))
}

/// Renames what cannot be gone on with.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let time = stamp(SystemTime::now());
    let aside = path.with_file_name(format!("audit.damaged-{time}"));
    fs::rename(path, &aside)?;
    Ok(aside)
}

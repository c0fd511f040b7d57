//! The audit trail: who asked for what, and what came of it, one JSON object a line, append-only.
//!
//! The records are a chain: each names the SHA-256 of the line before it, across the files into which the trail is
//! rotated. So a record that was changed, taken out or put in shows ([`verify()`]), and since the last link is written down
//! beside the trail, so does a trail that was cut off. Whoever may write both files can forge a whole trail: send the
//! records elsewhere too, where that matters.
//!
//! A trail that cannot be written keeps nobody from blocking an attack: it becomes a [`Trail::problem`], and what was
//! missed is counted in the first record after it.

mod budget;
mod file;
mod verify;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{excerpt, sha256};
pub use budget::Budget;
use file::File;
pub use verify::{Verified, verify};

/// Prefixes that are named in a record; of more only the number is told.
const NAMED: usize = 100;
/// Records that wait for being written; who has more to say waits.
const QUEUE: usize = 1024;

/// The daemon itself, as an actor.
pub const DAEMON: &str = "limiterd";

/// Where the trail is kept, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub directory: PathBuf,
    /// A file of more bytes than this is put away, and another one begun.
    pub size: u64,
    /// Files that were put away and are kept.
    pub keep: usize,
}

/// What happened, before it is numbered and linked.
#[derive(Debug, Clone, Default)]
pub struct Event<'a> {
    /// `uid:0`, `token:ID`, `cert:NAME`, `jwt:SUBJECT`; `limiterd` for the daemon itself.
    pub actor: &'a str,
    /// In whose name: `operator`, `app:NAME`.
    pub owner: &'a str,
    /// Where the request came from, unless from this machine.
    pub peer: Option<IpAddr>,
    /// The number of the request.
    pub request: Option<&'a str>,
    /// `block.add`, `token.create`, …
    pub what: &'a str,
    /// What it is about, where there are few.
    pub subjects: &'a [String],
    /// How many it is about.
    pub count: u64,
    /// How it was, and is now, where that can be said in a line.
    pub before: Option<String>,
    pub after: Option<String>,
    /// What was given as the reason.
    pub reason: Option<&'a str>,
    /// Past the guards.
    pub forced: bool,
    /// Why not; `None`: it was done.
    pub refused: Option<&'a str>,
}

/// A record as it is written. Fields are only ever added.
#[derive(Debug, Default, Serialize)]
struct Record {
    /// From 1, without gaps.
    seq: u64,
    time: String,
    actor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subjects: Vec<String>,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    forced: bool,
    /// `done` or `refused`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Records before this one that could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    /// The [`Link`] to the record before.
    prev: String,
}

impl Event<'_> {
    fn record(&self, time: SystemTime) -> Record {
        let named = if self.subjects.len() <= NAMED { self.subjects } else { &[] };
        Record {
            seq: 0,
            time: stamp(time),
            actor: tame(self.actor),
            owner: tame(self.owner),
            peer: self.peer,
            request: self.request.map(tame),
            what: tame(self.what),
            subjects: named.iter().map(|subject| tame(subject)).collect(),
            count: self.count,
            before: self.before.as_deref().map(tame),
            after: self.after.as_deref().map(tame),
            reason: self.reason.map(tame),
            forced: self.forced,
            outcome: if self.refused.is_some() { "refused" } else { "done" },
            why: self.refused.map(tame),
            missed: None,
            prev: String::new(),
        }
    }
}

/// RFC 3339, to the millisecond.
fn stamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// A text of somebody else as it is kept.
fn tame(text: &str) -> String {
    excerpt::of(text, excerpt::LONGEST)
}

/// What a record says of the one before it: the SHA-256 of its line, without the end of the line, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link(String);

impl Link {
    /// Before the first record.
    fn none() -> Self {
        Self("0".repeat(64))
    }

    fn to(line: &[u8]) -> Self {
        Self(sha256::hex(&sha256::of(line)))
    }
}

/// The way to the trail, for any number of tasks.
#[derive(Debug, Clone)]
pub struct Trail {
    to_writer: mpsc::Sender<(Record, oneshot::Sender<()>)>,
    problem: watch::Receiver<Option<String>>,
}

impl Trail {
    /// Goes on with the trail in the directory of `options`, or begins one, with a thread that writes it. What is wrong
    /// with it is told by [`Self::problem`].
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn open(options: Options, now: SystemTime) -> std::io::Result<Self> {
        let (to_writer, mut records) = mpsc::channel::<(Record, oneshot::Sender<()>)>(QUEUE);
        let (tell, problem) = watch::channel(None);
        let mut file = File::open(options, now);
        tell.send_replace(file.problem());
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            while let Some((record, written)) = records.blocking_recv() {
                file.append(record);
                tell.send_if_modified(|told| {
                    let news = file.problem();
                    let modified = *told != news;
                    *told = news;
                    modified
                });
                // An error means that nobody waits.
                let _ = written.send(());
                if records.is_empty() {
                    file.rest();
                }
            }
        })?;
        Ok(Self { to_writer, problem })
    }

    /// One that never writes, while what comes with it is kept.
    #[cfg(test)]
    pub(crate) fn hung() -> (Self, impl Sized) {
        let (to_writer, records) = mpsc::channel(QUEUE);
        (Self { to_writer, problem: watch::channel(None).1 }, records)
    }

    /// Writes down what happened, and waits until it is written; also if it cannot be, which [`Self::problem`] tells.
    pub async fn record(&self, event: Event<'_>, time: SystemTime) {
        let (written, done) = oneshot::channel();
        // Errors mean that the thread is gone.
        if self.to_writer.send((event.record(time), written)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Why the trail cannot be written, or what was wrong with it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

#[cfg(test)]
mod tests;

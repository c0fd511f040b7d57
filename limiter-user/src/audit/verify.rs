//! Checks a trail: that no record was changed, taken out, put in or cut off.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Link;
use super::file::{CURRENT, Last, named, put_away, read_head};

/// Problems that are told one by one.
const TOLD: usize = 100;

/// What [`verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    pub files: u64,
    pub records: u64,
    /// The numbers of the first and the last record; 0 if there is none.
    pub first: u64,
    pub last: u64,
    /// One sentence each, the first 100.
    pub problems: Vec<String>,
}

impl Verified {
    fn problem(&mut self, path: &Path, line: u64, what: &str) {
        if self.problems.len() < TOLD {
            self.problems.push(format!("{}:{line}: {what}", path.display()));
        }
    }
}

/// Reads the whole trail in `directory`.
///
/// # Errors
///
/// If it cannot be read.
pub fn verify(directory: &Path) -> io::Result<Verified> {
    let mut found = Verified::default();
    let mut files = put_away(directory)?;
    files.push(directory.join(CURRENT));
    // Of the record before; `None` at the start of the trail, or behind a line that is no record.
    let mut link: Option<(u64, Link)> = None;
    for path in files {
        link = file(&path, link, &mut found)?;
        found.files += 1;
    }
    let head = read_head(directory);
    match (head, link) {
        (Some(head), Some((seq, _))) if head.seq > seq => {
            let missing = head.seq - seq;
            found
                .problems
                .push(format!("{missing} records are missing at the end: the last was number {}", head.seq));
        }
        (Some(head), Some((seq, link))) if head.seq == seq && head.hash != link.0 => {
            found.problems.push(format!("the last record, number {seq}, is not the one that was written"));
        }
        (Some(head), None) if head.seq > 0 && found.records == 0 => {
            found.problems.push(format!("all of {} records are missing", head.seq));
        }
        // Newer records than the head are those of the last moments.
        _ => {}
    }
    Ok(found)
}

/// Reads a file; returns the link to its last record.
fn file(
    path: &PathBuf,
    mut link: Option<(u64, Link)>,
    found: &mut Verified,
) -> io::Result<Option<(u64, Link)>> {
    let mut lines = BufReader::new(fs::File::open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let Some(record) = line.strip_suffix(b"\n").and_then(Last::of) else {
            found.problem(path, number, "this is no record");
            link = None;
            continue;
        };
        match &link {
            Some((seq, before)) => {
                if record.seq != seq + 1 {
                    found.problem(path, number, &format!("number {} follows number {seq}", record.seq));
                }
                if record.prev != *before {
                    found.problem(
                        path,
                        number,
                        &format!("the record before number {} was changed", record.seq),
                    );
                }
            }
            None if found.records == 0 && record.seq == 1 && record.prev != Link::none() => {
                found.problem(path, number, "the first record names one before it");
            }
            // Older files are removed as configured; the name says where this one began.
            None if found.records == 0 && record.seq != named(path) => {
                found.problem(path, number, &format!("the records before number {} are missing", record.seq));
            }
            None => {}
        }
        if found.records == 0 {
            found.first = record.seq;
        }
        found.last = record.seq;
        found.records += 1;
        link = Some((record.seq, record.link));
    }
    Ok(link)
}

//! Changes on their way into the kernel, and the memory of those that did not get there: what is missing stays known,
//! is told, and is tried again when there is room.

use std::collections::{BTreeSet, VecDeque};

use limiter_common::{Address, Prefix};

use crate::blocklist::Blocklist;
use crate::dataplane::{ApplyError, Change, Writer};
use crate::prefixes::Prefixes;

/// Changes that are made at a time when some may fail.
const PART: usize = 1 << 15;
/// Of each table, this many missing entries are tried again when nothing is known to have changed.
const TRIED: usize = 1 << 10;
/// Addresses and prefixes of both families have tables of their own.
const TABLES: usize = 4;

/// The kernel's lists, as far as they are what they shall be.
pub(super) struct Installer {
    writer: Box<dyn Writer>,
    /// Prefixes of which the kernel does not have what it shall have.
    missing: BTreeSet<Prefix>,
    /// Why; of the last failure.
    why: String,
}

impl Installer {
    pub(super) fn new(writer: Box<dyn Writer>) -> Self {
        Self { writer, missing: BTreeSet::new(), why: String::new() }
    }

    /// Everything that is in the lists now.
    pub(super) fn installed(&mut self) -> Result<Vec<Change>, ApplyError> {
        self.writer.installed()
    }

    /// Announces the entries that are about to be added, so that there is room for all of them at once; none if there
    /// are no more to come.
    pub(super) fn expect(&mut self, prefixes: impl Iterator<Item = Prefix>) {
        let (mut v4, mut v6) = (0, 0);
        for prefix in prefixes {
            if prefix.address().is_v4() { v4 += 1 } else { v6 += 1 }
        }
        self.writer.expect(v4, v6);
    }

    /// The same for entries of `prefixes`.
    pub(super) fn expect_all(&mut self, prefixes: &Prefixes) {
        let [v4, v6] = prefixes.families();
        self.writer.expect(v4, v6);
    }

    /// See [`Writer::prepare`].
    pub(super) fn prepare(&mut self, [v4, v6]: [usize; 2]) {
        self.writer.prepare(v4, v6);
    }

    /// How many entries are not as they shall be.
    pub(super) fn missing(&self) -> u64 {
        self.missing.len() as u64
    }

    pub(super) fn is_missing(&self, prefix: Prefix) -> bool {
        self.missing.contains(&prefix)
    }

    /// A sentence about what is missing, if anything is.
    pub(super) fn problem(&self) -> Option<String> {
        (!self.missing.is_empty())
            .then(|| format!("{} entries are not in force: {}", self.missing.len(), self.why))
    }

    /// Makes changes that lead to the state of `list`, and then what was missing and has room now.
    ///
    /// # Errors
    ///
    /// Some of the changes may have been made: `list` has to be taken back, and
    /// [`Self::apply_what_fits`] told.
    pub(super) fn apply(&mut self, changes: &[Change], list: &Blocklist) -> Result<(), ApplyError> {
        self.writer.apply(changes)?;
        if self.missing.is_empty() {
            return Ok(());
        }
        changes.iter().for_each(|change| self.made(change.prefix));
        self.retry(freed(changes), list);
        Ok(())
    }

    /// Makes changes that lead to the state of `list` as far as the kernel takes them. `had`, which is sorted, is in the
    /// kernel already, and so needs no room.
    pub(super) fn apply_what_fits(&mut self, changes: Vec<Change>, had: &[Prefix], list: &Blocklist) {
        let before = self.missing.len();
        self.make_what_fits(&changes, had);
        let more = self.missing.len() > before;
        // What was taken out at last has made room for what did not fit at first.
        let limits = if more { [usize::MAX; TABLES] } else { freed(&changes) };
        self.retry(limits, list);
    }

    /// Tries again some of what is missing, when there is time.
    pub(super) fn settle(&mut self, list: &Blocklist) {
        self.writer.tidy();
        self.retry([TRIED; TABLES], list);
    }

    /// Tries again what is missing of `prefixes`, which are sorted.
    ///
    /// # Errors
    ///
    /// If some of it is still missing; says why.
    pub(super) fn insist(&mut self, prefixes: &Prefixes, list: &Blocklist) -> Result<(), String> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let missing = |of: &BTreeSet<Prefix>| -> Vec<Prefix> {
            of.iter().copied().filter(|prefix| prefixes.contains(*prefix)).collect()
        };
        let tried = missing(&self.missing);
        self.make_missing(&tried, list);
        match missing(&self.missing).len() {
            0 => Ok(()),
            left => Err(format!("{left} of these are listed but not in force: {}", self.why)),
        }
    }

    /// Tries again what is missing, up to `limits` entries of each table.
    fn retry(&mut self, mut limits: [usize; TABLES], list: &Blocklist) {
        if self.missing.is_empty() || limits == [0; TABLES] {
            return;
        }
        let mut tried = self.missing.clone();
        tried.retain(|prefix| {
            let limit = &mut limits[table(*prefix)];
            let within = *limit > 0;
            *limit = limit.saturating_sub(1);
            within
        });
        self.make_missing(&tried.into_iter().collect::<Vec<_>>(), list);
    }

    fn made(&mut self, prefix: Prefix) {
        self.missing.remove(&prefix);
    }

    fn make_missing(&mut self, prefixes: &[Prefix], list: &Blocklist) {
        let mut changes: Vec<Change> = prefixes.iter().map(|prefix| list.change(*prefix)).collect();
        // What makes room goes first, and allows before blocks; each table's on their own, which makes large batches.
        changes.sort_by_key(|Change { prefix, entry }| {
            (!entry.is_none(), entry.allow_until == 0, prefix.is_host())
        });
        self.make_what_fits(&changes, &[]);
    }

    fn make_what_fits(&mut self, changes: &[Change], had: &[Prefix]) {
        let mut full = [false; TABLES];
        let mut parts: VecDeque<Vec<Change>> = changes.chunks(PART).map(<[Change]>::to_vec).collect();
        while let Some(mut part) = parts.pop_front() {
            part.retain(|Change { prefix, entry }| {
                let hopeless = full[table(*prefix)] && !entry.is_none() && had.binary_search(prefix).is_err();
                if hopeless {
                    self.missing.insert(*prefix);
                }
                !hopeless
            });
            match self.writer.apply(&part) {
                Ok(()) if self.missing.is_empty() => {}
                Ok(()) => part.iter().for_each(|change| self.made(change.prefix)),
                // Making a change again does nothing, so the part is narrowed down to what fails.
                Err(_) if part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.push_front(rest);
                    parts.push_front(part);
                }
                Err(error) => {
                    for Change { prefix, .. } in part {
                        full[table(prefix)] |= matches!(error, ApplyError::Full { .. });
                        self.missing.insert(prefix);
                    }
                    self.why = error.to_string();
                }
            }
        }
    }
}

/// How many entries of each table go.
fn freed(changes: &[Change]) -> [usize; TABLES] {
    let mut freed = [0; TABLES];
    for change in changes.iter().filter(|change| change.entry.is_none()) {
        freed[table(change.prefix)] += 1;
    }
    freed
}

/// The number of the table, below [`TABLES`], that an entry for `prefix` goes to.
fn table(prefix: Prefix) -> usize {
    match (prefix.address(), prefix.is_host()) {
        (Address::V4(_), true) => 0,
        (Address::V6(_), true) => 1,
        (Address::V4(_), false) => 2,
        (Address::V6(_), false) => 3,
    }
}

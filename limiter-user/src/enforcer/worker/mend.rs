//! What has failed is tried again: the disk that could not be written, the table that had no room.

use super::{PART, RECOVERED, Worker};
use crate::blocklist::{Claim, Edit, Key, Offender, reason};
use crate::store::{NotStored, Record, Repeat, Write};

impl Worker {
    /// Tries again what could not be stored, or not be put in force.
    pub(super) fn settle(&mut self) {
        self.settled = (self.clock)().boot;
        self.kernel.settle(&self.list);
        self.mend();
    }

    /// Opens the store again if that is due, and makes it hold what is claimed here: everything, since some of what was
    /// written last may be lost. What could not be read at the start is taken over first.
    ///
    /// Comes before edits are planned: what is claimed may be different afterwards. If it fails, so does what has to be
    /// stored.
    pub(super) fn mend(&mut self) {
        if let Err(NotStored(why)) = self.try_to_mend() {
            tracing::debug!("the state cannot be written: {why}");
        }
    }

    pub(super) fn try_to_mend(&mut self) -> Result<(), NotStored> {
        let now = (self.clock)();
        let Some((records, warnings)) = self.store.reopen(now)? else { return Ok(()) };
        for warning in warnings {
            self.warn(warning);
        }
        let decided = self.unseen.take();
        let recovered = reason(RECOVERED);
        let mut stored = Vec::with_capacity(records.len());
        let (mut found, mut writes) =
            (Vec::new(), self.remember_stored(records.repeats(), decided.is_some()));
        for Record { prefix, action, owner, terms } in records.iter() {
            let id = self.list.owner(&owner).ok().filter(|_| owner.is_stored());
            let Some(id) = id else { continue };
            let key = Key { prefix, action, owner: id };
            let news = decided.as_ref().is_some_and(|decided| !decided.contains(&key));
            match self.list.get(key) {
                Some(claim) if claim.terms == terms => stored.push(key),
                Some(claim) if !news || claim.terms.reason != recovered => {}
                None if !news => writes.push(Write::Delete { prefix, action, owner }),
                Some(_) | None => {
                    stored.push(key);
                    found.push(Edit::Set(Claim { key, terms }));
                }
            }
        }
        if !found.is_empty() {
            tracing::info!("{} stored claims could be read at last, and are in force", found.len());
            let changes = self.list.apply(found).changes;
            self.kernel.apply_what_fits(changes, &[], &self.list);
        }
        for change in records.unconfirmed() {
            let known = self.unconfirmed.iter().any(|known| known.id == change.id);
            match decided {
                Some(_) if !known => self.unconfirmed.push(change.clone()),
                None if !known => writes.push(Write::Confirmed(change.id)),
                Some(_) | None => {}
            }
        }
        writes.extend(self.unconfirmed.iter().cloned().map(Write::Unconfirmed));
        stored.sort_unstable();
        let unstored = self.list.from(None).filter(|claim| stored.binary_search(&claim.key).is_err());
        writes.extend(unstored.filter_map(|claim| self.write_of(&Edit::Set(claim))));
        for part in writes.chunks(PART) {
            self.store.commit_later(part, now)?;
        }
        // Once more the last, to wait for the disk.
        self.store.commit(writes.get(writes.len().saturating_sub(1)..).unwrap_or_default(), now)
    }

    /// Compares what is remembered of offenders with what is stored, which is taken over if it is `news`. Returns what has
    /// to be written for both to be the same.
    pub(super) fn remember_stored(&mut self, stored: &[Repeat], news: bool) -> Vec<Write> {
        let (mut same, mut writes) = (Vec::new(), Vec::new());
        for repeat in stored {
            let Some(offender) =
                self.list.owner(&repeat.owner).ok().map(|id| Offender::new(repeat.offender, id))
            else {
                continue;
            };
            if news && self.offences.get(offender).is_none() {
                let ladder = self.config.escalation.of(&repeat.owner);
                self.offences.set(offender, repeat.offence, ladder);
            }
            if self.offences.get(offender) == repeat.offence {
                same.push(offender);
            } else if self.offences.get(offender).is_none() {
                writes.push(Write::Repeat(Repeat { offence: None, ..repeat.clone() }));
            }
        }
        same.sort_unstable();
        let differ = self.offences.iter().filter(|(offender, _)| same.binary_search(offender).is_err());
        writes.extend(differ.map(|(offender, _)| Write::Repeat(self.repeat(offender))));
        writes
    }

    /// Notes what was decided while it is not known what is stored.
    pub(super) fn decide(&mut self, keys: impl Iterator<Item = Key>) {
        if let Some(decided) = &mut self.unseen {
            decided.extend(keys);
        }
    }

    /// A sentence about the store, if it is unusable.
    pub(super) fn store_problem(&self) -> Option<String> {
        let why = self.store.problem()?;
        let directory = self.config.state_directory.display();
        Some(match self.unseen {
            None => format!("the state in {directory} cannot be written, so nothing can be added: {why}"),
            Some(_) => format!(
                "the state in {directory} cannot be written or read, so nothing can be added, and what is stored there is \
                 not in force until it can: {why}"
            ),
        })
    }
}

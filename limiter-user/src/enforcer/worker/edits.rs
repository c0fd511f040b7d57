//! Edits of claims: in the list, in the kernel and in the store, and back again.

use std::collections::VecDeque;

use limiter_common::{Nanos, Prefix};

use super::import::{Asked, not_kept};
use super::keeper::Keeper;
use super::{PART, TOLD, Worker};
use crate::blocklist::{Claim, Edit, Key, Outcome};
use crate::config::Action;
use crate::control::protocol::AddResponse;
use crate::enforcer::Error;
use crate::enforcer::lists::{self, Order};
use crate::store::{NotStored, Record, Write};

/// Edits in the order in which they are made, a turn's work each.
pub(super) type Parts = VecDeque<Vec<Edit>>;

impl Worker {
    /// Remembers what is changed while a long request is worked on.
    pub(super) fn touch(&mut self, edits: &[Edit]) {
        if let Some(work) = &mut self.work {
            work.touched.extend(edits.iter().map(Edit::key));
        }
    }

    /// The edits that claim what was `asked` of `prefixes`, counted in `response`.
    pub(super) fn edits(
        &self,
        action: Action,
        prefixes: impl Iterator<Item = Prefix>,
        asked: &Asked,
        response: &mut AddResponse,
    ) -> Vec<Edit> {
        let now = (self.clock)().boot;
        let mut edits = Vec::with_capacity(prefixes.size_hint().0);
        for prefix in prefixes {
            let key = Key { prefix, action, owner: asked.owner };
            let former = self.list.get(key).filter(|claim| claim.terms.until > now).map(|claim| claim.terms);
            let created = former.as_ref().map_or(asked.created, |former| former.created);
            let same =
                former.as_ref().map(|former| former.until == asked.until && former.reason == asked.reason);
            match same {
                None => response.added += 1,
                Some(true) => response.unchanged += 1,
                Some(false) => response.updated += 1,
            }
            // What an import that is under way has claimed is not stored yet, and may be taken back.
            if same != Some(true) || self.work.is_some() {
                edits.push(Edit::Set(Claim { key, terms: asked.terms(created) }));
            }
            self.tell_shadowed(action, prefix, now, response);
        }
        edits
    }

    /// Says so if a block does nothing because of an allow.
    pub(super) fn tell_shadowed(
        &self,
        action: Action,
        prefix: Prefix,
        now: Nanos,
        response: &mut AddResponse,
    ) {
        let any_allowed = action == Action::Block && self.list.totals().allows > 0;
        if any_allowed && response.shadowed_by_allow.len() < TOLD && self.list.entry(prefix).allows(now) {
            response.shadowed_by_allow.push(prefix.to_string());
        }
    }

    /// Splits edits into parts, in an order in which they have room.
    pub(super) fn parts(&self, edits: Vec<Edit>) -> Result<Parts, Error> {
        let order = lists::room(&self.list, self.config.capacity, &edits).map_err(Error::Full)?;
        let (raises, lowers) = self.list.split(edits);
        let (first, second) = match order {
            Order::RaiseFirst => (raises, lowers),
            Order::LowerFirst => (lowers, raises),
        };
        Ok([first, second].iter().flat_map(|edits| edits.chunks(PART)).map(<[Edit]>::to_vec).collect())
    }

    /// Makes a part of a long request. The answer comes after the last part, and so does the wait for the disk.
    pub(super) fn make_part(&mut self, edits: Vec<Edit>, last: bool) -> Result<Vec<Edit>, Error> {
        let writes = self.writes_of(&edits);
        let outcome = self.list.apply(edits);
        let commit = if last { Keeper::commit } else { Keeper::commit_later };
        if let Err(NotStored(why)) = commit(&mut self.store, &writes, (self.clock)()) {
            return Err(self.give_up(outcome.undo, &why));
        }
        self.install(outcome)
    }

    /// Takes edits back that the kernel has not seen.
    pub(super) fn give_up(&mut self, undo: Vec<Edit>, why: &str) -> Error {
        self.list.apply(undo);
        not_kept(why)
    }

    /// Makes the changes of an outcome in the kernel, or takes it back. Returns what takes it back later.
    pub(super) fn install(&mut self, outcome: Outcome) -> Result<Vec<Edit>, Error> {
        if let Err(error) = self.kernel.apply(&outcome.changes, &self.list) {
            self.take_back(outcome.undo);
            return Err(error.into());
        }
        Ok(outcome.undo)
    }

    /// Takes edits back that were made in the kernel, but are not stored.
    pub(super) fn take_out_of_force(&mut self, undo: Vec<Edit>) {
        let changes = self.list.apply(undo).changes;
        self.kernel.apply_what_fits(changes, &[], &self.list);
        if let Some(problem) = self.kernel.problem() {
            tracing::error!("taking back a failed request: {problem}");
        }
    }

    /// Takes edits back that were made only in part.
    pub(super) fn take_back(&mut self, undo: Vec<Edit>) {
        let writes = self.writes_of(&undo);
        self.take_out_of_force(undo);
        if let Err(NotStored(why)) = self.store.commit(&writes, (self.clock)()) {
            tracing::warn!("taking back a failed request: {why}");
        }
    }

    pub(super) fn writes_of(&self, edits: &[Edit]) -> Vec<Write> {
        edits.iter().filter_map(|edit| self.write_of(edit)).collect()
    }

    /// What the store has to know of an edit: lists are in their files.
    pub(super) fn write_of(&self, edit: &Edit) -> Option<Write> {
        let Key { prefix, action, owner } = edit.key();
        let owner = self.list.owner_of(owner);
        if !owner.is_stored() {
            return None;
        }
        let owner = owner.clone();
        Some(match edit {
            Edit::Set(claim) => Write::Put(Record { prefix, action, owner, terms: claim.terms.clone() }),
            Edit::Remove(_) => Write::Delete { prefix, action, owner },
        })
    }
}

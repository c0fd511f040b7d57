//! Changes that are rolled back unless somebody confirms them: whoever locks themselves out gets back in by waiting.
//!
//! What was there before is stored with the change, in the same commit, so a daemon that is killed goes on waiting, and
//! rolls back at its start what is overdue. What somebody else says of a prefix meanwhile stays.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use limiter_common::Nanos;

use super::long::Job;
use super::{TOLD, Worker};
use crate::blocklist::{Claim, Edit, Key, Owner};
use crate::config::Action;
use crate::control::protocol::UnconfirmedChange;
use crate::enforcer::{Caller, Error, RolledBack, render};
use crate::store::{NotStored, Unconfirmed, Undo, Write};
use crate::telemetry::DECISION;

/// Changes that wait at a time.
const MOST: usize = 64;
/// The longest time to wait.
const LONGEST: u64 = 3600;

/// What shall be confirmed.
#[derive(Debug)]
pub(super) struct Confirm {
    ends: Nanos,
    owner: Owner,
    actor: Arc<str>,
    what: String,
}

/// What changes do not take back any more: the number of the change, and what it would have done.
#[derive(Debug, Default)]
pub(super) struct Released(Vec<(u64, Undo)>);

impl Released {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }
}

impl Worker {
    /// Checks that a change of `keys` can wait for being confirmed within `seconds`.
    pub(super) fn to_confirm(
        &self,
        seconds: u64,
        what: String,
        keys: &HashSet<Key>,
        caller: &Caller,
    ) -> Result<Confirm, Error> {
        let invalid = |detail: String| Error::Invalid { detail, items: Vec::new() };
        if !(1..=LONGEST).contains(&seconds) {
            return Err(invalid(format!(
                "a change can wait from 1 to {LONGEST} seconds; nothing was changed"
            )));
        }
        if self.unconfirmed.len() >= MOST {
            return Err(invalid(format!("{MOST} changes are not confirmed yet; nothing was changed")));
        }
        let waits = |change: &&Unconfirmed| {
            change.undo.iter().any(|undo| self.key_of(undo).is_some_and(|key| keys.contains(&key)))
        };
        if let Some(change) = self.unconfirmed.iter().find(waits) {
            let id = change.id;
            return Err(invalid(format!(
                "change {id} is about the same; confirm it first, or wait. Nothing was changed"
            )));
        }
        let ends = (self.clock)().boot.saturating_add(Nanos::from_secs(seconds));
        Ok(Confirm { ends, owner: caller.owner.clone(), actor: Arc::clone(&caller.actor), what })
    }

    fn key_of(&self, undo: &Undo) -> Option<Key> {
        let owner = self.list.find_owner(&undo.owner)?;
        Some(Key { prefix: undo.prefix, action: undo.action, owner })
    }

    /// The change that `undo` takes back.
    pub(super) fn unconfirmed(&self, confirm: Confirm, undo: &[Edit]) -> Unconfirmed {
        let Confirm { ends, owner, actor, what } = confirm;
        let since = (self.clock)().wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut id = u64::try_from(since.as_millis()).unwrap_or(0);
        while self.unconfirmed.iter().any(|change| change.id == id) {
            id += 1;
        }
        let undo = undo.iter().map(|edit| {
            let Key { prefix, action, owner } = edit.key();
            let former = match edit {
                Edit::Set(claim) => Some(claim.terms.clone()),
                Edit::Remove(_) => None,
            };
            Undo { prefix, action, owner: self.list.owner_of(owner).clone(), former }
        });
        Unconfirmed { id, ends, owner, actor, what: what.into(), undo: undo.collect() }
    }

    /// Somebody has a new word on claims: rolling back does not touch them any more, unless that word
    /// [fails](Self::bind).
    pub(super) fn release(&mut self, about: impl Fn(u64, &Key) -> bool) -> Released {
        let mut released = Released::default();
        let mut changes = std::mem::take(&mut self.unconfirmed);
        for change in &mut changes {
            let said = |undo: &Undo| self.key_of(undo).is_some_and(|key| about(change.id, &key));
            let (gone, kept) = std::mem::take(&mut change.undo).into_iter().partition(said);
            change.undo = kept;
            released.0.extend(Vec::into_iter(gone).map(|undo| (change.id, undo)));
        }
        self.unconfirmed = changes;
        released
    }

    /// What has to be stored, with the word itself.
    pub(super) fn writes_of_released(&self, released: &Released) -> Vec<Write> {
        let of = |change: &&Unconfirmed| released.0.iter().any(|(id, _)| *id == change.id);
        self.unconfirmed.iter().filter(of).cloned().map(Write::Unconfirmed).collect()
    }

    /// The new word was not kept: rolling back takes back what it did before.
    pub(super) fn bind(&mut self, released: Released) {
        for (id, undo) in released.0 {
            if let Some(change) = self.unconfirmed.iter_mut().find(|change| change.id == id) {
                change.undo.push(undo);
            }
        }
    }

    /// The changes that a long request has a new word on when it ends. Until then they are not rolled back: it may fail, or
    /// be forgotten by a crash.
    pub(super) fn about(&self, about: impl Fn(&Key) -> bool) -> Vec<u64> {
        let said = |undo: &Undo| self.key_of(undo).is_some_and(|key| about(&key));
        let changes = self.unconfirmed.iter().filter(|change| change.undo.iter().any(said));
        changes.map(|change| change.id).collect()
    }

    fn is_worked_on(&self, id: u64) -> bool {
        match self.work.as_ref().map(|work| &work.job) {
            Some(Job::Import(import)) => import.releases.contains(&id),
            Some(Job::Purge(purge)) => purge.releases.contains(&id),
            Some(Job::Reload(_)) | None => false,
        }
    }

    pub(super) fn changes(&self) -> Vec<UnconfirmedChange> {
        self.unconfirmed.iter().map(|change| self.told(change)).collect()
    }

    fn told(&self, change: &Unconfirmed) -> UnconfirmedChange {
        let left = change.ends.saturating_sub((self.clock)().boot);
        UnconfirmedChange {
            id: change.id.to_string(),
            what: change.what.to_string(),
            owner: change.owner.to_string(),
            actor: change.actor.to_string(),
            claims: change.undo.len() as u64,
            seconds_left: left.0.div_ceil(Nanos::from_secs(1).0),
        }
    }

    /// Keeps a change. `None` if there is no such change any more, or it is another's.
    pub(super) fn confirm(&mut self, id: u64, caller: &Caller) -> Result<Option<UnconfirmedChange>, Error> {
        self.mend();
        let may = |change: &Unconfirmed| caller.owner == Owner::Operator || caller.owner == change.owner;
        let at = self.unconfirmed.iter().position(|change| change.id == id && may(change));
        let Some(at) = at else { return Ok(None) };
        let told = self.told(&self.unconfirmed[at]);
        let now = (self.clock)();
        // Otherwise a restart would roll it back.
        self.store.commit(&[Write::Confirmed(id)], now).map_err(|NotStored(why)| {
            Error::NotDurable(format!("not confirmed, since that could not be kept: {why}"))
        })?;
        self.unconfirmed.remove(at);
        Ok(Some(told))
    }

    /// When the next one is rolled back.
    pub(super) fn next_rollback(&self) -> Option<Nanos> {
        self.unconfirmed.iter().map(|change| change.ends).min()
    }

    /// Rolls back what nobody confirmed in time. That the disk refuses is no reason to stay locked out.
    pub(super) fn roll_back(&mut self) {
        let now = (self.clock)();
        while let Some(at) = self
            .unconfirmed
            .iter()
            .position(|change| change.ends <= now.boot && !self.is_worked_on(change.id))
        {
            let change = self.unconfirmed.remove(at);
            if change.undo.is_empty() {
                // All of it has been said otherwise since.
                if let Err(NotStored(why)) = self.store.commit_later(&[Write::Confirmed(change.id)], now) {
                    tracing::warn!("change {} is over, but that is not stored yet: {why}", change.id);
                }
                continue;
            }
            let guards = self.guards();
            let mut edits = Vec::with_capacity(change.undo.len());
            for Undo { prefix, action, owner, former } in &change.undo {
                let Ok(owner) = self.list.owner(owner) else { continue };
                let key = Key { prefix: *prefix, action: *action, owner };
                match former.clone().filter(|terms| terms.until > now.boot) {
                    None => edits.push(Edit::Remove(key)),
                    // What was free to block then may be this machine's by now.
                    Some(_) if *action == Action::Block && guards.refusal(*action, *prefix).is_some() => {}
                    Some(terms) => edits.push(Edit::Set(Claim { key, terms })),
                }
            }
            self.touch(&edits);
            self.decide(edits.iter().map(Edit::key).collect::<Vec<_>>().into_iter());
            let mut writes = self.writes_of(&edits);
            writes.push(Write::Confirmed(change.id));
            let outcome = self.list.apply(edits);
            self.kernel.apply_what_fits(outcome.changes, &[], &self.list);
            self.tell_changed(&outcome.undo);
            // An error means that nobody keeps a trail.
            let _ = self.rollbacks.send(RolledBack {
                what: Arc::clone(&change.what),
                owner: change.owner.to_string(),
                actor: Arc::clone(&change.actor),
                prefixes: outcome.undo.iter().map(|edit| edit.key().prefix).take(TOLD).collect(),
                count: outcome.undo.len() as u64,
                before: render::before(&outcome.undo, now),
            });
            if let Err(NotStored(why)) = self.store.commit(&writes, now) {
                tracing::warn!("change {} is rolled back, but that is not stored yet: {why}", change.id);
            }
            tracing::warn!(
                target: DECISION,
                change = "rollback",
                id = change.id,
                what = &*change.what,
                claims = change.undo.len(),
                actor = &*change.actor,
                owner = %change.owner,
                "not confirmed in time, and rolled back"
            );
            self.warn(format!(
                "change {} ({}) was not confirmed in time, and was rolled back",
                change.id, change.what
            ));
        }
    }
}

//! Imports: many prefixes with the same terms. They are put in force in parts, then made durable, then acknowledged.
//!
//! Nothing is kept of a million lines but their prefixes: edits are made a part at a time, against what is claimed at that
//! moment.

use std::sync::Arc;

use limiter_common::{Nanos, Prefix};

use super::Worker;
use super::together::Effect;
use crate::admission::Admitted;
use crate::blocklist::{Claim, Claimed, Edit, Key, Owner, OwnerId, Terms, actor, reason};
use crate::config::Action;
use crate::config::lists::Parsed;
use crate::control::protocol::{AddResponse, Happened};
use crate::enforcer::{Caller, Error, ImportOptions, Now, Rehearsal, Reply, events, lists, render};
use crate::prefixes::Prefixes;
use crate::store::NotStored;

/// Prefixes of a part: few, so that whoever asks meanwhile waits a few milliseconds.
const PART: usize = 1 << 13;

/// What is claimed of every prefix of a request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) owner: OwnerId,
    pub(super) until: Nanos,
    /// Of claims that are new. Seconds since 1970.
    pub(super) created: u64,
    actor: Option<Arc<str>>,
    pub(super) reason: Option<Arc<str>>,
}

impl Asked {
    pub(super) fn terms(&self, created: u64) -> Terms {
        Terms { until: self.until, created, actor: self.actor.clone(), reason: self.reason.clone() }
    }
}

/// An import that was admitted.
#[derive(Debug)]
pub(super) struct Import {
    admitted: Admitted,
    asked: Asked,
    response: AddResponse,
    /// So many of the prefixes are in force.
    enforced: usize,
    /// So many of the edits are stored.
    stored: usize,
    undo: Undo,
    /// The changes that are not rolled back any more when it ends, as far as they are about the same.
    pub(super) releases: Vec<u64>,
    /// Nothing is made of it.
    rehearsal: Option<Rehearsal>,
    pub(super) reply: Reply<AddResponse>,
}

impl Import {
    /// The number of edits to store, or a commit alone for what is released.
    fn to_store(&self) -> usize {
        self.undo.len().max(usize::from(!self.releases.is_empty()))
    }
}

/// What takes an import back: 8 bytes for each IPv4 prefix that is new, 24 for each that was there with other terms.
#[derive(Debug, Default)]
struct Undo {
    new: Prefixes,
    changed: Prefixes,
    /// What was said of each of `changed`. Most have the same terms but for the deadline.
    former: Vec<(Nanos, Arc<Terms>)>,
}

impl Undo {
    /// Notes what takes back an edit, those of one part after those of the part before.
    fn push(&mut self, undo: Edit) {
        match undo {
            Edit::Remove(key) => self.new.push(key.prefix),
            Edit::Set(Claim { key, terms }) => {
                let until = terms.until;
                let terms = Terms { until: Nanos::NEVER, ..terms };
                let last = self.former.last().map(|(_, last)| last).filter(|last| ***last == terms);
                let terms = last.map_or_else(|| Arc::new(terms), Arc::clone);
                self.changed.push(key.prefix);
                self.former.push((until, terms));
            }
        }
    }

    /// What was claimed before.
    fn before(&self, now: Now) -> Option<String> {
        let changed = self.changed.part(0, self.changed.len()).zip(&self.former);
        let words = changed.map(|(prefix, (until, terms))| render::word(prefix, *until, terms, now));
        render::few(words, self.former.len())
    }

    /// The number of edits.
    fn len(&self) -> usize {
        self.new.len() + self.changed.len()
    }

    /// Up to `count` of the prefixes that were edited, behind the first `skipped`.
    fn edited(&self, skipped: usize, count: usize) -> impl Iterator<Item = Prefix> {
        let changed = self.changed.part(skipped.saturating_sub(self.new.len()), count);
        self.new.part(skipped, count).chain(changed).take(count)
    }

    /// The edits that lead back.
    fn edits(self, action: Action, owner: OwnerId) -> impl Iterator<Item = Edit> {
        let Self { new, changed, former } = self;
        let key = move |prefix| Key { prefix, action, owner };
        let mut former = former.into_iter();
        let count = new.len() + changed.len();
        (0..count).filter_map(move |at| match at.checked_sub(new.len()) {
            None => new.part(at, 1).next().map(|prefix| Edit::Remove(key(prefix))),
            Some(at) => {
                let (until, terms) = former.next()?;
                let terms = Terms { until, ..(*terms).clone() };
                changed.part(at, 1).next().map(|prefix| Edit::Set(Claim { key: key(prefix), terms }))
            }
        })
    }
}

impl Worker {
    /// What a request asks for, at this moment.
    pub(super) fn asked(&self, options: &ImportOptions, owner: OwnerId, caller: &Caller) -> Asked {
        let now = (self.clock)();
        let until = options.seconds.map_or(Nanos::NEVER, |seconds| {
            // Not for good, however long.
            now.boot.saturating_add(Nanos::from_secs(seconds)).min(Nanos(u64::MAX - 1))
        });
        let reason = options.reason.as_deref().and_then(reason);
        let actor = actor(&caller.actor);
        Asked { owner, until, created: render::seconds(now.wall), actor, reason }
    }

    /// Checks an import as a whole; nothing is changed yet. Without anything to do, it is answered.
    pub(super) fn begin_import(
        &mut self,
        action: Action,
        parsed: Parsed,
        options: &ImportOptions,
        rehearsal: Option<Rehearsal>,
        caller: &Caller,
        reply: Reply<AddResponse>,
    ) -> Option<Import> {
        let dry_run = rehearsal.is_some();
        match self.check_import(action, parsed, options, dry_run, caller) {
            Ok(Some((owner, admitted))) => {
                let mut releases = Vec::new();
                if !dry_run {
                    self.kernel.expect_all(admitted.prefixes());
                    releases = self.about(|key| {
                        key.owner == owner && key.action == action && admitted.prefixes().contains(key.prefix)
                    });
                }
                Some(Import {
                    releases,
                    admitted,
                    asked: self.asked(options, owner, caller),
                    response: AddResponse { dry_run, ..AddResponse::default() },
                    enforced: 0,
                    stored: 0,
                    undo: Undo::default(),
                    rehearsal,
                    reply,
                })
            }
            // A feed that is empty today is no mistake.
            Ok(None) => {
                self.answer(reply, Ok(AddResponse { dry_run, ..AddResponse::default() }));
                None
            }
            Err(error) => {
                self.answer(reply, Err(error));
                None
            }
        }
    }

    fn check_import(
        &mut self,
        action: Action,
        parsed: Parsed,
        options: &ImportOptions,
        dry_run: bool,
        caller: &Caller,
    ) -> Result<Option<(OwnerId, Admitted)>, Error> {
        let owner = self.owner(caller, options.owner.as_deref())?;
        if parsed.bad_lines > 0 {
            return Err(Error::Invalid {
                detail: format!("{} lines are not understood; nothing was changed", parsed.bad_lines),
                items: parsed.problems.iter().map(ToString::to_string).collect(),
            });
        }
        if parsed.prefixes.is_empty() {
            return Ok(None);
        }
        let admitted = self.admit(action, parsed.prefixes, options, caller)?;
        if dry_run {
            self.could_keep(Effect::AtOnce)?;
        } else {
            self.kernel.insist(admitted.prefixes(), &self.list).map_err(Error::Full)?;
        }
        lists::room_for(&self.list, self.config.capacity, admitted.prefixes()).map_err(Error::Full)?;
        if caller.owner != Owner::Operator {
            let added = self.news(admitted.prefixes().iter(), owner);
            match dry_run {
                true => self.would_brake(caller, action, admitted.prefixes(), added)?,
                false => self.brake(caller, action, admitted.prefixes(), added)?,
            }
        }
        Ok(Some((owner, admitted)))
    }

    /// Does the next part of an import. True if it is done, and everything is in force and durable.
    ///
    /// All of it adds claims that end at the same moment, or gives claims that end: whatever the order, an address that
    /// was let through is either let through or not any more, and one that was dropped is dropped all the time.
    pub(super) fn import_part(&mut self, import: &mut Import) -> Result<bool, Error> {
        if let Some(rehearsal) = &import.rehearsal {
            let action = import.admitted.action();
            let part = import.admitted.prefixes().part(import.enforced, PART);
            self.edits(action, part, &import.asked, &mut import.response);
            import.enforced += PART;
            let done = import.enforced >= import.admitted.prefixes().len();
            if done {
                import.response.cuts = self.cut_by(rehearsal, action, import.admitted.prefixes());
            }
            return Ok(done);
        }
        if import.enforced < import.admitted.prefixes().len() {
            let others = self.claim_unclaimed(import)?;
            import.enforced += PART;
            if !others.is_empty() {
                let action = import.admitted.action();
                let edits = self.edits(action, others.into_iter(), &import.asked, &mut import.response);
                let outcome = self.list.apply(edits);
                self.install(outcome)?.into_iter().for_each(|undo| import.undo.push(undo));
            }
        } else {
            // What is claimed now: others may have had another word meanwhile.
            let key = |prefix| Key { prefix, action: import.admitted.action(), owner: import.asked.owner };
            let claims =
                import.undo.edited(import.stored, PART).filter_map(|prefix| self.list.get(key(prefix)));
            let mut writes: Vec<_> = claims.filter_map(|claim| self.write_of(&Edit::Set(claim))).collect();
            import.stored += PART;
            let now = (self.clock)();
            if import.stored < import.to_store() {
                self.store.commit_later(&writes, now).map_err(|NotStored(why)| not_kept(&why))?;
            } else {
                let Import { releases, admitted, asked, .. } = &import;
                let released = self.release(|id, key| {
                    releases.contains(&id)
                        && (key.owner, key.action) == (asked.owner, admitted.action())
                        && admitted.prefixes().contains(key.prefix)
                });
                writes.append(&mut self.writes_of_released(&released));
                if let Err(NotStored(why)) = self.store.commit(&writes, now) {
                    self.bind(released);
                    return Err(not_kept(&why));
                }
            }
        }
        let all = import.enforced >= import.admitted.prefixes().len();
        Ok(all && import.stored >= import.to_store())
    }

    /// Puts those prefixes of the next part in force that nobody claims, most of a long list. Returns the others.
    fn claim_unclaimed(&mut self, import: &mut Import) -> Result<Vec<Prefix>, Error> {
        let Import { admitted, asked, response, enforced, undo, .. } = import;
        let (action, prefixes) = (admitted.action(), admitted.prefixes().part(*enforced, PART));
        let terms = asked.terms(asked.created);
        let Claimed { changes, others } = self.list.claim_unclaimed(prefixes, action, asked.owner, &terms);
        if let Err(error) = self.kernel.apply(&changes, &self.list) {
            let key = |prefix| Key { prefix, action, owner: asked.owner };
            self.take_back(changes.iter().map(|change| Edit::Remove(key(change.prefix))).collect());
            return Err(error.into());
        }
        changes.iter().for_each(|change| undo.new.push(change.prefix));
        response.added += changes.len() as u64;
        let now = (self.clock)().boot;
        changes.iter().for_each(|change| self.tell_shadowed(action, change.prefix, now, response));
        Ok(others)
    }

    /// Takes back what was made of an import, but for what was `touched` by others.
    pub(super) fn take_import_back(
        &mut self,
        import: Import,
        touched: impl Fn(&Key) -> bool,
    ) -> Reply<AddResponse> {
        let Import { admitted, asked, undo, reply, .. } = import;
        let mut edits = undo.edits(admitted.action(), asked.owner).filter(|edit| !touched(&edit.key()));
        loop {
            let part: Vec<Edit> = edits.by_ref().take(PART).collect();
            if part.is_empty() {
                return reply;
            }
            self.take_back(part);
        }
    }

    /// Answers an import that is done.
    pub(super) fn end_import(&self, import: Import) {
        let Import { admitted, asked, mut response, undo, reply, .. } = import;
        response.before = undo.before((self.clock)());
        if undo.len() > 0 && !response.dry_run {
            self.events.tell(|| {
                let now = (self.clock)();
                let mut event = events::blank(Happened::Added, admitted.action(), now);
                event.count = response.added + response.updated;
                event.prefixes = undo.edited(0, events::NAMED).map(|prefix| prefix.to_string()).collect();
                event.owner = Some(self.list.owner_of(asked.owner).to_string());
                event.actor = asked.actor.as_deref().map(str::to_owned);
                event.reason = asked.reason.as_deref().map(str::to_owned);
                event.expires = render::ends(asked.until, now);
                event
            });
        }
        self.answer(reply, Ok(response));
    }
}

/// The disk refused what was in force already, and is taken back.
pub(super) fn not_kept(why: &str) -> Error {
    Error::NotDurable(format!("nothing was changed, since it could not be kept: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_an_import_back_comes_out_as_it_went_in() {
        let key = |text: &str| Key {
            prefix: text.parse().unwrap(),
            action: Action::Block,
            owner: OwnerId::default(),
        };
        let set = |text: &str, until, created| {
            let terms = Terms {
                until: Nanos(until),
                created,
                actor: Some(Arc::from("uid:3")),
                reason: Some(Arc::from("why")),
            };
            Edit::Set(Claim { key: key(text), terms })
        };
        let edits = [
            Edit::Remove(key("10.0.0.1")),
            Edit::Remove(key("192.0.2.0/24")),
            Edit::Remove(key("2001:db8::1")),
            set("10.0.0.2", 5, 7),
            set("10.0.0.3", 6, 7),
            set("2001:db8::2", 6, 8),
        ];
        let mut undo = Undo::default();
        edits.iter().cloned().for_each(|edit| undo.push(edit));
        assert_eq!(undo.len(), edits.len());
        assert!(Arc::ptr_eq(&undo.former[0].1, &undo.former[1].1));
        for skipped in 0..=edits.len() {
            let expected = edits[skipped..].iter().take(4).map(|edit| edit.key().prefix);
            assert!(undo.edited(skipped, 4).eq(expected), "{skipped}");
        }
        assert!(undo.edits(Action::Block, OwnerId::default()).eq(edits));
    }
}

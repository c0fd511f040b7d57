//! Short requests. Those that are waiting share a commit, since each waits for the disk, however little it writes.
//!
//! A block that is added is in force first, as soon as its turn comes; everything else comes into force when it is
//! durable. Nobody gets an answer before. If the disk refuses, all of them are refused, and what was made of them is taken
//! back; but what lets somebody through is in force then.
//!
//! While one commit is under way, blocks are begun that go into the next one. If it fails, so do they.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use limiter_common::{Nanos, Prefix};

use super::confirm::{Confirm, Released};
use super::import::not_kept;
use super::rehearsal::newly;
use super::{TOLD, Worker, prefixes};
use crate::blocklist::{Claim, Edit, Key, Offence, Offender, Outcome, Owner, OwnerId};
use crate::config::Action;
use crate::control::protocol::{
    AddRequest, AddResponse, Escalated, RemoveRequest, RemoveResponse, ReportResponse,
};
use crate::enforcer::{Caller, Command, Error, ImportOptions, Now, Rehearsal, Reply, lists, render};
use crate::prefixes::Prefixes;
use crate::store::{NotStored, Repeat, Write};

/// Edits that wait for one commit, at most, but for those of the last request.
const EDITS: usize = 1 << 14;

/// Requests that wait for the same commit.
#[derive(Debug, Default)]
pub(super) struct Together {
    begun: Vec<Begun>,
    writes: Vec<Write>,
    /// What they are about.
    prefixes: HashSet<Prefix>,
    /// Some of them come into force only when they are durable.
    deferred: bool,
}

impl Together {
    /// Makes a request that was begun wait for its end, with whom to tell.
    pub(super) fn push(&mut self, unanswered: Unanswered, answer: Answer) {
        self.begun.push(Begun { unanswered, answer });
    }

    /// Changes who is answered when the last request is made.
    pub(super) fn last(&mut self, change: impl FnOnce(&mut Answer)) {
        if let Some(last) = self.begun.last_mut() {
            change(&mut last.answer);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.writes.len() >= EDITS
    }

    fn is_about(&self, prefixes: &Prefixes) -> bool {
        !self.prefixes.is_empty() && prefixes.iter().any(|prefix| self.prefixes.contains(&prefix))
    }
}

/// When a request is in force, and what becomes of it when the disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// At once. Taken back.
    AtOnce,
    /// When it is durable. Taken back.
    Durable,
    /// When it is durable, or cannot be.
    Anyway,
}

impl Effect {
    /// Of additions (or removals) of `action`. An attack does not wait for the disk; nobody is let through on a word that
    /// a power cut forgets, nor locked out because nothing can be stored any more.
    fn of(action: Action, adds: bool) -> Self {
        match (action, adds) {
            (Action::Block, true) => Self::AtOnce,
            (Action::Allow, false) => Self::Durable,
            (Action::Block, false) | (Action::Allow, true) => Self::Anyway,
        }
    }
}

/// A request whose edits are made in the list, but not stored.
#[derive(Debug)]
struct Begun {
    unanswered: Unanswered,
    answer: Answer,
}

/// A request that was begun, but for whom to tell.
#[derive(Debug)]
pub(super) struct Unanswered {
    effect: Effect,
    /// The changes that the kernel has not seen, and what takes all of it back.
    outcome: Outcome,
    /// What was remembered of offenders before.
    former: Vec<(Offender, Option<Offence>)>,
    /// The change that waits for being confirmed.
    change: Option<u64>,
    /// What was claimed before.
    before: Option<String>,
    /// What is not rolled back any more.
    released: Released,
    /// Nothing has to be stored, neither of this request nor of one before that it relies on.
    idle: bool,
}

#[derive(Debug)]
pub(super) enum Answer {
    Add(Reply<AddResponse>, AddResponse),
    Remove(Reply<RemoveResponse>, Result<RemoveResponse, Error>),
    Report(Reply<ReportResponse>, ReportResponse),
    /// Another part of the same request tells.
    Nobody,
}

/// What is to be made of a request.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) edits: Vec<Edit>,
    pub(super) former: Vec<(Offender, Option<Offence>)>,
    /// Rolled back unless somebody confirms it.
    pub(super) confirm: Option<Confirm>,
    /// What is not rolled back any more, beside what the edits are about.
    pub(super) released: Released,
}

impl Worker {
    /// Begins to add.
    pub(super) fn add(
        &mut self,
        together: &mut Together,
        action: Action,
        request: AddRequest,
        rehearsal: Option<Rehearsal>,
        caller: &Caller,
        reply: Reply<AddResponse>,
    ) {
        match self.begin_add(together, action, request, rehearsal.as_ref(), caller) {
            Ok((Some(unanswered), response)) => together.push(unanswered, Answer::Add(reply, response)),
            Ok((None, response)) => self.answer(reply, Ok(response)),
            Err(error) => self.answer(reply, Err(error)),
        }
    }

    /// Begins to remove.
    pub(super) fn remove(
        &mut self,
        together: &mut Together,
        action: Action,
        request: &RemoveRequest,
        rehearsal: Option<Rehearsal>,
        caller: &Caller,
        reply: Reply<RemoveResponse>,
    ) {
        match self.begin_remove(together, action, request, rehearsal.as_ref(), caller) {
            Ok((Some(unanswered), response)) => together.push(unanswered, Answer::Remove(reply, response)),
            Ok((None, response)) => self.answer(reply, response),
            Err(error) => self.answer(reply, Err(error)),
        }
    }

    fn begin_add(
        &mut self,
        together: &mut Together,
        action: Action,
        request: AddRequest,
        rehearsal: Option<&Rehearsal>,
        caller: &Caller,
    ) -> Result<(Option<Unanswered>, AddResponse), Error> {
        let prefixes = prefixes(&request.prefixes)?;
        let effect = Effect::of(action, true);
        let relies = rehearsal.is_none() && self.make_way(together, effect, &prefixes);
        let AddRequest {
            seconds, escalate, reason, force, ssh_peer, owner, dry_run, confirm_seconds, ..
        } = request;
        let options = ImportOptions { seconds, reason, force, ssh_peer, owner, dry_run };
        if escalate && (action == Action::Allow || seconds.is_some()) {
            let detail = "escalate is for blocks, and takes no seconds; nothing was changed".to_owned();
            return Err(Error::Invalid { detail, items: Vec::new() });
        }
        let owner = self.owner(caller, options.owner.as_deref())?;
        let admitted = self.admit(action, prefixes, &options, caller)?;
        if rehearsal.is_some() {
            self.could_keep(effect)?;
        } else {
            self.kernel.insist(admitted.prefixes(), &self.list).map_err(Error::Full)?;
        }
        let asked = self.asked(&options, owner, caller);
        let mut response = AddResponse { dry_run, ..AddResponse::default() };
        let confirm = match confirm_seconds {
            None => None,
            Some(_) if escalate => {
                let detail = "what escalates cannot wait for being confirmed; nothing was changed".to_owned();
                return Err(Error::Invalid { detail, items: Vec::new() });
            }
            Some(seconds) => {
                let key = |prefix| Key { prefix, action, owner };
                let keys = admitted.prefixes().iter().map(key).collect();
                Some(self.to_confirm(seconds, format!("{}.add", action.label()), &keys, caller)?)
            }
        };
        let mut planned = if escalate {
            self.escalated(admitted.prefixes(), &asked, None, &mut response)
        } else {
            let edits = self.edits(action, admitted.prefixes().iter(), &asked, &mut response);
            Planned { edits, ..Planned::default() }
        };
        let room = lists::room(&self.list, self.config.capacity, &planned.edits).map_err(Error::Full);
        let may = room.and_then(|_| match rehearsal {
            None => self.brake(caller, action, admitted.prefixes(), response.added),
            Some(_) => self.would_brake(caller, action, admitted.prefixes(), response.added),
        });
        if may.is_err() || rehearsal.is_some() {
            self.remember(planned.former);
            may?;
            response.cuts = rehearsal.and_then(|with| self.cut_by(with, action, admitted.prefixes()));
            return Ok((None, response));
        }
        if let Some(confirm) = confirm {
            planned.confirm = Some(confirm);
        } else if !self.unconfirmed.is_empty() {
            // Also what stays as it is: somebody has said it for good.
            planned.released = self.release(|_, key| {
                key.owner == owner && key.action == action && admitted.prefixes().contains(key.prefix)
            });
        }
        let mut unanswered = self.begin(together, effect, planned, relies)?;
        response.change = unanswered.change.map(|id| id.to_string());
        response.before = unanswered.before.take();
        Ok((Some(unanswered), response))
    }

    fn begin_remove(
        &mut self,
        together: &mut Together,
        action: Action,
        request: &RemoveRequest,
        rehearsal: Option<&Rehearsal>,
        caller: &Caller,
    ) -> Result<(Option<Unanswered>, Result<RemoveResponse, Error>), Error> {
        let invalid = |detail: &str| Error::Invalid { detail: detail.to_owned(), items: Vec::new() };
        let owner = self.owner(caller, request.owner.as_deref())?;
        if request.all_owners && caller.owner != Owner::Operator {
            let detail = "only operators may take back what others claim; nothing was changed";
            return Err(Error::Denied(detail.to_owned()));
        }
        if request.all_owners && request.owner.is_some() {
            return Err(invalid("give an owner or all_owners, not both"));
        }
        let mut prefixes = prefixes(&request.prefixes)?;
        prefixes.sort();
        let effect = Effect::of(action, false);
        let relies = rehearsal.is_none() && self.make_way(together, effect, &prefixes);
        let now = (self.clock)().boot;
        let mut response = RemoveResponse { dry_run: rehearsal.is_some(), ..RemoveResponse::default() };
        let mut edits = Vec::new();
        for prefix in prefixes.iter() {
            let before = edits.len();
            let claims = self.list.on(prefix).filter(|Claim { key, terms }| {
                let asked = match request.all_owners {
                    true => self.list.owner_of(key.owner).is_stored(),
                    false => key.owner == owner,
                };
                asked && key.action == action && terms.until > now
            });
            edits.extend(claims.map(|claim| Edit::Remove(claim.key)));
            if edits.len() > before {
                response.removed += 1;
            } else {
                response.missing.push(prefix.to_string());
            }
        }
        if let Some(rehearsal) = rehearsal {
            let before = self.dropped(rehearsal);
            response.cuts = self.supposing(edits, |then| {
                then.tell_others(action, &prefixes, now, &mut response);
                newly(before, then.dropped(rehearsal))
            });
            return Ok((None, Ok(response)));
        }
        let confirm = match request.confirm_seconds {
            None => None,
            Some(seconds) => {
                let keys = edits.iter().map(Edit::key).collect();
                Some(self.to_confirm(seconds, format!("{}.remove", action.label()), &keys, caller)?)
            }
        };
        let mut planned = Planned { edits, confirm, ..Planned::default() };
        if planned.confirm.is_none() && !self.unconfirmed.is_empty() {
            planned.released = self.release(|_, key| {
                let whose = key.owner == owner || request.all_owners;
                whose && key.action == action && prefixes.contains(key.prefix)
            });
        }
        let mut unanswered = self.begin(together, effect, planned, relies)?;
        response.change = unanswered.change.map(|id| id.to_string());
        response.before = unanswered.before.take();
        let unanswered = Some(unanswered);
        if let (Some(_), Some(why)) = (&self.unseen, self.store.problem())
            && !response.missing.is_empty()
        {
            let error = format!("what is stored cannot be read, and so not be removed for good: {why}");
            let asked = prefixes.iter().map(|prefix| Key { prefix, action, owner });
            self.decide(asked.collect::<Vec<_>>().into_iter());
            return Ok((unanswered, Err(Error::NotDurable(error))));
        }
        self.tell_others(action, &prefixes, now, &mut response);
        Ok((unanswered, Ok(response)))
    }

    /// Names those who still list what was removed.
    fn tell_others(&self, action: Action, prefixes: &Prefixes, now: Nanos, response: &mut RemoveResponse) {
        for prefix in prefixes.iter() {
            let others = self
                .list
                .covering(prefix)
                .into_iter()
                .filter(|claim| claim.key.action == action && claim.terms.until > now);
            for claim in others.take(TOLD.saturating_sub(response.still_listed.len())) {
                let owner = self.list.owner_of(claim.key.owner);
                response.still_listed.push(if claim.key.prefix == prefix {
                    format!("{prefix} by {owner}")
                } else {
                    format!("{prefix} in {} by {owner}", claim.key.prefix)
                });
            }
        }
    }

    /// Blocks that last as long as the offender deserves, but at most `most` seconds; see [`crate::blocklist::Ladder`].
    pub(super) fn escalated(
        &mut self,
        prefixes: &Prefixes,
        asked: &super::import::Asked,
        most: Option<u64>,
        response: &mut AddResponse,
    ) -> Planned {
        let (now, ladder) = ((self.clock)(), self.ladder(asked.owner).clone());
        let seconds_now = render::seconds(now.wall);
        let mut planned = Planned::default();
        for prefix in prefixes.iter() {
            let key = Key { prefix, action: Action::Block, owner: asked.owner };
            let claim = self.list.get(key).filter(|claim| claim.terms.until > now.boot);
            let offender = Offender::new(prefix, asked.owner);
            let runs = self.offences.get(offender).is_some_and(|last| last.ends > seconds_now);
            let (offence, seconds) = self.offences.next(offender, &ladder, seconds_now);
            let seconds = seconds.min(most.unwrap_or(u64::MAX));
            let until = now.boot.saturating_add(Nanos::from_secs(seconds)).min(Nanos(u64::MAX - 1));
            self.tell_shadowed(Action::Block, prefix, now.boot, response);
            // What is longer stays, whoever of the owner's people asked for it.
            if claim.as_ref().is_some_and(|claim| runs || claim.terms.until >= until) {
                response.unchanged += 1;
                continue;
            }
            match claim {
                None => response.added += 1,
                Some(_) => response.updated += 1,
            }
            if response.escalated.len() < TOLD {
                let (prefix, level) = (prefix.to_string(), offence.level);
                response.escalated.push(Escalated { prefix, level, seconds });
            }
            let created = claim.map_or(asked.created, |claim| claim.terms.created);
            let terms = crate::blocklist::Terms { until, ..asked.terms(created) };
            planned.edits.push(Edit::Set(Claim { key, terms }));
            planned.former.push((offender, self.offences.set(offender, Some(offence), &ladder)));
        }
        planned
    }

    pub(super) fn ladder(&self, owner: OwnerId) -> &crate::blocklist::Ladder {
        self.config.escalation.of(self.list.owner_of(owner))
    }

    /// Puts back what was remembered of offenders.
    pub(super) fn remember(&mut self, former: Vec<(Offender, Option<Offence>)>) {
        for (offender, offence) in former.into_iter().rev() {
            let ladder = self.config.escalation.of(self.list.owner_of(offender.owner()));
            self.offences.set(offender, offence, ladder);
        }
    }

    /// Finishes what waits if a request about `prefixes` could not be told apart from it when it fails, or would bring it
    /// into force before its time. Whether what still waits is about the same.
    pub(super) fn make_way(&mut self, together: &mut Together, effect: Effect, prefixes: &Prefixes) -> bool {
        let (mut relies, mut collides) = (false, false);
        for before in self.storing.as_ref().into_iter().chain([&*together]) {
            if before.is_about(prefixes) {
                relies = true;
                collides |= before.deferred || effect != Effect::AtOnce;
            }
        }
        if collides {
            self.finish(together);
            self.mend();
            return false;
        }
        // What is stored at the moment relies on the store as it is.
        if together.begun.is_empty() && self.storing.is_none() {
            self.mend();
        }
        relies
    }

    /// Makes the edits of a request, but for their being stored.
    pub(super) fn begin(
        &mut self,
        together: &mut Together,
        effect: Effect,
        planned: Planned,
        relies: bool,
    ) -> Result<Unanswered, Error> {
        let Planned { edits, former, confirm, mut released } = planned;
        self.touch(&edits);
        let mut writes = self.writes_of(&edits);
        writes.extend(former.iter().map(|(offender, _)| Write::Repeat(self.repeat(*offender))));
        let keys: Vec<Prefix> = edits.iter().map(|edit| edit.key().prefix).collect();
        if !self.unconfirmed.is_empty() {
            let about: HashSet<Key> = edits.iter().map(Edit::key).collect();
            released.append(self.release(|_, key| about.contains(key)));
            writes.append(&mut self.writes_of_released(&released));
        }
        let idle = edits.is_empty() && released.is_empty() && !relies;
        let mut outcome = self.list.apply(edits);
        if effect == Effect::AtOnce {
            match self.install(outcome) {
                Ok(undo) => outcome = Outcome { changes: Vec::new(), undo },
                Err(error) => {
                    self.remember(former);
                    self.bind(released);
                    return Err(error);
                }
            }
        }
        let change = confirm.filter(|_| !outcome.undo.is_empty());
        let change = change.map(|confirm| self.unconfirmed(confirm, &outcome.undo));
        let id = change.as_ref().map(|change| change.id);
        if let Some(change) = change {
            writes.push(Write::Unconfirmed(change.clone()));
            self.unconfirmed.push(change);
        }
        together.prefixes.extend(keys);
        together.writes.append(&mut writes);
        together.deferred |= effect != Effect::AtOnce;
        let before = render::before(&outcome.undo, (self.clock)());
        Ok(Unanswered { effect, outcome, former, change: id, before, released, idle })
    }

    /// What the store has to know of an offender.
    pub(super) fn repeat(&self, offender: Offender) -> Repeat {
        let owner = self.list.owner_of(offender.owner()).clone();
        Repeat { offender: offender.prefix(), owner, offence: self.offences.get(offender) }
    }

    /// Stores what was begun, brings it into force, and answers; behind what is stored at the moment.
    pub(super) fn finish(&mut self, together: &mut Together) {
        self.land(together);
        let Together { begun, mut writes, .. } = std::mem::take(together);
        if begun.is_empty() {
            return;
        }
        let now = (self.clock)();
        self.forget_besides(&begun, &mut writes, now);
        let stored = self.store.commit(&writes, now);
        self.end_all(begun, stored);
    }

    /// Begins to store what was begun; [`Self::land`] ends it. Nothing else may be under way.
    pub(super) fn begin_commit(&mut self, together: &mut Together, to_itself: Arc<Sender<Command>>) {
        if together.begun.is_empty() {
            return;
        }
        let mut together = std::mem::take(together);
        let (mut writes, now) = (std::mem::take(&mut together.writes), (self.clock)());
        self.forget_besides(&together.begun, &mut writes, now);
        self.store.begin(writes, now, to_itself);
        self.storing = Some(together);
    }

    /// Waits for the commit that is under way, if one is, and answers. What was begun `meanwhile` relies on it.
    pub(super) fn land(&mut self, meanwhile: &mut Together) {
        let Some(Together { mut begun, .. }) = self.storing.take() else { return };
        let stored = self.store.end();
        if stored.is_err() {
            begun.append(&mut std::mem::take(meanwhile).begun);
        }
        self.end_all(begun, stored);
    }

    /// Forgets some offenders in a commit that remembers others.
    fn forget_besides(&mut self, begun: &[Begun], writes: &mut Vec<Write>, now: Now) {
        if begun.iter().any(|begun| !begun.unanswered.former.is_empty()) {
            writes.append(&mut self.forget(now));
        }
    }

    /// Answers requests of which is known whether they are stored.
    fn end_all(&mut self, begun: Vec<Begun>, stored: Result<(), NotStored>) {
        let mut answers = Vec::with_capacity(begun.len());
        match stored {
            Ok(()) => {
                answers
                    .extend(begun.into_iter().map(|begun| (begun.answer, self.complete(begun.unanswered))));
            }
            // The last first, so that each finds what it left.
            Err(NotStored(why)) => {
                let begun = begun.into_iter().rev();
                answers.extend(begun.map(|begun| (begun.answer, self.refuse(begun.unanswered, &why))));
            }
        }
        // Everybody can see what was done before anybody is told.
        self.publish();
        for (answer, done) in answers {
            // Errors mean that whoever asked has gone away.
            match answer {
                Answer::Add(reply, response) => drop(reply.send(done.map(|()| response))),
                Answer::Remove(reply, response) => drop(reply.send(done.and(response))),
                Answer::Report(reply, response) => drop(reply.send(done.map(|()| response))),
                Answer::Nobody => {}
            }
        }
    }

    /// Brings into force what is durable.
    fn complete(&mut self, request: Unanswered) -> Result<(), Error> {
        let Unanswered { effect, outcome, .. } = request;
        let keys: Vec<Key> = outcome.undo.iter().map(Edit::key).collect();
        let done = match effect {
            Effect::AtOnce => Ok(outcome.undo),
            Effect::Durable | Effect::Anyway => self.install(outcome),
        };
        let done = done.map(|undo| self.tell_changed(&undo));
        if effect == Effect::Anyway && done.is_ok() {
            self.decide(keys.into_iter());
        }
        done
    }

    /// Does what can be done without the disk.
    fn refuse(&mut self, request: Unanswered, why: &str) -> Result<(), Error> {
        let Unanswered { effect, outcome, former, change, released, idle, before: _ } = request;
        if idle {
            return Ok(());
        }
        if effect != Effect::Anyway {
            self.unconfirmed.retain(|unconfirmed| Some(unconfirmed.id) != change);
            self.bind(released);
        }
        self.remember(former);
        Err(match effect {
            Effect::AtOnce => {
                self.take_out_of_force(outcome.undo);
                not_kept(why)
            }
            Effect::Durable => self.give_up(outcome.undo, why),
            Effect::Anyway => {
                let keys: Vec<Key> = outcome.undo.iter().map(Edit::key).collect();
                match self.install(outcome) {
                    Err(error) => error,
                    Ok(undo) => {
                        self.tell_changed(&undo);
                        self.decide(keys.into_iter());
                        // What is not stored now is stored when the store is opened again.
                        Error::NotDurable(format!(
                            "in force, but a restart would undo it until the state can be written: {why}"
                        ))
                    }
                }
            }
        })
    }
}

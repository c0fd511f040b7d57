//! Everything that an owner claims is taken back, in parts: a feed may have claimed a million addresses.
//!
//! Each part is out of force at once, and all are durable before the answer. What the disk refuses is out of force all the
//! same, since nobody shall be locked out for it.

use super::{LOOKED_AT, Worker};
use crate::blocklist::{Edit, Key, Owner, OwnerId};
use crate::config::Action;
use crate::control::protocol::{Happened, RemoveRequest, RemoveResponse};
use crate::enforcer::{Caller, Error, Reply, events};
use crate::store::NotStored;

/// Claims that are taken out before others get their turn.
const PART: usize = 1 << 13;

/// All claims of an owner on their way out.
#[derive(Debug)]
pub(super) struct Purge {
    action: Action,
    owner: OwnerId,
    /// The last that was looked at.
    after: Option<Key>,
    removed: u64,
    /// Why some of it is not durable.
    refused: Option<String>,
    /// The changes that are not rolled back any more when it ends, as far as they are about the same.
    pub(super) releases: Vec<u64>,
    pub(super) reply: Reply<RemoveResponse>,
}

impl Worker {
    /// Checks a request to remove all. With nothing to do, or a mistake, it is answered.
    pub(super) fn begin_purge(
        &mut self,
        action: Action,
        request: &RemoveRequest,
        dry_run: bool,
        caller: &Caller,
        reply: Reply<RemoveResponse>,
    ) -> Option<Purge> {
        match self.check_purge(action, request, caller) {
            Ok(owner) if dry_run => {
                let removed = self.live(action, owner);
                self.answer(reply, Ok(RemoveResponse { removed, dry_run, ..RemoveResponse::default() }));
                None
            }
            Ok(owner) => {
                let releases = self.about(|key| (key.owner, key.action) == (owner, action));
                Some(Purge { action, owner, after: None, removed: 0, refused: None, releases, reply })
            }
            Err(error) => {
                self.answer(reply, Err(error));
                None
            }
        }
    }

    fn check_purge(
        &mut self,
        action: Action,
        request: &RemoveRequest,
        caller: &Caller,
    ) -> Result<OwnerId, Error> {
        let invalid = |detail: String| Error::Invalid { detail, items: Vec::new() };
        if caller.owner != Owner::Operator {
            return Err(Error::Denied("only operators may remove all that somebody claims".to_owned()));
        }
        if request.confirm_seconds.is_some() {
            return Err(invalid("all cannot wait for being confirmed; nothing was changed".to_owned()));
        }
        if request.owner.is_none() || request.all_owners || !request.prefixes.is_empty() {
            let detail = "all needs an owner, and neither prefixes nor all_owners; nothing was changed";
            return Err(invalid(detail.to_owned()));
        }
        let owner = self.owner(caller, request.owner.as_deref())?;
        if let Some(expected) = request.expected {
            let found = self.live(action, owner);
            if found != expected {
                return Err(invalid(format!(
                    "there are {found} by now, not {expected}; nothing was changed. Look at them, and try again"
                )));
            }
        }
        Ok(owner)
    }

    /// How many claims of `action` an owner has.
    fn live(&self, action: Action, owner: OwnerId) -> u64 {
        let now = (self.clock)().boot;
        let claims = self.list.from(None).filter(|claim| {
            (claim.key.owner, claim.key.action) == (owner, action) && claim.terms.until > now
        });
        claims.count() as u64
    }

    /// Takes out the next part. True if it was the last.
    pub(super) fn purge_part(&mut self, purge: &mut Purge) -> Result<bool, Error> {
        let now = (self.clock)().boot;
        let (mut edits, mut last) = (Vec::new(), None);
        for claim in self.list.from(purge.after).take(LOOKED_AT) {
            last = Some(claim.key);
            if (claim.key.owner, claim.key.action) == (purge.owner, purge.action) {
                purge.removed += u64::from(claim.terms.until > now);
                edits.push(Edit::Remove(claim.key));
            }
            if edits.len() >= PART {
                break;
            }
        }
        purge.after = last.or(purge.after);
        let keys: Vec<Key> = edits.iter().map(Edit::key).collect();
        let writes = self.writes_of(&edits);
        let outcome = self.list.apply(edits);
        let now = (self.clock)();
        let stored = match last {
            Some(_) => self.store.commit_later(&writes, now),
            None => {
                let said = |key: &Key| (key.owner, key.action) == (purge.owner, purge.action);
                let released = self.release(|id, key| purge.releases.contains(&id) && said(key));
                self.store.commit(&self.writes_of_released(&released), now)
            }
        };
        if let Err(NotStored(why)) = stored {
            purge.refused = Some(why);
        }
        self.install(outcome)?;
        self.decide(keys.into_iter());
        Ok(last.is_none())
    }

    pub(super) fn end_purge(&self, purge: Purge) {
        if purge.removed > 0 {
            self.events.tell(|| {
                let mut event = events::blank(Happened::Removed, purge.action, (self.clock)());
                event.count = purge.removed;
                event.owner = Some(self.list.owner_of(purge.owner).to_string());
                event
            });
        }
        let answer = match purge.refused {
            None => Ok(RemoveResponse { removed: purge.removed, ..RemoveResponse::default() }),
            Some(why) => Err(Error::NotDurable(format!(
                "not in force any more, but a restart would bring it back until the state can be written: {why}"
            ))),
        };
        self.answer(purge.reply, answer);
    }
}

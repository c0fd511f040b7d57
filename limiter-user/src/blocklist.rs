//! The desired state of the lists: who claims what about which prefix, until when. Pure: no I/O, no clock.
//!
//! A prefix can be claimed by several owners; what is in force is the union of their claims, so taking one back leaves
//! the others. [`Blocklist::apply`] makes edits and returns the [`Change`]s that bring the kernel's lists along, in an
//! order in which no address is ever judged otherwise than before or after: what is let through before and after is
//! never dropped in between, and what is dropped before and after is never let through.

mod entries;
mod owners;
mod reasons;
mod reconcile;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use limiter_common::abi::Entry;
use limiter_common::{Address, Nanos, Prefix};

use crate::config::Action;
use crate::dataplane::Change;
use entries::Prefixes;
use owners::Owners;
pub use owners::{Owner, OwnerId, TooMany};
pub use reasons::{MAX_REASON, reason};
use reasons::{ReasonId, Reasons};

/// What a claim is about, and whose it is. Sorts by prefix first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub prefix: Prefix,
    pub action: Action,
    pub owner: OwnerId,
}

/// What an owner says of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// [`Nanos::NEVER`] for good.
    pub until: Nanos,
    /// Seconds since 1970.
    pub created: u64,
    /// The user who asked.
    pub actor: Option<u32>,
    /// See [`reason`].
    pub reason: Option<Arc<str>>,
}

/// One owner's word on one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub key: Key,
    pub terms: Terms,
}

/// A change of one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Adds it, or gives it new terms.
    Set(Claim),
    /// Takes it back; nothing if it is not there.
    Remove(Key),
}

impl Edit {
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Set(claim) => claim.key,
            Self::Remove(key) => *key,
        }
    }
}

/// What follows from edits.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For the kernel, to be made in this order.
    pub changes: Vec<Change>,
    /// What takes the edits back.
    pub undo: Vec<Edit>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Prefixes with at least one block.
    pub blocks: u64,
    /// Prefixes with at least one allow.
    pub allows: u64,
    /// Entries of the kernel tables.
    pub addresses_v4: u64,
    pub addresses_v6: u64,
    pub prefixes_v4: u64,
    pub prefixes_v6: u64,
}

impl Totals {
    /// The number of entries in the table that `prefix` goes to.
    fn table(&mut self, prefix: Prefix) -> &mut u64 {
        match (prefix.address(), prefix.is_host()) {
            (Address::V4(_), true) => &mut self.addresses_v4,
            (Address::V6(_), true) => &mut self.addresses_v6,
            (Address::V4(_), false) => &mut self.prefixes_v4,
            (Address::V6(_), false) => &mut self.prefixes_v6,
        }
    }

    /// Accounts for a prefix whose own entry was `before` and is `after`.
    fn account(&mut self, prefix: Prefix, before: Entry, after: Entry) {
        let step = |count: &mut u64, before: bool, after: bool| match (before, after) {
            (false, true) => *count += 1,
            (true, false) => *count -= 1,
            (true, true) | (false, false) => {}
        };
        step(&mut self.blocks, before.block_until > 0, after.block_until > 0);
        step(&mut self.allows, before.allow_until > 0, after.allow_until > 0);
        step(self.table(prefix), !before.is_none(), !after.is_none());
    }
}

/// All claims, and what follows from them.
///
/// A claim takes about 90 bytes, one that expires about 30 more.
#[derive(Debug, Default)]
pub struct Blocklist {
    claims: BTreeMap<Key, Stored>,
    prefixes: Prefixes,
    owners: Owners,
    reasons: Reasons,
    /// When claims expire; may hold moments of claims that are gone or were given other terms.
    expiries: BinaryHeap<Reverse<(Nanos, Prefix)>>,
    /// Claims that expire.
    expiring: usize,
    totals: Totals,
}

/// [`Terms`], packed: there are millions of them.
#[derive(Debug, Clone, Copy)]
struct Stored {
    until: Nanos,
    created: u32,
    actor: u32,
    reason: ReasonId,
}

/// Stands for no actor: the user id that the kernel calls invalid.
const NO_ACTOR: u32 = u32::MAX;

/// The steps of a transition. Raising allows first and lowering them last is what keeps an address that is let through
/// both before and after from being dropped in between; raising before lowering, what is listed both before and after
/// from being forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    RaiseAllow,
    RaiseBlock,
    LowerBlock,
    LowerAllow,
}

impl Blocklist {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The short form of `owner`, which stays valid for the life of this value.
    ///
    /// # Errors
    ///
    /// If there are more than 65,535 owners.
    pub fn owner(&mut self, owner: &Owner) -> Result<OwnerId, TooMany> {
        self.owners.id(owner)
    }

    #[must_use]
    pub fn owner_of(&self, id: OwnerId) -> &Owner {
        self.owners.get(id)
    }

    /// What `edit` does.
    fn step_of(&self, edit: &Edit) -> Step {
        let raises = match edit {
            Edit::Set(claim) => self.claims.get(&claim.key).is_none_or(|old| old.until <= claim.terms.until),
            Edit::Remove(_) => false,
        };
        match (edit.key().action, raises) {
            (Action::Allow, true) => Step::RaiseAllow,
            (Action::Block, true) => Step::RaiseBlock,
            (Action::Block, false) => Step::LowerBlock,
            (Action::Allow, false) => Step::LowerAllow,
        }
    }

    /// Splits edits into those that say more and those that say less, each in the order in which they can be
    /// [applied](Self::apply) in parts: first the one, then the other, opens no window.
    #[must_use]
    pub fn split(&self, edits: Vec<Edit>) -> (Vec<Edit>, Vec<Edit>) {
        let mut edits = edits;
        edits.sort_by_cached_key(|edit| (self.step_of(edit), edit.key()));
        let raises = edits.partition_point(|edit| self.step_of(edit) <= Step::RaiseBlock);
        let lowers = edits.split_off(raises);
        (edits, lowers)
    }

    /// How many entries there are at most while `edits` are made, and how many when they were.
    #[must_use]
    pub fn growth(&self, edits: &[Edit]) -> (Totals, Totals) {
        let mut sets = Vec::new();
        let mut removes: BTreeMap<Prefix, usize> = BTreeMap::new();
        for edit in edits {
            let key = edit.key();
            match edit {
                Edit::Set(_) => sets.push(key.prefix),
                Edit::Remove(_) if self.claims.contains_key(&key) => {
                    *removes.entry(key.prefix).or_default() += 1
                }
                Edit::Remove(_) => {}
            }
        }
        sets.sort_unstable();
        sets.dedup();
        let mut most = self.totals;
        for prefix in sets.iter().filter(|prefix| self.at(**prefix).next().is_none()) {
            *most.table(*prefix) += 1;
        }
        let mut after = most;
        for (prefix, removed) in removes {
            if self.at(prefix).count() == removed && sets.binary_search(&prefix).is_err() {
                *after.table(prefix) -= 1;
            }
        }
        (most, after)
    }

    /// Makes edits, of which no two may have the same key.
    pub fn apply(&mut self, edits: Vec<Edit>) -> Outcome {
        let mut steps: [Vec<Edit>; 4] = Default::default();
        for edit in edits {
            if let Some(step) = steps.get_mut(self.step_of(&edit) as usize) {
                step.push(edit);
            }
        }
        let mut outcome = Outcome::default();
        for edits in steps {
            self.step(edits, &mut outcome);
        }
        self.compact_expiries();
        outcome
    }

    /// Makes edits that all raise, or all lower, the same action.
    fn step(&mut self, edits: Vec<Edit>, outcome: &mut Outcome) {
        let mut touched = Vec::new();
        for edit in edits {
            let key = edit.key();
            let before = self.own(key.prefix);
            let undo = match edit {
                Edit::Set(claim) => self.set(claim),
                Edit::Remove(key) => self.remove(key),
            };
            outcome.undo.extend(undo);
            let after = self.own(key.prefix);
            if before == after {
                continue;
            }
            self.totals.account(key.prefix, before, after);
            if key.prefix.is_host() {
                outcome.changes.push(Change { prefix: key.prefix, entry: after });
            } else {
                self.prefixes.set(key.prefix, after);
                touched.push(key.prefix);
            }
        }
        self.prefixes.update(touched, &mut outcome.changes);
    }

    /// Returns the edit that takes it back.
    fn set(&mut self, claim: Claim) -> Option<Edit> {
        let Claim { key, terms } = claim;
        let stored = self.store(key, &terms);
        match self.claims.insert(key, stored) {
            Some(old) => {
                let undo = Edit::Set(self.claim(key, old));
                self.forget(old);
                Some(undo)
            }
            None => {
                self.owners.count(key.owner, 1);
                Some(Edit::Remove(key))
            }
        }
    }

    fn remove(&mut self, key: Key) -> Option<Edit> {
        let old = self.claims.remove(&key)?;
        let undo = Edit::Set(self.claim(key, old));
        self.forget(old);
        self.owners.count(key.owner, -1);
        Some(undo)
    }

    fn store(&mut self, key: Key, terms: &Terms) -> Stored {
        // A deadline of 0 would mean that there is none.
        let until = terms.until.max(Nanos(1));
        if until != Nanos::NEVER {
            self.expiring += 1;
            self.expiries.push(Reverse((until, key.prefix)));
        }
        Stored {
            until,
            created: u32::try_from(terms.created).unwrap_or(u32::MAX),
            actor: terms.actor.unwrap_or(NO_ACTOR),
            reason: self.reasons.hold(terms.reason.as_ref()),
        }
    }

    /// Lets go of what [`Self::store`] took hold of.
    fn forget(&mut self, stored: Stored) {
        self.expiring -= usize::from(stored.until != Nanos::NEVER);
        self.reasons.release(stored.reason);
    }

    fn claim(&self, key: Key, stored: Stored) -> Claim {
        let Stored { until, created, actor, reason } = stored;
        let terms = Terms {
            until,
            created: created.into(),
            actor: (actor != NO_ACTOR).then_some(actor),
            reason: self.reasons.get(reason).cloned(),
        };
        Claim { key, terms }
    }

    /// Takes all of `claims` at once, into an empty list; of claims with the same key, the last.
    pub fn fill(&mut self, claims: Vec<Claim>) {
        debug_assert!(self.claims.is_empty(), "only an empty list is filled");
        let stored: Vec<(Key, Stored)> =
            claims.into_iter().map(|claim| (claim.key, self.store(claim.key, &claim.terms))).collect();
        let offered = stored.len();
        self.claims = stored.into_iter().collect();
        if self.claims.len() < offered {
            self.recount_held();
        }
        let mut own: Option<(Prefix, Entry)> = None;
        let mut owns = Vec::new();
        for (key, stored) in &self.claims {
            self.owners.count(key.owner, 1);
            let entry = stored.entry(key.action);
            match &mut own {
                Some((prefix, own)) if *prefix == key.prefix => *own = own.union(entry),
                _ => owns.extend(own.replace((key.prefix, entry))),
            }
        }
        owns.extend(own);
        let mut wide = Vec::new();
        for (prefix, entry) in owns {
            self.totals.account(prefix, Entry::NONE, entry);
            if !prefix.is_host() {
                self.prefixes.set(prefix, entry);
                wide.push(prefix);
            }
        }
        self.prefixes.update(wide, &mut Vec::new());
        self.compact_expiries();
    }

    /// Sets right what [`Self::store`] counted for claims that another one replaced.
    fn recount_held(&mut self) {
        self.expiring = self.claims.values().filter(|stored| stored.until != Nanos::NEVER).count();
        self.reasons.recount(self.claims.values().map(|stored| stored.reason));
    }

    /// Takes out claims that expired by `now`: those of about `limit` prefixes, so that many at once do not keep others
    /// waiting. The kernel has enforced their end already.
    pub fn expire(&mut self, now: Nanos, limit: usize) -> Outcome {
        let mut edits = Vec::new();
        let mut prefixes = Vec::new();
        while prefixes.len() < limit
            && let Some(Reverse((until, prefix))) = self.expiries.peek().copied()
            && until <= now
        {
            self.expiries.pop();
            prefixes.push(prefix);
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        for prefix in prefixes {
            let expired = self.at(prefix).filter(|(_, stored)| stored.until <= now);
            edits.extend(expired.map(|(key, _)| Edit::Remove(*key)));
        }
        self.apply(edits)
    }

    /// The first moment at which [`Self::expire`] may have something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Nanos> {
        self.expiries.peek().map(|Reverse((until, _))| *until)
    }

    /// Keeps moments without a claim from piling up.
    fn compact_expiries(&mut self) {
        if self.expiries.len() > 2 * self.expiring + 1024 {
            let live = self.claims.iter().filter(|(_, stored)| stored.until != Nanos::NEVER);
            self.expiries = live.map(|(key, stored)| Reverse((stored.until, key.prefix))).collect();
        }
    }

    fn at(&self, prefix: Prefix) -> impl Iterator<Item = (&Key, &Stored)> {
        let first = Key { prefix, action: Action::Block, owner: OwnerId::FIRST };
        let last = Key { prefix, action: Action::Allow, owner: OwnerId::LAST };
        self.claims.range(first..=last)
    }

    /// The union of the claims on exactly `prefix`.
    fn own(&self, prefix: Prefix) -> Entry {
        self.at(prefix).fold(Entry::NONE, |own, (key, stored)| own.union(stored.entry(key.action)))
    }

    #[must_use]
    pub fn get(&self, key: Key) -> Option<Claim> {
        self.claims.get(&key).map(|stored| self.claim(key, *stored))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many claims `owner` has.
    #[must_use]
    pub fn count_of(&self, owner: OwnerId) -> u64 {
        self.owners.count_of(owner)
    }

    /// What all claims are about, in order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.claims.keys().copied()
    }

    /// The claims behind `after`, in order; all if `None`.
    pub fn from(&self, after: Option<Key>) -> impl Iterator<Item = Claim> {
        use std::ops::Bound::{Excluded, Unbounded};

        let start = after.map_or(Unbounded, Excluded);
        self.claims.range((start, Unbounded)).map(|(key, stored)| self.claim(*key, *stored))
    }

    /// The claims on `prefix` and on prefixes that contain it, narrowest first.
    #[must_use]
    pub fn covering(&self, prefix: Prefix) -> Vec<Claim> {
        let wider = self.prefixes.covering(prefix);
        let all = prefix.is_host().then_some(prefix).into_iter().chain(wider);
        all.flat_map(|prefix| self.at(prefix)).map(|(key, stored)| self.claim(*key, *stored)).collect()
    }

    /// What the kernel finds for every address of `prefix`, as far as no narrower prefix says more.
    #[must_use]
    pub fn entry(&self, prefix: Prefix) -> Entry {
        let exact = if prefix.is_host() { self.own(prefix) } else { Entry::NONE };
        exact.union(self.prefixes.longest(prefix))
    }

    /// What the kernel finds for `prefix` if only those entries are in it of which `there` says so.
    #[must_use]
    pub fn entry_of(&self, prefix: Prefix, there: impl Fn(Prefix) -> bool) -> Entry {
        let exact = if prefix.is_host() && there(prefix) { self.own(prefix) } else { Entry::NONE };
        let longest = self.prefixes.covering(prefix).find(|wider| there(*wider));
        exact.union(longest.map_or(Entry::NONE, |longest| self.prefixes.longest(longest)))
    }

    /// What shall be in the kernel's lists for exactly `prefix`.
    #[must_use]
    pub fn change(&self, prefix: Prefix) -> Change {
        let own = self.own(prefix);
        let inherits = !prefix.is_host() && !own.is_none();
        Change { prefix, entry: if inherits { self.prefixes.longest(prefix) } else { own } }
    }

    /// Everything that shall be in the kernel's lists, in order.
    pub fn entries(&self) -> impl Iterator<Item = Change> {
        let mut claims = self.claims.iter().peekable();
        std::iter::from_fn(move || {
            let (Key { prefix, action, .. }, stored) = claims.next()?;
            let mut entry = stored.entry(*action);
            while let Some((key, stored)) = claims.next_if(|(key, _)| key.prefix == *prefix) {
                entry = entry.union(stored.entry(key.action));
            }
            if !prefix.is_host() {
                entry = self.prefixes.longest(*prefix);
            }
            Some(Change { prefix: *prefix, entry })
        })
    }
}

impl Stored {
    fn entry(&self, action: Action) -> Entry {
        match action {
            Action::Block => Entry { block_until: self.until.0, ..Entry::NONE },
            Action::Allow => Entry { allow_until: self.until.0, ..Entry::NONE },
        }
    }
}

#[cfg(test)]
mod tests;

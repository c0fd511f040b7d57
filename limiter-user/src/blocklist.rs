//! The desired state of the lists: who claims what about which prefix, until when. Pure: no I/O, no clock.
//!
//! A prefix can be claimed by several owners; what is in force is the union of their claims, so taking one back leaves
//! the others. [`Blocklist::apply`] makes edits and returns the [`Change`]s that bring the kernel's lists along, in an
//! order in which no address is ever judged otherwise than before or after: what is let through before and after is
//! never dropped in between, and what is dropped before and after is never let through.

mod claims;
mod expiries;
mod lengths;
mod offences;
mod owners;
mod packed;
mod reasons;
mod reconcile;
mod terms;
mod unclaimed;

use std::collections::BTreeMap;
use std::sync::Arc;

use limiter_common::abi::Entry;
use limiter_common::{Address, Nanos, Prefix};

use crate::config::Action;
use crate::dataplane::Change;
use crate::prefixes::Prefixes;
use claims::{Claims, Stored};
use expiries::Expiries;
use lengths::Lengths;
pub use offences::{Ladder, MAX_STEPS, Offence, Offences, Offender};
use owners::Owners;
pub use owners::{InvalidOwner, Owner, OwnerId, TooMany, is_name};
pub use reasons::{MAX_ACTOR, MAX_REASON, actor, reason};
use terms::KnownTerms;
pub use unclaimed::Claimed;

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
    /// Who asked, see [`actor`]: `uid:0`, `token:ID`, `cert:NAME`, `jwt:SUB`. `None` for lists.
    pub actor: Option<Arc<str>>,
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

    /// The same with an entry more for each of `prefixes`.
    #[must_use]
    pub fn with(self, prefixes: &Prefixes) -> Self {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let ([v4, v6], [hosts_v4, hosts_v6]) = (prefixes.families(), prefixes.hosts());
        Self {
            addresses_v4: self.addresses_v4 + count(hosts_v4),
            addresses_v6: self.addresses_v6 + count(hosts_v6),
            prefixes_v4: self.prefixes_v4 + count(v4 - hosts_v4),
            prefixes_v6: self.prefixes_v6 + count(v6 - hosts_v6),
            ..self
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
/// A claim on an address takes about 20 bytes if it is IPv4 and 32 if it is IPv6, one that expires 16 or 32 more. What
/// claims have in common is kept once.
#[derive(Debug, Default)]
pub struct Blocklist {
    claims: Claims,
    lengths: Lengths,
    owners: Owners,
    terms: KnownTerms,
    expiries: Expiries,
    /// Claims that expire.
    expiring: usize,
    totals: Totals,
}

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

    /// The short form of `owner`, if it was ever asked for.
    #[must_use]
    pub fn find_owner(&self, owner: &Owner) -> Option<OwnerId> {
        self.owners.find(owner)
    }

    /// All owners who were ever asked for.
    pub fn owners(&self) -> impl Iterator<Item = (OwnerId, &Owner)> {
        self.owners.iter()
    }

    #[must_use]
    pub fn owner_of(&self, id: OwnerId) -> &Owner {
        self.owners.get(id)
    }

    /// What `edit` does.
    fn step_of(&self, edit: &Edit) -> Step {
        let raises = match edit {
            Edit::Set(claim) => self.claims.get(claim.key).is_none_or(|old| old.until() <= claim.terms.until),
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
                Edit::Remove(_) if self.claims.get(key).is_some() => {
                    *removes.entry(key.prefix).or_default() += 1
                }
                Edit::Remove(_) => {}
            }
        }
        sets.sort_unstable();
        sets.dedup();
        let most = self.totals_with(sets.iter().copied());
        let mut after = most;
        for (prefix, removed) in removes {
            if self.claims.at(prefix).count() == removed && sets.binary_search(&prefix).is_err() {
                *after.table(prefix) -= 1;
            }
        }
        (most, after)
    }

    /// How many entries there are when all of `prefixes`, without duplicates, are listed too.
    #[must_use]
    pub fn totals_with(&self, prefixes: impl Iterator<Item = Prefix>) -> Totals {
        self.totals.with(&prefixes.filter(|prefix| self.claims.at(*prefix).next().is_none()).collect())
    }

    /// Makes edits, of which no two may have the same key.
    pub fn apply(&mut self, edits: Vec<Edit>) -> Outcome {
        let mut outcome = Outcome::default();
        if alike(&edits) {
            self.step(edits, &mut outcome);
            self.compact_expiries();
            return outcome;
        }
        let mut steps: [Vec<Edit>; 4] = Default::default();
        for edit in edits {
            if let Some(step) = steps.get_mut(self.step_of(&edit) as usize) {
                step.push(edit);
            }
        }
        for edits in steps {
            self.step(edits, &mut outcome);
        }
        self.compact_expiries();
        outcome
    }

    /// Makes edits whose order does not matter: they all raise, or all lower, the same action, or are [`alike`].
    fn step(&mut self, edits: Vec<Edit>, outcome: &mut Outcome) {
        for edit in edits {
            let key = edit.key();
            let others = self.claims.at(key.prefix).filter(|(other, _)| *other != key);
            let others =
                others.fold(Entry::NONE, |union, (key, stored)| union.union(stored.entry(key.action)));
            let says = |stored: Option<Stored>| stored.map_or(Entry::NONE, |stored| stored.entry(key.action));
            let (former, current) = match edit {
                Edit::Set(claim) => self.set(&claim),
                Edit::Remove(key) => (self.claims.remove(key), None),
            };
            self.count(key, former, current);
            outcome.undo.extend(self.undo(key, former, current));
            former.into_iter().for_each(|former| self.forget(former));
            let (before, after) = (others.union(says(former)), others.union(says(current)));
            if before == after {
                continue;
            }
            self.account(key.prefix, before, after);
            outcome.changes.push(Change { prefix: key.prefix, entry: after });
        }
    }

    /// Accounts for a prefix of which was claimed `before` and is claimed `after`.
    fn account(&mut self, prefix: Prefix, before: Entry, after: Entry) {
        self.totals.account(prefix, before, after);
        if before.is_none() != after.is_none() {
            self.lengths.count(prefix, before.is_none());
        }
    }

    /// Returns the former and the current state.
    fn set(&mut self, claim: &Claim) -> (Option<Stored>, Option<Stored>) {
        let stored = self.store(claim.key, &claim.terms);
        (self.claims.insert(claim.key, stored), Some(stored))
    }

    fn count(&mut self, key: Key, former: Option<Stored>, current: Option<Stored>) {
        match (former, current) {
            (None, Some(_)) => self.owners.count(key.owner, 1),
            (Some(_), None) => self.owners.count(key.owner, -1),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// The edit that leads from `current` back to `former`.
    fn undo(&self, key: Key, former: Option<Stored>, current: Option<Stored>) -> Option<Edit> {
        match former {
            Some(former) => Some(Edit::Set(self.claim(key, former))),
            None => current.map(|_| Edit::Remove(key)),
        }
    }

    /// A deadline of 0 would mean that there is none.
    fn deadline(terms: &Terms) -> Nanos {
        terms.until.max(Nanos(1))
    }

    fn store(&mut self, key: Key, terms: &Terms) -> Stored {
        let until = Self::deadline(terms);
        if until != Nanos::NEVER {
            self.expiring += 1;
            self.expiries.push(until, key.prefix);
        }
        Stored::new(until, self.terms.hold(terms))
    }

    /// Lets go of what [`Self::store`] took hold of.
    fn forget(&mut self, stored: Stored) {
        self.expiring -= usize::from(stored.expires());
        self.terms.release(stored.terms());
    }

    fn claim(&self, key: Key, stored: Stored) -> Claim {
        Claim { key, terms: self.terms.get(stored.terms(), stored.until()) }
    }

    /// Takes all of `claims` at once, into an empty list, quickest if they are sorted; of claims with the same key, the
    /// last.
    pub fn fill(&mut self, claims: impl IntoIterator<Item = Claim>) {
        debug_assert!(self.is_empty(), "only an empty list is filled");
        for Claim { key, terms } in claims {
            let stored = self.store(key, &terms);
            match self.claims.insert(key, stored) {
                Some(replaced) => self.forget(replaced),
                None => self.owners.count(key.owner, 1),
            }
        }
        for (prefix, entry) in self.claims.unions() {
            self.totals.account(prefix, Entry::NONE, entry);
            self.lengths.count(prefix, true);
        }
        self.compact_expiries();
    }

    /// Takes out claims that expired by `now`: those of about `limit` prefixes, so that many at once do not keep others
    /// waiting. The kernel has enforced their end already.
    pub fn expire(&mut self, now: Nanos, limit: usize) -> Outcome {
        let mut edits = Vec::new();
        let mut prefixes = Vec::new();
        while prefixes.len() < limit
            && let Some(prefix) = self.expiries.pop(now)
        {
            prefixes.push(prefix);
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        for prefix in prefixes {
            let expired = self.claims.at(prefix).filter(|(_, stored)| stored.until() <= now);
            edits.extend(expired.map(|(key, _)| Edit::Remove(key)));
        }
        self.apply(edits)
    }

    /// The first moment at which [`Self::expire`] may have something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Nanos> {
        self.expiries.next()
    }

    /// Keeps moments without a claim from piling up.
    fn compact_expiries(&mut self) {
        if self.expiries.len() > 2 * self.expiring + 1024 {
            let live = self.claims.iter().filter(|(_, stored)| stored.expires());
            self.expiries = live.map(|(key, stored)| (stored.until(), key.prefix)).collect();
        }
    }

    /// The union of the claims on exactly `prefix`.
    fn own(&self, prefix: Prefix) -> Entry {
        self.claims.at(prefix).fold(Entry::NONE, |own, (key, stored)| own.union(stored.entry(key.action)))
    }

    #[must_use]
    pub fn get(&self, key: Key) -> Option<Claim> {
        self.claims.get(key).map(|stored| self.claim(key, stored))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.claims.len() == 0
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
        self.claims.iter().map(|(key, _)| key)
    }

    /// The claims behind `after`, in order; all if `None`.
    pub fn from(&self, after: Option<Key>) -> impl Iterator<Item = Claim> {
        let behind =
            after.map(|after| self.claims.starting_at(after).skip_while(move |(key, _)| *key == after));
        let all = after.is_none().then(|| self.claims.iter());
        let claims = behind.into_iter().flatten().chain(all.into_iter().flatten());
        claims.map(|(key, stored)| self.claim(key, stored))
    }

    /// The claims on exactly `prefix`.
    pub fn on(&self, prefix: Prefix) -> impl Iterator<Item = Claim> {
        self.claims.at(prefix).map(|(key, stored)| self.claim(key, stored))
    }

    /// The claims on `prefix` and on prefixes that contain it, narrowest first.
    #[must_use]
    pub fn covering(&self, prefix: Prefix) -> Vec<Claim> {
        let claims = self.lengths.covering(prefix).flat_map(|prefix| self.claims.at(prefix));
        claims.map(|(key, stored)| self.claim(key, stored)).collect()
    }

    /// What the kernel finds for every address of `prefix`, as far as no narrower prefix says more.
    #[must_use]
    pub fn entry(&self, prefix: Prefix) -> Entry {
        self.entry_of(prefix, |_| true)
    }

    /// What the kernel finds for `prefix` if only those entries are in it of which `there` says so.
    #[must_use]
    pub fn entry_of(&self, prefix: Prefix, there: impl Fn(Prefix) -> bool) -> Entry {
        let entries = self.lengths.covering(prefix).filter(|prefix| there(*prefix));
        entries.fold(Entry::NONE, |union, prefix| union.union(self.own(prefix)))
    }

    /// What shall be in the kernel's lists for exactly `prefix`.
    #[must_use]
    pub fn change(&self, prefix: Prefix) -> Change {
        Change { prefix, entry: self.own(prefix) }
    }

    /// Everything that shall be in the kernel's lists, in order.
    pub fn entries(&self) -> impl Iterator<Item = Change> {
        self.claims.unions().map(|(prefix, entry)| Change { prefix, entry })
    }
}

/// Whether all of `edits` claim the same until the same moment, as those of an import do. Then each of them leaves its
/// prefix as it was or as it shall be until that moment, so their order does not matter.
fn alike(edits: &[Edit]) -> bool {
    let said = |edit: &Edit| match edit {
        Edit::Set(Claim { key, terms }) => Some((key.action, terms.until)),
        Edit::Remove(_) => None,
    };
    let first = edits.first().and_then(said);
    first.is_some() && edits.iter().all(|edit| said(edit) == first)
}

#[cfg(test)]
mod tests;

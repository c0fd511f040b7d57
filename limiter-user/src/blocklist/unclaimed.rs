//! Claims on prefixes that nobody claims yet: most of a long list. Nothing has to be weighed there, neither what others
//! claim nor an order, so a claim costs one search instead of five.

use limiter_common::abi::Entry;
use limiter_common::{Nanos, Prefix};

use super::claims::Stored;
use super::{Blocklist, Key, OwnerId, Terms};
use crate::config::Action;
use crate::dataplane::Change;

/// What came of [`Blocklist::claim_unclaimed`].
#[derive(Debug, Default)]
pub struct Claimed {
    /// For the kernel, in any order: one for each prefix that is claimed now and was not before.
    pub changes: Vec<Change>,
    /// Prefixes that somebody had claimed: nothing was done to them.
    pub others: Vec<Prefix>,
}

impl Blocklist {
    /// Claims those of `prefixes` that nobody claims, quickest if they ascend. It is as if each had been
    /// [set](super::Edit::Set).
    pub fn claim_unclaimed(
        &mut self,
        prefixes: impl Iterator<Item = Prefix>,
        action: Action,
        owner: OwnerId,
        terms: &Terms,
    ) -> Claimed {
        let until = Self::deadline(terms);
        let id = self.terms.hold(terms);
        let stored = Stored::new(until, id);
        let entry = stored.entry(action);
        let mut claimed = Claimed::default();
        claimed.changes.reserve_exact(prefixes.size_hint().0);
        for prefix in prefixes {
            if self.claims.insert_alone(Key { prefix, action, owner }, stored) {
                self.account(prefix, Entry::NONE, entry);
                claimed.changes.push(Change { prefix, entry });
            } else {
                claimed.others.push(prefix);
            }
        }
        if until != Nanos::NEVER {
            self.expiring += claimed.changes.len();
            claimed.changes.iter().for_each(|change| self.expiries.push(until, change.prefix));
        }
        self.owners.count(owner, i64::try_from(claimed.changes.len()).unwrap_or(i64::MAX));
        self.terms.hold_more(id, claimed.changes.len());
        // The one that kept them known meanwhile.
        self.terms.release(id);
        claimed
    }
}

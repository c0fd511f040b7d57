//! Dry runs: everything that is checked of a request, and nothing that is made of it.

use limiter_common::{Address, Nanos, Prefix};

use super::Worker;
use super::import::not_kept;
use super::together::Effect;
use crate::blocklist::{Blocklist, Edit};
use crate::config::Action;
use crate::enforcer::{Error, Rehearsal};
use crate::prefixes::Prefixes;

impl Worker {
    /// Runs `look` on the lists as they would be after `edits`. The kernel sees nothing of it.
    pub(super) fn supposing<T>(&mut self, edits: Vec<Edit>, look: impl FnOnce(&Self) -> T) -> T {
        let outcome = self.list.apply(edits);
        let seen = look(self);
        self.list.apply(outcome.undo);
        seen
    }

    /// # Errors
    ///
    /// If a request of this kind would be refused, since it could not be stored.
    pub(super) fn could_keep(&self, effect: Effect) -> Result<(), Error> {
        match self.store.problem() {
            Some(why) if effect != Effect::Anyway => Err(not_kept(why)),
            Some(_) | None => Ok(()),
        }
    }

    /// How many of those who are connected would be dropped if `prefixes`, which are sorted, got `action`.
    pub(super) fn cut_by(&self, rehearsal: &Rehearsal, action: Action, prefixes: &Prefixes) -> Option<u64> {
        let now = (self.clock)().boot;
        let within = |peer: &Address| {
            (0..=Prefix::host(*peer).length())
                .filter_map(|length| Prefix::new(*peer, length))
                .any(|prefix| prefixes.contains(prefix))
        };
        let cut = |peer: &&Address| {
            let entry = self.list.entry(Prefix::host(**peer));
            action == Action::Block && !entry.blocks(now) && !entry.allows(now) && within(peer)
        };
        let peers = rehearsal.peers.as_ref()?;
        Some(peers.iter().filter(cut).count() as u64)
    }

    /// Those of whom the lists say that they are dropped, each with whether they are.
    pub(super) fn dropped(&self, rehearsal: &Rehearsal) -> Option<Vec<bool>> {
        let now = (self.clock)().boot;
        let peers = rehearsal.peers.as_ref()?;
        Some(peers.iter().map(|peer| is_dropped(&self.list, *peer, now)).collect())
    }
}

fn is_dropped(list: &Blocklist, peer: Address, now: Nanos) -> bool {
    let entry = list.entry(Prefix::host(peer));
    entry.blocks(now) && !entry.allows(now)
}

/// How many are dropped after something that were not before.
pub(super) fn newly(before: Option<Vec<bool>>, after: Option<Vec<bool>>) -> Option<u64> {
    let pairs = before?.into_iter().zip(after?);
    Some(pairs.filter(|(before, after)| !before && *after).count() as u64)
}

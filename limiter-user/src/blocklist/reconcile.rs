//! The way from what the kernel holds, after an earlier run, to the desired state.

use limiter_common::abi::Entry;
use limiter_common::{Nanos, Prefix};

use super::{Blocklist, Claim, Key, OwnerId, Terms};
use crate::config::Action;
use crate::dataplane::Change;

impl Blocklist {
    /// The changes that bring the kernel from `installed` to this list, in an order that opens no window: the steps of
    /// [`Self::apply`]. Entries that differ by no more than the kernel's rounding stay as they are.
    #[must_use]
    pub fn reconcile(&self, mut installed: Vec<Change>) -> Vec<Change> {
        installed.sort_unstable_by_key(|change| change.prefix);
        let (mut changes, mut blocks, mut lowers) = (Vec::new(), Vec::new(), Vec::new());
        let mut last = Vec::new();
        for (prefix, found, desired) in join(&installed, self.entries()) {
            let found = unrounded(found, desired);
            let mut now = found;
            let mut step = |changes: &mut Vec<Change>, entry: Entry| {
                if entry != now {
                    changes.push(Change { prefix, entry });
                    now = entry;
                }
            };
            let allow_until = found.allow_until.max(desired.allow_until);
            step(&mut changes, Entry { allow_until, ..found });
            step(&mut blocks, Entry { allow_until, block_until: found.block_until.max(desired.block_until) });
            step(&mut lowers, Entry { allow_until, ..desired });
            step(&mut last, desired);
        }
        for mut step in [blocks, lowers, last] {
            changes.append(&mut step);
        }
        changes
    }

    /// What `installed` says beyond this list, as claims of `owner`.
    #[must_use]
    pub fn excess(&self, installed: &[Change], owner: OwnerId) -> Vec<Claim> {
        let mut excess = Vec::new();
        for Change { prefix, entry } in installed {
            let desired = self.own(*prefix);
            let installed = unrounded(*entry, desired);
            let mut claim = |action, installed: u64, desired: u64| {
                if installed > desired {
                    let key = Key { prefix: *prefix, action, owner };
                    let until = Nanos(installed);
                    excess.push(Claim { key, terms: Terms { until, created: 0, actor: None, reason: None } });
                }
            };
            claim(Action::Block, installed.block_until, desired.block_until);
            claim(Action::Allow, installed.allow_until, desired.allow_until);
        }
        excess
    }
}

/// An entry of the kernel, with the deadlines of `desired` where it has them [rounded](Entry::rounded): that is no
/// difference, and nothing that anybody has said.
fn unrounded(found: Entry, desired: Entry) -> Entry {
    let rounded = desired.rounded();
    let exact = |found, rounded, desired| if found == rounded { desired } else { found };
    Entry {
        block_until: exact(found.block_until, rounded.block_until, desired.block_until),
        allow_until: exact(found.allow_until, rounded.allow_until, desired.allow_until),
    }
}

/// Each prefix that is on either side, with its entries on both. Both are sorted.
fn join(
    installed: &[Change],
    desired: impl Iterator<Item = Change>,
) -> impl Iterator<Item = (Prefix, Entry, Entry)> {
    let mut installed = installed.iter().copied().peekable();
    let mut desired = desired.peekable();
    std::iter::from_fn(move || {
        let sides = [installed.peek(), desired.peek()];
        let prefix = sides.into_iter().flatten().map(|change| change.prefix).min()?;
        let entry = |change: Option<Change>| change.map_or(Entry::NONE, |change| change.entry);
        let found = entry(installed.next_if(|change| change.prefix == prefix));
        Some((prefix, found, entry(desired.next_if(|change| change.prefix == prefix))))
    })
}

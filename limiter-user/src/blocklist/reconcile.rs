//! The way from what the kernel holds, after an earlier run, to the desired state.

use limiter_common::abi::Entry;
use limiter_common::{Nanos, Prefix};

use super::{Blocklist, Claim, Edit, Key, Owner, OwnerId, Terms, TooMany};
use crate::config::Action;
use crate::dataplane::Change;

impl Blocklist {
    /// The changes that bring the kernel from `installed` to this list, in an order that opens no window.
    ///
    /// # Errors
    ///
    /// If there are too many owners.
    pub fn reconcile(&mut self, mut installed: Vec<Change>) -> Result<Vec<Change>, TooMany> {
        installed.sort_unstable_by_key(|change| change.prefix);
        // Up: to what either side says; then down, by the ordinary way of taking claims back.
        let kernel = self.owner(&Owner::Kernel)?;
        let excess = self.excess(&installed, kernel);
        let back = excess.iter().map(|claim| Edit::Remove(claim.key)).collect();
        self.apply(excess.into_iter().map(Edit::Set).collect());
        let mut changes = raises(&installed, self.entries());
        changes.extend(self.apply(back).changes);
        Ok(changes)
    }

    /// Gives `installed`, which is sorted, the deadlines of this list where the kernel has them, only [rounded
    /// up](Entry::rounded): that is no difference, and nothing that anybody has said.
    pub fn unround(&self, installed: &mut [Change]) {
        let mut desired = self.entries().peekable();
        for Change { prefix, entry } in installed {
            while desired.next_if(|change| change.prefix < *prefix).is_some() {}
            let Some(Change { entry: exact, .. }) = desired.next_if(|change| change.prefix == *prefix) else {
                continue;
            };
            let rounded = exact.rounded();
            if entry.block_until == rounded.block_until {
                entry.block_until = exact.block_until;
            }
            if entry.allow_until == rounded.allow_until {
                entry.allow_until = exact.allow_until;
            }
        }
    }

    /// What `installed`, which is sorted, says beyond this list, as claims of `owner`. What a wider installed prefix
    /// says too is left out of the narrower ones: they only inherited it.
    #[must_use]
    pub fn excess(&self, installed: &[Change], owner: OwnerId) -> Vec<Claim> {
        let mut excess = Vec::new();
        let mut above = Longest::default();
        for Change { prefix, entry } in installed {
            let inherited = above.enter(*prefix, *entry);
            let desired = if prefix.is_host() { self.own(*prefix) } else { self.prefixes.longest(*prefix) };
            let mut claim = |action, installed: u64, inherited: u64, desired: u64| {
                if installed > inherited && installed > desired {
                    let key = Key { prefix: *prefix, action, owner };
                    let until = Nanos(installed);
                    excess.push(Claim { key, terms: Terms { until, created: 0, actor: None, reason: None } });
                }
            };
            claim(Action::Block, entry.block_until, inherited.block_until, desired.block_until);
            claim(Action::Allow, entry.allow_until, inherited.allow_until, desired.allow_until);
        }
        excess
    }
}

/// The longest match of each prefix, while a sorted list is gone through.
#[derive(Debug, Default)]
struct Longest(Vec<(Prefix, Entry)>);

impl Longest {
    /// The entry of the longest prefix so far that contains `prefix`, other than itself.
    fn above(&mut self, prefix: Prefix) -> Entry {
        while self.0.last().is_some_and(|(above, _)| !above.covers(prefix) || *above == prefix) {
            self.0.pop();
        }
        self.0.last().map_or(Entry::NONE, |(_, entry)| *entry)
    }

    /// The same, and from now on `prefix` has `entry`. Hosts are in tables of their own and inherit nothing.
    fn enter(&mut self, prefix: Prefix, entry: Entry) -> Entry {
        if prefix.is_host() {
            return Entry::NONE;
        }
        let above = self.above(prefix);
        self.0.push((prefix, entry));
        above
    }
}

/// The way from `installed` to `desired`, both sorted, where no entry of `desired` says less than is installed: allows
/// first, then blocks, then what is installed but says nothing of its own.
fn raises(installed: &[Change], desired: impl Iterator<Item = Change>) -> Vec<Change> {
    let (mut allows, mut rest, mut unneeded) = (Vec::new(), Vec::new(), Vec::new());
    let mut longest = Longest::default();
    let mut installed = installed.iter().copied().peekable();
    for Change { prefix, entry } in desired {
        while let Some(passed) = installed.next_if(|change| change.prefix < prefix) {
            longest.enter(passed.prefix, passed.entry);
            unneeded.push(passed.prefix);
        }
        let found = installed.next_if(|change| change.prefix == prefix).map(|change| change.entry);
        let before = match found {
            Some(found) => {
                longest.enter(prefix, found);
                found
            }
            None if prefix.is_host() => Entry::NONE,
            None => longest.above(prefix),
        };
        let allowed = Entry { allow_until: entry.allow_until, ..before };
        let mut now = found;
        if allowed.allow_until > before.allow_until {
            allows.push(Change { prefix, entry: allowed });
            now = Some(allowed);
        }
        if now != Some(entry) {
            rest.push(Change { prefix, entry });
        }
    }
    unneeded.extend(installed.map(|change| change.prefix));
    // Within these two no order matters. Hosts and prefixes are in two tables, and the way from one to the other and back
    // costs a system call.
    allows.sort_by_key(|change| change.prefix.is_host());
    rest.sort_by_key(|change| change.prefix.is_host());
    // Wide before narrow, so that nothing falls back to what is about to go too.
    unneeded.sort_by_key(|prefix: &Prefix| prefix.length());
    allows.append(&mut rest);
    allows.extend(unneeded.into_iter().map(|prefix| Change { prefix, entry: Entry::NONE }));
    allows
}

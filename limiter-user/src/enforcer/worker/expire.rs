//! What has ended is taken out.

use super::Worker;
use crate::blocklist::Edit;
use crate::config::Action;
use crate::enforcer::{Now, render};
use crate::store::{NotStored, Write};
use crate::telemetry::DECISION;

/// Prefixes whose expired claims are taken out at a time.
const EXPIRED: usize = 1 << 13;
/// Expired prefixes that are named in one event; of more only the number is told.
const NAMED: usize = 20;

impl Worker {
    /// Takes out some of what has expired; the kernel has enforced it already.
    pub(super) fn expire(&mut self) {
        let now = (self.clock)();
        if self.list.next_expiry().is_none_or(|next| next > now.boot) {
            return;
        }
        let mut forgotten = self.forget(now);
        let outcome = self.list.expire(now.boot, EXPIRED);
        let gone = outcome.undo.iter().map(|edit| Edit::Remove(edit.key()));
        let mut writes: Vec<Write> = gone.filter_map(|edit| self.write_of(&edit)).collect();
        writes.append(&mut forgotten);
        for action in [Action::Block, Action::Allow] {
            decide_expired(action, &outcome.undo);
        }
        self.tell_expired(&outcome.undo);
        // Neither matters much: what has expired says nothing, wherever it is left behind.
        self.kernel.apply_what_fits(outcome.changes, &[], &self.list);
        if let Err(NotStored(why)) = self.store.commit_later(&writes, now) {
            tracing::warn!("taking out expired entries: {why}");
        }
    }

    /// Forgets some offenders, of whom nothing is left.
    pub(super) fn forget(&mut self, now: Now) -> Vec<Write> {
        let mut writes = Vec::new();
        while writes.len() < EXPIRED
            && let Some((offender, _)) = self
                .offences
                .pop(|owner| self.config.escalation.of(self.list.owner_of(owner)), render::seconds(now.wall))
        {
            writes.push(Write::Repeat(self.repeat(offender)));
        }
        writes
    }
}

/// Records the end of the claims of `action` that `undo` would bring back: one event, however many they are.
fn decide_expired(action: Action, undo: &[Edit]) {
    let expired = undo.iter().map(Edit::key).filter(|key| key.action == action);
    let changed = expired.clone().count();
    if changed == 0 {
        return;
    }
    let prefixes = (changed <= NAMED).then(|| {
        let prefixes: Vec<String> = expired.map(|key| key.prefix.to_string()).collect();
        prefixes.join(" ")
    });
    let action = action.label();
    tracing::info!(target: DECISION, action, change = "expire", changed, prefixes, "expired");
}

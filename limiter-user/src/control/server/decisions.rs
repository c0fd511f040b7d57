//! The record of who changed what, apart from the operational log: one event for each request that changed something.

use std::net::IpAddr;

use crate::config::Action;
use crate::telemetry::DECISION;

/// Prefixes that are named in an event; of larger requests only the number is told.
const NAMED: usize = 20;
/// The longest text that is a prefix, and then some: what is longer was refused, and is not repeated.
const LONGEST: usize = 64;

/// What was asked for, and by whom.
pub(super) struct Decision<'a> {
    pub(super) action: Action,
    /// `add`, `remove` or `import`.
    pub(super) change: &'static str,
    pub(super) prefixes: &'a [String],
    /// Seconds; `None`: for good.
    pub(super) seconds: Option<u64>,
    pub(super) reason: Option<&'a str>,
    pub(super) force: bool,
    /// As in audits: `uid:0`, `token:ID`.
    pub(super) actor: &'a str,
    /// Where the request comes from; `None` for this machine.
    pub(super) peer: Option<IpAddr>,
    /// Of the request.
    pub(super) id: &'a str,
}

impl Decision<'_> {
    /// It was done, and changed `changed` prefixes. Texts of callers are fields, which both formats of the log escape.
    pub(super) fn done(&self, changed: u64) {
        tracing::info!(
            target: DECISION,
            action = self.action.label(),
            change = self.change,
            changed,
            prefixes = self.named(),
            seconds = self.seconds,
            reason = self.reason,
            force = self.force,
            actor = self.actor,
            peer = self.peer.map(tracing::field::display),
            request = self.id,
            "decided"
        );
    }

    /// It was refused.
    pub(super) fn refused(&self, why: &str) {
        tracing::info!(
            target: DECISION,
            action = self.action.label(),
            change = self.change,
            prefixes = self.named(),
            actor = self.actor,
            peer = self.peer.map(tracing::field::display),
            request = self.id,
            why,
            "refused"
        );
    }

    fn named(&self) -> Option<String> {
        let few = !self.prefixes.is_empty() && self.prefixes.len() <= NAMED;
        let short = |prefix: &String| prefix.len() <= LONGEST;
        (few && self.prefixes.iter().all(short)).then(|| self.prefixes.join(" "))
    }
}

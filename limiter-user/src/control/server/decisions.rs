//! Who changed what: for each request that changed something, or was refused, an event beside the operational log, and a
//! record of the audit trail.

use super::gate::Caller;
use super::record;
use super::refusal::Refusal;
use super::routes::Shared;
use crate::audit::Event;
use crate::config::Action;
use crate::control::protocol::Happened;
use crate::enforcer::events;
use crate::secrets;
use crate::telemetry::DECISION;

/// Prefixes that are named in an event; of larger requests only the number is told.
const NAMED: usize = 20;
/// The longest text that is a prefix, and then some: what is longer was refused, and is not repeated.
const LONGEST: usize = 64;

/// What was asked for, and by whom.
pub(super) struct Decision<'a> {
    pub(super) action: Action,
    /// `add`, `remove`, `import` or `report`; `add-dry-run` and so on if nothing was to be changed.
    pub(super) change: &'static str,
    pub(super) prefixes: &'a [String],
    /// Seconds; `None`: for good, where that is a question.
    pub(super) seconds: Option<u64>,
    pub(super) reason: Option<&'a str>,
    pub(super) force: bool,
    pub(super) caller: &'a Caller,
}

impl Decision<'_> {
    /// It was done, and changed `changed` prefixes; `before` and `after` say how. Texts of callers are fields, which both
    /// formats of the log escape.
    pub(super) async fn done(&self, shared: &Shared, changed: u64, before: Option<String>, after: String) {
        tracing::info!(
            target: DECISION,
            action = self.action.label(),
            change = self.change,
            changed,
            prefixes = self.named(),
            seconds = self.seconds,
            reason = self.reason,
            force = self.force,
            actor = self.caller.actor(),
            peer = self.caller.peer().map(tracing::field::display),
            request = self.caller.id(),
            "decided"
        );
        let what = self.what();
        let event = Event { count: changed, before, after: Some(after), ..self.event(&what) };
        record::done(shared, self.caller, event).await;
    }

    /// It was refused.
    pub(super) async fn refused(&self, shared: &Shared, why: &str) {
        let why = &*secrets::hidden(why);
        if !self.change.ends_with("-dry-run") {
            self.tell_refused(shared, why);
        }
        tracing::info!(
            target: DECISION,
            action = self.action.label(),
            change = self.change,
            prefixes = self.named(),
            actor = self.caller.actor(),
            peer = self.caller.peer().map(tracing::field::display),
            request = self.caller.id(),
            why,
            "refused"
        );
        let (what, count) = (self.what(), u64::try_from(self.prefixes.len()).unwrap_or(u64::MAX));
        let event = Event { count, refused: Some(why), ..self.event(&what) };
        record::done(shared, self.caller, event).await;
    }

    fn tell_refused(&self, shared: &Shared, why: &str) {
        shared.backend.enforcer.events().tell(|| {
            let mut event = events::blank(Happened::Refused, self.action, (shared.backend.clock)());
            event.count = u64::try_from(self.prefixes.len()).unwrap_or(u64::MAX);
            let short = self.prefixes.iter().filter(|prefix| prefix.len() <= LONGEST);
            event.prefixes = short.take(events::NAMED).cloned().collect();
            event.owner = Some(self.caller.principal.owner_name());
            event.actor = Some(self.caller.actor());
            event.reason = self.reason.map(str::to_owned);
            event.why = Some(why.to_owned());
            event
        });
    }

    /// The same, and `refusal` knows that it is on record.
    pub(super) async fn recorded(&self, shared: &Shared, refusal: Refusal) -> Refusal {
        self.refused(shared, &refusal.problem.detail).await;
        refusal.recorded()
    }

    /// As in audits: `block.add`.
    fn what(&self) -> String {
        format!("{}.{}", self.action.label(), self.change)
    }

    fn event<'a>(&'a self, what: &'a str) -> Event<'a> {
        Event { what, subjects: self.prefixes, reason: self.reason, forced: self.force, ..Event::default() }
    }

    fn named(&self) -> Option<String> {
        let few = !self.prefixes.is_empty() && self.prefixes.len() <= NAMED;
        let short = |prefix: &String| prefix.len() <= LONGEST;
        (few && self.prefixes.iter().all(short)).then(|| self.prefixes.join(" "))
    }
}

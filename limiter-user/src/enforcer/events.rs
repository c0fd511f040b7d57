//! What changes is told to whoever listens, without waiting for anybody: who is slow loses events, and hears how many.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::Now;
use super::render;
use super::worker::Worker;
use crate::blocklist::{Edit, Terms};
use crate::control::protocol::{Event, Happened};

/// Events that are kept for those who have not read them yet.
const KEPT: usize = 1024;
/// Prefixes that an event names.
pub(crate) const NAMED: usize = 20;

/// The way from what happens to those who listen.
#[derive(Debug, Clone)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(KEPT) }
    }
}

impl Events {
    /// All that happens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }

    pub(super) fn are_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Tells what `event` says, which is not asked if nobody listens.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.are_heard() {
            // An error means that the last listener has just gone.
            let _ = self.sender.send(Arc::new(event()));
        }
    }
}

/// An event that is about nothing yet.
pub(crate) fn blank(event: Happened, action: crate::config::Action, now: Now) -> Event {
    Event {
        at: render::time(Some(now.wall)),
        event,
        action,
        count: 0,
        prefixes: Vec::new(),
        owner: None,
        actor: None,
        reason: None,
        expires: None,
        why: None,
    }
}

impl Worker {
    /// Tells of edits, by what would take them back: what was not there is new, and what was is changed or gone.
    pub(super) fn tell_changed(&self, undo: &[Edit]) {
        self.tell_of(undo, |edit| match edit {
            Edit::Remove(_) => Happened::Added,
            Edit::Set(_) if self.list.get(edit.key()).is_some() => Happened::Added,
            Edit::Set(_) => Happened::Removed,
        });
    }

    /// Tells of claims that have ended, by what would bring them back.
    pub(super) fn tell_expired(&self, undo: &[Edit]) {
        self.tell_of(undo, |_| Happened::Expired);
    }

    /// One event for all that are alike but for the prefix.
    fn tell_of(&self, undo: &[Edit], happened: impl Fn(&Edit) -> Happened) {
        if undo.is_empty() || !self.events.are_heard() {
            return;
        }
        let now = (self.clock)();
        let mut events: Vec<((Happened, _, _), Event)> = Vec::new();
        for edit in undo {
            let key = edit.key();
            let kind = (happened(edit), key.action, key.owner);
            let known = events.iter().position(|(known, _)| *known == kind);
            let at = known.unwrap_or_else(|| {
                let former = match edit {
                    Edit::Set(claim) => Some(claim.terms.clone()),
                    Edit::Remove(_) => None,
                };
                let terms = self.list.get(key).map(|claim| claim.terms).or(former);
                let mut event = blank(kind.0, key.action, now);
                event.owner = Some(self.list.owner_of(key.owner).to_string());
                if let Some(terms) = terms {
                    say(&mut event, &terms, now);
                }
                events.push((kind, event));
                events.len() - 1
            });
            let event = &mut events[at].1;
            event.count += 1;
            if event.prefixes.len() < NAMED {
                event.prefixes.push(key.prefix.to_string());
            }
        }
        for (_, event) in events {
            self.events.tell(|| event);
        }
    }
}

/// Adds what was asked for.
fn say(event: &mut Event, terms: &Terms, now: Now) {
    event.reason = terms.reason.as_deref().map(str::to_owned);
    event.expires = (event.event == Happened::Added).then(|| render::ends(terms.until, now)).flatten();
    if event.event == Happened::Added {
        event.actor = terms.actor.as_deref().map(str::to_owned);
    }
}

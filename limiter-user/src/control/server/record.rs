//! What goes to the audit trail: every change, and every attempt that was refused.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use axum::http::Method;

use super::gate::{Caller, Origin, RequestId};
use super::refusal::Refusal;
use super::routes::Shared;
use crate::access::Principal;
use crate::audit::{Budget, Event, Trail};
use crate::control::protocol::Problem;
use crate::enforcer::Now;

/// Records a minute of those who are nobody: they could fill the trail.
const STRANGERS: u32 = 60;

/// A request, before it is known what it is about.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) id: RequestId,
}

impl Asked {
    fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// The trail, as far as it is not a handler's business.
pub(super) struct Record {
    trail: Trail,
    clock: fn() -> Now,
    strangers: Mutex<Budget>,
}

impl Record {
    pub(super) fn new(trail: Trail, clock: fn() -> Now) -> Self {
        Self { trail, clock, strangers: Mutex::new(Budget::a_minute(STRANGERS)) }
    }

    /// Somebody could not say who they are.
    pub(super) async fn stranger(&self, asked: &Asked, origin: &Origin, problem: &Problem) {
        let now = (self.clock)();
        // Nothing panics while it is locked.
        let next = self.strangers.lock().unwrap_or_else(PoisonError::into_inner).next(now.boot);
        let Some(untold) = next else { return };
        let (actor, peer) = match origin {
            Origin::Socket { uid, .. } => (format!("uid:{uid}"), None),
            Origin::Network { peer, .. } => (String::new(), Some(*peer)),
        };
        let what = asked.what();
        let others =
            (untold > 0).then(|| format!("{untold} others of the last minutes are not written down"));
        let event = Event {
            actor: &actor,
            peer,
            request: Some(&asked.id.0),
            what: &what,
            reason: others.as_deref(),
            refused: Some(&problem.detail),
            ..Event::default()
        };
        self.trail.record(event, now.wall).await;
    }

    /// Somebody was refused something, and no handler has written it down.
    pub(super) async fn refused(
        &self,
        asked: &Asked,
        principal: &Principal,
        peer: Option<IpAddr>,
        refusal: &Refusal,
    ) {
        let looks = asked.method == Method::GET && refusal.problem.status != 403;
        if refusal.is_recorded() || looks {
            return;
        }
        let (actor, owner, what) = (principal.actor(), principal.owner_name(), asked.what());
        let event = Event {
            actor: &actor,
            owner: &owner,
            peer,
            request: Some(&asked.id.0),
            what: &what,
            refused: Some(&refusal.problem.detail),
            ..Event::default()
        };
        self.trail.record(event, (self.clock)().wall).await;
    }
}

/// Writes down what a handler did for `caller`; `event` says what that was.
pub(super) async fn done(shared: &Shared, caller: &Caller, event: Event<'_>) {
    let (actor, owner) = (caller.actor(), caller.principal.owner_name());
    let event =
        Event { actor: &actor, owner: &owner, peer: caller.peer(), request: Some(caller.id()), ..event };
    let backend = &shared.backend;
    backend.trail.record(event, (backend.clock)().wall).await;
}

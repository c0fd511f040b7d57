//! Changes that wait for being confirmed.

use axum::Json;
use axum::extract::{Path, State};
use limiter_common::Nanos;
use tokio::sync::oneshot;

use super::Request;
use super::gate::Caller;
use super::record;
use super::refusal::Refusal;
use super::routes::{Answer, Shared};
use crate::access::Need;
use crate::audit::Event;
use crate::control::protocol::{ChangeList, ProblemKind, UnconfirmedChange};
use crate::telemetry::DECISION;

pub(super) async fn list(State(shared): State<Shared>) -> Answer<ChangeList> {
    let mut changes = shared.backend.enforcer.changes().await?;
    let configuration = shared.backend.unconfirmed.borrow().clone();
    changes.extend(configuration.map(|(change, ends)| {
        let left = ends.saturating_sub((shared.backend.clock)().boot);
        UnconfirmedChange { seconds_left: left.0.div_ceil(Nanos::from_secs(1).0), ..change }
    }));
    Ok(Json(ChangeList { changes }))
}

pub(super) async fn confirm(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<UnconfirmedChange> {
    let unknown = || {
        let detail = "there is no such change of yours any more: it was confirmed, or rolled back";
        Refusal::new(ProblemKind::NotFound, 404, detail)
    };
    let Ok(number) = id.parse() else { return Err(unknown()) };
    let is_configuration =
        shared.backend.unconfirmed.borrow().as_ref().is_some_and(|(change, _)| change.id == id);
    let confirmed = if is_configuration {
        caller
            .principal
            .may(&Need::Config)
            .map_err(|denied| Refusal::new(ProblemKind::NotAuthorised, 403, denied.to_string()))?;
        let (reply, answer) = oneshot::channel();
        shared.ask(Request::Confirm(number, reply)).await?;
        answer.await.map_err(Refusal::stopping)??
    } else {
        shared.backend.enforcer.confirm(number, caller.claims_as()?).await?
    };
    let change = confirmed.ok_or_else(unknown)?;
    tracing::info!(
        target: DECISION,
        change = "confirm",
        id = number,
        what = change.what,
        actor = caller.actor(),
        peer = caller.peer().map(tracing::field::display),
        request = caller.id(),
        "confirmed"
    );
    let what = format!("{}.confirm", change.what);
    let event = Event { what: &what, subjects: &[id], count: change.claims, ..Event::default() };
    record::done(&shared, &caller, event).await;
    Ok(Json(change))
}

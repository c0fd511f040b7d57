//! Changes that wait for being confirmed.

use axum::Json;
use axum::extract::{Path, State};

use super::gate::Caller;
use super::record;
use super::refusal::Refusal;
use super::routes::{Answer, Shared};
use crate::audit::Event;
use crate::control::protocol::{ChangeList, ProblemKind, UnconfirmedChange};
use crate::telemetry::DECISION;

pub(super) async fn list(State(shared): State<Shared>) -> Answer<ChangeList> {
    let changes = shared.backend.enforcer.changes().await?;
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
    let confirmed = shared.backend.enforcer.confirm(number, caller.claims_as()?).await?;
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

//! Requests to answers.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::handler::Handler;
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};

use super::body;
use super::gate::{self, Caller, Gate, needs};
use super::idempotency::Answers;
use super::refusal::Refusal;
use super::{
    Backend, Request, ToConfirm, changes, confirm, events, listing, openapi, record, reports, tokens,
};
use crate::access::Need;
use crate::audit::Event;
use crate::config;
use crate::control::protocol::{
    Checked, Counters, DetachRequest, Detached, Explanation, InterfaceCounters, ProblemKind, ReasonCount,
    Reloaded, Status,
};
use crate::dataplane::InterfaceCounts;
use crate::enforcer::Question;

/// Imports that are held in memory at a time, from this machine and from the network: who is far and slow does not keep
/// an operator waiting.
const MAX_IMPORTS: [usize; 2] = [2, 1];

/// What all handlers have.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) backend: Backend,
    pub(super) imports: [Arc<Semaphore>; 2],
    pub(super) listeners: [Arc<Semaphore>; 2],
    pub(super) once: Answers,
}

/// Problems of a configuration that are told.
const TOLD: usize = 100;

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// All routes, behind the gate. Connections add an [`super::gate::Origin`].
pub(super) fn router(backend: Backend, gate: Gate) -> Router {
    let imports = MAX_IMPORTS.map(|number| Arc::new(Semaphore::new(number)));
    let listeners = events::MAX_LISTENERS.map(|number| Arc::new(Semaphore::new(number)));
    let shared = Shared { backend, imports, listeners, once: Answers::default() };
    routes()
        .router
        .fallback(async || {
            Refusal::new(ProblemKind::NotFound, 404, "there is no such resource; see /v1/openapi.json")
        })
        .method_not_allowed_fallback(async || {
            Refusal::new(ProblemKind::Invalid, 405, "this resource does not have that method")
        })
        .layer(from_fn_with_state(gate.clone(), gate::identified))
        .layer(from_fn_with_state(gate, gate::told))
        .with_state(shared)
}

/// Every route with what it asks of its callers. `openapi/operations.rs` says what they are for.
pub(super) fn routes() -> Routes {
    const BLOCK: Need = Need::Block(None);
    const ALLOW: Need = Need::Allow(None);
    Routes::default()
        .get("/v1/blocks", Need::Read, listing::blocks)
        .post("/v1/blocks", BLOCK, changes::add_blocks)
        .post("/v1/blocks/remove", BLOCK, changes::remove_blocks)
        .post("/v1/blocks/import", BLOCK, changes::import)
        .get("/v1/allows", Need::Read, listing::allows)
        .post("/v1/allows", ALLOW, changes::add_allows)
        .post("/v1/allows/remove", ALLOW, changes::remove_allows)
        .post("/v1/reports", Need::Report, reports::report)
        .get("/v1/explain", Need::Read, explain)
        .get("/v1/lookup/{address}", Need::Read, lookup)
        .get("/v1/status", Need::Read, status)
        .get("/v1/counters", Need::Read, counters)
        .get("/v1/events", Need::Read, events::events)
        .post("/v1/config/check", Need::Config, check)
        .post("/v1/reload", Need::Config, reload)
        .post("/v1/detach", Need::Admin, detach)
        .get("/v1/changes", Need::Read, confirm::list)
        .post("/v1/changes/{id}/confirm", Need::Confirm, confirm::confirm)
        .get("/v1/tokens", Need::Admin, tokens::list)
        .post("/v1/tokens", Need::Admin, tokens::create)
        .post("/v1/tokens/{id}/revoke", Need::Admin, tokens::revoke)
        .post("/v1/tokens/{id}/rotate", Need::Admin, tokens::rotate)
        .get("/v1/openapi.json", Need::Read, async || openapi::description())
        .probe("/healthz", async || "ok\n")
        .probe("/readyz", ready)
}

/// A router whose routes are known, so that their description can be compared with them.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Shared>,
    /// Method, path, and what is asked of callers; `None` for nothing.
    #[cfg(test)]
    pub(super) known: Vec<(&'static str, &'static str, Option<Need>)>,
}

impl Routes {
    fn get<T: 'static>(self, path: &'static str, need: Need, handler: impl Handler<T, Shared>) -> Self {
        self.route(("get", path), Some(need), get(handler))
    }

    fn post<T: 'static>(self, path: &'static str, need: Need, handler: impl Handler<T, Shared>) -> Self {
        self.route(("post", path), Some(need), post(handler))
    }

    /// For anybody.
    fn probe<T: 'static>(self, path: &'static str, handler: impl Handler<T, Shared>) -> Self {
        self.route(("get", path), None, get(handler))
    }

    fn route(
        mut self,
        (_method, path): (&'static str, &'static str),
        need: Option<Need>,
        handler: MethodRouter<Shared>,
    ) -> Self {
        #[cfg(test)]
        self.known.push((_method, path, need));
        let handler = match need {
            Some(need) => needs(need, handler),
            None => handler,
        };
        self.router = self.router.route(path, handler);
        self
    }
}

/// Whether a text would be a configuration. Pure: no file that it names is opened.
async fn check(caller: Caller, headers: HeaderMap, body: Body) -> Answer<Checked> {
    let held = body::whole(&headers, body, &caller.bounds, caller.bounds.bulk).await?;
    match config::parse(held.text()?, std::path::Path::new("(request)")) {
        Ok(_) => Ok(Json(Checked { ok: true })),
        Err(problems) => {
            let mut refusal = Refusal::new(ProblemKind::Invalid, 422, "the configuration has problems");
            refusal.problem.items = problems.to_string().lines().take(TOLD).map(str::to_owned).collect();
            Err(refusal)
        }
    }
}

/// For load balancers and those who wait for a start: nothing but yes or no.
async fn ready(State(shared): State<Shared>) -> Response {
    if *shared.backend.ready.borrow() {
        "ready\n".into_response()
    } else {
        Refusal::busy(503, "not ready; `limiter status` on the machine says why", 5).into_response()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    address: IpAddr,
    protocol: Option<u8>,
    port: Option<u16>,
    interface: Option<String>,
}

async fn explain(
    State(shared): State<Shared>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Answer<Explanation> {
    let Query(ExplainQuery { address, protocol, port, interface }) =
        query.map_err(|error| Refusal::invalid(error.body_text()))?;
    if port.is_some() && protocol.is_none() {
        return Err(Refusal::invalid("a port needs a protocol"));
    }
    explained(&shared, Question { address, protocol, port, interface }).await
}

/// The same without a packet.
async fn lookup(State(shared): State<Shared>, Path(address): Path<String>) -> Answer<Explanation> {
    let Ok(address) = address.parse() else {
        return Err(Refusal::invalid(format!("{address:?} is no address; expected one like 192.0.2.7")));
    };
    explained(&shared, Question { address, protocol: None, port: None, interface: None }).await
}

async fn explained(shared: &Shared, question: Question) -> Answer<Explanation> {
    let mut explanation = shared.backend.enforcer.explain(question).await?;
    listing::told(&shared.backend, &mut explanation.claims)
        .map_err(|error| Refusal::failed(format!("cannot read the kernel's counters: {error}")))?;
    Ok(Json(explanation))
}

async fn counters(State(shared): State<Shared>) -> Answer<Counters> {
    let reader = shared.backend.reader;
    let counts = tokio::task::spawn_blocking(move || reader.counts()).await;
    match counts {
        Ok(Ok(counts)) => Ok(Json(counters_of(counts))),
        Ok(Err(error)) => Err(Refusal::failed(format!("cannot read the kernel's counters: {error}"))),
        Err(error) => Err(Refusal::failed(error.to_string())),
    }
}

fn counters_of(counts: Vec<InterfaceCounts>) -> Counters {
    let interfaces = counts
        .into_iter()
        .map(|InterfaceCounts { interface, counts }| InterfaceCounters {
            interface,
            reasons: counts
                .into_iter()
                .map(|(reason, count)| ReasonCount {
                    reason: reason.label().to_owned(),
                    action: reason.action().label().to_owned(),
                    packets: count.packets,
                    bytes: count.bytes,
                })
                .collect(),
        })
        .collect();
    Counters { interfaces }
}

async fn status(State(shared): State<Shared>) -> Answer<Status> {
    let (reply, answer) = oneshot::channel();
    shared.ask(Request::Status(reply)).await?;
    answer.await.map(Json).map_err(Refusal::stopping)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    confirm_seconds: Option<u64>,
}

async fn reload(
    State(shared): State<Shared>,
    caller: Caller,
    query: Result<Query<ReloadQuery>, QueryRejection>,
) -> Answer<Reloaded> {
    let Query(query) = query.map_err(|error| Refusal::invalid(error.body_text()))?;
    let to_confirm = match query.confirm_seconds {
        None => None,
        Some(seconds @ 1..=3600) => Some(ToConfirm { seconds, actor: caller.actor() }),
        Some(_) => return Err(Refusal::invalid("a configuration can wait from 1 to 3600 seconds")),
    };
    let (reply, answer) = oneshot::channel();
    shared.ask(Request::Reload(to_confirm, reply)).await?;
    let reloaded = answer.await.map_err(Refusal::stopping)??;
    let count = u64::try_from(reloaded.changes.len()).unwrap_or(u64::MAX);
    let after = reloaded.change.as_ref().map(|id| format!("change {id}, to be confirmed"));
    let event =
        Event { what: "config.reload", subjects: &reloaded.changes, count, after, ..Event::default() };
    record::done(&shared, &caller, event).await;
    Ok(Json(reloaded))
}

async fn detach(
    State(shared): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer<Detached> {
    let request: DetachRequest = body::json(&headers, body, &caller.bounds, caller.bounds.small).await?;
    let (reply, answer) = oneshot::channel();
    shared.ask(Request::Detach(request, reply)).await?;
    let detached = answer.await.map_err(Refusal::stopping)??;
    let count = u64::try_from(detached.interfaces.len()).unwrap_or(u64::MAX);
    let event = Event { what: "detach", subjects: &detached.interfaces, count, ..Event::default() };
    record::done(&shared, &caller, event).await;
    Ok(Json(detached))
}

impl Shared {
    pub(super) async fn ask(&self, request: Request) -> Result<(), Refusal> {
        self.backend.daemon.send(request).await.map_err(Refusal::stopping)
    }
}

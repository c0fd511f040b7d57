//! Requests to answers. The table is in [`crate::control`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
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
use super::{Backend, Request, changes, listing, record, reports, tokens};
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
    pub(super) once: Answers,
}

/// Problems of a configuration that are told.
const TOLD: usize = 100;

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// Every route with what it asks of its callers. Connections add an [`super::gate::Origin`].
pub(super) fn router(backend: Backend, gate: Gate) -> Router {
    let imports = MAX_IMPORTS.map(|number| Arc::new(Semaphore::new(number)));
    let shared = Shared { backend, imports, once: Answers::default() };
    Router::new()
        .route("/v1/blocks", read(get(listing::blocks)).merge(block(post(changes::add_blocks))))
        .route("/v1/blocks/remove", block(post(changes::remove_blocks)))
        .route("/v1/blocks/import", block(post(changes::import)))
        .route("/v1/allows", read(get(listing::allows)).merge(allow(post(changes::add_allows))))
        .route("/v1/allows/remove", allow(post(changes::remove_allows)))
        .route("/v1/reports", needs(Need::Report, post(reports::report)))
        .route("/v1/explain", read(get(explain)))
        .route("/v1/lookup/{address}", read(get(lookup)))
        .route("/v1/status", read(get(status)))
        .route("/v1/counters", read(get(counters)))
        .route("/v1/config/check", needs(Need::Config, post(check)))
        .route("/v1/reload", needs(Need::Config, post(reload)))
        .route("/v1/detach", needs(Need::Admin, post(detach)))
        .route("/v1/tokens", needs(Need::Admin, post(tokens::create).get(tokens::list)))
        .route("/v1/tokens/{id}/revoke", needs(Need::Admin, post(tokens::revoke)))
        .route("/v1/tokens/{id}/rotate", needs(Need::Admin, post(tokens::rotate)))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
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

fn read(methods: MethodRouter<Shared>) -> MethodRouter<Shared> {
    needs(Need::Read, methods)
}

fn block(methods: MethodRouter<Shared>) -> MethodRouter<Shared> {
    needs(Need::Block(None), methods)
}

fn allow(methods: MethodRouter<Shared>) -> MethodRouter<Shared> {
    needs(Need::Allow(None), methods)
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

async fn reload(State(shared): State<Shared>, caller: Caller) -> Answer<Reloaded> {
    let (reply, answer) = oneshot::channel();
    shared.ask(Request::Reload(reply)).await?;
    let reloaded = answer.await.map_err(Refusal::stopping)??;
    let count = u64::try_from(reloaded.changes.len()).unwrap_or(u64::MAX);
    let event = Event { what: "config.reload", subjects: &reloaded.changes, count, ..Event::default() };
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
    async fn ask(&self, request: Request) -> Result<(), Refusal> {
        self.backend.daemon.send(request).await.map_err(Refusal::stopping)
    }
}

//! Requests to answers. The table is in [`crate::control`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::stream;
use hyper::body::Bytes;
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::body::{self, invalid};
use super::decisions::Decision;
use super::hits::Hits;
use super::{Backend, Request};
use crate::blocklist::{self, Owner};
use crate::config::Action;
use crate::config::lists::{Parsed, Parser};
use crate::control::protocol::{
    AddRequest, AddResponse, Claim, Counters, DetachRequest, Detached, Explanation, InterfaceCounters,
    Problem, ProblemKind, ReasonCount, Reloaded, RemoveRequest, RemoveResponse, Status,
};
use crate::dataplane::InterfaceCounts;
use crate::enforcer::{self, ImportOptions, Page, Question};

/// Claims that are fetched and sent at a time.
const PAGE: usize = 1000;
/// Pieces of an import that wait for being parsed.
const PIECES: usize = 8;
/// Imports that are held in memory at a time.
const MAX_IMPORTS: usize = 2;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) allowed: bool,
    pub(super) uid: u32,
}

#[derive(Clone)]
struct Shared {
    backend: Backend,
    imports: Arc<Semaphore>,
}

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) fn router(backend: Backend) -> Router {
    Router::new()
        .route("/v1/blocks", post(add_blocks).get(list_blocks))
        .route("/v1/blocks/remove", post(remove_blocks))
        .route("/v1/blocks/import", post(import))
        .route("/v1/allows", post(add_allows).get(list_allows))
        .route("/v1/allows/remove", post(remove_allows))
        .route("/v1/explain", get(explain))
        .route("/v1/status", get(status))
        .route("/v1/counters", get(counters))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .fallback(async || {
            refuse(
                ProblemKind::NotFound,
                404,
                "there is no such resource; see the control API's documentation",
            )
        })
        .method_not_allowed_fallback(async || {
            refuse(ProblemKind::Invalid, 405, "this resource does not have that method")
        })
        .layer(axum::middleware::from_fn(only_operators))
        .with_state(Shared { backend, imports: Arc::new(Semaphore::new(MAX_IMPORTS)) })
}

async fn only_operators(
    Extension(caller): Extension<Caller>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    if caller.allowed {
        return next.run(request).await;
    }
    tracing::warn!(uid = caller.uid, "control socket: refused a caller who is not an operator");
    refuse(
        ProblemKind::NotAuthorised,
        403,
        "only root and members of the group in [control] of the configuration may use the control socket",
    )
    .into_response()
}

async fn add_blocks(
    state: State<Shared>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answer<AddResponse> {
    add(Action::Block, state, caller, headers, body).await
}

async fn add_allows(
    state: State<Shared>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answer<AddResponse> {
    add(Action::Allow, state, caller, headers, body).await
}

async fn add(
    action: Action,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answer<AddResponse> {
    let request: AddRequest = body::json(&headers, body).await?;
    if request.seconds == Some(0) {
        return Err(invalid("seconds must be at least 1, or absent for good".to_owned()).into());
    }
    let AddRequest { prefixes, seconds, reason, force, .. } = request.clone();
    let outcome = shared.backend.enforcer.add(action, request, caller.into()).await;
    // As it is kept: without control characters, and short.
    let reason = reason.as_deref().and_then(blocklist::reason);
    let (prefixes, reason) = (prefixes.as_slice(), reason.as_deref());
    let decision = Decision { action, change: "add", prefixes, seconds, reason, force, uid: caller.uid };
    decided(&decision, outcome, |done| done.added + done.updated)
}

async fn remove_blocks(
    state: State<Shared>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answer<RemoveResponse> {
    remove(Action::Block, state, caller, headers, body).await
}

async fn remove_allows(
    state: State<Shared>,
    caller: Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answer<RemoveResponse> {
    remove(Action::Allow, state, caller, headers, body).await
}

async fn remove(
    action: Action,
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Answer<RemoveResponse> {
    let request: RemoveRequest = body::json(&headers, body).await?;
    let prefixes = request.prefixes.clone();
    let outcome = shared.backend.enforcer.remove(action, request, caller.into()).await;
    let (prefixes, uid) = (prefixes.as_slice(), caller.uid);
    let decision =
        Decision { action, change: "remove", prefixes, seconds: None, reason: None, force: false, uid };
    decided(&decision, outcome, |done| done.removed)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    #[serde(rename = "for")]
    seconds: Option<u64>,
    reason: Option<String>,
    #[serde(default)]
    force: bool,
    ssh_peer: Option<String>,
    owner: Option<String>,
}

async fn import(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ImportQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<AddResponse> {
    let Query(query) = query.map_err(|error| invalid(error.body_text()))?;
    if query.seconds == Some(0) {
        return Err(invalid("for must be at least 1 second, or absent for good".to_owned()).into());
    }
    let Ok(_place) = shared.imports.try_acquire() else {
        return Err(refuse(ProblemKind::Failed, 503, "other imports are under way; try again in a moment"));
    };
    let parsed = parse(&headers, body).await?;
    let options = ImportOptions {
        seconds: query.seconds,
        reason: query.reason.clone(),
        force: query.force,
        ssh_peer: query.ssh_peer,
        owner: query.owner,
    };
    let outcome = shared.backend.enforcer.import(Action::Block, parsed, options, caller.into()).await;
    let reason = query.reason.as_deref().and_then(blocklist::reason);
    let decision = Decision {
        action: Action::Block,
        change: "import",
        prefixes: &[],
        seconds: query.seconds,
        reason: reason.as_deref(),
        force: query.force,
        uid: caller.uid,
    };
    decided(&decision, outcome, |done| done.added + done.updated)
}

/// Reads a list while it arrives, on a thread of its own: nothing is kept of the text.
async fn parse(headers: &HeaderMap, body: Body) -> Result<Parsed, Problem> {
    let mut pieces = body::Pieces::new(headers, body, body::MAX_LIST)?;
    let (send, mut arrived) = mpsc::channel::<Bytes>(PIECES);
    let parsing = tokio::task::spawn_blocking(move || {
        let mut parser = Parser::default();
        while let Some(piece) = arrived.blocking_recv() {
            parser.feed(&piece);
        }
        parser.finish()
    });
    while let Some(piece) = pieces.next().await? {
        // An error means that the thread is gone, which its answer tells.
        let _ = send.send(piece).await;
    }
    drop(send);
    parsing.await.map_err(|error| failed(format!("the request was not completed: {error}")).0)
}

/// Puts the outcome on record, and answers.
fn decided<T>(
    decision: &Decision<'_>,
    outcome: Result<T, enforcer::Error>,
    changed: impl FnOnce(&T) -> u64,
) -> Answer<T> {
    match outcome {
        Ok(done) => {
            match changed(&done) {
                0 => {}
                changed => decision.done(changed),
            }
            Ok(Json(done))
        }
        Err(error) => {
            let problem = Problem::from(error);
            decision.refused(&problem.detail);
            Err(problem.into())
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    owner: Option<String>,
}

type ListQueried = Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>;

async fn list_blocks(State(shared): State<Shared>, query: ListQueried) -> Result<Response, Refusal> {
    list(shared.backend, Action::Block, query).await
}

async fn list_allows(State(shared): State<Shared>, query: ListQueried) -> Result<Response, Refusal> {
    list(shared.backend, Action::Allow, query).await
}

/// A claim per line, page by page: memory does not grow with the list, and the Enforcer serves others in between.
async fn list(backend: Backend, action: Action, query: ListQueried) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| invalid(error.body_text()))?;
    let owner = query.owner.map(|owner| owner.parse::<Owner>()).transpose();
    let owner = owner.map_err(|error| invalid(format!("owner: {error}")))?;
    // The first page before the answer begins, so that an error can still be told.
    let first = backend.enforcer.page(action, owner.clone(), None, PAGE).await?;
    let pages = stream::unfold(Some(Ok(first)), move |page| {
        let (backend, owner) = (backend.clone(), owner.clone());
        async move {
            let Page { mut claims, next } = match page? {
                Ok(page) => page,
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            };
            let lines = match told(&backend, &mut claims).and_then(|()| Ok(lines(&claims)?)) {
                Ok(lines) => lines,
                Err(error) => return Some((Err(error), None)),
            };
            let next = match next {
                Some(after) => {
                    let page = backend.enforcer.page(action, owner, Some(after), PAGE).await;
                    Some(page.map_err(|error| Problem::from(error).detail))
                }
                None => None,
            };
            Some((Ok(lines), next))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pages)).into_response())
}

/// Adds to blocks what the kernel sampled of them. Reads mapped memory, so it need not wait.
fn told(backend: &Backend, claims: &mut [Claim]) -> std::io::Result<()> {
    if claims.iter().any(|claim| claim.action == Action::Block) {
        Hits::new(backend.reader.hits()?, (backend.clock)()).tell(claims);
    }
    Ok(())
}

fn lines(claims: &[Claim]) -> serde_json::Result<Bytes> {
    let mut lines = Vec::with_capacity(claims.len() * 160);
    for claim in claims {
        serde_json::to_writer(&mut lines, claim)?;
        lines.push(b'\n');
    }
    Ok(lines.into())
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
    query: Result<Query<ExplainQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<Explanation> {
    let Query(ExplainQuery { address, protocol, port, interface }) =
        query.map_err(|error| invalid(error.body_text()))?;
    if port.is_some() && protocol.is_none() {
        return Err(invalid("a port needs a protocol".to_owned()).into());
    }
    let question = Question { address, protocol, port, interface };
    let mut explanation = shared.backend.enforcer.explain(question).await?;
    told(&shared.backend, &mut explanation.claims)
        .map_err(|error| failed(format!("cannot read the kernel's counters: {error}")))?;
    Ok(Json(explanation))
}

async fn counters(State(shared): State<Shared>) -> Answer<Counters> {
    let reader = shared.backend.reader;
    let counts = tokio::task::spawn_blocking(move || reader.counts()).await;
    match counts {
        Ok(Ok(counts)) => Ok(Json(counters_of(counts))),
        Ok(Err(error)) => Err(failed(format!("cannot read the kernel's counters: {error}"))),
        Err(error) => Err(failed(error.to_string())),
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
    answer.await.map(Json).map_err(stopping)
}

async fn reload(State(shared): State<Shared>) -> Answer<Reloaded> {
    let (reply, answer) = oneshot::channel();
    shared.ask(Request::Reload(reply)).await?;
    Ok(Json(answer.await.map_err(stopping)??))
}

async fn detach(State(shared): State<Shared>, headers: HeaderMap, body: Body) -> Answer<Detached> {
    let request: DetachRequest = body::json(&headers, body).await?;
    let (reply, answer) = oneshot::channel();
    shared.ask(Request::Detach(request, reply)).await?;
    Ok(Json(answer.await.map_err(stopping)??))
}

impl Shared {
    async fn ask(&self, request: Request) -> Result<(), Refusal> {
        self.backend.daemon.send(request).await.map_err(stopping)
    }
}

impl From<Caller> for enforcer::Caller {
    fn from(caller: Caller) -> Self {
        Self::operator(caller.uid)
    }
}

/// A problem on its way out.
struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<enforcer::Error> for Refusal {
    fn from(error: enforcer::Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let content_type = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

fn refuse(kind: ProblemKind, status: u16, detail: &str) -> Refusal {
    let title = match kind {
        ProblemKind::NotAuthorised => "not authorised",
        ProblemKind::NotFound => "not found",
        ProblemKind::Invalid => "invalid request",
        ProblemKind::Guarded => "refused by a guard",
        ProblemKind::Full => "table full",
        ProblemKind::NotDurable => "not durable",
        ProblemKind::Failed => "failed",
    };
    Refusal(Problem { kind, title: title.to_owned(), status, detail: detail.to_owned(), items: Vec::new() })
}

fn failed(detail: String) -> Refusal {
    refuse(ProblemKind::Failed, 500, &detail)
}

/// Whoever was to answer is gone.
fn stopping<E>(_: E) -> Refusal {
    refuse(ProblemKind::Failed, 503, "the daemon is stopping")
}

//! What changes the lists: add, remove, import.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use hyper::body::Bytes;
use limiter_common::Prefix;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::body;
use super::decisions::Decision;
use super::estimate::Estimate;
use super::gate::Caller;
use super::idempotency::{Bulk, no_key};
use super::refusal::Refusal;
use super::routes::{Answer, Shared};
use crate::access::{Entry, Need};
use crate::blocklist;
use crate::config::Action;
use crate::config::lists::{Parsed, Parser};
use crate::control::protocol::{AddRequest, AddResponse, ProblemKind, RemoveRequest, RemoveResponse};
use crate::enforcer::{self, ImportOptions};

/// Pieces of an import that wait for being parsed.
const PIECES: usize = 8;
/// Prefixes that a refusal names.
const TOLD: usize = 100;

pub(super) async fn add_blocks(shared: State<Shared>, asked: Bulk) -> Result<Response, Refusal> {
    add(Action::Block, shared, asked).await
}

pub(super) async fn add_allows(shared: State<Shared>, asked: Bulk) -> Result<Response, Refusal> {
    add(Action::Allow, shared, asked).await
}

async fn add(action: Action, State(shared): State<Shared>, asked: Bulk) -> Result<Response, Refusal> {
    let Bulk { caller, once, bytes } = asked;
    shared.once.clone().answer(once, added(action, &shared, &caller, &bytes)).await
}

async fn added(
    action: Action,
    shared: &Shared,
    caller: &Caller,
    bytes: &[u8],
) -> Result<AddResponse, Refusal> {
    let request: AddRequest = body::parse(bytes)?;
    if request.seconds == Some(0) {
        return Err(Refusal::invalid("seconds must be at least 1, or absent for good"));
    }
    let AddRequest { prefixes, seconds, reason, force, dry_run, .. } = request.clone();
    // As it is kept: without control characters, and short.
    let reason = reason.as_deref().and_then(blocklist::reason);
    let (prefixes, reason) = (prefixes.as_slice(), reason.as_deref());
    let change = if dry_run { "add-dry-run" } else { "add" };
    let decision = Decision { action, change, prefixes, seconds, reason, force, caller };
    let allowed = count(caller, prefixes.len()).and_then(|()| {
        entries(action, shared, caller, seconds, prefixes.iter().filter_map(|text| text.parse().ok()))
    });
    if let Err(refusal) = allowed {
        return Err(decision.recorded(shared, refusal).await);
    }
    let outcome = shared.backend.enforcer.add(action, request, caller.claims_as()?).await;
    let changed = |done: &AddResponse| (changes(done), done.before.clone(), until(seconds, done));
    let mut done = decided(&decision, shared, outcome, changed).await?;
    done.cuts = told(caller, done.cuts);
    Ok(done)
}

pub(super) async fn remove_blocks(shared: State<Shared>, asked: Bulk) -> Result<Response, Refusal> {
    remove(Action::Block, shared, asked).await
}

pub(super) async fn remove_allows(shared: State<Shared>, asked: Bulk) -> Result<Response, Refusal> {
    remove(Action::Allow, shared, asked).await
}

async fn remove(action: Action, State(shared): State<Shared>, asked: Bulk) -> Result<Response, Refusal> {
    let Bulk { caller, once, bytes } = asked;
    shared.once.clone().answer(once, removed(action, &shared, &caller, &bytes)).await
}

async fn removed(
    action: Action,
    shared: &Shared,
    caller: &Caller,
    bytes: &[u8],
) -> Result<RemoveResponse, Refusal> {
    let request: RemoveRequest = body::parse(bytes)?;
    let prefixes = request.prefixes.clone();
    let prefixes = prefixes.as_slice();
    let (seconds, reason, force) = (None, None, false);
    let change = if request.dry_run { "remove-dry-run" } else { "remove" };
    let decision = Decision { action, change, prefixes, seconds, reason, force, caller };
    if let Err(refusal) = count(caller, prefixes.len()) {
        return Err(decision.recorded(shared, refusal).await);
    }
    let outcome = shared.backend.enforcer.remove(action, request, caller.claims_as()?).await;
    let removed = |done: &RemoveResponse| if done.dry_run { 0 } else { done.removed };
    let changed =
        |done: &RemoveResponse| (removed(done), done.before.clone(), format!("removed {}", done.removed));
    let mut done = decided(&decision, shared, outcome, changed).await?;
    done.cuts = told(caller, done.cuts);
    Ok(done)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportQuery {
    #[serde(rename = "for")]
    seconds: Option<u64>,
    reason: Option<String>,
    #[serde(default)]
    force: bool,
    ssh_peer: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    dry_run: bool,
    /// Bytes that are about to come, if they are sent in chunks: a hint, to make room meanwhile.
    size: Option<u64>,
}

/// How long an import waits for others.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn import(
    State(shared): State<Shared>,
    caller: Caller,
    query: Result<Query<ImportQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Answer<AddResponse> {
    let Query(query) = query.map_err(|error| Refusal::invalid(error.body_text()))?;
    if query.seconds == Some(0) {
        return Err(Refusal::invalid("for must be at least 1 second, or absent for good"));
    }
    no_key(
        &headers,
        "an import that is repeated changes nothing but how long its blocks last; leave the key out",
    )?;
    let places = &shared.imports[usize::from(caller.peer().is_some())];
    // One whose sender has hung up is over in a moment.
    let Ok(Ok(_place)) = tokio::time::timeout(PATIENCE, places.acquire()).await else {
        return Err(Refusal::busy(503, "other imports are under way; try again in a moment", 5));
    };
    // Who may import only so much shall not make room for more.
    let size = body::announced(&headers).or(query.size);
    let size = size.filter(|_| caller.principal.is_operator() && !query.dry_run);
    let estimate = size.map(|size| Estimate::new(usize::try_from(size).unwrap_or(usize::MAX)));
    let parsed = parse(&headers, &caller, body, estimate, shared.backend.enforcer.clone()).await?;
    let reason = query.reason.as_deref().and_then(blocklist::reason);
    let decision = Decision {
        action: Action::Block,
        change: if query.dry_run { "import-dry-run" } else { "import" },
        prefixes: &[],
        seconds: query.seconds,
        reason: reason.as_deref(),
        force: query.force,
        caller: &caller,
    };
    if let Err(refusal) = entries(Action::Block, &shared, &caller, query.seconds, parsed.prefixes.iter()) {
        return Err(decision.recorded(&shared, refusal).await);
    }
    let options = ImportOptions {
        seconds: query.seconds,
        reason: query.reason.clone(),
        force: query.force,
        ssh_peer: query.ssh_peer,
        owner: query.owner,
        dry_run: query.dry_run,
    };
    let outcome = shared.backend.enforcer.import(Action::Block, parsed, options, caller.claims_as()?).await;
    let changed = |done: &AddResponse| (changes(done), done.before.clone(), until(query.seconds, done));
    let mut done = decided(&decision, &shared, outcome, changed).await?;
    done.cuts = told(&caller, done.cuts);
    Ok(Json(done))
}

/// Reads a list while it arrives, on a thread of its own: nothing is kept of the text. The enforcer is told early how
/// much it is about to be.
async fn parse(
    headers: &HeaderMap,
    caller: &Caller,
    body: Body,
    mut estimate: Option<Estimate>,
    enforcer: enforcer::Handle,
) -> Result<Parsed, Refusal> {
    let mut pieces = body::Pieces::new(headers, body, &caller.bounds, caller.bounds.list)?;
    let (send, mut arrived) = mpsc::channel::<Bytes>(PIECES);
    let parsing = tokio::task::spawn_blocking(move || {
        let mut parser = Parser::default();
        while let Some(piece) = arrived.blocking_recv() {
            parser.feed(&piece);
            let coming = estimate.as_mut().and_then(|size| size.after(piece.len(), parser.families()));
            if let Some(families) = coming {
                enforcer.prepare(families);
                estimate = None;
            }
        }
        parser.finish()
    });
    while let Some(piece) = pieces.next().await? {
        // An error means that the thread is gone, which its answer tells.
        let _ = send.send(piece).await;
    }
    drop(send);
    parsing.await.map_err(|error| Refusal::failed(format!("the request was not completed: {error}")))
}

/// Whether so many prefixes may be named at once.
fn count(caller: &Caller, prefixes: usize) -> Result<(), Refusal> {
    if prefixes <= caller.bounds.prefixes {
        return Ok(());
    }
    let most = caller.bounds.prefixes;
    Err(Refusal::new(
        ProblemKind::Invalid,
        413,
        format!(
            "{prefixes} prefixes are too many for a request; send at most {most} at a time, or import them"
        ),
    ))
}

/// Whether the caller may ask for each of `prefixes`, and for so many. All or none.
fn entries(
    action: Action,
    shared: &Shared,
    caller: &Caller,
    seconds: Option<u64>,
    prefixes: impl Iterator<Item = Prefix>,
) -> Result<(), Refusal> {
    if caller.principal.is_operator() {
        return Ok(());
    }
    let ttl = seconds.map(Duration::from_secs);
    let (mut number, mut refused, mut items) = (0u32, 0u32, Vec::new());
    for prefix in prefixes {
        number = number.saturating_add(1);
        let entry = Some(Entry { prefix, ttl });
        let need = match action {
            Action::Block => Need::Block(entry),
            Action::Allow => Need::Allow(entry),
        };
        if let Err(denied) = caller.principal.may(&need) {
            refused += 1;
            if items.len() < TOLD {
                items.push(format!("{prefix}: {denied}"));
            }
        }
    }
    if refused > 0 {
        let detail =
            format!("{refused} of {number} are more than the caller may ask for; nothing was changed");
        let mut refusal = Refusal::new(ProblemKind::NotAuthorised, 403, detail);
        refusal.problem.items = items;
        return Err(refusal);
    }
    let backend = &shared.backend;
    Ok(backend.access.charge(&caller.principal, number, (backend.clock)())?)
}

/// Who may not read is not told either who is connected.
fn told(caller: &Caller, cuts: Option<u64>) -> Option<u64> {
    cuts.filter(|_| caller.principal.may(&Need::Read).is_ok())
}

/// How many claims are different now.
fn changes(done: &AddResponse) -> u64 {
    if done.dry_run { 0 } else { done.added + done.updated }
}

/// How it is after something was added.
fn until(seconds: Option<u64>, done: &AddResponse) -> String {
    let time = match seconds {
        Some(seconds) => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        None if !done.escalated.is_empty() => "longer each time".to_owned(),
        None => "good".to_owned(),
    };
    let AddResponse { added, updated, unchanged, .. } = done;
    format!("for {time}: {added} new, {updated} updated, {unchanged} as before")
}

/// Puts the outcome on record, and hands it on.
async fn decided<T>(
    decision: &Decision<'_>,
    shared: &Shared,
    outcome: Result<T, enforcer::Error>,
    changed: impl FnOnce(&T) -> (u64, Option<String>, String),
) -> Result<T, Refusal> {
    match outcome {
        Ok(done) => {
            match changed(&done) {
                (0, ..) => {}
                (changed, before, after) => decision.done(shared, changed, before, after).await,
            }
            Ok(done)
        }
        Err(error) => Err(decision.recorded(shared, error.into()).await),
    }
}

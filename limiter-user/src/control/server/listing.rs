//! Lists of claims: as a stream, or page by page.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hyper::body::Bytes;
use serde::Deserialize;

use super::Backend;
use super::hits::Hits;
use super::refusal::Refusal;
use super::routes::Shared;
use crate::blocklist::Owner;
use crate::config::Action;
use crate::control::protocol::{Claim, ClaimPage, Problem};
use crate::enforcer::{Cursor, Page};

/// Claims that are fetched and sent at a time.
const PAGE: usize = 1000;
/// Pages that are asked for to fill one.
const LOOKS: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    owner: Option<String>,
    /// Claims in a page. Absent: all of them, as a stream.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<String>,
}

pub(super) type ListQueried = Result<Query<ListQuery>, QueryRejection>;

pub(super) async fn blocks(State(shared): State<Shared>, query: ListQueried) -> Result<Response, Refusal> {
    list(shared.backend, Action::Block, query).await
}

pub(super) async fn allows(State(shared): State<Shared>, query: ListQueried) -> Result<Response, Refusal> {
    list(shared.backend, Action::Allow, query).await
}

async fn list(backend: Backend, action: Action, query: ListQueried) -> Result<Response, Refusal> {
    let Query(ListQuery { owner, limit, cursor }) =
        query.map_err(|error| Refusal::invalid(error.body_text()))?;
    let owner = owner.map(|owner| owner.parse::<Owner>()).transpose();
    let owner = owner.map_err(|error| Refusal::invalid(format!("owner: {error}")))?;
    let cursor = cursor.map(|cursor| cursor.parse::<Cursor>()).transpose();
    let cursor = cursor.map_err(|error| Refusal::invalid(format!("cursor: {error}")))?;
    match limit {
        Some(limit) if (1..=PAGE).contains(&limit) => {
            Ok(Json(page(&backend, action, owner, cursor, limit).await?).into_response())
        }
        Some(_) => Err(Refusal::invalid(format!("limit must be from 1 to {PAGE}"))),
        None => stream(backend, action, owner, cursor).await,
    }
}

/// Up to `limit` claims, and where to go on.
async fn page(
    backend: &Backend,
    action: Action,
    owner: Option<Owner>,
    mut cursor: Option<Cursor>,
    limit: usize,
) -> Result<ClaimPage, Refusal> {
    let mut claims = Vec::new();
    // Of one owner there may be few among many, so a look may find none.
    for _ in 0..LOOKS {
        let found = backend.enforcer.page(action, owner.clone(), cursor, limit - claims.len()).await?;
        claims.extend(found.claims);
        cursor = found.next;
        if cursor.is_none() || claims.len() >= limit {
            break;
        }
    }
    told(backend, &mut claims)
        .map_err(|error| Refusal::failed(format!("cannot read the kernel's counters: {error}")))?;
    Ok(ClaimPage { claims, next: cursor.map(|cursor| cursor.to_string()) })
}

/// A claim per line, page by page: memory does not grow with the list, and the Enforcer serves others in between.
async fn stream(
    backend: Backend,
    action: Action,
    owner: Option<Owner>,
    cursor: Option<Cursor>,
) -> Result<Response, Refusal> {
    // The first page before the answer begins, so that an error can still be told.
    let first = backend.enforcer.page(action, owner.clone(), cursor, PAGE).await?;
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
pub(super) fn told(backend: &Backend, claims: &mut [Claim]) -> std::io::Result<()> {
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

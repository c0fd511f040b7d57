//! Request bodies, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::control::protocol::{Problem, ProblemKind};

/// A million addresses of IPv6 as JSON.
pub(super) const MAX_JSON: usize = 64 << 20;
/// A list to import: more than a million prefixes of IPv6 with comments.
pub(super) const MAX_LIST: usize = 128 << 20;
/// For each piece. An import may wait for the program that feeds it.
const PIECE: Duration = Duration::from_secs(60);

pub(super) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = bytes(headers, body, MAX_JSON).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("the request is not as expected: {error}")))
}

/// All of a body, if it has at most `limit` bytes.
pub(super) async fn bytes(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let too_large = || Problem {
        kind: ProblemKind::Invalid,
        title: "too large".to_owned(),
        status: 413,
        detail: format!("the request has more than {} MiB; split it", limit >> 20),
        items: Vec::new(),
    };
    // Refused before it is read, if it says so itself.
    let announced =
        headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(PIECE, pieces.next()).await {
            Ok(None) => return Ok(bytes),
            Ok(Some(Ok(piece))) if bytes.len() + piece.len() > limit => return Err(too_large()),
            Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
            Ok(Some(Err(error))) => return Err(invalid(format!("the request broke off: {error}"))),
            Err(_) => {
                return Err(Problem {
                    kind: ProblemKind::Invalid,
                    title: "too slow".to_owned(),
                    status: 408,
                    detail: format!("nothing of the request came for {} s", PIECE.as_secs()),
                    items: Vec::new(),
                });
            }
        }
    }
}

pub(super) fn invalid(detail: String) -> Problem {
    Problem {
        kind: ProblemKind::Invalid,
        title: "invalid request".to_owned(),
        status: 400,
        detail,
        items: Vec::new(),
    }
}

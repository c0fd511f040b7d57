//! Request bodies, bounded in size and time.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use futures_util::StreamExt;
use hyper::body::Bytes;
use serde::de::DeserializeOwned;

use crate::control::protocol::{Problem, ProblemKind};

/// A million addresses of IPv6 as JSON.
pub(super) const MAX_JSON: usize = 64 << 20;
/// A list to import: of plain addresses, ten million and more. What is kept of it while it comes is smaller.
pub(super) const MAX_LIST: usize = 256 << 20;
/// For each piece. An import may wait for the program that feeds it.
const PIECE: Duration = Duration::from_secs(60);

pub(super) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = bytes(headers, body, MAX_JSON).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("the request is not as expected: {error}")))
}

/// All of a body, if it has at most `limit` bytes.
async fn bytes(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut pieces = Pieces::new(headers, body, limit)?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A body as it arrives.
pub(super) struct Pieces {
    body: BodyDataStream,
    limit: usize,
    /// Bytes that may come still.
    left: usize,
}

impl Pieces {
    /// A body that may have `limit` bytes. Refused before it is read, if it says itself that it has more.
    pub(super) fn new(headers: &HeaderMap, body: Body, limit: usize) -> Result<Self, Problem> {
        let announced =
            headers.get("content-length").and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        Ok(Self { body: body.into_data_stream(), limit, left: limit })
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match tokio::time::timeout(PIECE, self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.left = self.left.checked_sub(piece.len()).ok_or_else(|| too_large(self.limit))?;
                Ok(Some(piece))
            }
            Ok(Some(Err(error))) => Err(invalid(format!("the request broke off: {error}"))),
            Err(_) => Err(Problem {
                kind: ProblemKind::Invalid,
                title: "too slow".to_owned(),
                status: 408,
                detail: format!("nothing of the request came for {} s", PIECE.as_secs()),
                items: Vec::new(),
            }),
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem {
        kind: ProblemKind::Invalid,
        title: "too large".to_owned(),
        status: 413,
        detail: format!("the request has more than {} MiB; split it", limit >> 20),
        items: Vec::new(),
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

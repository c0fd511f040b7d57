//! Request bodies, bounded in size, depth and time.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::control::protocol::ProblemKind;

/// Arrays and objects within one another. What is asked for has three.
const MAX_DEPTH: usize = 16;

/// What the bodies of one caller may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of a request that names a thing or two.
    pub(super) small: usize,
    /// Bytes of a request that names many prefixes.
    pub(super) bulk: usize,
    /// Prefixes in one request.
    pub(super) prefixes: usize,
    /// Bytes of a list to import. What is kept of it while it comes is smaller.
    pub(super) list: usize,
    /// For each piece of a body. An import may wait for the program that feeds it.
    piece: Duration,
    /// For all of a body, but for lists.
    whole: Duration,
}

impl Bounds {
    /// Of callers on this machine: a million addresses of IPv6 as JSON, ten million and more as a list.
    pub(super) const LOCAL: Self = Self {
        small: 64 << 20,
        bulk: 64 << 20,
        prefixes: usize::MAX,
        list: 256 << 20,
        piece: Duration::from_secs(60),
        whole: Duration::from_secs(3600),
    };
    /// Of callers from the network.
    pub(super) const REMOTE: Self = Self {
        small: 64 << 10,
        bulk: 1 << 20,
        prefixes: 10_000,
        list: 256 << 20,
        piece: Duration::from_secs(8),
        whole: Duration::from_secs(8),
    };
}

/// A request of at most `limit` bytes.
pub(super) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    bounds: Bounds,
    limit: usize,
) -> Result<T, Refusal> {
    parse(&bytes(headers, body, bounds, limit).await?)
}

/// The bytes of such a request, if it says that it is JSON, or nothing of what it is.
pub(super) async fn bytes(
    headers: &HeaderMap,
    body: Body,
    bounds: Bounds,
    limit: usize,
) -> Result<Vec<u8>, Refusal> {
    if let Some(stated) = headers.get(header::CONTENT_TYPE) {
        let stated = stated.to_str().unwrap_or_default();
        let media = stated.split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("application/json") {
            let detail = "the request is not JSON by its Content-Type; send Content-Type: application/json";
            return Err(Refusal::new(ProblemKind::Invalid, 415, detail));
        }
    }
    whole(headers, body, bounds, limit).await
}

async fn whole(headers: &HeaderMap, body: Body, bounds: Bounds, limit: usize) -> Result<Vec<u8>, Refusal> {
    let until = Instant::now() + bounds.whole;
    let mut pieces = Pieces::new(headers, body, bounds, limit)?;
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout_at(until, pieces.next()).await {
            Ok(piece) => match piece? {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => return Ok(bytes),
            },
            Err(_) => {
                return Err(too_slow(format!("the request takes more than {} s", bounds.whole.as_secs())));
            }
        }
    }
}

/// A text of at most `limit` bytes, whatever it says that it is.
pub(super) async fn text(
    headers: &HeaderMap,
    body: Body,
    bounds: Bounds,
    limit: usize,
) -> Result<String, Refusal> {
    let bytes = whole(headers, body, bounds, limit).await?;
    String::from_utf8(bytes).map_err(|error| Refusal::invalid(format!("the request is not text: {error}")))
}

/// Reads a request that is there.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    if depth(bytes) > MAX_DEPTH {
        return Err(Refusal::invalid(format!(
            "the request is not as expected: more than {MAX_DEPTH} arrays and objects within one another"
        )));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::invalid(format!("the request is not as expected: {error}")))
}

/// The most brackets that are open at a time, strings left out. serde_json allows 128, on its stack.
fn depth(json: &[u8]) -> usize {
    let (mut open, mut most) = (0usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                open += 1;
                most = most.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    most
}

/// A body as it arrives.
pub(super) struct Pieces {
    body: BodyDataStream,
    patience: Duration,
    limit: usize,
    /// Bytes that may come still.
    left: usize,
}

impl Pieces {
    /// A body that may have `limit` bytes. Refused before it is read, if it says itself that it has more.
    pub(super) fn new(
        headers: &HeaderMap,
        body: Body,
        bounds: Bounds,
        limit: usize,
    ) -> Result<Self, Refusal> {
        if announced(headers).is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        Ok(Self { body: body.into_data_stream(), patience: bounds.piece, limit, left: limit })
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        match tokio::time::timeout(self.patience, self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.left = self.left.checked_sub(piece.len()).ok_or_else(|| too_large(self.limit))?;
                Ok(Some(piece))
            }
            Ok(Some(Err(error))) => Err(Refusal::invalid(format!("the request broke off: {error}"))),
            Err(_) => Err(too_slow(format!("nothing of the request came for {} s", self.patience.as_secs()))),
        }
    }
}

/// The size of a body, if it says that itself.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Refusal {
    let detail = match limit >> 20 {
        0 => format!("the request has more than {} KiB; split it", limit >> 10),
        mebibytes => format!("the request has more than {mebibytes} MiB; split it"),
    };
    let mut refusal = Refusal::new(ProblemKind::Invalid, 413, detail);
    refusal.problem.title = "too large".to_owned();
    refusal
}

fn too_slow(detail: String) -> Refusal {
    let mut refusal = Refusal::new(ProblemKind::Invalid, 408, detail);
    refusal.problem.title = "too slow".to_owned();
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_that_of_brackets() {
        for (json, expected) in [
            ("", 0),
            ("1", 0),
            ("[]", 1),
            ("{\"a\":[1,{}],\"b\":[]}", 3),
            (r#"["[[[[", "\"[[[", "\\"]"#, 1),
            ("]]]][", 1),
            ("\"[", 0),
            ("\"\\", 0),
        ] {
            assert_eq!(depth(json.as_bytes()), expected, "{json}");
        }
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse::<serde_json::Value>(deep(MAX_DEPTH).as_bytes()).is_ok());
        assert!(parse::<serde_json::Value>(deep(MAX_DEPTH + 1).as_bytes()).is_err());
    }
}

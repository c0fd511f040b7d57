//! Request bodies, bounded in size, depth, time and, all of them together, in memory.

use std::ops::Deref;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use hyper::body::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::refusal::Refusal;
use super::shares::{Room, Roomful};
use crate::control::protocol::ProblemKind;

/// Arrays and objects within one another. What is asked for has three.
const MAX_DEPTH: usize = 16;

/// What the bodies of one caller may take.
#[derive(Debug, Clone)]
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
    /// For all of a body; for a stream, before it has to keep up with `pace`.
    whole: Duration,
    /// Bytes a second of a list or a stream, on average.
    pace: u64,
    /// When the body has to be there in any case, but for streams.
    by: Option<Instant>,
    /// Where bodies are kept until they are done with; `None` for as many as there are.
    room: Option<Room>,
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
        pace: 1,
        by: None,
        room: None,
    };

    /// Of callers from the network, whose bodies share `room`, and who may have been waited for already.
    pub(super) fn remote(room: Room, by: Option<Instant>) -> Self {
        Self {
            small: 64 << 10,
            bulk: 1 << 20,
            prefixes: 10_000,
            list: 256 << 20,
            piece: Duration::from_secs(8),
            whole: Duration::from_secs(8),
            pace: 1 << 10,
            by,
            room: Some(room),
        }
    }
}

/// A request of at most `limit` bytes.
pub(super) async fn json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    bounds: &Bounds,
    limit: usize,
) -> Result<T, Refusal> {
    parse(&bytes(headers, body, bounds, limit).await?)
}

/// The bytes of such a request, if it says that it is JSON, or nothing of what it is.
pub(super) async fn bytes(
    headers: &HeaderMap,
    body: Body,
    bounds: &Bounds,
    limit: usize,
) -> Result<Held, Refusal> {
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

/// A body in memory, with the room that it takes there: to be kept until it is done with.
pub(super) struct Held {
    bytes: Vec<u8>,
    room: Option<Roomful>,
}

impl Deref for Held {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// As text, whatever it says that it is.
    pub(super) fn text(&self) -> Result<&str, Refusal> {
        str::from_utf8(self).map_err(|error| Refusal::invalid(format!("the request is not text: {error}")))
    }

    fn add(&mut self, piece: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
        if let Some(room) = &bounds.room {
            let Some(more) = room.take(piece.len()) else {
                let detail = "too many large requests are under way; try again in a moment";
                return Err(Refusal::busy(503, detail, 1));
            };
            match &mut self.room {
                Some(taken) => taken.merge(more),
                none => *none = Some(more),
            }
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// All of a body of at most `limit` bytes.
pub(super) async fn whole(
    headers: &HeaderMap,
    body: Body,
    bounds: &Bounds,
    limit: usize,
) -> Result<Held, Refusal> {
    let until = Instant::now() + bounds.whole;
    let until = bounds.by.map_or(until, |by| by.min(until));
    let mut pieces = Pieces::new(headers, body, bounds, limit)?;
    let mut held = Held { bytes: Vec::new(), room: None };
    loop {
        match tokio::time::timeout_at(until, pieces.next()).await {
            Ok(piece) => match piece? {
                Some(piece) => held.add(&piece, bounds)?,
                None => return Ok(held),
            },
            Err(_) => {
                return Err(too_slow(format!("the request takes more than {} s", bounds.whole.as_secs())));
            }
        }
    }
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
    /// When it would have to be at its end if it had none, and what each byte adds to that.
    until: Instant,
    pace: u64,
    limit: usize,
    /// Bytes that may come still.
    left: usize,
}

impl Pieces {
    /// A body that may have `limit` bytes. Refused before it is read, if it says itself that it has more.
    pub(super) fn new(
        headers: &HeaderMap,
        body: Body,
        bounds: &Bounds,
        limit: usize,
    ) -> Result<Self, Refusal> {
        if announced(headers).is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        Ok(Self {
            body: body.into_data_stream(),
            patience: bounds.piece,
            until: Instant::now() + bounds.whole,
            pace: bounds.pace,
            limit,
            left: limit,
        })
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let received = (self.limit - self.left) as u64;
        let paced = self.until + Duration::from_secs(received / self.pace);
        let patient = Instant::now() + self.patience;
        match tokio::time::timeout_at(patient.min(paced), self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.left = self.left.checked_sub(piece.len()).ok_or_else(|| too_large(self.limit))?;
                Ok(Some(piece))
            }
            Ok(Some(Err(error))) => Err(Refusal::invalid(format!("the request broke off: {error}"))),
            Err(_) if paced < patient => Err(too_slow(format!(
                "the request comes too slowly; send at least {} bytes a second",
                self.pace
            ))),
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

    /// A stream from the network that comes at so many bytes a second: why it was given up, and after how long. A minute of
    /// it is enough.
    async fn paced(bytes: u64) -> Option<(String, Duration)> {
        let body = futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let piece = vec![b'x'; usize::try_from(bytes).unwrap()];
            Some((Ok::<_, std::convert::Infallible>(piece), ()))
        });
        let bounds = Bounds::remote(Room::default(), None);
        let body = Body::from_stream(body);
        let mut pieces = Pieces::new(&HeaderMap::new(), body, &bounds, bounds.list).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            if let Err(refusal) = pieces.next().await {
                assert_eq!(refusal.problem.status, 408);
                return Some((refusal.problem.detail, begun.elapsed()));
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_has_to_keep_up_its_pace() {
        for (bytes, longest) in [(1, 9), (100, 10), (512, 17)] {
            let (why, took) = paced(bytes).await.expect("it is too slow");
            assert!(why.contains("at least 1024 bytes a second"), "{why}");
            assert!(
                took >= Duration::from_secs(8) && took <= Duration::from_secs(longest),
                "{bytes}: {took:?}"
            );
        }
        assert_eq!(paced(1024).await, None);
        assert_eq!(paced(100_000).await, None);
    }
}

//! Requests that can be repeated without being done twice: who sends an `Idempotency-Key` gets the first answer again,
//! for a day, or until ten thousand others came.
//!
//! Adding is idempotent anyway; what the key saves is the answer, which else would say `unchanged` to somebody whose first
//! attempt broke off.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use super::body::{self, Held};
use super::gate::Caller;
use super::refusal::Refusal;
use super::routes::Shared;
use crate::control::protocol::ProblemKind;
use crate::sha256::of_parts;

const HEADER: &str = "idempotency-key";
/// Bytes of a key.
const MAX_KEY: usize = 128;
/// Answers that are kept.
const MAX_ANSWERS: usize = 10_000;
/// Bytes of them.
const MAX_BYTES: usize = 16 << 20;
/// How long they are kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A request with a key.
#[derive(Debug, Clone)]
pub(super) struct Once {
    key: Key,
    /// Of what was asked for.
    digest: [u8; 32],
}

/// Who sent it, and the key: a hash of both, so that all are of one size.
type Key = [u8; 32];

/// A request that names many things, and may be asked once more: who asks, and what.
pub(super) struct Bulk {
    pub(super) caller: Caller,
    pub(super) once: Option<Once>,
    pub(super) bytes: Held,
}

impl FromRequest<Shared> for Bulk {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, shared).await?;
        let (headers, path) = (&parts.headers, parts.uri.path());
        let bytes = body::bytes(headers, body, &caller.bounds, caller.bounds.bulk).await?;
        let once = Once::of(headers, &caller, path, &bytes)?;
        Ok(Self { caller, once, bytes })
    }
}

impl Once {
    /// `None` if the request has no key.
    fn of(headers: &HeaderMap, caller: &Caller, path: &str, body: &[u8]) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let key = value.as_bytes();
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Refusal::invalid(format!("Idempotency-Key must be 1 to {MAX_KEY} bytes")));
        }
        let actor = caller.actor();
        let digest = of_parts(&[path.as_bytes(), body]);
        Ok(Some(Self { key: of_parts(&[actor.as_bytes(), key]), digest }))
    }
}

/// The answers that are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Key, Known>,
    /// In the order in which they were begun.
    order: VecDeque<(Key, Instant)>,
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    digest: [u8; 32],
    /// `None` while the first request is under way.
    answer: Option<Bytes>,
}

/// A request that is under way. Without an answer it is forgotten, so that it can be tried again.
struct UnderWay<'a> {
    answers: &'a Answers,
    key: Key,
    answer: Option<Bytes>,
}

impl Answers {
    /// What `work` answers, or what it answered before. Refusals are not kept: nothing was done.
    pub(super) async fn answer<T: Serialize>(
        self,
        once: Option<Once>,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response, Refusal> {
        let Some(once) = once else { return Ok(Json(work.await?).into_response()) };
        if let Some(answer) = self.begin(&once, Instant::now())? {
            let mut response = json(answer);
            response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
            return Ok(response);
        }
        let mut under_way = UnderWay { answers: &self, key: once.key, answer: None };
        let done = work.await?;
        let answer = serde_json::to_vec(&done).map_err(|error| Refusal::failed(error.to_string()))?;
        let answer = Bytes::from(answer);
        under_way.answer = Some(answer.clone());
        drop(under_way);
        Ok(json(answer))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is locked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if there is one; else the request is under way from now on.
    fn begin(&self, once: &Once, now: Instant) -> Result<Option<Bytes>, Refusal> {
        let mut kept = self.kept();
        kept.forget(now);
        if let Some(known) = kept.answers.get(&once.key) {
            if known.digest != once.digest {
                let detail = "this Idempotency-Key was sent with another request; use a new one";
                return Err(Refusal::new(ProblemKind::Invalid, 422, detail));
            }
            return match &known.answer {
                Some(answer) => Ok(Some(answer.clone())),
                None => Err(Refusal::busy(409, "the request with this Idempotency-Key is under way", 1)),
            };
        }
        kept.answers.insert(once.key, Known { digest: once.digest, answer: None });
        kept.order.push_back((once.key, now));
        Ok(None)
    }
}

impl Kept {
    /// Makes room.
    fn forget(&mut self, now: Instant) {
        while let Some((key, begun)) = self.order.front() {
            let old = now.saturating_duration_since(*begun) >= KEPT;
            if !old && self.order.len() < MAX_ANSWERS && self.bytes <= MAX_BYTES {
                return;
            }
            let key = *key;
            self.order.pop_front();
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(known) = self.answers.remove(key) {
            self.bytes -= known.answer.map_or(0, |answer| answer.len());
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut kept = self.answers.kept();
        match self.answer.take() {
            None => {
                kept.remove(&self.key);
                let key = self.key;
                // It is near the end.
                if let Some(at) = kept.order.iter().rposition(|(other, _)| *other == key) {
                    kept.order.remove(at);
                }
            }
            Some(answer) => {
                let length = answer.len();
                // Unless it was forgotten meanwhile.
                if let Some(known) = kept.answers.get_mut(&self.key) {
                    known.answer = Some(answer);
                    kept.bytes += length;
                }
            }
        }
    }
}

fn json(answer: Bytes) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], Body::from(answer)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(key: u32, body: &str) -> Once {
        Once { key: of_parts(&[&key.to_le_bytes()]), digest: of_parts(&[body.as_bytes()]) }
    }

    async fn text(answers: &Answers, once: &Once, work: Result<u32, Refusal>) -> Result<String, u16> {
        let answer = answers.clone().answer(Some(once.clone()), async { work }).await;
        let body = answer.map_err(|refusal| refusal.problem.status)?.into_body();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_for_a_day() {
        let answers = Answers::default();
        let request = once(1, "a");
        assert_eq!(text(&answers, &request, Err(Refusal::failed("it broke"))).await, Err(500));
        assert_eq!(text(&answers, &request, Ok(1)).await, Ok("1".to_owned()));
        assert_eq!(text(&answers, &request, Ok(2)).await, Ok("1".to_owned()));
        assert_eq!(text(&answers, &once(1, "b"), Ok(3)).await, Err(422));
        assert_eq!(text(&answers, &once(2, "b"), Ok(3)).await, Ok("3".to_owned()));
        tokio::time::advance(KEPT).await;
        assert_eq!(text(&answers, &request, Ok(4)).await, Ok("4".to_owned()));
    }

    #[tokio::test]
    async fn one_at_a_time() {
        let answers = Answers::default();
        let request = once(1, "a");
        let never =
            answers.clone().answer(Some(request.clone()), std::future::pending::<Result<u32, Refusal>>());
        let mut never = Box::pin(never);
        assert!(futures_util::poll!(never.as_mut()).is_pending());
        assert_eq!(text(&answers, &request, Ok(1)).await, Err(409));
        // Whoever asked has gone.
        drop(never);
        assert_eq!(text(&answers, &request, Ok(2)).await, Ok("2".to_owned()));
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let answers = Answers::default();
        for key in 0..2 * u32::try_from(MAX_ANSWERS).unwrap() {
            text(&answers, &once(key, "a"), Ok(key)).await.unwrap();
        }
        let kept = answers.kept();
        assert_eq!((kept.answers.len(), kept.order.len()), (MAX_ANSWERS, MAX_ANSWERS));
        assert_eq!(
            kept.bytes,
            kept.answers.values().flat_map(|known| &known.answer).map(Bytes::len).sum::<usize>()
        );
    }
}

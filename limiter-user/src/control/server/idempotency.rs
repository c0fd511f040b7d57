//! Requests that can be repeated without being done twice: who sends an `Idempotency-Key` gets the first answer again, for
//! a day, as far as there is room. Answers are kept in memory: after a restart, what is repeated is done again.
//!
//! Adding and removing are idempotent anyway; what the key saves is the answer, which else would say `unchanged` to somebody
//! whose first attempt broke off. Reports are not: they count each time.

mod kept;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use kept::{Kept, Known, Once};

const HEADER: &str = "idempotency-key";
/// Bytes of a key.
const MAX_KEY: usize = 128;

/// A request that names many things, and may be asked once more: who asks, and what.
pub(super) struct Bulk {
    pub(super) caller: Caller,
    pub(super) once: Again,
    pub(super) bytes: Held,
}

/// What is known of a request that may be repeated; `None` if nobody asked for that.
pub(super) struct Again(Option<Once>);

impl FromRequest<Shared> for Bulk {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, shared).await?;
        let (headers, path) = (&parts.headers, parts.uri.path());
        let bytes = body::bytes(headers, body, &caller.bounds, caller.bounds.bulk).await?;
        let once = Again(once(headers, &caller, path, &bytes)?);
        Ok(Self { caller, once, bytes })
    }
}

/// `None` if the request has no key.
fn once(headers: &HeaderMap, caller: &Caller, path: &str, body: &[u8]) -> Result<Option<Once>, Refusal> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.as_bytes();
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Refusal::invalid(format!("Idempotency-Key must be 1 to {MAX_KEY} bytes")));
    }
    let caller = caller.principal.identity();
    Ok(Some(Once { caller, key: of_parts(&[&caller, key]), asked: of_parts(&[path.as_bytes(), body]) }))
}

/// Where nothing is kept, a key must not be taken for a promise. `instead` says what to do.
pub(super) fn no_key(headers: &HeaderMap, instead: &str) -> Result<(), Refusal> {
    match headers.contains_key(HEADER) {
        true => Err(Refusal::invalid(format!("this request does not take an Idempotency-Key; {instead}"))),
        false => Ok(()),
    }
}

/// The answers that are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    kept: Arc<Mutex<Kept>>,
}

/// A request that is under way, and ends when this is dropped.
struct UnderWay<'a> {
    answers: &'a Answers,
    once: Once,
    answer: Option<Bytes>,
}

impl Answers {
    /// What `work` answers, or what it answered before. Refusals are not kept: nothing was done.
    pub(super) async fn answer<T: Serialize>(
        self,
        Again(once): Again,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response, Refusal> {
        let Some(once) = once else { return Ok(Json(work.await?).into_response()) };
        let known = self.kept().begin(&once, Instant::now());
        match known {
            Known::No => {}
            Known::UnderWay => {
                return Err(Refusal::busy(409, "the request with this Idempotency-Key is under way", 1));
            }
            Known::Other => {
                let detail = "this Idempotency-Key was sent with another request; use a new one";
                return Err(Refusal::new(ProblemKind::Invalid, 422, detail));
            }
            Known::Answered(answer) => {
                let mut response = json(answer);
                response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
                return Ok(response);
            }
        }
        let mut under_way = UnderWay { answers: &self, once, answer: None };
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
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.answers.kept().end(&self.once, self.answer.take(), Instant::now());
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
        Once { caller: [0; 32], key: of_parts(&[&key.to_le_bytes()]), asked: of_parts(&[body.as_bytes()]) }
    }

    async fn text(answers: &Answers, once: Once, work: Result<u32, Refusal>) -> Result<String, u16> {
        let answer = answers.clone().answer(Again(Some(once)), async { work }).await;
        let body = answer.map_err(|refusal| refusal.problem.status)?.into_body();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_for_a_day() {
        let answers = Answers::default();
        let request = once(1, "a");
        assert_eq!(text(&answers, request, Err(Refusal::failed("it broke"))).await, Err(500));
        assert_eq!(text(&answers, request, Ok(1)).await, Ok("1".to_owned()));
        assert_eq!(text(&answers, request, Ok(2)).await, Ok("1".to_owned()));
        assert_eq!(text(&answers, once(1, "b"), Ok(3)).await, Err(422));
        assert_eq!(text(&answers, once(2, "b"), Ok(3)).await, Ok("3".to_owned()));
        tokio::time::advance(kept::AGE).await;
        assert_eq!(text(&answers, request, Ok(4)).await, Ok("4".to_owned()));
    }

    #[tokio::test]
    async fn one_at_a_time() {
        let answers = Answers::default();
        let request = once(1, "a");
        let work = std::future::pending::<Result<u32, Refusal>>();
        let mut never = Box::pin(answers.clone().answer(Again(Some(request)), work));
        assert!(futures_util::poll!(never.as_mut()).is_pending());
        assert_eq!(text(&answers, request, Ok(1)).await, Err(409));
        // Whoever asked has gone.
        drop(never);
        assert_eq!(text(&answers, request, Ok(2)).await, Ok("2".to_owned()));
    }
}

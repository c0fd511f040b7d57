//! Problems on their way out (RFC 9457). All of them look alike, whoever refuses: they are written by one layer, which
//! knows the request's id.

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::access::{OverQuota, Unauthenticated};
use crate::control::protocol::{Problem, ProblemKind};
use crate::enforcer;
use crate::secrets;

/// An answer that is a problem.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// Seconds after which it may be worth another attempt.
    retry_after: Option<u32>,
    /// The audit trail has it.
    recorded: bool,
}

impl Refusal {
    pub(super) fn new(kind: ProblemKind, status: u16, detail: impl Into<String>) -> Self {
        let title = match kind {
            ProblemKind::NotAuthorised => "not authorised",
            ProblemKind::NotFound => "not found",
            ProblemKind::Invalid => "invalid request",
            ProblemKind::Guarded => "refused by a guard",
            ProblemKind::Full => "table full",
            ProblemKind::NotDurable => "not durable",
            ProblemKind::Busy => "busy",
            ProblemKind::Unavailable => "not there",
            ProblemKind::Failed => "failed",
        };
        let (title, detail) = (title.to_owned(), detail.into());
        Self {
            problem: Problem { kind, title, status, detail, items: Vec::new() },
            retry_after: None,
            recorded: false,
        }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Invalid, 400, detail)
    }

    pub(super) fn failed(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Failed, 500, detail)
    }

    /// More than can be done at a time.
    pub(super) fn busy(status: u16, detail: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ProblemKind::Busy, status, detail) }
    }

    /// The daemon is not there yet, or not any more.
    fn unavailable(detail: &str, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ProblemKind::Unavailable, 503, detail) }
    }

    fn after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
        Self { retry_after: Some(u32::try_from(seconds).unwrap_or(u32::MAX)), ..self }
    }

    /// The same, when the audit trail has it.
    pub(super) fn recorded(self) -> Self {
        Self { recorded: true, ..self }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Whoever was to answer is gone.
    pub(super) fn stopping<E>(_: E) -> Self {
        Self::unavailable("the daemon is stopping", 5)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        // Whatever it is, it is soon over.
        let retry_after = (problem.status == 503).then_some(1);
        Self { problem, retry_after, recorded: false }
    }
}

impl From<enforcer::Error> for Refusal {
    fn from(error: enforcer::Error) -> Self {
        let wait = match &error {
            enforcer::Error::Braked { wait, .. } => *wait,
            enforcer::Error::Invalid { .. }
            | enforcer::Error::Denied(_)
            | enforcer::Error::Guarded { .. }
            | enforcer::Error::Full(_)
            | enforcer::Error::NotDurable(_)
            | enforcer::Error::Failed(_) => None,
        };
        let refusal = Self::from(Problem::from(error));
        match wait {
            Some(wait) => refusal.after(wait),
            None => refusal,
        }
    }
}

impl From<Unauthenticated> for Refusal {
    fn from(error: Unauthenticated) -> Self {
        let kind = match error.status() {
            429 | 503 => ProblemKind::Busy,
            _ => ProblemKind::NotAuthorised,
        };
        let refusal = Self::new(kind, error.status(), error.to_string());
        match error.retry_after() {
            Some(wait) => refusal.after(wait),
            None => refusal,
        }
    }
}

impl From<OverQuota> for Refusal {
    fn from(error: OverQuota) -> Self {
        let refusal = Self::new(ProblemKind::Busy, 429, error.to_string());
        match error.retry_after {
            Some(wait) => refusal.after(wait),
            None => refusal,
        }
    }
}

/// Its body is written by [`written`].
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"limiter\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The answer to whatever is asked before the daemon is there.
pub(super) fn starting() -> Response {
    let detail = "limiterd is starting: what its lists say is being put in force; try again in a moment";
    written(Refusal::unavailable(detail, 1).into_response(), "starting")
}

/// A problem with what only this occurrence has.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    problem: &'a Problem,
    request_id: &'a str,
}

/// Gives a response its body, if it is a refusal.
pub(super) fn written(mut response: Response, request_id: &str) -> Response {
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else { return response };
    let mut problem = refusal.problem;
    // Some repeat what they were sent.
    for text in std::iter::once(&mut problem.detail).chain(&mut problem.items) {
        if let Cow::Owned(without) = secrets::hidden(text) {
            *text = without;
        }
    }
    let told = Told { problem: &problem, request_id };
    // Strings and numbers can always be written.
    let body = serde_json::to_vec(&told).unwrap_or_default();
    *response.body_mut() = Body::from(body);
    let content_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

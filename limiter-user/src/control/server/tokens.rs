//! Tokens: made, listed, revoked and rotated by those who may do everything. Over the network, nobody gives away more than
//! they have: a token that ends tomorrow makes none that lasts longer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use limiter_common::Prefix;

use super::body;
use super::gate::Caller;
use super::idempotency::no_key;
use super::refusal::Refusal;
use super::routes::{Answer, Shared};
use crate::access::tokens::{Created, Listed, TokenError, Wanted};
use crate::access::{Authenticator, Caps, PerMinute, Principal, Scope, Scopes, Width};
use crate::audit::Event;
use crate::control::protocol::{
    NewToken, ProblemKind, RotateRequest, Token, TokenList, TokenRequest, rfc3339,
};
use crate::telemetry::DECISION;

/// Answers with secrets are not kept.
const NO_KEY: &str = "leave it out, and revoke the token whose secret did not arrive";
/// A hundred years, as for blocks.
const LONGEST: u64 = 100 * 365 * 24 * 3600;

pub(super) async fn create(
    State(shared): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer<NewToken> {
    no_key(&headers, NO_KEY)?;
    let request: TokenRequest = body::json(&headers, body, &caller.bounds, caller.bounds.small).await?;
    let made = on_disk(&shared, &caller, move |access, who, now| {
        access.tokens().create(wanted(&request, who, now)?, now).map_err(refusal)
    });
    let made = made.await?;
    record(&shared, &caller, "create", &made.listed).await;
    Ok(Json(new(made)))
}

pub(super) async fn list(State(shared): State<Shared>) -> Answer<TokenList> {
    let now = (shared.backend.clock)().wall;
    let tokens = shared.backend.access.tokens().list(now).iter().map(told).collect();
    Ok(Json(TokenList { tokens }))
}

pub(super) async fn revoke(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Token> {
    let revoked = on_disk(&shared, &caller, move |access, _, now| {
        access.tokens().revoke(&id, now).map_err(|error| match error {
            TokenError::NotDurable { .. } => {
                let detail = format!("{error}; the token is revoked, but a restart would undo that");
                Refusal::new(ProblemKind::NotDurable, 507, detail)
            }
            TokenError::Invalid(_) | TokenError::NotFound(_) | TokenError::TooMany | TokenError::NoRandom => {
                refusal(error)
            }
        })
    });
    let revoked = revoked.await?;
    record(&shared, &caller, "revoke", &revoked).await;
    Ok(Json(told(&revoked)))
}

pub(super) async fn rotate(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<NewToken> {
    no_key(&headers, NO_KEY)?;
    let RotateRequest { overlap_seconds } =
        body::json(&headers, body, &caller.bounds, caller.bounds.small).await?;
    let made = on_disk(&shared, &caller, move |access, who, now| {
        let tokens = access.tokens();
        // Whoever rotates a token has it.
        let token = tokens.find(&id, now).ok_or_else(|| refusal(TokenError::NotFound(id.clone())))?;
        may_give(who, &token.scopes, &token.caps)?;
        tokens.rotate(&id, Duration::from_secs(overlap_seconds), now).map_err(refusal)
    });
    let made = made.await?;
    record(&shared, &caller, "rotate", &made.listed).await;
    Ok(Json(new(made)))
}

/// Writing waits for the disk, so it has a thread of its own.
async fn on_disk<T: Send + 'static>(
    shared: &Shared,
    caller: &Caller,
    change: impl FnOnce(&Authenticator, &Principal, SystemTime) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (access, now) = (Arc::clone(&shared.backend.access), (shared.backend.clock)().wall);
    let who = Arc::clone(&caller.principal);
    let changed = tokio::task::spawn_blocking(move || change(&access, &who, now));
    changed.await.map_err(|error| Refusal::failed(format!("the request was not completed: {error}")))?
}

/// Checks a request as a whole.
fn wanted(request: &TokenRequest, who: &Principal, now: SystemTime) -> Result<Wanted, Refusal> {
    let mut problems = Vec::new();
    let mut parsed = |key: &str, problem: String| problems.push(format!("{key}: {problem}"));
    let mut scopes = Vec::new();
    for text in &request.scopes {
        match text.parse::<Scope>() {
            Ok(scope) => scopes.push(scope),
            Err(error) => parsed("scopes", format!("{text:.64?} is no scope: {error}")),
        }
    }
    let mut from = Vec::new();
    for text in &request.from {
        match text.parse::<Prefix>() {
            Ok(network) => from.push(network),
            Err(error) => parsed("from", format!("{text:.64?} is no prefix: {error}")),
        }
    }
    let max_prefix = request.max_prefix.and_then(|length| {
        let width = Width::new(length.into());
        if width.is_none() {
            parsed("max_prefix", format!("{length} is not from 8 to 32"));
        }
        width
    });
    let quota = request.per_minute.and_then(|number| {
        let quota = PerMinute::new(number.into());
        if quota.is_none() {
            parsed("per_minute", format!("{number} is not from 1 to 10000000"));
        }
        quota
    });
    let mut time = |key: &str, seconds: Option<u64>| {
        seconds.and_then(|seconds| {
            let fits = (1..=LONGEST).contains(&seconds);
            if !fits {
                parsed(key, format!("{seconds} is not from 1 to {LONGEST} seconds; absent for good"));
            }
            fits.then(|| Duration::from_secs(seconds))
        })
    };
    let max_ttl = time("max_seconds", request.max_seconds);
    let expires = time("expires_in", request.expires_in).map(|lifetime| now + lifetime);
    if !problems.is_empty() {
        let mut refusal = Refusal::invalid("the token cannot be as it was asked for");
        refusal.problem.items = problems;
        return Err(refusal);
    }
    let caps = Caps { max_ttl, max_prefix, quota, from, expires };
    let scopes = scopes.into_iter().collect();
    may_give(who, &scopes, &caps)?;
    Ok(Wanted { name: request.name.clone(), scopes, caps, by: who.actor() })
}

fn may_give(who: &Principal, scopes: &Scopes, caps: &Caps) -> Result<(), Refusal> {
    if who.scopes.imply_all(scopes) && caps.are_within(&who.caps) {
        return Ok(());
    }
    let detail = "the token would be good for more, or for longer, than the caller's own credentials are";
    Err(Refusal::new(ProblemKind::NotAuthorised, 403, detail))
}

fn refusal(error: TokenError) -> Refusal {
    let (kind, status) = match &error {
        TokenError::Invalid(_) => (ProblemKind::Invalid, 400),
        TokenError::NotFound(_) => (ProblemKind::NotFound, 404),
        TokenError::TooMany => (ProblemKind::Full, 507),
        TokenError::NotDurable { .. } => (ProblemKind::NotDurable, 507),
        TokenError::NoRandom => (ProblemKind::Failed, 500),
    };
    Refusal::new(kind, status, error.to_string())
}

async fn record(shared: &Shared, caller: &Caller, change: &'static str, token: &Listed) {
    tracing::info!(
        target: DECISION,
        change,
        token = token.id,
        name = token.name,
        scopes = token.scopes.to_string(),
        actor = caller.actor(),
        request = caller.id(),
        "token"
    );
    let (what, subjects) = (format!("token.{change}"), [token.id.clone()]);
    let after = Some(format!("{}: {}", token.name, token.scopes));
    let event = Event { what: &what, subjects: &subjects, count: 1, after, ..Event::default() };
    super::record::done(shared, caller, event).await;
}

fn new(Created { listed, token }: Created) -> NewToken {
    NewToken { token, known: told(&listed) }
}

fn told(token: &Listed) -> Token {
    let Caps { max_ttl, max_prefix, quota, from, expires } = &token.caps;
    Token {
        id: token.id.clone(),
        name: token.name.clone(),
        scopes: token.scopes.iter().map(|scope| scope.to_string()).collect(),
        max_seconds: max_ttl.map(|longest| longest.as_secs()),
        max_prefix: max_prefix.map(Width::v4),
        per_minute: quota.map(PerMinute::number),
        from: from.iter().map(ToString::to_string).collect(),
        created: rfc3339(token.created),
        created_by: token.created_by.clone(),
        expires: expires.map(rfc3339),
        last_used: token.used.map(rfc3339),
        revoked: token.revoked.map(rfc3339),
        former_until: token.former_until.map(rfc3339),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Kind;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800)
    }

    /// What a bearer who has `caps` is answered.
    fn outcome(scopes: &[Scope], caps: Caps, request: &TokenRequest) -> Result<(), u16> {
        let kind = Kind::Token { id: "aaaaaaaa".to_owned(), name: "a".to_owned() };
        let who = Principal { kind, scopes: scopes.iter().copied().collect(), caps };
        wanted(request, &who, now()).map(drop).map_err(|refusal| refusal.problem.status)
    }

    #[test]
    fn nobody_gives_away_more_than_they_have() {
        let request = TokenRequest {
            name: "b".to_owned(),
            scopes: vec!["admin".to_owned()],
            max_seconds: Some(60),
            max_prefix: Some(32),
            per_minute: Some(10),
            from: vec!["10.1.0.0/16".to_owned()],
            expires_in: Some(3600),
        };
        let caps = || Caps {
            max_ttl: Some(Duration::from_secs(60)),
            max_prefix: Some(Width::HOST),
            quota: PerMinute::new(10),
            from: vec!["10.0.0.0/8".parse().unwrap()],
            expires: Some(now() + Duration::from_secs(3600)),
        };
        assert_eq!(outcome(&[Scope::Admin], caps(), &request), Ok(()));
        assert_eq!(outcome(&[Scope::Admin], Caps::default(), &request), Ok(()));
        assert_eq!(outcome(&[Scope::Read], caps(), &request), Err(403));
        let more: [fn(&mut TokenRequest); 5] = [
            |request| request.max_seconds = None,
            |request| request.max_prefix = Some(24),
            |request| request.per_minute = Some(11),
            |request| request.from.clear(),
            |request| request.expires_in = Some(3601),
        ];
        for (number, change) in more.into_iter().enumerate() {
            let mut request = request.clone();
            change(&mut request);
            assert_eq!(outcome(&[Scope::Admin], caps(), &request), Err(403), "change {number}");
        }
    }
}

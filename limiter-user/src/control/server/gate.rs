//! What every request passes before anybody works on it: it is given an id, and its sender a name, or is sent away.
//! What a sender may do is asked by each route for itself ([`needs`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Extension;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;

use super::Backend;
use super::body::Bounds;
use super::record::{Asked, Record};
use super::refusal::{Refusal, written};
use super::shares::{Room, Shares, Taken};
use super::traffic::{Outcome, Traffic};
use crate::access::{Authenticator, Certificate, Need, Principal};
use crate::control::peers::Role;
use crate::control::protocol::ProblemKind;
use crate::enforcer::{self, Now};
use crate::http::Activity;
use crate::sha256;

/// The longest id of a request that is taken over.
const MAX_ID: usize = 64;
/// For anybody who asks whether the daemon is well.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

const REQUEST_ID: &str = "x-request-id";

/// Where a connection comes from.
#[derive(Clone)]
pub(super) enum Origin {
    /// The control socket. The kernel says who it is.
    Socket { uid: u32, role: Option<Role> },
    /// The network. TLS says who it is, if the client has shown a certificate.
    Network { peer: IpAddr, certificate: Option<Arc<Certificate>>, activity: Arc<Activity> },
}

/// The id of a request, in its answer and in the log.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Who asks, and what of their request all handlers need.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) principal: Arc<Principal>,
    pub(super) bounds: Bounds,
    id: RequestId,
    peer: Option<IpAddr>,
}

impl Caller {
    pub(super) fn id(&self) -> &str {
        &self.id.0
    }

    pub(super) fn actor(&self) -> String {
        self.principal.actor()
    }

    /// Whose claims their requests make and take back.
    pub(super) fn claims_as(&self) -> Result<enforcer::Caller, Refusal> {
        let owner = self.principal.owner_name();
        let owner = owner
            .parse()
            .map_err(|error| Refusal::failed(format!("{owner} cannot own anything: {error}")))?;
        Ok(enforcer::Caller { owner, actor: Arc::from(self.actor()) })
    }

    /// Where the request comes from; `None` for this machine.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let extensions = &parts.extensions;
        let found = (extensions.get(), extensions.get(), extensions.get());
        let (Some(principal), Some(bounds), Some(id)) = found else {
            return Err(Refusal::failed("nobody said who asks"));
        };
        let peer = match extensions.get() {
            Some(Origin::Network { peer, .. }) => Some(*peer),
            Some(Origin::Socket { .. }) | None => None,
        };
        Ok(Self {
            principal: Arc::clone(principal),
            bounds: Bounds::clone(bounds),
            id: RequestId::clone(id),
            peer,
        })
    }
}

/// The state of the gate.
#[derive(Clone)]
pub(super) struct Gate {
    access: Arc<Authenticator>,
    clock: fn() -> Now,
    shares: Arc<Shares>,
    room: Room,
    traffic: Arc<Traffic>,
    record: Arc<Record>,
}

impl Gate {
    pub(super) fn new(backend: &Backend, traffic: Arc<Traffic>) -> Self {
        Self {
            access: Arc::clone(&backend.access),
            clock: backend.clock,
            shares: Arc::default(),
            room: Room::default(),
            traffic,
            record: Arc::new(Record::new(backend.trail.clone(), backend.clock)),
        }
    }

    fn identify(&self, origin: &Origin, headers: &HeaderMap) -> Result<Principal, Refusal> {
        match origin {
            Origin::Socket { uid, role: Some(Role::Operator) } => Ok(Principal::operator(*uid)),
            Origin::Socket { uid, role: Some(Role::Reader) } => Ok(Principal::reader(*uid)),
            Origin::Socket { uid, role: None } => {
                tracing::warn!(uid, "control socket: refused a caller who is in none of its groups");
                Err(Refusal::new(
                    ProblemKind::NotAuthorised,
                    403,
                    "only root and members of the groups in [control] of the configuration may use the control socket",
                ))
            }
            Origin::Network { peer, certificate, activity } => {
                let mut given = headers.get_all(header::AUTHORIZATION).iter();
                let authorization = given.next();
                if given.next().is_some() {
                    return Err(Refusal::invalid("there is more than one Authorization; send one"));
                }
                // What is not text is no token either.
                let authorization = authorization.map(|value| value.to_str().unwrap_or_default());
                let (certificate, now) = (certificate.as_deref(), (self.clock)());
                let principal = self.access.authenticate(*peer, certificate, authorization, now)?;
                activity.prove(|| sha256::hex(&principal.identity()));
                Ok(principal)
            }
        }
    }
}

/// Lets those through who are somebody. What is refused is written down, unless whoever refused it has done so.
pub(super) async fn identified(
    State(gate): State<Gate>,
    Extension(origin): Extension<Origin>,
    Extension(id): Extension<RequestId>,
    mut request: Request,
    next: Next,
) -> Response {
    if PROBES.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let asked = Asked { method: request.method().clone(), path: request.uri().path().to_owned(), id };
    let (bounds, peer) = match &origin {
        Origin::Socket { .. } => (Bounds::LOCAL, None),
        Origin::Network { peer, activity, .. } => {
            (Bounds::remote(gate.room.clone(), activity.first_request_by()), Some(*peer))
        }
    };
    let principal = match gate.identify(&origin, request.headers()) {
        Ok(principal) => Arc::new(principal),
        Err(refusal) => {
            gate.record.stranger(&asked, &origin, &refusal.problem).await;
            return refusal.into_response();
        }
    };
    request.extensions_mut().insert(Arc::clone(&principal));
    request.extensions_mut().insert(bounds);
    let looks = request.method().is_safe();
    let answered = async move {
        let response = match peer {
            None => next.run(request).await,
            Some(_) => match gate.shares.take(principal.identity()).await {
                Ok(_place) => next.run(request).await,
                Err(Taken::Own) => {
                    let detail =
                        "too many requests of the caller are under way; wait for answers to some of them";
                    Refusal::busy(429, detail, 1).into_response()
                }
                Err(Taken::All) => {
                    Refusal::busy(503, "too many requests are under way; try again in a moment", 1)
                        .into_response()
                }
            },
        };
        if let Some(refusal) = response.extensions().get::<Refusal>().cloned() {
            gate.record.refused(&asked, &principal, peer, &refusal).await;
        }
        response
    };
    if looks {
        return answered.await;
    }
    // By itself, so that it ends however the connection does: who hangs up while something is done has it on record, too.
    tokio::spawn(answered).await.unwrap_or_else(|error| Refusal::failed(error.to_string()).into_response())
}

/// Gives each request an id, and each problem its text.
pub(super) async fn told(
    State(gate): State<Gate>,
    Extension(origin): Extension<Origin>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let mut response = written(next.run(request).await, &id);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if matches!(origin, Origin::Network { .. }) {
        gate.traffic.request(Outcome::of(response.status().as_u16()));
    }
    response
}

/// The routes of `methods` are for those who may do `need`.
pub(super) fn needs<S: Clone + Send + Sync + 'static>(
    need: Need,
    methods: MethodRouter<S>,
) -> MethodRouter<S> {
    methods.route_layer(from_fn(
        move |Extension(who): Extension<Arc<Principal>>, request: Request, next: Next| {
            let allowed = who.may(&need);
            async move {
                match allowed {
                    Ok(()) => next.run(request).await,
                    Err(denied) => {
                        Refusal::new(ProblemKind::NotAuthorised, 403, denied.to_string()).into_response()
                    }
                }
            }
        },
    ))
}

/// The sender's own, if it can be repeated without harm; else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    static NEXT: AtomicU64 = AtomicU64::new(0);

    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    match given {
        Some(id) if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain) => Arc::from(id),
        _ => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            Arc::from(format!("{:08x}-{number:08x}", std::process::id()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_over_if_they_are_harmless() {
        let id = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            request_id(&headers)
        };
        assert_eq!(&*id("7f3c-A_b.9"), "7f3c-A_b.9");
        let long = "x".repeat(MAX_ID + 1);
        for odd in ["", "a b", "ü", "{\"a\":1}", &long] {
            assert_ne!(&*id(odd), odd);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}

//! What happens, as it happens: server-sent events, until the caller has heard enough, is not good any more, or the daemon
//! stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::gate::Caller;
use super::refusal::Refusal;
use super::routes::Shared;
use crate::access::{Kind, Principal};
use crate::control::protocol::{Event, Lagged};
use crate::http::{Stopping, stopped};

/// Those who listen at a time, from this machine and from the network.
pub(super) const MAX_LISTENERS: [usize; 2] = [16, 16];
/// Without events, a comment comes so often: it keeps middleboxes from forgetting the connection, and finds out who has
/// gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn events(
    State(shared): State<Shared>,
    caller: Caller,
    Extension(Stopping(stop)): Extension<Stopping>,
) -> Result<Response, Refusal> {
    let places = &shared.listeners[usize::from(caller.peer().is_some())];
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        return Err(Refusal::busy(503, "too many listen already; ask for a list now and then instead", 30));
    };
    let events = shared.backend.enforcer.events().listen();
    let principal = caller.principal;
    let listener = Listener { begun: false, shared, principal, events, stop, _place: place };
    let pieces = stream::unfold(listener, |mut listener| async {
        let piece = listener.next().await?;
        Some((Ok::<_, Infallible>(piece), listener))
    });
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response())
}

struct Listener {
    begun: bool,
    shared: Shared,
    principal: Arc<Principal>,
    events: Receiver<Arc<Event>>,
    stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some(Bytes::from_static(b": limiter\n\n"));
        }
        let heard = tokio::select! {
            heard = timeout(HEARTBEAT, self.events.recv()) => heard,
            () = stopped(&mut self.stop) => return None,
        };
        if !self.is_good() {
            return None;
        }
        match heard {
            Ok(Ok(event)) => Some(piece(event.event.label(), &*event)),
            Ok(Err(RecvError::Lagged(missed))) => Some(piece("lagged", &Lagged { missed })),
            Ok(Err(RecvError::Closed)) => None,
            Err(_) => Some(Bytes::from_static(b":\n\n")),
        }
    }

    /// Whether the caller would be let in now: a token that was revoked hears nothing more.
    fn is_good(&self) -> bool {
        let now = (self.shared.backend.clock)().wall;
        let lasts = self.principal.caps.expires.is_none_or(|expires| expires > now);
        lasts
            && match &self.principal.kind {
                Kind::Token { id, .. } => self
                    .shared
                    .backend
                    .access
                    .tokens()
                    .find(id, now)
                    .is_some_and(|token| token.revoked.is_none()),
                Kind::Socket { .. } | Kind::Certificate { .. } | Kind::Jwt { .. } => true,
            }
    }
}

/// As the WHATWG's HTML standard says, section 9.2. JSON has no line breaks of its own.
fn piece(name: &str, data: &impl Serialize) -> Bytes {
    // Strings and numbers can always be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

//! Connections that are kept for further requests: making one costs more than to ask, over TLS most of all.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use tokio::time::Instant;

use super::Body;

/// Connections that are kept at a time, by a client and its clones.
const MOST: usize = 16;
/// The daemon ends connections that nothing happens on for longer than this.
const IDLE: Duration = Duration::from_secs(20);

/// Those on which nothing is under way, the one that was used last at the end.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Vec<Connection>>>);

/// With the moment since which it is kept.
type Connection = (SendRequest<Body>, Instant);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", self.connections().len())
    }
}

/// What came of a request that was sent over a connection that had been kept.
pub(super) enum Sent {
    Answered(Response<Incoming>, SendRequest<Body>),
    /// The connection had ended before; nothing was sent.
    Unsent(Request<Body>),
    Failed(hyper::Error),
}

impl Kept {
    /// Keeps a connection whose answer has been read to its end.
    pub(super) fn keep(&self, sender: SendRequest<Body>) {
        let mut connections = self.connections();
        if connections.len() < MOST && !sender.is_closed() {
            connections.push((sender, Instant::now()));
        }
    }

    /// One that is likely to be still there.
    pub(super) fn take(&self) -> Option<SendRequest<Body>> {
        let mut connections = self.connections();
        connections.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE);
        connections.pop().map(|(sender, _)| sender)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends `request`, and waits for the head of the answer.
pub(super) async fn send(mut sender: SendRequest<Body>, request: Request<Body>) -> Sent {
    // An error means that the connection has ended, which sending tells.
    let _ = sender.ready().await;
    match sender.try_send_request(request).await {
        Ok(response) => Sent::Answered(response, sender),
        Err(mut failed) => match failed.take_message() {
            Some(request) => Sent::Unsent(request),
            None => Sent::Failed(failed.into_error()),
        },
    }
}

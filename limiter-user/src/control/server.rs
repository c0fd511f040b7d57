//! The near end of the control socket. Knows who asks and what the answer looks like; the answers come from the
//! Enforcer, the dataplane's Reader, and, by [`Request`]s, from the daemon.

mod body;
mod decisions;
mod hits;
mod listen;
mod routes;

use std::io;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::control::peers::{Operators, Peer};
use crate::control::protocol::{DetachRequest, Detached, Problem, Reloaded, Status};
use crate::dataplane::Reader;
use crate::enforcer;
use crate::http::{serve_connection, stopped};

pub use listen::{Socket, bind};

/// Connections that are served at the same time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 64;

/// What only the daemon's root can answer.
#[derive(Debug)]
pub enum Request {
    Status(oneshot::Sender<Status>),
    Reload(oneshot::Sender<Result<Reloaded, Problem>>),
    Detach(DetachRequest, oneshot::Sender<Result<Detached, Problem>>),
}

/// Where answers come from.
#[derive(Clone)]
pub struct Backend {
    pub enforcer: enforcer::Handle,
    pub reader: Arc<dyn Reader>,
    /// Both clocks, to say when something happened.
    pub clock: fn() -> enforcer::Now,
    pub daemon: mpsc::Sender<Request>,
}

/// Serves until the daemon stops, then for as long as answers are under way.
pub async fn serve(socket: Socket, operators: Operators, backend: Backend, mut stop: watch::Receiver<bool>) {
    let router = routes::router(backend);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // First a place, then a connection: those that wait do so in the kernel.
        let accepted = tokio::select! {
            accepted = accept(&socket, &places) => accepted,
            () = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, place)) => {
                let caller = match Peer::of(&stream) {
                    Ok(peer) => routes::Caller { allowed: operators.admit(&peer), uid: peer.uid },
                    Err(error) => {
                        tracing::warn!("control socket: cannot tell who connects: {error}");
                        continue;
                    }
                };
                let router = router.clone().layer(axum::Extension(caller));
                let stop = stop.clone();
                connections.spawn(async move {
                    serve_connection(stream, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("control socket: cannot accept: {error}");
                // Out of file descriptors, most likely: others need a moment to end.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    socket: &Socket,
    places: &Arc<Semaphore>,
) -> io::Result<(tokio::net::UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((socket.accept().await?, place))
}

#[cfg(test)]
mod tests;

//! The accept loop of every listener: it outlives what the kernel refuses, and ends with the daemon, after the answers that
//! are under way.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::stopped;

/// After an error, which most likely means that there are no file descriptors: others need a moment to end.
const PAUSE: Duration = Duration::from_millis(100);

/// Where connections come in. A connection that was begun to be accepted is not lost when nobody waits for it any more.
pub(crate) trait Listen: Send {
    type Connection: Send;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listen for TcpListener {
    type Connection = (TcpStream, SocketAddr);

    async fn accept(&self) -> io::Result<Self::Connection> {
        Self::accept(self).await
    }
}

/// Hands each connection of `listener` to `connected`, which says what is to be done for it, or nothing if it is closed at
/// once. `name` is for the log.
pub(crate) async fn accept_all<L, F>(
    name: &str,
    listener: L,
    connected: impl Fn(L::Connection) -> Option<F> + Send,
    mut stop: watch::Receiver<bool>,
) where
    L: Listen,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(connection) => {
                if let Some(work) = connected(connection) {
                    connections.spawn(work);
                }
            }
            Err(error) => {
                tracing::warn!("{name}: cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

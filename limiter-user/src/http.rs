//! Serves one HTTP/1.1 connection with deadlines. `axum::serve` installs no timer, without which hyper's own deadline
//! for request headers does nothing.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// For the headers of a request, and for the next request on a connection that is kept.
const HEADERS: Duration = Duration::from_secs(10);
/// What a stop waits for answers that are under way.
const GOODBYE: Duration = Duration::from_secs(2);

/// Resolves when the daemon stops: the value becomes true, or its sender is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone is a stop too.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// Answers requests on `stream` until the peer has gone, a deadline passes, or the daemon stops.
pub(crate) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => {
            if let Err(error) = outcome {
                tracing::debug!("connection: {error}");
            }
            return;
        }
        () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
    }
    // Cut off at the deadline: who reads a list slowly must not hold up the stop.
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    /// Sends `request`, and reads until the server closes.
    async fn answer(request: &[u8]) -> String {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (_stop, stopping) = watch::channel(false);
        let server = tokio::spawn(serve_connection(near, Router::new(), stopping));
        far.write_all(request).await.unwrap();
        let mut answer = String::new();
        far.read_to_string(&mut answer).await.unwrap();
        server.await.unwrap();
        answer
    }

    /// The clock stands still and jumps when nothing else is to be done: to the deadlines.
    #[tokio::test(start_paused = true)]
    async fn slow_peers_are_cut_off() {
        assert_eq!(answer(b"").await, "");
        assert_eq!(answer(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await, "");
        // Answered, and then silent.
        let kept = answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(kept.starts_with("HTTP/1.1 404 "), "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_idle_connections() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (stop, stopping) = watch::channel(false);
        let server = tokio::spawn(serve_connection(near, Router::new(), stopping));
        stop.send_replace(true);
        let before = tokio::time::Instant::now();
        server.await.unwrap();
        assert!(before.elapsed() <= GOODBYE, "{:?}", before.elapsed());
        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

//! Serves one connection, with deadlines for everything that a peer may keep waiting. `axum::serve` installs no timer,
//! without which hyper's own deadline for request headers does nothing; and hyper has none for the rest.

mod accept;
mod activity;
mod linger;
mod received;
mod watched;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use accept::{Listen, accept_all};
use activity::Standing;
pub(crate) use activity::{Activity, Patience};
use received::Received;
use watched::{Answered, Watched};

/// What a stop waits for answers that are under way.
const GOODBYE: Duration = Duration::from_secs(2);
/// What a peer is waited for whose connection has to end, to say that it has understood.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between two looks at the deadlines: how far they may be overdrawn.
const LOOK: Duration = Duration::from_millis(500);

/// Bytes of request line and headers together.
const MAX_HEADERS: u32 = 16 << 10;
/// Headers of a request.
const MAX_HEADER_COUNT: usize = 64;
/// Requests at the same time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 32;
/// Streams that a peer may give up before they were accepted, and errors of its that are answered by a reset; beyond it
/// the connection ends (CVE-2023-44487, RUSTSEC-2024-0003).
const MAX_RESETS: usize = 32;
/// Bytes of bodies that a peer may send before they are read: on a stream, and on a connection.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// Bytes of answers that wait in HTTP/2 for the peer.
const MAX_SEND: usize = 64 << 10;
/// Bytes that HTTP/1.1 buffers.
const MAX_BUFFER: usize = 64 << 10;
/// A peer of HTTP/2 that says nothing is asked whether it lives, and given up if it does not answer.
const PING: Duration = Duration::from_secs(15);
const PONG: Duration = Duration::from_secs(10);

/// The protocol of a connection. It is agreed on before, since finding it out from the first bytes has no deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// Comes with every request: for answers that have no end of their own.
#[derive(Debug, Clone)]
pub(crate) struct Stopping(pub(crate) watch::Receiver<bool>);

/// Resolves when the daemon stops: the value becomes true, or its sender is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone is a stop too.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// Answers requests on `stream` until the peer has gone, its time is up, or the daemon stops.
pub(crate) async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    version: Version,
    router: Router,
    activity: Arc<Activity>,
    stop: watch::Receiver<bool>,
) {
    let io = TokioIo::new(Watched::new(stream, version, Arc::clone(&activity)));
    let service = Answers {
        router: TowerToHyperService::new(router),
        version,
        activity: Arc::clone(&activity),
        stop: stop.clone(),
    };
    match version {
        Version::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                // The deadline is the activity's, which tells headers under way from a pause.
                .header_read_timeout(None)
                .max_headers(MAX_HEADER_COUNT)
                .max_header_size(MAX_HEADERS as usize)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(io, service);
            drive(connection, &activity, stop).await;
        }
        Version::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEADERS)
                .max_concurrent_streams(MAX_STREAMS)
                .max_pending_accept_reset_streams(MAX_RESETS)
                .max_local_error_reset_streams(MAX_RESETS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(MAX_SEND)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PONG)
                .serve_connection(io, service);
            drive(connection, &activity, stop).await;
        }
    }
}

/// A connection that can be asked to end after the answers that are under way.
trait Ends: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

type Io<S> = TokioIo<Watched<S>>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Ends for http1::Connection<Io<S>, Answers> {
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Ends
    for http2::Connection<Io<S>, Answers, TokioExecutor>
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn drive(connection: impl Ends, activity: &Activity, mut stop: watch::Receiver<bool>) {
    let mut connection = pin!(connection);
    let farewell = loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!("connection: {error}");
                }
                return;
            }
            () = stopped(&mut stop) => break GOODBYE,
            () = activity.turned_out() => return,
            () = tokio::time::sleep(LOOK) => match activity.standing(Instant::now()) {
                Standing::Good => {}
                Standing::Old => connection.as_mut().end(),
                Standing::Ending => break FAREWELL,
                Standing::Overdue => return,
            }
        }
    };
    connection.as_mut().end();
    // Cut off at the deadline: who reads a list slowly must not hold up the stop.
    let _ = tokio::time::timeout(farewell, connection).await;
}

/// The router, with its answers watched.
#[derive(Clone)]
struct Answers {
    router: TowerToHyperService<Router>,
    version: Version,
    activity: Arc<Activity>,
    stop: watch::Receiver<bool>,
}

type Request = hyper::Request<Incoming>;
type Response = hyper::Response<Answered>;

impl Service<Request> for Answers {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request) -> Self::Future {
        request.extensions_mut().insert(Stopping(self.stop.clone()));
        let (exchange, body) = (self.activity.exchange(), !request.body().is_end_stream());
        let request = request.map(|body| Received::new(body, self.version == Version::Http2));
        let (answer, activity) = (self.router.call(request), Arc::clone(&self.activity));
        Box::pin(async move {
            let answer = answer.await?;
            activity.answers(answer.status(), body);
            Ok(answer.map(|body| Answered::new(body, exchange)))
        })
    }
}

#[cfg(test)]
mod tests;

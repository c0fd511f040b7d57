//! Bodies of requests in HTTP/2. One that is given up would end its stream by a reset, which some clients, curl 7.88 for one,
//! take for a failure although the answer came before it. So the rest is dropped as it comes: for a while, and not more than
//! some, like that of a connection that ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

use super::linger::{LONGEST, MOST};

/// A body, and what becomes of it when nobody wants more of it.
pub(super) struct Received {
    body: Option<Incoming>,
    lingers: bool,
}

impl Received {
    /// `lingers` is false for HTTP/1.1, where the rest of a body is a matter of the connection.
    pub(super) fn new(body: Incoming, lingers: bool) -> Self {
        Self { body: Some(body), lingers }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.lingers || self.is_end_stream() {
            return;
        }
        if let (Some(body), Ok(runtime)) = (self.body.take(), Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(LONGEST, rest(body)));
        }
    }
}

/// Ends when the peer does. It is not listened to beyond the bound: then its window is closed.
async fn rest(mut body: Incoming) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return std::future::pending().await;
        }
    }
}

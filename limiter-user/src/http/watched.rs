//! Streams and answers that tell the [`Activity`] what happens on them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use hyper::body::{Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Version;
use super::activity::{Activity, Exchange};
use super::linger::Linger;

/// A stream whose bytes are noticed.
pub(super) struct Watched<S> {
    stream: S,
    version: Version,
    activity: Arc<Activity>,
    /// When this side has ended, and the peer may not have.
    linger: Option<Linger>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, version: Version, activity: Arc<Activity>) -> Self {
        Self { stream, version, activity, linger: None }
    }

    fn noted(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(_) => self.activity.wrote(),
            Poll::Pending => self.activity.blocks(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        // In HTTP/2 it need not be a request that begins.
        if self.version == Version::Http1 && buffer.filled().len() > before {
            self.activity.heard();
        }
        Poll::Ready(outcome)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.noted(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        // It is asked for in vain, too: that it is done does not mean that anything happened.
        match outcome {
            Poll::Ready(_) => self.activity.flushed(),
            Poll::Pending => self.activity.blocks(),
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, linger, .. } = &mut *self;
        if linger.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
            if !activity.is_cut_short() {
                return Poll::Ready(Ok(()));
            }
        }
        linger.get_or_insert_with(Linger::new).poll(stream, context)
    }
}

/// The body of an answer.
pub(super) struct Answered {
    body: Body,
    exchange: Exchange,
}

impl Answered {
    pub(super) fn new(body: Body, mut exchange: Exchange) -> Self {
        // It is the peer's turn until hyper asks for more.
        exchange.offers();
        Self { body, exchange }
    }
}

impl hyper::body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => {
                self.exchange.works();
                Poll::Pending
            }
            Poll::Ready(frame) => {
                self.exchange.offers();
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! What is done with the rest of a request that was refused before it was there as a whole. If the connection were closed
//! at once, the peer's next bytes would be answered by a reset, which may reach them before the answer does, and throws it away.
//! So this side says that it has ended, and drops what still comes: for a while, and not more than some.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// How long a peer has to read the answer and to end.
pub(super) const LONGEST: Duration = Duration::from_secs(2);
/// Bytes that are dropped: as many as a body has that could have been accepted, but for lists. Of more, the rest has to
/// wait: who reads while they write see the answer all the same.
pub(super) const MOST: usize = 1 << 20;
/// Bytes at a time.
const PIECE: usize = 16 << 10;

/// The end of a connection.
#[derive(Debug)]
pub(super) struct Linger {
    until: Pin<Box<Sleep>>,
    /// Bytes that may come still.
    left: usize,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self { until: Box::pin(tokio::time::sleep(LONGEST)), left: MOST }
    }

    /// Ready when the peer has ended, or time is up.
    pub(super) fn poll(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut piece = [0; PIECE];
        while self.left > 0 {
            let mut buffer = ReadBuf::new(&mut piece);
            // However it ends: it was to end.
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.left = self.left.saturating_sub(buffer.filled().len());
        }
        Poll::Pending
    }
}

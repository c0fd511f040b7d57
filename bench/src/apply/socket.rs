//! A connection to the daemon that is kept for many requests, as an application would have it: HTTP/1.1 over the control
//! socket, with nothing else in between that takes time.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use limiter_user::control::protocol::{AddRequest, AddResponse};

/// Much longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);
const HEAD_END: &[u8] = b"\r\n\r\n";

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
}

impl Connection {
    pub(super) fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach the daemon")?;
        stream.set_read_timeout(Some(PATIENCE)).context("cannot set a deadline")?;
        Ok(Self { stream })
    }

    /// Blocks `prefixes` for good, and waits for the answer: all of them are durable and in force.
    pub(super) fn block(&mut self, prefixes: Vec<String>) -> Result<()> {
        let request = request(prefixes)?;
        self.send(&request)?;
        self.receive()
    }

    /// Sends what [`request`] made.
    pub(super) fn send(&mut self, request: &Request) -> Result<()> {
        self.stream.write_all(&request.bytes).context("cannot send a request")?;
        Ok(())
    }

    /// Waits for the answer to a request with as many prefixes as were new.
    pub(super) fn receive(&mut self) -> Result<()> {
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let read = self.stream.read(&mut piece).context("the daemon does not answer")?;
            ensure!(read > 0, "the daemon closed the connection");
            answer.extend_from_slice(piece.get(..read).unwrap_or_default());
            let Some(end) = answer.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
                continue;
            };
            let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
            let body = answer.get(end + HEAD_END.len()..).unwrap_or_default();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let length: usize = length.context("an answer without its length")?;
            if body.len() < length {
                continue;
            }
            if !head.starts_with("http/1.1 200") {
                bail!("the daemon refused: {}", String::from_utf8_lossy(body));
            }
            let done: AddResponse = serde_json::from_slice(body).context("not the daemon's answer")?;
            ensure!(done.updated == 0 && done.unchanged == 0, "some were blocked already: {done:?}");
            return Ok(());
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

/// Blocks `prefixes` for good.
pub(super) fn request(prefixes: Vec<String>) -> Result<Request> {
    // Random addresses may be those of the host.
    let request = AddRequest { prefixes, force: true, ..AddRequest::default() };
    let body = serde_json::to_vec(&request).context("cannot write JSON")?;
    let head = format!(
        "POST /v1/blocks HTTP/1.1\r\nHost: limiter\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Ok(Request { bytes: [head.into_bytes(), body].concat() })
}

//! The API as an application speaks it: one connection after another, and many requests on each. Where a test asks
//! thousands of things, a process for each of them would take most of its time.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// For each answer. Whoever waits longer waits in vain.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines of a head.
const HEAD: usize = 100;

/// What the daemon said.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// JSON, or the text if it is something else.
    pub body: Value,
}

impl Reply {
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The kind of the problem, if it is one.
    pub fn problem(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }
}

/// A connection.
#[derive(Debug)]
pub struct Control<S: Read + Write> {
    stream: BufReader<S>,
    authorization: Option<String>,
}

impl Control<UnixStream> {
    /// Opens the control socket. Sockets are files, so it does not matter in which namespace.
    ///
    /// # Errors
    ///
    /// If nobody listens.
    pub fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("no {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream, None))
    }
}

impl<S: Read + Write> Control<S> {
    /// Speaks over `stream`, with this token.
    pub fn over(stream: S, token: Option<&str>) -> Self {
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        Self { stream: BufReader::new(stream), authorization }
    }

    /// # Errors
    ///
    /// If there is no answer, or none that can be understood.
    pub fn get(&mut self, path: &str) -> Result<Reply> {
        self.ask("GET", path, "", "")
    }

    /// Gets a list, one object a line.
    ///
    /// # Errors
    ///
    /// As [`Self::get`], or if it is refused.
    pub fn lines(&mut self, path: &str) -> Result<Vec<Value>> {
        let reply = self.get(path)?;
        ensure!(reply.is_ok(), "GET {path}: {} {}", reply.status, reply.body);
        // A single line is an object by itself.
        let text = reply.body.as_str().map_or_else(|| reply.body.to_string(), str::to_owned);
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// # Errors
    ///
    /// As [`Self::get`]; then it may have been done or not.
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Reply> {
        self.ask("POST", path, "application/json", &body.to_string())
    }

    /// Sends a list, one prefix a line.
    ///
    /// # Errors
    ///
    /// As [`Self::post`].
    pub fn import(&mut self, query: &str, lines: &str) -> Result<Reply> {
        self.ask("POST", &format!("/v1/blocks/import{query}"), "text/plain", lines)
    }

    fn ask(&mut self, method: &str, path: &str, kind: &str, body: &str) -> Result<Reply> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: limiter\r\n");
        request += self.authorization.as_deref().unwrap_or_default();
        if method == "POST" {
            if !kind.is_empty() {
                request += &format!("Content-Type: {kind}\r\n");
            }
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        request += body;
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).context("cannot send")?;
        self.answer().with_context(|| format!("{method} {path}"))
    }

    fn answer(&mut self) -> Result<Reply> {
        let head = self.line()?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no status line: {head:?}"))?;
        let (mut length, mut chunked) = (0, false);
        for _ in 0..HEAD {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            chunked |= line.starts_with("transfer-encoding:") && line.ends_with("chunked");
        }
        let body = if chunked { self.chunks()? } else { self.bytes(length)? };
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok(Reply { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line()?, 16)?;
            body.append(&mut self.bytes(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).context("the answer breaks off")?;
        Ok(bytes)
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => bail!("the connection was closed"),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no answer within {PATIENCE:?}"),
            Err(error) => Err(error.into()),
        }
    }
}

//! A daemon that serves its API over TLS, and a client that says exactly what it is told to.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::{Config, Daemon, Lab};
use limiter_user::tls::{self, Pin, Trust};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

const PORT: u16 = 9743;
/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The address that the API is served at.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(HOST.v4), PORT)
}

/// Where certificate and key of the API are.
pub(crate) fn identity(lab: &Lab) -> (PathBuf, PathBuf) {
    (lab.scratch.path("api.pem"), lab.scratch.path("api.key"))
}

/// Makes the API's certificate, and prepares a daemon that serves it. `api` goes into its section, `tables` before that.
pub(crate) fn prepare(lab: &Lab, api: &str, tables: &str) -> Result<(Daemon, Pin)> {
    let (certificate, key) = identity(lab);
    let tables = format!(
        "{tables}\n[api]\nlisten = [\"{}\"]\ncertificate = {certificate:?}\nkey = {key:?}\n{api}\n",
        address()
    );
    let daemon = Daemon::prepare(lab, "limiter", &Config { tables, ..Config::default() })?;
    let directory = lab.scratch.path("");
    daemon.cli.ok(&format!("api certificate --name localhost --out {}", directory.display()))?;
    Ok((daemon, tls::pin_of(&certificate)?))
}

/// Starts it, and waits until the API is served.
pub(crate) fn launch(daemon: &mut Daemon) -> Result<()> {
    daemon.launch()?;
    daemon.wait_ready()?;
    daemon.wait_logged("the API is served at").map(drop)
}

/// What clients speak: HTTP/1.1 unless said otherwise, to whoever has the pinned key.
pub(crate) fn client(pin: Pin, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
    let mut config = (*tls::client(Trust { pins: &[pin], ca: None, identity: None })?).clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// A connection with HTTP/1.1.
pub(crate) struct Session(BufReader<Box<dyn Stream>>);

trait Stream: Read + Write {
    /// Says that nothing more will be said.
    fn finish(&mut self) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn finish(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.shutdown(Shutdown::Write)
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// With their names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Session {
    /// From the namespace of the calling thread.
    pub(crate) fn open(config: Arc<ClientConfig>) -> Result<Self> {
        Self::over(TcpStream::connect(address())?, config)
    }

    /// From this address of the namespace of the calling thread.
    pub(crate) fn open_from(from: Ipv4Addr, config: Arc<ClientConfig>) -> Result<Self> {
        let stream = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&stream, &SocketAddrV4::new(from, 0))?;
        connect(&stream, &SocketAddrV4::new(HOST.v4, PORT))?;
        Self::over(stream.into(), config)
    }

    fn over(stream: TcpStream, config: Arc<ClientConfig>) -> Result<Self> {
        let session = ClientConnection::new(config, "localhost".try_into()?)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(Box::new(StreamOwned::new(session, stream)))))
    }

    /// To the control socket.
    pub(crate) fn local(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    /// Sends a request as it should be, and reads the answer.
    pub(crate) fn ask(&mut self, method: &str, path: &str, token: &str, body: &str) -> Result<Reply> {
        let bearer =
            if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(request.as_bytes())?;
        self.reply()?.context("the connection was closed before the answer")
    }

    /// Sends bytes, whatever they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Says that nothing more will be said.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.0.get_mut().finish()
    }

    /// The next answer; `None` if the connection was closed instead. Of an answer without end, only the headers.
    pub(crate) fn reply(&mut self) -> Result<Option<Reply>> {
        let Some(mut reply) = self.head()? else { return Ok(None) };
        let endless = reply.header("content-type") == Some("text/event-stream");
        if reply.header("transfer-encoding") == Some("chunked") && !endless {
            loop {
                let size = self.line()?.context("the answer broke off")?;
                let size =
                    usize::from_str_radix(&size, 16).with_context(|| format!("not a chunk: {size:?}"))?;
                reply.body += &self.text(size)?;
                ensure!(self.line()?.is_some_and(|line| line.is_empty()), "the chunk has no end");
                if size == 0 {
                    return Ok(Some(reply));
                }
            }
        }
        let length = reply.header("content-length").map(str::parse).transpose()?.unwrap_or(0);
        reply.body = self.text(length)?;
        Ok(Some(reply))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).context("the answer broke off")?;
        Ok(String::from_utf8(text)?)
    }

    /// The next answer without its body, and without those that announce it.
    pub(crate) fn head(&mut self) -> Result<Option<Reply>> {
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status = status.with_context(|| format!("not an answer: {line:?}"))?;
            let mut headers = Vec::new();
            loop {
                let line = self.line()?.context("the headers of the answer broke off")?;
                if line.is_empty() {
                    break;
                }
                let (name, value) =
                    line.split_once(':').with_context(|| format!("not a header: {line:?}"))?;
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            if status >= 200 {
                return Ok(Some(Reply { status, headers, body: String::new() }));
            }
        }
    }

    /// A line without its end; `None` at the end of the connection, however it came.
    fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => {
                ensure!(line.ends_with("\r\n"), "the answer broke off: {line:?}");
                line.truncate(line.len() - 2);
                Ok(Some(line))
            }
            Err(error) if is_end(&error) => Ok(None),
            Err(error) => Err(error).context("failed to read the answer"),
        }
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Whether the other side is gone, in whatever way.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

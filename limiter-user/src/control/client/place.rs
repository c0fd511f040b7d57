//! Where a daemon is, and the way there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::header::HeaderValue;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::ClientError;
use crate::tls::{self, PinMismatch, Trust};

/// A daemon that has not accepted the connection by then is stuck.
const CONNECT: Duration = Duration::from_secs(5);
/// Where the API is unless said otherwise.
const PORT: u16 = 9743;
/// More than any token has.
const MAX_TOKEN: usize = 16 << 10;

/// A daemon, as it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Socket(PathBuf),
    Remote(Url),
}

/// `https://HOST[:PORT]`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// A name or an address, without brackets.
    host: String,
    port: u16,
}

/// A text that is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidUrl;

/// A daemon on another machine.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(super) url: Url,
    /// `None`: the certificate says who this is.
    pub(super) token: Option<Token>,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Remote {
    /// The daemon at `url`, which is known by `trust`. Without a token, the certificate of `trust` says who asks.
    ///
    /// # Errors
    ///
    /// If nothing tells who the server is, or a file cannot be used.
    pub fn new(url: &Url, trust: Trust<'_>, token: Option<Token>) -> anyhow::Result<Self> {
        let config = tls::client(trust)?;
        let name = ServerName::try_from(url.host.clone()).with_context(|| format!("{url}: not a name"))?;
        Ok(Self { url: url.clone(), token, config, name })
    }
}

/// What `limiter token create` printed. Never shown.
#[derive(Debug, Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// # Errors
    ///
    /// If the text is no token. What it is is never part of an error.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        let token = text.trim_ascii();
        ensure!(
            (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "not a token alone; expected the one line that `limiter token create` printed"
        );
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or something else is in it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read(path).with_context(|| format!("cannot read the token in {shown}"))?;
        // What is not text is no token either.
        Self::new(str::from_utf8(&text).unwrap_or_default()).with_context(|| shown.to_string())
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Remote(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let rest = text.strip_prefix("https://").ok_or(InvalidUrl)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(InvalidUrl)?;
                let address: std::net::Ipv6Addr = host.parse().ok().ok_or(InvalidUrl)?;
                let port =
                    if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(InvalidUrl)?) };
                (address.to_string(), port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port)),
                None => (authority.to_owned(), None),
            },
        };
        let port = match port {
            None => PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(InvalidUrl)?,
        };
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(InvalidUrl);
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected https://HOST or https://HOST:PORT, without a path")
    }
}

impl std::error::Error for InvalidUrl {}

/// Either kind of connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) async fn connect_socket(path: &Path) -> Result<Box<dyn Stream>, ClientError> {
    let error = match tokio::time::timeout(CONNECT, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => return Ok(Box::new(stream)),
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, "it does not accept connections"),
    };
    let at = Place::Socket(path.to_owned());
    if error.kind() == io::ErrorKind::PermissionDenied {
        Err(ClientError::Denied { at })
    } else {
        Err(ClientError::Unreachable { at, error })
    }
}

pub(super) async fn connect_remote(remote: &Remote) -> Result<Box<dyn Stream>, ClientError> {
    let at = || Place::Remote(remote.url.clone());
    let unreachable = |error| ClientError::Unreachable { at: at(), error };
    let silent = || unreachable(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
    let connecting = TcpStream::connect((remote.url.host.as_str(), remote.url.port));
    let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|_elapsed| silent())?;
    let stream = stream.map_err(unreachable)?;
    // A request is written as a whole.
    let _ = stream.set_nodelay(true);
    let agreeing = TlsConnector::from(Arc::clone(&remote.config)).connect(remote.name.clone(), stream);
    match tokio::time::timeout(CONNECT, agreeing).await.map_err(|_elapsed| silent())? {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => match distrust(&error) {
            Some(why) => Err(ClientError::Untrusted { at: at(), why }),
            None => Err(unreachable(error)),
        },
    }
}

/// Why the server is not believed to be the one that is meant, if that is what went wrong.
fn distrust(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    if let CertificateError::Other(other) = error
        && let Some(mismatch) = other.0.downcast_ref::<PinMismatch>()
    {
        return Some(mismatch.to_string());
    }
    Some(format!(
        "its certificate is not good: {error}; give its issuer with --ca, or pin its key with --pin"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_one_form() {
        for (text, expected) in [
            ("https://edge1", "https://edge1:9743"),
            ("https://edge1.example.org:443/", "https://edge1.example.org:443"),
            ("https://192.0.2.1", "https://192.0.2.1:9743"),
            ("https://[2001:db8:0::1]:1", "https://[2001:db8::1]:1"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), expected);
        }
        for text in [
            "",
            "edge1",
            "http://edge1",
            "https://",
            "https://edge1:0",
            "https://edge1:65536",
            "https://edge1/v1",
            "https://2001:db8::1",
            "https://[2001:db8::1",
            "https://[edge1]",
            "https://user@edge1",
            "https://a b",
        ] {
            assert_eq!(text.parse::<Url>(), Err(InvalidUrl), "{text:?}");
        }
    }

    #[test]
    fn tokens_never_show() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "lmt_ab12_SECRET\n").unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!(token.header(), "Bearer lmt_ab12_SECRET");
        assert!(!format!("{token:?} {:?}", token.header()).contains("SECRET"));
        for wrong in ["", "\n", "two SECRETs", "SECRET\nSECRET"] {
            std::fs::write(&path, wrong).unwrap();
            let error = format!("{:#}", Token::read(&path).unwrap_err());
            assert!(!error.contains("SECRET") && error.contains("token create"), "{error}");
        }
    }
}

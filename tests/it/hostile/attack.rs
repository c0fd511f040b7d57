//! What hostile clients do with a connection, each until it is closed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

/// One way to be a nuisance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attack {
    /// Says one byte, so that it can be known to be there.
    Silent,
    /// A record of TLS that is none, and more of that.
    Garbage,
    /// The beginning of a handshake, a byte at a time.
    SlowHandshake,
    Idle,
    SlowHeaders,
    /// With a token that somebody has lost.
    SlowBody,
    LargeHeaders,
    LargeBody,
    /// Many answers that are never read.
    Deaf,
    /// HTTP/2 from here on. Nothing but the preface.
    IdleStreams,
    /// As many requests as there may be, with a token, and no body to them.
    ManyStreams,
    /// Answers to which no room is given, and pings.
    NoWindow,
    RapidReset,
    /// Headers that have no end (CVE-2024-27983).
    Continuation,
}

impl Attack {
    pub(super) const ALL: [Self; 14] = [
        Self::Silent,
        Self::Garbage,
        Self::SlowHandshake,
        Self::Idle,
        Self::SlowHeaders,
        Self::SlowBody,
        Self::LargeHeaders,
        Self::LargeBody,
        Self::Deaf,
        Self::IdleStreams,
        Self::ManyStreams,
        Self::NoWindow,
        Self::RapidReset,
        Self::Continuation,
    ];

    fn speaks_http2(self) -> bool {
        matches!(
            self,
            Self::IdleStreams | Self::ManyStreams | Self::NoWindow | Self::RapidReset | Self::Continuation
        )
    }
}

/// What is said at first, and then again and again.
type Lines = (Vec<u8>, Option<(Vec<u8>, Duration)>);

/// What the attackers know.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) api: SocketAddr,
    pub(super) http1: Arc<ClientConfig>,
    pub(super) http2: Arc<ClientConfig>,
    /// Good for blocks: one for each kind of attack.
    pub(super) tokens: Arc<[String]>,
}

/// How long one of them lasted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lasted {
    /// Since the first packet to the closed connection.
    pub(super) in_all: Duration,
    /// Since TLS was agreed on; `None` if it never was.
    pub(super) agreed: Option<Duration>,
}

impl Attack {
    /// Does it from this address, until the server ends the connection.
    pub(super) async fn run(self, from: Ipv4Addr, means: Means) -> Lasted {
        let begun = Instant::now();
        let mut agreed = None;
        self.until_closed(from, &means, &mut agreed).await;
        Lasted { in_all: begun.elapsed(), agreed: agreed.map(|at: Instant| at.elapsed()) }
    }

    async fn until_closed(self, from: Ipv4Addr, means: &Means, agreed: &mut Option<Instant>) {
        let Some(stream) = connected(from, means.api).await else { return };
        if let Some((first, more)) = self.before_tls() {
            return pester(stream, &first, more).await;
        }
        let config = if self.speaks_http2() { &means.http2 } else { &means.http1 };
        let Ok(name) = "localhost".try_into() else { return };
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let Ok(stream) = connecting.await else { return };
        *agreed = Some(Instant::now());
        let (first, more) = self.lines(means.tokens[self as usize].trim());
        if self == Self::Deaf { ignore(stream, &first).await } else { pester(stream, &first, more).await }
    }

    /// What those say who do not agree on TLS.
    fn before_tls(self) -> Option<Lines> {
        let again = |bytes: &[u8], milliseconds| Some((bytes.to_vec(), Duration::from_millis(milliseconds)));
        match self {
            Self::Silent => Some((vec![0x16], None)),
            Self::Garbage => {
                let garbage = [&[0x16, 3, 1, 0xFF, 0xFF, 0, 0][..], &[0xA5; 20_000]].concat();
                Some((garbage, again(&[0xA5; 1000], 100)))
            }
            Self::SlowHandshake => {
                let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
                Some((hello.to_vec(), again(&[0], 500)))
            }
            Self::Idle
            | Self::SlowHeaders
            | Self::SlowBody
            | Self::LargeHeaders
            | Self::LargeBody
            | Self::Deaf
            | Self::IdleStreams
            | Self::ManyStreams
            | Self::NoWindow
            | Self::RapidReset
            | Self::Continuation => None,
        }
    }

    fn lines(self, token: &str) -> Lines {
        let post = format!("POST /v1/blocks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
        let again = |bytes: &[u8], milliseconds| Some((bytes.to_vec(), Duration::from_millis(milliseconds)));
        match self {
            Self::Silent | Self::Garbage | Self::SlowHandshake | Self::Idle => (Vec::new(), None),
            Self::SlowHeaders => (b"GET /v1/status HTTP/1.1\r\n".to_vec(), again(b"X: x\r\n", 500)),
            Self::SlowBody => ((post + "Content-Length: 60000\r\n\r\n").into_bytes(), again(b" ", 500)),
            Self::LargeHeaders => (b"GET / HTTP/1.1\r\n".to_vec(), again(large_header().as_bytes(), 5)),
            Self::LargeBody => {
                let post = post + "Transfer-Encoding: chunked\r\n\r\n";
                (post.into_bytes(), again(format!("4000\r\n{}\r\n", " ".repeat(0x4000)).as_bytes(), 5))
            }
            Self::Deaf => {
                let get = format!(
                    "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
                );
                (get.repeat(40).into_bytes(), None)
            }
            Self::IdleStreams => (http2::preface(&[]), None),
            Self::ManyStreams => {
                let mut bytes = http2::preface(&[]);
                for stream in 0..32 {
                    bytes.extend(http2::request(2 * stream + 1, "POST", "/v1/blocks", token, false));
                }
                (bytes, again(&http2::frame(http2::DATA, 0, 1, b" "), 500))
            }
            Self::NoWindow => {
                let mut bytes = http2::preface(&[(http2::INITIAL_WINDOW, 0)]);
                for stream in 0..32 {
                    bytes.extend(http2::request(2 * stream + 1, "GET", "/healthz", "", true));
                }
                (bytes, again(&http2::frame(http2::PING, 0, 0, &[7; 8]), 500))
            }
            Self::RapidReset => {
                let mut bytes = http2::preface(&[]);
                for stream in 0..500 {
                    bytes.extend(http2::request(2 * stream + 1, "GET", "/healthz", "", true));
                    bytes.extend(http2::frame(http2::RESET, 0, 2 * stream + 1, &8u32.to_be_bytes()));
                }
                (bytes, None)
            }
            Self::Continuation => {
                let mut bytes = http2::preface(&[]);
                bytes.extend(http2::frame(http2::HEADERS, 0, 1, &http2::header("x", "x")));
                let more =
                    http2::frame(http2::CONTINUATION, 0, 1, &http2::header("x-y", "xxxxxxxx").repeat(50));
                (bytes, again(&more, 5))
            }
        }
    }
}

fn large_header() -> String {
    format!("X-Large: {}\r\n", "x".repeat(1000))
}

/// `None` if the server will not have it.
async fn connected(from: Ipv4Addr, api: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((from, 0).into()).ok()?;
    socket.connect(api).await.ok()
}

/// Says `first`, then `more` again and again, and listens, until the server closes.
async fn pester<S: AsyncRead + AsyncWrite>(stream: S, first: &[u8], more: Option<(Vec<u8>, Duration)>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        if writer.write_all(first).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        // Who has nothing more to say listens.
        let Some((bytes, every)) = more else { return std::future::pending().await };
        let mut pace = tokio::time::interval(every);
        loop {
            pace.tick().await;
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        let mut buffer = [0; 256];
        while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

/// Says `first` and does not listen. That the connection has ended shows when something is said again.
async fn ignore<S: AsyncWrite + Unpin>(mut stream: S, first: &[u8]) {
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    loop {
        if stream.write_all(first).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        pace.tick().await;
    }
}

/// As much of HTTP/2 (RFC 9113) as it takes to be unpleasant.
mod http2 {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RESET: u8 = 3;
    const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// Of SETTINGS: bytes of an answer that are taken unasked.
    pub(super) const INITIAL_WINDOW: u16 = 4;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        // Three bytes of length; what is sent here is short.
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    pub(super) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &settings)[..]].concat()
    }

    /// A header as it is (RFC 7541 section 6.2.2), with a short name and value.
    pub(super) fn header(name: &str, value: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(126)], text.as_bytes()].concat();
        [&[0][..], &text(name), &text(value)].concat()
    }

    pub(super) fn request(stream: u32, method: &str, path: &str, token: &str, whole: bool) -> Vec<u8> {
        let mut headers = header(":method", method);
        headers.extend(header(":scheme", "https"));
        headers.extend(header(":path", path));
        headers.extend(header(":authority", "x"));
        if !token.is_empty() {
            headers.extend(header("authorization", &format!("Bearer {token}")));
        }
        let flags = END_HEADERS | if whole { END_STREAM } else { 0 };
        frame(HEADERS, flags, stream, &headers)
    }
}

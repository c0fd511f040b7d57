//! The other end of the API, for applications and for the command line: over the control socket of this machine, or over
//! TLS to another one, where a token or a certificate says who asks, and a pin or an issuer who answers.
//!
//! A [`Client`] is cheap to clone, and keeps its connections for further requests; it and its clones belong to one
//! runtime of tokio, which drives them. Every method is one request, and none
//! is repeated by itself: after [`ClientError::Silent`] and [`ClientError::Broken`], what was asked may have been done or
//! not. Adding and reporting an event once more does little harm; a block that is there already stays.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use limiter_user::client::{Client, Remote, Report, Token, Trust};
//!
//! # async fn example() -> anyhow::Result<()> {
//! // On the protected machine, as root or as a member of the group in [control]:
//! let local = Client::new("/run/limiter/limiter.sock");
//! local.block(&["198.51.100.7"], Some(Duration::from_secs(600)), "scraping").await?;
//!
//! // From another one. `limiter api pin` prints the pin, `limiter token create` the token:
//! let pin = "sha256:q83vEjRWeJASNFZ4kBI0VniQEjRWeJASNFZ4kBI0Vng=".parse()?;
//! let trust = Trust { pins: &[pin], ca: None, identity: None };
//! let token = Token::read(Path::new("/etc/shop/limiter.token"))?;
//! let edge = Client::remote(Remote::new(&"https://edge1:9743".parse()?, trust, Some(token))?);
//! let report = Report::new("198.51.100.7".parse()?, "login_failed");
//! let said = edge.report(&[report]).await?;
//! for blocked in &said.blocked {
//!     println!("{} is blocked for {} s", blocked.prefix, blocked.seconds);
//! }
//! let found = edge.lookup("198.51.100.7".parse()?).await?;
//! println!("{}: {}", found.action, found.text);
//! # Ok(())
//! # }
//! ```

mod events;
mod kept;
mod place;
mod tokens;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::blocklist::Owner;
use crate::config::Action;
use crate::control::protocol::{
    ChangeList, Claim, Counters, DetachRequest, Detached, Reloaded, RemoveRequest, RemoveResponse, Status,
    UnconfirmedChange,
};
use kept::{Kept, Sent};

/// For the answer to begin, and for each further piece of it. A thread of the daemon may be busy for a second or two.
const ANSWER: Duration = Duration::from_secs(10);
/// The same for what may mean work on millions of entries, or waits for the input.
const LONG_ANSWER: Duration = Duration::from_secs(3600);
/// Longest line of a stream: a claim with the longest reason is far below.
const MAX_LINE: usize = 1 << 20;
/// An answer that is not a stream: `explain` with many claims is the largest.
const MAX_ANSWER: usize = 64 << 20;

pub use events::{EventStream, Heard};
pub use place::{InvalidUrl, Place, Remote, Token, Url};

pub use crate::control::protocol::{
    AddRequest, AddResponse, Blocked, Explanation, Problem, ProblemKind, Report, ReportResponse,
};
pub use crate::tls::{Pin, Trust};

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens.
    Unreachable { at: Place, error: io::Error },
    /// Somebody listens and does not answer.
    Silent { at: Place },
    /// The socket may not be opened.
    Denied { at: Place },
    /// Somebody answers who may be another one.
    Untrusted { at: Place, why: String },
    /// The daemon said no.
    Refused(Problem),
    /// The connection broke, or the answer was not one of limiterd's.
    Broken(String),
    /// What was to be sent could not be read.
    Input(io::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { at: Place::Remote(url), error } => write!(
                f,
                "cannot reach the daemon at {url}: {error}; is [api] in its configuration, and the port open?"
            ),
            Self::Unreachable { at, error } => write!(
                f,
                "cannot reach the daemon at {at}: {error}; is limiterd running? try: systemctl status limiterd"
            ),
            Self::Untrusted { at, why } => write!(f, "not talking to {at}: {why}"),
            Self::Silent { at } => {
                write!(f, "the daemon at {at} does not answer; what was asked may have been done or not")
            }
            Self::Denied { at } => write!(
                f,
                "not allowed to use {at}; run as root, or as a member of the group in [control] of the configuration"
            ),
            Self::Refused(problem) => f.write_str(&problem.detail),
            Self::Broken(what) => write!(f, "the daemon did not answer properly: {what}"),
            Self::Input(error) => write!(f, "cannot read the input: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// How an import is to be made: its query.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    pub seconds: Option<u64>,
    pub reason: Option<String>,
    pub force: bool,
    pub ssh_peer: Option<String>,
    /// See [`AddRequest::owner`].
    pub owner: Option<String>,
    /// Bytes of it, if they are known: a hint.
    pub size: Option<u64>,
    /// Nothing is changed.
    pub dry_run: bool,
}

type Body = BoxBody<Bytes, io::Error>;

/// Speaks to one daemon; see the [module](self).
#[derive(Debug, Clone)]
pub struct Client {
    way: Way,
    kept: Kept,
}

#[derive(Debug, Clone)]
enum Way {
    Socket(PathBuf),
    Remote(Arc<Remote>),
}

impl Client {
    /// The daemon of this machine, by its control socket. Nothing is connected before the first request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { way: Way::Socket(socket.into()), kept: Kept::default() }
    }

    /// The daemon of another machine.
    #[must_use]
    pub fn remote(remote: Remote) -> Self {
        Self { way: Way::Remote(Arc::new(remote)), kept: Kept::default() }
    }

    /// Whether it is another machine's.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.way, Way::Remote(_))
    }

    fn at(&self) -> Place {
        match &self.way {
            Way::Socket(path) => Place::Socket(path.clone()),
            Way::Remote(remote) => Place::Remote(remote.url.clone()),
        }
    }

    /// Says what addresses did; policies of the daemon's configuration decide when that is enough for a block. Up to
    /// 10,000 at a time over TLS. When it returns, the blocks that follow are in force and durable.
    ///
    /// # Errors
    ///
    /// A report that is alone is refused by a guard with [`ClientError::Refused`]; of several, those that are refused are
    /// counted in the answer.
    pub async fn report(&self, reports: &[Report]) -> Result<ReportResponse, ClientError> {
        match reports {
            // One alone is refused with the reason, not counted as refused.
            [report] => self.post("/v1/reports", report).await,
            reports => self.post("/v1/reports", &reports).await,
        }
    }

    /// Blocks addresses and prefixes for `time`, of which whole seconds count, at least one; for good if `None`. All of
    /// them or none. When it returns, they are in force and durable.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if one of them is guarded, or more than the caller may ask for.
    pub async fn block(
        &self,
        prefixes: &[&str],
        time: Option<Duration>,
        reason: &str,
    ) -> Result<AddResponse, ClientError> {
        let request = AddRequest {
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            seconds: time.map(|time| time.as_secs().max(1)),
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            ..AddRequest::default()
        };
        self.add(Action::Block, &request).await
    }

    /// What happens to packets of `address`, and who claims what of it.
    pub async fn lookup(&self, address: IpAddr) -> Result<Explanation, ClientError> {
        self.explain(&address.to_string(), None, None, None).await
    }

    pub async fn add(&self, action: Action, request: &AddRequest) -> Result<AddResponse, ClientError> {
        self.post(collection(action), request).await
    }

    pub async fn remove(
        &self,
        action: Action,
        request: &RemoveRequest,
    ) -> Result<RemoveResponse, ClientError> {
        self.post(&format!("{}/remove", collection(action)), request).await
    }

    /// Sends `lines`, one prefix a line, as they come.
    pub async fn import(
        &self,
        lines: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
        options: &ImportOptions,
    ) -> Result<AddResponse, ClientError> {
        let mut query = Query::new("/v1/blocks/import");
        query.optional("for", options.seconds);
        query.optional("reason", options.reason.as_deref());
        query.optional("ssh_peer", options.ssh_peer.as_deref());
        query.optional("owner", options.owner.as_deref());
        query.optional("force", options.force.then_some("true"));
        query.optional("dry_run", options.dry_run.then_some("true"));
        query.optional("size", options.size);
        // An error of the input breaks the request off, which the daemon takes for no request; the cause is kept
        // here, since what hyper makes of it says nothing.
        let (failed, mut failure) = tokio::sync::mpsc::channel(1);
        let lines = lines.map(move |chunk| {
            chunk.map(Frame::data).map_err(|error| {
                let kind = error.kind();
                let _ = failed.try_send(error);
                io::Error::from(kind)
            })
        });
        let body = BodyExt::boxed(StreamBody::new(lines));
        let answer = self.send(Method::POST, &query.0, "text/plain", body, LONG_ANSWER).await;
        match (answer, failure.try_recv()) {
            (_, Ok(error)) => Err(ClientError::Input(error)),
            (answer, Err(_)) => self.decode(answer?).await,
        }
    }

    /// The changes that wait for being confirmed.
    pub async fn changes(&self) -> Result<ChangeList, ClientError> {
        self.get("/v1/changes").await
    }

    /// Keeps a change.
    pub async fn confirm(&self, id: u64) -> Result<UnconfirmedChange, ClientError> {
        let path = format!("/v1/changes/{id}/confirm");
        let answer = self.send(Method::POST, &path, "", empty(), ANSWER).await?;
        self.decode(answer).await
    }

    /// The claims, or those of `owner`, as the daemon sends them.
    pub async fn list(&self, action: Action, owner: Option<&Owner>) -> Result<Lines, ClientError> {
        let mut query = Query::new(collection(action));
        query.optional("owner", owner);
        let answer = self.send(Method::GET, &query.0, "", empty(), ANSWER).await?;
        Ok(Lines { body: answer.response.into_body(), rest: Vec::new(), at: self.at() })
    }

    pub async fn explain(
        &self,
        address: &str,
        protocol: Option<u8>,
        port: Option<u16>,
        interface: Option<&str>,
    ) -> Result<Explanation, ClientError> {
        let mut query = Query::new("/v1/explain");
        query.optional("address", Some(address));
        query.optional("protocol", protocol);
        query.optional("port", port);
        query.optional("interface", interface);
        self.get(&query.0).await
    }

    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    pub async fn counters(&self) -> Result<Counters, ClientError> {
        self.get("/v1/counters").await
    }

    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        let answer = self.send(Method::POST, "/v1/reload", "", empty(), LONG_ANSWER).await?;
        self.decode(answer).await
    }

    /// The same, but rolled back after so many seconds unless [`Self::confirm`] keeps it.
    pub async fn reload_to_confirm(&self, seconds: u64) -> Result<Reloaded, ClientError> {
        let path = format!("/v1/reload?confirm_seconds={seconds}");
        let answer = self.send(Method::POST, &path, "", empty(), LONG_ANSWER).await?;
        self.decode(answer).await
    }

    pub async fn detach(&self, request: &DetachRequest) -> Result<Detached, ClientError> {
        self.post("/v1/detach", request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, "", empty(), ANSWER).await?;
        self.decode(answer).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Broken(error.to_string()))?;
        let body = BodyExt::boxed(Full::new(Bytes::from(body)).map_err(|never| match never {}));
        let answer = self.send(Method::POST, path, "application/json", body, ANSWER).await?;
        self.decode(answer).await
    }

    /// Sends a request; an answer that is not a success is an error already.
    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Body,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "limiter");
        if let Way::Remote(remote) = &self.way
            && let Some(token) = &remote.token
        {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if !content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|error| ClientError::Broken(error.to_string()))?;
        let answer = self.sent(request, patience).await?;
        if answer.response.status().is_success() {
            Ok(answer)
        } else {
            Err(self.within(ANSWER, self.refusal(answer)).await.unwrap_or_else(|silent| silent))
        }
    }

    /// Sends `request` over a connection that was kept; over a new one if there is none, or it has ended meanwhile.
    async fn sent(&self, mut request: Request<Body>, patience: Duration) -> Result<Answer, ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken(describe(&error));
        loop {
            let (sender, new) = match self.kept.take() {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            match self.within(patience, kept::send(sender, request)).await? {
                Sent::Answered(response, sender) => return Ok(Answer { response, sender }),
                Sent::Unsent(again) if !new => request = again,
                Sent::Unsent(_) => {
                    return Err(ClientError::Broken("it closed the connection at once".to_owned()));
                }
                Sent::Failed(error) => return Err(broken(error)),
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, ClientError> {
        let stream = match &self.way {
            Way::Socket(path) => place::connect_socket(path).await?,
            Way::Remote(remote) => place::connect_remote(remote).await?,
        };
        let connecting = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connecting.map_err(|error| ClientError::Broken(describe(&error)))?;
        // Ends with the last answer's body, or with this process.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn decode<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, ClientError> {
        let body = self.within(ANSWER, self.collect(answer)).await??;
        serde_json::from_slice(&body).map_err(|error| {
            ClientError::Broken(format!("{error}; are limiter and limiterd of one version?"))
        })
    }

    /// All of an answer. Its connection is free then.
    async fn collect(&self, answer: Answer) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(answer.response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|error| ClientError::Broken(error.to_string()))?;
        self.kept.keep(answer.sender);
        Ok(body.to_bytes())
    }

    async fn refusal(&self, answer: Answer) -> ClientError {
        let status = answer.response.status();
        let body = match self.collect(answer).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) if status == StatusCode::NOT_FOUND => ClientError::Broken(
                "it does not know this request; are limiter and limiterd of one version?".to_owned(),
            ),
            Err(_) => ClientError::Refused(Problem {
                kind: ProblemKind::Failed,
                title: "failed".to_owned(),
                status: status.as_u16(),
                detail: format!("the daemon answered {status}"),
                items: Vec::new(),
            }),
        }
    }

    async fn within<T>(&self, patience: Duration, answer: impl Future<Output = T>) -> Result<T, ClientError> {
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(ClientError::Silent { at: self.at() }),
        }
    }
}

/// The head of an answer, and the connection that it comes over.
#[derive(Debug)]
struct Answer {
    response: Response<Incoming>,
    sender: SendRequest<Body>,
}

/// A list as it arrives, one claim at a time.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
    at: Place,
}

impl Lines {
    /// The claims of the next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the daemon breaks off: what came so far is not the whole list.
    pub async fn next(&mut self) -> Result<Option<Vec<Claim>>, ClientError> {
        loop {
            let frame = tokio::time::timeout(ANSWER, self.body.frame()).await;
            let Ok(frame) = frame else { return Err(ClientError::Silent { at: self.at.clone() }) };
            let Some(frame) = frame else {
                return if self.rest.is_empty() {
                    Ok(None)
                } else {
                    Err(ClientError::Broken("the list ends in the middle of a line".to_owned()))
                };
            };
            let frame = frame.map_err(|error| ClientError::Broken(describe(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            self.rest.extend_from_slice(&data);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
                if self.rest.len() > MAX_LINE {
                    return Err(ClientError::Broken("a line of the list is too long".to_owned()));
                }
                continue;
            };
            let later = self.rest.split_off(end + 1);
            let lines = std::mem::replace(&mut self.rest, later);
            let claims = lines
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| {
                    serde_json::from_slice(line)
                        .map_err(|error| ClientError::Broken(format!("a line of the list: {error}")))
                })
                .collect::<Result<Vec<Claim>, _>>()?;
            return Ok(Some(claims));
        }
    }
}

fn collection(action: Action) -> &'static str {
    match action {
        Action::Block => "/v1/blocks",
        Action::Allow => "/v1/allows",
    }
}

fn empty() -> Body {
    BodyExt::boxed(http_body_util::Empty::new().map_err(|never| match never {}))
}

/// An error with its causes: hyper's own text leaves them out.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A path with a query in percent-encoding (RFC 3986 section 2.1).
struct Query(String);

impl Query {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    fn optional(&mut self, name: &str, value: Option<impl fmt::Display>) {
        let Some(value) = value else { return };
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.to_string().bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(char::from(byte));
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock jumps to the deadline.
    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limiter.sock");
        // Connections wait in its queue for ever.
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let begun = tokio::time::Instant::now();
        let outcome = Client::new(path).detach(&DetachRequest::default()).await;
        assert!(matches!(outcome, Err(ClientError::Silent { .. })), "{outcome:?}");
        assert_eq!(begun.elapsed().as_secs(), ANSWER.as_secs());
    }

    /// A daemon that answers so many requests on each connection, and says how many connections there were.
    async fn answering(listener: tokio::net::UnixListener, requests: [usize; 2]) -> usize {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let mut connections = 0;
        for requests in requests {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections += 1;
            for _ in 0..requests {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0, "the client has gone");
                }
                let body = r#"{"changes":[]}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        connections
    }

    /// The daemon may end a connection at any time between two requests: that is no error.
    #[tokio::test]
    async fn connections_are_kept_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limiter.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let daemon = tokio::spawn(answering(listener, [3, 2]));
        let client = Client::new(path);
        for request in 0..5 {
            let client = client.clone();
            assert!(client.changes().await.unwrap().changes.is_empty(), "request {request}");
        }
        assert_eq!(daemon.await.unwrap(), 2);
    }

    #[test]
    fn queries_are_encoded() {
        let mut query = Query::new("/v1/explain");
        query.optional("address", Some("2001:db8::1"));
        query.optional("port", None::<u16>);
        query.optional("reason", Some("a b&c=d/ü"));
        assert_eq!(query.0, "/v1/explain?address=2001%3Adb8%3A%3A1&reason=a%20b%26c%3Dd%2F%C3%BC");
    }
}

//! The same over TCP and TLS on loopback, with certificates that the tests make.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::tcp::Socket as Listening;
use super::*;
use crate::access::issuer::{AUDIENCE, ISSUER, Issuer};
use crate::access::tokens::Wanted;
use crate::access::{Caps, Scope};
use crate::config::{Access, Api, Jwks, OAuth, Role};
use crate::control::client::{Remote, Token};
use crate::tls::{self, Pin, Trust};

/// A listener beside the socket of a [`Fixture`].
struct Network {
    fixture: Fixture,
    tcp: Tcp,
    address: SocketAddr,
    api: Api,
    pin: Pin,
    directory: tempfile::TempDir,
}

impl Network {
    async fn new() -> Self {
        let fixture = Fixture::new().await;
        let directory = tempfile::tempdir().unwrap();
        let made = tls::generate::generate(&["localhost".to_owned()], directory.path()).unwrap();
        let api = Api {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            certificate: made.certificate,
            key: made.key,
            client_ca: None,
            access: Access::default(),
        };
        let tcp = Tcp::start(&api, &fixture.app, &fixture.stopping);
        assert_eq!(tcp.problems(), [] as [String; 0]);
        let address = match &*tcp.socket(0).wait_for(|at| matches!(at, Listening::At(_))).await.unwrap() {
            Listening::At(address) => *address,
            other @ (Listening::Waiting | Listening::Problem(_)) => panic!("{other:?}"),
        };
        Self { fixture, tcp, address, api, pin: made.pin, directory }
    }

    /// Whose JWTs are good for everything. Nobody here has to wait after wrong ones.
    fn believe_an_issuer(&self) -> Issuer {
        let issuer = Issuer::new();
        let jwks = self.directory.path().join("jwks.json");
        std::fs::write(&jwks, issuer.set()).unwrap();
        let scopes = [Scope::Admin].into_iter().collect();
        let role = Role { scope: "limiter:report".to_owned(), scopes, caps: Caps::default() };
        let (issuer_name, audience) = (ISSUER.to_owned(), AUDIENCE.to_owned());
        let oauth = OAuth { issuer: issuer_name, audience, jwks: Jwks::File(jwks), roles: vec![role] };
        let access = Access { clients: Vec::new(), oauth: Some(oauth) };
        self.fixture.access.configure(&access, &["127.0.0.0/8".parse().unwrap()]);
        issuer
    }

    async fn end(self) {
        self.fixture.stop.send_replace(true);
        for listener in self.tcp.into_listeners() {
            listener.await.unwrap();
        }
        self.fixture.end().await;
    }

    async fn connect(&self, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let trust = Trust { pins: &[self.pin], ca: None, identity: None };
        let mut config = (*tls::client(trust).unwrap()).clone();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
    }

    /// A new token with these scopes.
    fn token(&self, scopes: &str) -> String {
        self.capped(scopes, Caps::default())
    }

    fn capped(&self, scopes: &str, caps: Caps) -> String {
        let scopes = scopes.split(',').map(|scope| scope.parse::<Scope>().unwrap()).collect();
        let wanted = Wanted { name: "test".to_owned(), scopes, caps, by: "uid:0".to_owned() };
        self.fixture.access.tokens().create(wanted, noon().wall - Duration::from_secs(3600)).unwrap().token
    }

    /// One request on a connection of its own, with a token of these scopes.
    async fn ask(&self, scopes: &str, method: &str, path: &str, body: &str) -> Answer {
        let token = &self.token(scopes);
        let stream = self.connect(tls::HTTP_1_1).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Answer::of(sender.send_request(request(token, method, path, body)).await.unwrap()).await
    }
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: String,
}

impl Answer {
    async fn of(response: hyper::Response<hyper::body::Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn request(token: &str, method: &str, path: &str, body: &str) -> hyper::Request<Full<Bytes>> {
    let mut request = hyper::Request::builder().method(method).uri(format!("https://localhost{path}"));
    request = request.header("host", "localhost");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

#[tokio::test]
async fn both_protocols_serve() {
    let network = Network::new().await;
    let body = r#"{"prefixes":["192.0.2.7"],"seconds":60}"#;
    let answer = network.ask("block:host", "POST", "/v1/blocks", body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let stream = network.connect(tls::H2).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let read = network.token("read");
    for _ in 0..3 {
        let answer = sender.send_request(request(&read, "GET", "/v1/blocks?limit=5", "")).await.unwrap();
        assert_eq!(answer.version(), hyper::Version::HTTP_2);
        let page: crate::control::protocol::ClaimPage = Answer::of(answer).await.json();
        assert_eq!(page.claims[0].owner, "app:test");
        assert!(page.claims[0].actor.as_ref().is_some_and(|actor| actor.starts_with("token:")));
        assert_eq!(page.next, None);
    }
    assert_eq!(network.fixture.tables.lists().len(), 1);
    drop(sender);
    network.end().await;
}

/// Every endpoint with every scope, and without any.
#[tokio::test]
async fn who_may_what() {
    let mut network = Network::new().await;
    // The root answers nothing that changes anything.
    network.fixture.daemon.close();
    let add = r#"{"prefixes":["192.0.2.7"]}"#;
    let scopes = ["read", "report", "block:host", "block:prefix/24", "allow", "config", "admin"];
    let tokens: Vec<String> = scopes.iter().map(|scope| network.token(scope)).collect();
    let rows: [(&str, &str, &str, &[&str]); 23] = [
        ("GET", "/v1/blocks", "", &["read"]),
        ("POST", "/v1/blocks", add, &["block:host", "block:prefix/24"]),
        ("POST", "/v1/blocks", r#"{"prefixes":["192.0.2.0/24"]}"#, &["block:prefix/24"]),
        ("POST", "/v1/blocks", r#"{"prefixes":["192.0.0.0/16"]}"#, &[]),
        ("POST", "/v1/blocks/remove", add, &["block:host", "block:prefix/24"]),
        ("POST", "/v1/blocks/import", "198.51.100.7\n", &["block:host", "block:prefix/24"]),
        ("POST", "/v1/blocks/import", "198.51.100.0/24\n", &["block:prefix/24"]),
        ("GET", "/v1/allows", "", &["read"]),
        ("POST", "/v1/allows", r#"{"prefixes":["203.0.113.9"]}"#, &["allow"]),
        ("POST", "/v1/allows/remove", r#"{"prefixes":["203.0.113.9"]}"#, &["allow"]),
        ("GET", "/v1/explain?address=192.0.2.7", "", &["read"]),
        ("GET", "/v1/lookup/192.0.2.7", "", &["read"]),
        ("GET", "/v1/counters", "", &["read"]),
        ("GET", "/v1/status", "", &["read"]),
        ("GET", "/v1/openapi.json", "", &["read"]),
        ("POST", "/v1/config/check", "[[interface]]\nname = \"eth0\"\n", &["config"]),
        ("GET", "/v1/changes", "", &["read"]),
        ("POST", "/v1/changes/7/confirm", "", &["block:host", "block:prefix/24", "allow"]),
        ("POST", "/v1/detach", "{}", &[]),
        ("POST", "/v1/tokens", r#"{"name":"x","scopes":["read"]}"#, &[]),
        ("GET", "/v1/tokens", "", &[]),
        ("POST", "/v1/tokens/aaaaaaaa/revoke", "", &[]),
        ("POST", "/v1/tokens/aaaaaaaa/rotate", "{}", &[]),
    ];
    let until = Caps { expires: Some(noon().wall - Duration::from_secs(60)), ..Caps::default() };
    let expired = network.capped("admin", until);
    let revoked = network.token("admin");
    let id = revoked.split('_').nth(1).unwrap();
    network.fixture.access.tokens().revoke(id, noon().wall).unwrap();
    let issuer = network.believe_an_issuer();
    let other_audience = issuer.jwt(&serde_json::json!({"aud": "other"}));
    let other_issuer = Issuer::new().jwt(&serde_json::json!({}));
    let signed = issuer.jwt(&serde_json::json!({}));
    // In base64, {"alg":"none"}.
    let (_, claims) = signed.split_once('.').unwrap();
    let not_signed = format!("eyJhbGciOiJub25lIn0.{claims}");
    let one = network.connect(tls::H2).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(one)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request(&signed, "GET", "/v1/status", "")).await.unwrap();
    assert_eq!(answer.status(), 503, "its role is admin, and the root is gone");
    for (method, path, body, allowed) in rows {
        for (scope, token) in scopes.iter().copied().zip(&tokens) {
            let answer = sender.send_request(request(token, method, path, body)).await.unwrap();
            let answer = Answer::of(answer).await;
            // 503: it was let through to the root, which is gone; 404: to the tokens, of which none has that id.
            let may = scope == "admin" || allowed.contains(&scope);
            let expected: &[u16] = if may { &[200, 404, 503] } else { &[403] };
            assert!(expected.contains(&answer.status.as_u16()), "{method} {path} {scope}: {}", answer.body);
        }
        for nobody in ["", &expired, &revoked, &other_audience, &other_issuer, &not_signed] {
            let answer =
                Answer::of(sender.send_request(request(nobody, method, path, body)).await.unwrap()).await;
            assert_eq!(answer.status, 401, "{method} {path}: {}", answer.body);
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"limiter\"");
        }
    }
    // Its answers have no end.
    for (scope, token) in scopes.iter().copied().zip(&tokens) {
        let answer = sender.send_request(request(token, "GET", "/v1/events", "")).await.unwrap();
        let may = matches!(scope, "read" | "admin");
        assert_eq!(answer.status(), if may { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{scope}");
    }
    for path in ["/v1/nothing", "/", "/v1/tokens/../status", "/v1/events"] {
        let answer = Answer::of(sender.send_request(request("", "GET", path, "")).await.unwrap()).await;
        assert_eq!(answer.status, 401, "{path}: who is nobody learns nothing");
    }
    for path in ["/healthz", "/readyz"] {
        let answer = Answer::of(sender.send_request(request("", "GET", path, "")).await.unwrap()).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    network.fixture.readiness.send_replace(false);
    let answer = Answer::of(sender.send_request(request("", "GET", "/readyz", "")).await.unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].as_bytes()), (503, b"5" as &[u8]));
    drop(sender);
    network.end().await;
}

/// Who shows a JWT when its issuer's keys are not there is told to come again, and not that they are wrong.
#[tokio::test]
async fn without_the_issuers_keys_its_callers_are_asked_to_come_again() {
    let network = Network::new().await;
    let issuer = network.believe_an_issuer();
    std::fs::remove_file(network.directory.path().join("jwks.json")).unwrap();
    network.fixture.access.configure(&Access::default(), &[]);
    let oauth = OAuth {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        jwks: Jwks::File(network.directory.path().join("jwks.json")),
        roles: Vec::new(),
    };
    network.fixture.access.configure(&Access { clients: Vec::new(), oauth: Some(oauth) }, &[]);
    let stream = network.connect(tls::HTTP_1_1).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let jwt = issuer.jwt(&serde_json::json!({}));
    for _ in 0..10 {
        let answer = sender.send_request(request(&jwt, "GET", "/v1/status", "")).await.unwrap();
        let answer = Answer::of(answer).await;
        assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (503, &"10".parse().unwrap()));
        assert!(
            answer.body.contains("\"type\":\"busy\"") && !answer.body.contains("jwks"),
            "{}",
            answer.body
        );
    }
    drop(sender);
    network.end().await;
}

#[tokio::test]
async fn requests_of_the_network_are_bounded() {
    let network = Network::new().await;
    let large = format!("{{\"prefixes\":[\"{}\"]}}", "1".repeat(1 << 20));
    assert_eq!(network.ask("admin", "POST", "/v1/blocks", &large).await.status, 413);
    let many = format!("{{\"prefixes\":[{}\"192.0.2.1\"]}}", "\"192.0.2.1\",".repeat(10_000));
    let answer = network.ask("admin", "POST", "/v1/blocks", &many).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
    let small = format!("{{\"interfaces\":[\"{}\"]}}", "1".repeat(64 << 10));
    assert_eq!(network.ask("admin", "POST", "/v1/detach", &small).await.status, 413);
    let answer = network.ask("admin", "POST", "/v1/blocks", "{\"prefixes\":[\"x\"]}").await;
    assert_eq!(answer.status, 400);
    let problem: serde_json::Value = answer.json();
    let id = answer.headers["x-request-id"].to_str().unwrap();
    assert_eq!(problem["request_id"], id);
    assert_eq!((&problem["type"], &problem["status"]), (&"invalid".into(), &400.into()));
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    network.end().await;
}

#[tokio::test]
async fn pages_join() {
    let network = Network::new().await;
    let prefixes: Vec<String> = (0..25).map(|n| format!("\"192.0.2.{n}\"")).collect();
    let body = format!("{{\"prefixes\":[{}]}}", prefixes.join(","));
    assert_eq!(network.ask("block:host", "POST", "/v1/blocks", &body).await.status, 200);
    network.fixture.client.add(Action::Block, &add(&["192.0.2.3", "198.51.100.1"])).await.unwrap();
    for (filter, expected) in
        [("", 27), ("&owner=app:test", 25), ("&owner=operator", 2), ("&owner=crowdsec", 0)]
    {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/blocks?limit=4{filter}{cursor}");
            let page: crate::control::protocol::ClaimPage =
                network.ask("read", "GET", &path, "").await.json();
            assert!(page.claims.len() <= 4);
            found.extend(page.claims.into_iter().map(|claim| (claim.prefix, claim.owner)));
            match page.next {
                Some(next) => cursor = format!("&cursor={}", next.replace('@', "%40").replace(':', "%3A")),
                None => break,
            }
        }
        let number = found.len();
        found.dedup();
        assert_eq!((found.len(), number), (expected, expected), "{filter}");
    }
    for wrong in ["limit=0", "limit=1001", "limit=1&cursor=nonsense", "owner=nobody", "limits=1"] {
        assert_eq!(
            network.ask("read", "GET", &format!("/v1/blocks?{wrong}"), "").await.status,
            400,
            "{wrong}"
        );
    }
    network.end().await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let network = Network::new().await;
    let stream = network.connect(tls::HTTP_1_1).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let token = network.token("block:host");
    let mut ask = async |body: &str| {
        let mut request = request(&token, "POST", "/v1/blocks", body);
        request.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
        Answer::of(sender.send_request(request).await.unwrap()).await
    };
    let body = r#"{"prefixes":["192.0.2.7"]}"#;
    let first = ask(body).await;
    assert_eq!(first.json::<crate::control::protocol::AddResponse>().added, 1);
    let again = ask(body).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(ask(r#"{"prefixes":["192.0.2.8"]}"#).await.status, 422);
    network.end().await;
}

/// Where nothing is kept, a key is no promise; and no caller gets what another one was told.
#[tokio::test]
async fn keys_are_each_callers_own_and_not_ignored() {
    let network = Network::new().await;
    let issuer = network.believe_an_issuer();
    let stream = network.connect(tls::HTTP_1_1).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |token: &str, path: &str, media: Option<&'static str>, body: &str| {
        let mut request = request(token, "POST", path, body);
        request.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
        if let Some(media) = media {
            request.headers_mut().insert("content-type", media.parse().unwrap());
        }
        Answer::of(sender.send_request(request).await.unwrap()).await
    };
    let report = r#"{"address":"203.0.113.7","category":"login_failed"}"#;
    let good = network.token("admin");
    for (path, media, body) in [
        ("/v1/reports", Some("application/x-ndjson"), report),
        ("/v1/blocks/import", None, "192.0.2.7\n"),
        ("/v1/tokens", None, r#"{"name":"x","scopes":["read"]}"#),
        ("/v1/tokens/aaaaaaaa/rotate", None, "{}"),
    ] {
        let answer = ask(&good, path, media, body).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        assert!(answer.body.contains("does not take an Idempotency-Key"), "{path}: {}", answer.body);
    }
    assert_eq!(network.fixture.access.tokens().list(noon().wall).len(), 1, "a token was made");
    assert_eq!(network.fixture.tables.lists().len(), 0);

    // Two whose subjects differ only where the log has cut them off.
    let subject = |last: &str| issuer.jwt(&serde_json::json!({"sub": format!("{}{last}", "x".repeat(200))}));
    let (a, b) = (subject("a"), subject("b"));
    assert_eq!(ask(&a, "/v1/reports", None, report).await.status, 200);
    let answer = ask(&b, "/v1/reports", None, report).await;
    assert_eq!((answer.status.as_u16(), answer.headers.contains_key("idempotency-replayed")), (200, false));
    let answer = ask(&a, "/v1/reports", None, report).await;
    assert_eq!((answer.status.as_u16(), answer.headers.contains_key("idempotency-replayed")), (200, true));
    drop(sender);
    network.end().await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections() {
    let mut network = Network::new().await;
    let old = network.connect(tls::H2).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(old)).await.unwrap();
    tokio::spawn(connection);
    let elsewhere = tempfile::tempdir().unwrap();
    let made = tls::generate::generate(&["localhost".to_owned()], elsewhere.path()).unwrap();
    // One that cannot be used changes nothing.
    let missing = Api { certificate: PathBuf::from("/nonexistent/api.pem"), ..network.api.clone() };
    let problem = network.tcp.reload(&missing).unwrap_err();
    assert!(problem.contains("/nonexistent/api.pem") && problem.contains("stay in use"), "{problem}");
    assert_eq!(network.tcp.problems(), [problem]);
    let crossed = Api { key: made.key.clone(), ..network.api.clone() };
    assert!(network.tcp.reload(&crossed).unwrap_err().contains("is not the key of"));
    network.connect(tls::H2).await.unwrap();

    let new = Api { certificate: made.certificate, key: made.key, ..network.api.clone() };
    network.tcp.reload(&new).unwrap();
    assert!(network.tcp.problems().is_empty());
    let error = network.connect(tls::H2).await.unwrap_err().to_string();
    assert!(error.contains(&made.pin.to_string()) && error.contains(&network.pin.to_string()), "{error}");
    network.pin = made.pin;
    network.connect(tls::H2).await.unwrap();
    let read = network.token("read");
    let answer = sender.send_request(request(&read, "GET", "/v1/counters", "")).await.unwrap();
    assert_eq!(answer.status(), 200, "the former connection goes on");
    drop((sender, answer));
    network.end().await;
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let made = tls::generate::generate(&["edge1".to_owned()], directory.path()).unwrap();
    let (certificate, key, access) = (made.certificate, made.key.clone(), Access::default());
    let api = Api { listen: Vec::new(), certificate, key, client_ca: None, access };
    for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, true), (0o604, false), (0o660, false)] {
        std::fs::set_permissions(&made.key, std::fs::Permissions::from_mode(mode)).unwrap();
        match tls::load(&api) {
            Ok(identity) => assert!(accepted && identity.pin == made.pin, "{mode:o}"),
            Err(error) => {
                assert!(!accepted && format!("{error:#}").contains("chmod 600"), "{mode:o} {error:#}")
            }
        }
    }
    assert!(
        tls::generate::generate(&["edge1".to_owned()], directory.path()).is_err(),
        "nothing is overwritten"
    );
}

#[tokio::test]
async fn the_client_speaks_over_the_network() {
    let network = Network::new().await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, network.token("read,block:host") + "\n").unwrap();
    let url = format!("https://{}", network.address).parse().unwrap();
    let ca = network.api.certificate.as_path();
    let remote = |trust, token: Option<&Path>| {
        let token = token.map(Token::read).transpose()?;
        Remote::new(&url, trust, token).map(Client::remote)
    };
    let pinned = Trust { pins: &[network.pin], ca: None, identity: None };

    let client = remote(pinned, Some(&token)).unwrap();
    assert_eq!(client.add(Action::Block, &add(&["192.0.2.7"])).await.unwrap().added, 1);
    assert_eq!(all(&client, Action::Block).await.len(), 1);
    assert_eq!(kind(client.reload().await), ProblemKind::NotAuthorised);
    let stranger = remote(pinned, None).unwrap();
    assert_eq!(kind(stranger.counters().await), ProblemKind::NotAuthorised);

    // Another key than the pinned one: both are told.
    let other = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse::<Pin>().unwrap();
    let others = [other];
    let mismatched = remote(Trust { pins: &others, ..pinned }, Some(&token)).unwrap();
    match mismatched.counters().await {
        Err(error @ ClientError::Untrusted { .. }) => {
            let text = error.to_string();
            for part in [&network.pin.to_string(), &other.to_string(), "limiter api pin"] {
                assert!(text.contains(part), "{text}");
            }
        }
        other => panic!("{other:?}"),
    }
    // The certificate is for localhost, not for an address.
    let by_issuer = Trust { pins: &[], ca: Some(ca), identity: None };
    let misnamed = remote(by_issuer, Some(&token)).unwrap();
    assert!(matches!(misnamed.counters().await, Err(ClientError::Untrusted { .. })));
    let named = format!("https://localhost:{}", network.address.port()).parse().unwrap();
    let by_name = Client::remote(Remote::new(&named, by_issuer, Some(Token::read(&token).unwrap())).unwrap());
    by_name.counters().await.unwrap();
    let nothing = Trust { pins: &[], ca: None, identity: None };
    assert!(remote(nothing, Some(&token)).unwrap_err().to_string().contains("--pin"));
    assert_eq!(tls::pin_of(ca).unwrap(), network.pin);
    network.end().await;
}

/// Who listens hears nothing more from the moment that their token is not good.
#[tokio::test]
async fn a_revoked_token_hears_nothing_more() {
    let network = Network::new().await;
    let mut listeners = Vec::new();
    for _ in 0..2 {
        let token = network.token("read");
        let stream = network.connect(tls::HTTP_1_1).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request(&token, "GET", "/v1/events", "")).await.unwrap();
        assert_eq!(answer.status(), 200);
        listeners.push((token, answer.into_body(), sender));
    }
    let next = async |body: &mut hyper::body::Incoming| {
        let frame =
            tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("a frame or the end");
        frame.map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    };
    for (_, body, _) in &mut listeners {
        assert_eq!(next(body).await.as_deref(), Some(": limiter\n\n"));
    }
    network.fixture.client.add(Action::Block, &add(&["192.0.2.7"])).await.unwrap();
    for (_, body, _) in &mut listeners {
        assert!(next(body).await.is_some_and(|event| event.contains("192.0.2.7")));
    }
    let id = listeners[0].0.split('_').nth(1).unwrap();
    network.fixture.access.tokens().revoke(id, noon().wall).unwrap();
    network.fixture.client.add(Action::Block, &add(&["192.0.2.8"])).await.unwrap();
    assert_eq!(next(&mut listeners[0].1).await, None, "the stream has ended, and not with the event");
    assert!(next(&mut listeners[1].1).await.is_some_and(|event| event.contains("192.0.2.8")));
    drop(listeners);
    network.end().await;
}

/// Somebody who opens requests and gives them up at once (CVE-2023-44487).
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let network = Network::new().await;
    let mut stream = network.connect(tls::H2).await.unwrap();
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for number in 0..5000 {
        // :method GET, :scheme https, :path /, :authority x (RFC 7541 appendix A).
        flood.extend(frame(1, 0x5, 2 * number + 1, b"\x82\x87\x84\x41\x01x"));
        flood.extend(frame(3, 0, 2 * number + 1, &8u32.to_be_bytes()));
    }
    let begun = std::time::Instant::now();
    // It may be cut off while it is still being sent.
    let _ = stream.write_all(&flood).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection goes on");
    assert!(begun.elapsed() < Duration::from_secs(3));
    // GOAWAY for ENHANCE_YOUR_CALM, unless the reset came first.
    let calm = [0, 0, 0, 11];
    assert!(answer.is_empty() || answer.windows(4).any(|window| window == calm), "{answer:02x?}");
    network.end().await;
}

/// Somebody with a token leaves as many requests unfinished as connections have room for.
#[tokio::test]
async fn nobody_takes_the_places_of_others() {
    let network = Network::new().await;
    let greedy = network.token("block:host");
    let open = async || {
        let stream = network.connect(tls::H2).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut sender = open().await;
        for _ in 0..32 {
            let endless =
                http_body_util::StreamBody::new(stream::pending::<io::Result<hyper::body::Frame<Bytes>>>());
            let request = request(&greedy, "POST", "/v1/blocks", "").map(|_| endless);
            sender.ready().await.unwrap();
            answers.spawn(sender.send_request(request));
        }
    }
    let mut refused = Vec::new();
    while refused.len() < 32 {
        refused.push(answers.join_next().await.unwrap().unwrap().unwrap());
    }
    for answer in refused {
        assert_eq!(
            (answer.status(), &answer.headers()["retry-after"]),
            (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
        );
    }
    let answer = network.ask("read", "GET", "/v1/counters", "").await;
    assert_eq!(answer.status, 200, "others are served: {}", answer.body);
    let begun = Instant::now();
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    network.end().await;
}

/// What hostile clients do.
#[derive(Debug, Clone, Copy)]
enum Hostile {
    Silent,
    Garbage,
    IdleAfterHandshake,
    SlowHeaders,
    SlowBody,
    LargeHeaders,
    LargeBody,
}

impl Hostile {
    const ALL: [Self; 7] = [
        Self::Silent,
        Self::Garbage,
        Self::IdleAfterHandshake,
        Self::SlowHeaders,
        Self::SlowBody,
        Self::LargeHeaders,
        Self::LargeBody,
    ];

    /// Until the server closes the connection. How long that took since the server took notice.
    async fn annoy(self, address: SocketAddr, from: [u8; 4], pin: Pin, token: &str) -> Duration {
        let mut begun = Instant::now();
        self.annoy_since(&mut begun, address, from, pin, token).await;
        begun.elapsed()
    }

    async fn annoy_since(
        self,
        begun: &mut Instant,
        address: SocketAddr,
        from: [u8; 4],
        pin: Pin,
        token: &str,
    ) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::from(from), 0).into()).unwrap();
        // Refused at the door is closed, too.
        let Ok(mut stream) = socket.connect(address).await else { return };
        match self {
            // Of a connection that did not find room in the kernel's queue, one would else hear nothing for ever.
            Self::Silent => {
                let _ = stream.write_all(&[0x16]).await;
                return drained(stream).await;
            }
            Self::Garbage => {
                let _ = stream.write_all(&[0x16, 3, 1, 0xFF, 0xFF, 0, 0]).await;
                let _ = stream.write_all(&[0xA5; 70_000]).await;
                return drained(stream).await;
            }
            Self::IdleAfterHandshake
            | Self::SlowHeaders
            | Self::SlowBody
            | Self::LargeHeaders
            | Self::LargeBody => {}
        }
        let config = tls::client(Trust { pins: &[pin], ca: None, identity: None }).unwrap();
        let connecting = TlsConnector::from(config).connect("localhost".try_into().unwrap(), stream);
        let Ok(mut stream) = connecting.await else { return };
        // The kernel may have dropped the first packets, and its peer have waited for a second or three.
        *begun = Instant::now();
        let post = format!("POST /v1/blocks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
        let (begin, drip, every) = match self {
            Self::Silent | Self::Garbage | Self::IdleAfterHandshake => (String::new(), "", 1000),
            Self::SlowHeaders => ("GET /v1/status HTTP/1.1\r\n".to_owned(), "X: x\r\n", 100),
            Self::SlowBody => (post + "Content-Length: 60000\r\n\r\n", " ", 100),
            Self::LargeHeaders => ("GET /v1/status HTTP/1.1\r\n".to_owned(), LARGE_HEADER, 1),
            Self::LargeBody => (post + "Content-Length: 99999999999\r\n\r\n", LARGE_HEADER, 1),
        };
        if stream.write_all(begin.as_bytes()).await.is_err() {
            return;
        }
        let (mut reader, mut writer) = tokio::io::split(stream);
        let writing = async {
            let mut pace = tokio::time::interval(Duration::from_millis(every));
            loop {
                pace.tick().await;
                if writer.write_all(drip.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        let mut buffer = vec![0; 4096];
        let reading = async { while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    }
}

const LARGE_HEADER: &str = "X-Large: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n";

async fn drained(mut stream: TcpStream) {
    let mut buffer = vec![0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// More hostile connections than there are places, each from an address of its own. The bounds of time leave room for a
/// machine that does something else, too, and for a build for tests; `tests/it/hostile.rs` has the real ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_end_and_do_not_matter() {
    const HOSTILE: usize = 500;
    let network = Network::new().await;
    let (token, stolen) = (network.token("read"), network.token("read,block:host"));
    let kept = network.connect(tls::HTTP_1_1).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(kept)).await.unwrap();
    tokio::spawn(connection);
    let first = sender.send_request(request(&token, "GET", "/v1/counters", "")).await.unwrap();
    assert_eq!(Answer::of(first).await.status, 200);

    let mut attackers = tokio::task::JoinSet::new();
    for (n, kind) in (0..HOSTILE).zip(Hostile::ALL.into_iter().cycle()) {
        let from = [127, 1, u8::try_from(n / 250).unwrap(), u8::try_from(1 + n % 250).unwrap()];
        let (address, pin, token) = (network.address, network.pin, stolen.clone());
        attackers.spawn(async move { (kind, kind.annoy(address, from, pin, &token).await) });
    }
    let traffic = network.fixture.app.traffic();
    let (mut took, mut longest) = (Vec::new(), Duration::ZERO);
    while !attackers.is_empty() {
        let begun = Instant::now();
        // The answer before may have been read before its connection knows.
        sender.ready().await.unwrap();
        let answer = sender.send_request(request(&token, "GET", "/v1/counters", "")).await.unwrap();
        let answer = Answer::of(answer).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        took.push(begun.elapsed());
        assert!(traffic.open() <= 256, "{}", traffic.open());
        // The control socket does not notice.
        network.fixture.client.counters().await.unwrap();
        while let Some(ended) = attackers.try_join_next() {
            let (kind, lasted) = ended.unwrap();
            assert!(lasted < Duration::from_secs(10), "{kind:?} lasted {lasted:?}");
            longest = longest.max(lasted);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    println!("{} requests, p99 {p99:?}, the longest hostile connection {longest:?}", took.len());
    // Without CPUs for itself the test waits, too, but not as long as somebody waits who is behind a hostile one.
    assert!(p99 < Duration::from_secs(2), "{p99:?}");
    assert!(traffic.connections(Connection::TurnedOut) > 0, "there was no need for anybody to make room");
    drop(sender);
    network.end().await;
}

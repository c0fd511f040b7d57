//! Server and client over a real socket, with the real enforcer, and tables in memory in place of the kernel's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream;
use hyper::body::Bytes;
use limiter_common::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;
use crate::config::{self, Action};
use crate::control::client::{Client, ClientError, ImportOptions};
use crate::control::protocol::{AddRequest, Claim, ProblemKind, RemoveRequest};
use crate::dataplane::Hit;
use crate::dataplane::memory::MemoryDataplane;
use crate::enforcer::{Now, Parameters};
use crate::host::Lifelines;

mod events;
mod reports;
mod tcp;
mod tokens;
mod trail;

const ROOT_ONLY: Operators = Operators { group: None, readers: None };

fn noon() -> Now {
    Now { boot: Nanos::from_secs(1000), wall: UNIX_EPOCH + Duration::from_secs(1_767_268_800) }
}

/// A server with a directory of its own.
struct Fixture {
    client: Client,
    path: PathBuf,
    tables: MemoryDataplane,
    enforcer: enforcer::Handle,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
    daemon: mpsc::Receiver<Request>,
    app: App,
    access: Arc<Authenticator>,
    readiness: watch::Sender<bool>,
    stopping: watch::Receiver<bool>,
    /// Goes with the fixture.
    directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let text = format!(
            "protected = [\"10.0.0.0/8\"]\n[[interface]]\nname = \"eth0\"\n\
             [[rule]]\nname = \"dns\"\nmatch = {{ protocol = \"udp\", port = 53 }}\n\
             limit = [ {{ per = \"source\", rate = \"200/s\", burst = 400 }} ]\n\
             [[policy]]\ncategory = \"login_failed\"\nthreshold = 5\nwithin = \"1m\"\nblock = \"10m\"\n\
             [state]\ndirectory = \"{path}/state\"\n"
        );
        let config = match config::parse(&text, Path::new("test.toml")) {
            Ok(config) => Arc::new(config),
            Err(problems) => panic!("{problems}"),
        };
        let tables = MemoryDataplane::new(200_000);
        let writer = Box::new(tables.clone());
        let lifelines = || Ok(Lifelines::default());
        let peers = || Ok(vec!["203.0.113.77".parse().unwrap()]);
        let parameters = Parameters { writer, config, boot_id: [7; 16], clock: noon, lifelines, peers };
        let start = tokio::task::spawn_blocking(|| enforcer::start(parameters));
        let (enforcer, _) = start.await.unwrap().unwrap();
        let (to_daemon, daemon) = mpsc::channel(1);
        let reader = Arc::new(tables.clone());
        let access = Arc::new(Authenticator::open(&directory.path().join("tokens.json")));
        let (readiness, ready) = watch::channel(true);
        let (_, unconfirmed) = watch::channel(None);
        let access_too = Arc::clone(&access);
        let audit = config::parse(&text, Path::new("test.toml")).map(|config| config.audit).unwrap();
        let trail = Trail::open(audit, noon().wall).unwrap();
        let backend = Backend {
            enforcer: enforcer.clone(),
            reader,
            clock: noon,
            daemon: to_daemon,
            ready,
            unconfirmed,
            access,
            trail,
        };
        let app = App::new(backend);
        let path = directory.path().join("run/limiter.sock");
        let socket = bind(&path, ROOT_ONLY).unwrap();
        let (stop, stopping) = watch::channel(false);
        // Whoever runs the tests is the operator.
        let operators = Operators { group: Some(rustix::process::getegid().as_raw()), readers: None };
        let server = tokio::spawn(serve(socket, operators, app.clone(), stopping.clone()));
        let client = Client::new(&path);
        Self {
            client,
            path,
            tables,
            enforcer,
            stop,
            server,
            daemon,
            app,
            access: access_too,
            readiness,
            stopping,
            directory,
        }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.server.await.unwrap();
        self.enforcer.shutdown().await;
        assert!(!self.path.exists(), "the socket is left behind");
    }

    /// What a raw request is answered.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server closes").unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn add(prefixes: &[&str]) -> AddRequest {
    AddRequest {
        prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        seconds: Some(3600),
        reason: Some("a test".to_owned()),
        force: false,
        ..AddRequest::default()
    }
}

async fn all(client: &Client, action: Action) -> Vec<Claim> {
    let mut lines = client.list(action, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(claims) = lines.next().await.unwrap() {
        all.extend(claims);
    }
    all
}

fn kind<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> ProblemKind {
    match answer {
        Err(ClientError::Refused(problem)) => problem.kind,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn while_the_daemon_starts_everybody_is_told_so_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/limiter.sock");
    let socket = bind(&path, ROOT_ONLY).unwrap();
    let (up, starting) = watch::channel(false);
    let client = Client::new(&path);
    let ask = async {
        for _ in 0..2 {
            let Err(ClientError::Refused(problem)) = client.status().await else { panic!("not refused") };
            assert_eq!((problem.kind, problem.status), (ProblemKind::Unavailable, 503));
            assert!(problem.detail.starts_with("limiterd is starting"), "{problem:?}");
        }
        let refused = client.add(Action::Block, &add(&["192.0.2.1"])).await;
        assert_eq!(kind(refused), ProblemKind::Unavailable);
        up.send_replace(true);
    };
    let operators = Operators { group: Some(rustix::process::getegid().as_raw()), readers: None };
    tokio::join!(turn_away(&socket, operators, starting), ask);
    // Who comes in between waits.
    assert!(path.exists());
    drop(UnixStream::connect(&path).await.unwrap());
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn while_the_daemon_starts_nobody_takes_the_places_of_operators() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/limiter.sock");
    let socket = bind(&path, ROOT_ONLY).unwrap();
    let (up, starting) = watch::channel(false);
    let come = std::sync::atomic::AtomicUsize::new(0);
    // First strangers, then who may look, then operators.
    let role = |_: &Peer| match come.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        ..MAX_CONNECTIONS => None,
        nth if nth < 2 * MAX_CONNECTIONS => Some(Role::Reader),
        _ => Some(Role::Operator),
    };
    let ask = async {
        let mut silent = Vec::new();
        for nth in 0..2 * MAX_CONNECTIONS {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            if nth < MAX_CONNECTIONS {
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "strangers are closed at once");
            }
            silent.push(stream);
        }
        assert_eq!(kind(Client::new(&path).status().await), ProblemKind::Unavailable);
        up.send_replace(true);
    };
    let told = async { tokio::join!(turn_away_all(socket.share().unwrap(), role, starting), ask) };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("operators are told");
}

#[tokio::test]
async fn add_list_explain_remove() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    let added = client.add(Action::Block, &add(&["192.0.2.7", "2001:db8::/32"])).await.unwrap();
    assert_eq!((added.added, added.updated, added.unchanged), (2, 0, 0));
    assert_eq!(fixture.tables.lists().len(), 2);

    let blocks = all(client, Action::Block).await;
    assert_eq!(
        blocks.iter().map(|claim| claim.prefix.as_str()).collect::<Vec<_>>(),
        ["192.0.2.7", "2001:db8::/32"]
    );
    assert_eq!(blocks[0].reason.as_deref(), Some("a test"));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(blocks[0].actor, Some(format!("uid:{uid}")));
    assert_eq!(blocks[0].seconds_left, Some(3600));
    assert_eq!(blocks[0].expires.as_deref(), Some("2026-01-01T13:00:00Z"));
    assert!(all(client, Action::Allow).await.is_empty());

    let explained = client.explain("192.0.2.7", Some(17), Some(53), Some("eth0")).await.unwrap();
    assert_eq!((explained.action.as_str(), explained.reason.as_str()), ("drop", Reason::Blocked.label()));
    assert_eq!(explained.claims, blocks[..1]);
    let explained = client.explain("192.0.2.8", Some(17), Some(53), None).await.unwrap();
    assert_eq!(explained.reason, Reason::Passed.label());
    assert_eq!(explained.limits.len(), 1, "{explained:?}");

    client.add(Action::Allow, &add(&["192.0.2.0/24"])).await.unwrap();
    assert!(all(client, Action::Block).await[0].allowed);
    let request = RemoveRequest {
        prefixes: vec!["192.0.2.7".to_owned(), "192.0.2.9".to_owned()],
        ..RemoveRequest::default()
    };
    let removed = client.remove(Action::Block, &request).await.unwrap();
    assert_eq!((removed.removed, removed.missing), (1, vec!["192.0.2.9".to_owned()]));
    fixture.end().await;
}

#[tokio::test]
async fn refusals_arrive_as_problems() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    assert_eq!(kind(client.add(Action::Block, &add(&["192.0.2.7", "10.0.0.1"])).await), ProblemKind::Guarded);
    assert_eq!(kind(client.add(Action::Block, &add(&["nonsense"])).await), ProblemKind::Invalid);
    assert!(fixture.tables.lists().is_empty(), "all or none");
    let zero = AddRequest { seconds: Some(0), ..add(&["192.0.2.7"]) };
    assert_eq!(kind(client.add(Action::Block, &zero).await), ProblemKind::Invalid);
    assert_eq!(kind(client.explain("nonsense", None, None, None).await), ProblemKind::Invalid);
    assert_eq!(kind(client.explain("192.0.2.7", None, Some(53), None).await), ProblemKind::Invalid);
    assert_eq!(kind(client.explain("192.0.2.7", None, None, Some("eth9")).await), ProblemKind::Invalid);
    fixture.end().await;
}

/// More than a page, so that the pages must join.
#[tokio::test]
async fn an_import_and_its_list_stream() {
    let fixture = Fixture::new().await;
    let piece = |n: u32| {
        let lines: String = (0..100).map(|m| format!("100.64.{}.{}\n", n, m)).collect();
        Ok(Bytes::from(lines + "# a comment\n"))
    };
    let options = ImportOptions { reason: Some("ünïcödé & = %".to_owned()), ..ImportOptions::default() };
    let pieces = stream::iter((0..50).map(piece));
    let done = fixture.client.import(pieces, &options).await.unwrap();
    assert_eq!(done.added, 5000);
    let blocks = all(&fixture.client, Action::Block).await;
    assert_eq!(blocks.len(), 5000);
    assert!(blocks.iter().all(|claim| claim.reason == options.reason && claim.expires.is_none()));

    let bad = stream::iter([Ok(Bytes::from("192.0.2.1\nhttp://x\n"))]);
    match fixture.client.import(bad, &ImportOptions::default()).await {
        Err(ClientError::Refused(problem)) => {
            assert_eq!(problem.kind, ProblemKind::Invalid);
            assert!(problem.items.len() == 1 && problem.items[0].contains('2'), "{problem:?}");
        }
        other => panic!("{other:?}"),
    }
    let broken = stream::iter([Ok(Bytes::from("192.0.2.1\n")), Err(io::Error::other("the disk is on fire"))]);
    match fixture.client.import(broken, &ImportOptions::default()).await {
        Err(ClientError::Input(error)) => assert_eq!(error.to_string(), "the disk is on fire"),
        other => panic!("{other:?}"),
    }
    assert_eq!(all(&fixture.client, Action::Block).await.len(), 5000);
    fixture.end().await;
}

#[tokio::test]
async fn what_the_root_answers() {
    let mut fixture = Fixture::new().await;
    fixture.tables.count("eth0", Reason::Blocked, 60);
    let counters = fixture.client.counters().await.unwrap();
    let blocked = counters.interfaces[0].reasons.iter().find(|count| count.reason == "blocked").unwrap();
    assert_eq!((blocked.action.as_str(), blocked.packets, blocked.bytes), ("drop", 1, 60));

    let reload = async {
        match fixture.daemon.recv().await {
            Some(Request::Reload(None, reply)) => reply
                .send(Ok(Reloaded { changes: vec!["a change".to_owned()], ..Reloaded::default() }))
                .unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let (answer, ()) = tokio::join!(fixture.client.reload(), reload);
    assert_eq!(answer.unwrap().changes, ["a change"]);
    // The root goes away without an answer, and then for good.
    let silence = async { drop(fixture.daemon.recv().await) };
    let (answer, ()) = tokio::join!(fixture.client.status(), silence);
    assert_eq!(kind(answer), ProblemKind::Unavailable);
    fixture.daemon.close();
    let detached = fixture.client.detach(&DetachRequest::default()).await;
    assert_eq!(kind(detached), ProblemKind::Unavailable);
    fixture.end().await;
}

#[tokio::test]
async fn strangers_learn_nothing() {
    let fixture = Fixture::new().await;
    let (near, mut far) = UnixStream::pair().unwrap();
    let origin = Origin::Socket { uid: 1000, role: None };
    let router = fixture.app.router.clone().layer(axum::Extension(origin));
    let connection = tokio::spawn(serve_connection(
        near,
        Version::Http1,
        router,
        Activity::local(),
        fixture.stopping.clone(),
    ));
    for request in [
        "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v1/blocks HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /no/such/thing HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /v1/detach HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        far.write_all(request.as_bytes()).await.unwrap();
    }
    let mut answers = String::new();
    far.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 403 Forbidden").count(), 4, "{answers}");
    assert_eq!(answers.matches("\"not-authorised\"").count(), 4, "{answers}");
    connection.await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn odd_requests_are_refused() {
    let fixture = Fixture::new().await;
    for (request, status) in [
        ("GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
        ("DELETE /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"),
        ("POST /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{", "400"),
        ("POST /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]", "400"),
        (
            "POST /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 30\r\n\r\n\
             {\"prefixes\":[],\"no_such_key\":1}",
            "400",
        ),
        (
            "POST /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n",
            "413",
        ),
        (
            "POST /v1/blocks/import?for=-1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "400",
        ),
        (
            "POST /v1/blocks/import?for=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "400",
        ),
        ("GET /v1/explain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "400"),
    ] {
        let answer = fixture.raw(request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{request}\n{answer}");
    }
    let deep = "[".repeat(1_000_000);
    let request = format!(
        "POST /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{deep}",
        deep.len()
    );
    assert!(fixture.raw(request.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    // Not HTTP at all.
    assert!(fixture.raw(b"\x16\x03\x01\x00\xff").await.starts_with("HTTP/1.1 400 "));
    fixture.end().await;
}

#[tokio::test]
async fn hits_are_told_with_the_blocks_they_belong_to() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    let hit = |address: &str, packets, seen| {
        let (address, seen) = (address.parse().unwrap(), Nanos::from_secs(seen));
        fixture.tables.hit(Hit { address, packets, seen });
    };
    // Out of order, at both ends of a prefix and right behind them, and twice.
    hit("2001:db8::7", 128, 999);
    hit("198.51.101.0", 128, 999);
    hit("198.51.100.255", 256, 940);
    hit("192.0.2.7", 1280, 990);
    hit("198.51.100.0", 128, 400);
    hit("198.51.99.255", 128, 999);
    hit("192.0.2.7", 128, 980);
    let prefixes =
        ["192.0.2.7", "192.0.2.8", "198.51.100.0/24", "198.51.100.255", "2001:db8::/64", "2001:db8::8"];
    client.add(Action::Block, &add(&prefixes)).await.unwrap();
    client.add(Action::Allow, &add(&["198.51.100.0/24"])).await.unwrap();
    let blocks = all(client, Action::Block).await;
    let told: Vec<_> =
        blocks.iter().map(|c| (c.prefix.as_str(), c.packets, c.last_seen.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("192.0.2.7", Some(1408), Some("2026-01-01T11:59:50Z")),
            ("192.0.2.8", None, None),
            ("198.51.100.0/24", Some(384), Some("2026-01-01T11:59:00Z")),
            ("198.51.100.255", Some(256), Some("2026-01-01T11:59:00Z")),
            ("2001:db8::/64", Some(128), Some("2026-01-01T11:59:59Z")),
            ("2001:db8::8", None, None),
        ]
    );
    assert_eq!(all(client, Action::Allow).await[0].packets, None);
    let explained = client.explain("192.0.2.7", None, None, None).await.unwrap();
    assert_eq!(explained.claims, blocks[..1]);
    fixture.end().await;
}

#[test]
fn the_socket_is_for_operators_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/limiter.sock");
    let socket = bind(&path, ROOT_ONLY).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o660);
    assert_eq!(mode(path.parent().unwrap()), 0o750);
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "something else was left there"
    );

    let taken = bind(&path, ROOT_ONLY).unwrap_err().to_string();
    assert!(taken.contains("somebody listens"), "{taken}");
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn only_stale_sockets_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limiter.sock");
    // What a killed daemon leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let stale = std::fs::metadata(&path).unwrap().ino();
    let socket = bind(&path, ROOT_ONLY).unwrap();
    UnixStream::connect(&path).await.unwrap();
    let replaced = std::fs::metadata(&path).unwrap().ino();
    assert_ne!(stale, replaced);

    // Another daemon's file is not removed with ours.
    let moved = directory.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    let successor = bind(&path, ROOT_ONLY).unwrap();
    drop(socket);
    UnixStream::connect(&path).await.unwrap();
    drop(successor);

    std::fs::write(&path, "precious").unwrap();
    let refused = bind(&path, ROOT_ONLY).unwrap_err().to_string();
    assert!(refused.contains("not a socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn nobody_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limiter.sock");
    for _ in ["no file", "nobody listens"] {
        match Client::new(&path).status().await {
            Err(error @ ClientError::Unreachable { .. }) => {
                assert!(error.to_string().contains("systemctl status limiterd"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        drop(std::os::unix::net::UnixListener::bind(&path));
    }
}

/// A peer that accepts and says nothing of HTTP.
#[tokio::test]
async fn something_else_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limiter.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let other = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\r\n").await.unwrap();
    };
    let client = Client::new(&path);
    let (answer, ()) = tokio::join!(client.status(), other);
    assert!(matches!(answer, Err(ClientError::Broken(_))), "{answer:?}");
}

#[test]
fn the_clock_of_the_tests_is_a_date() {
    assert_eq!(jiff::Timestamp::try_from(noon().wall).unwrap().to_string(), "2026-01-01T12:00:00Z");
    assert!(noon().wall < SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
}

//! Any body at any endpoint is answered, and never with a mistake of this side: the real server and the real enforcer, with
//! tables in memory in place of the kernel's.
#![no_main]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libfuzzer_sys::fuzz_target;
use limiter_user::access::Authenticator;
use limiter_user::audit::Trail;
use limiter_user::config;
use limiter_user::control::peers::Operators;
use limiter_user::control::server::{App, Backend, bind, serve};
use limiter_user::dataplane::memory::MemoryDataplane;
use limiter_user::enforcer::{self, Parameters};
use limiter_user::host::{Lifelines, now};
use tokio::sync::{mpsc, watch};

/// The first byte of the input is the number of one of them. `fuzz-seeds` counts on the order.
const ENDPOINTS: [(&str, &str); 10] = [
    ("/v1/blocks", "application/json"),
    ("/v1/blocks/remove", "application/json"),
    ("/v1/blocks/import", "text/plain"),
    ("/v1/allows", "application/json"),
    ("/v1/allows/remove", "application/json"),
    ("/v1/reports", "application/json"),
    ("/v1/reports", "application/x-ndjson"),
    ("/v1/config/check", "application/toml"),
    ("/v1/tokens", "application/json"),
    ("/v1/tokens/aaaaaaaa/rotate", "application/json"),
];

const CONFIG: &str = r#"
protected = ["10.0.0.0/8"]
[[interface]]
name = "eth0"
[[policy]]
category = "login_failed"
threshold = 5
within = "1m"
block = "escalate"
"#;

fuzz_target!(|input: &[u8]| {
    static CONNECTION: Mutex<Option<BufReader<UnixStream>>> = Mutex::new(None);

    let Some((first, body)) = input.split_first() else { return };
    let (path, kind) = ENDPOINTS[usize::from(*first) % ENDPOINTS.len()];
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    let mut kept = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner);
    // A body that nobody wanted ends the connection, with the answer or behind it.
    let (answer, connection) = kept
        .take()
        .and_then(|connection| ask(connection, &request))
        .or_else(|| ask(BufReader::new(UnixStream::connect(server()).expect("it listens")), &request))
        .expect("an answer");
    *kept = Some(connection);
    assert!((200..500).contains(&answer), "{path} is answered with {answer}");
});

/// The status of the answer; `None` if there is none.
fn ask(mut connection: BufReader<UnixStream>, request: &[u8]) -> Option<(u16, BufReader<UnixStream>)> {
    connection.get_mut().write_all(request).ok()?;
    let (mut line, mut length) = (String::new(), 0);
    connection.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().expect("a status");
    while line != "\r\n" {
        line.clear();
        connection.read_line(&mut line).ok()?;
        if let Some(text) = line.strip_prefix("content-length: ") {
            length = text.trim().parse().expect("a length");
        }
    }
    connection.read_exact(&mut vec![0; length]).ok()?;
    Some((status, connection))
}

/// The socket of a server that runs as long as this process.
fn server() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("limiter-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the state");
        let socket = directory.join("limiter.sock");
        let text = format!("{CONFIG}[state]\ndirectory = {:?}\n", directory.join("state"));
        let (told, listens) = std::sync::mpsc::channel();
        let path = socket.clone();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(&text, &path, &directory, told));
        });
        listens.recv().expect("it starts");
        socket
    })
}

async fn run(text: &str, socket: &Path, directory: &Path, told: std::sync::mpsc::Sender<()>) {
    let config = config::parse(text, Path::new("fuzz.toml")).expect("a good configuration");
    let audit = config.audit.clone();
    let tables = MemoryDataplane::new(1 << 20);
    let (enforcer, _) = enforcer::start(Parameters {
        writer: Box::new(tables.clone()),
        config: Arc::new(config),
        boot_id: [7; 16],
        clock: now,
        lifelines: || Ok(Lifelines::default()),
        peers: || Ok(Vec::new()),
    })
    .expect("an enforcer");
    let (daemon, _requests) = mpsc::channel(1);
    let (_ready, ready) = watch::channel(true);
    let (_, unconfirmed) = watch::channel(None);
    let (_stop, stop) = watch::channel(false);
    let app = App::new(Backend {
        enforcer,
        reader: Arc::new(tables),
        clock: now,
        daemon,
        ready,
        unconfirmed,
        access: Arc::new(Authenticator::open(&directory.join("tokens.json"))),
        trail: Trail::open(audit, now().wall).expect("an audit trail"),
    });
    // Whoever fuzzes is the operator.
    let group =
        std::fs::metadata(directory).map(|metadata| std::os::unix::fs::MetadataExt::gid(&metadata)).ok();
    let operators = Operators { group, readers: None };
    let listener = bind(socket, operators).expect("a socket");
    told.send(()).expect("somebody waits");
    serve(listener, operators, app, stop).await;
}

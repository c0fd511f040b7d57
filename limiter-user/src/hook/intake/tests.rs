use std::os::unix::net::UnixDatagram as Sender;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use limiter_common::Nanos;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::config::{self, Action};
use crate::dataplane::memory::MemoryDataplane;
use crate::enforcer::Parameters;
use crate::host::Lifelines;

const CONFIG: &str = r#"
protected = ["192.0.2.0/24"]
[[interface]]
name = "eth0"
[[policy]]
category = "rate_limit"
threshold = 3
within = "1m"
block = "10m"
[[policy]]
category = "scraping"
threshold = 1
within = "1m"
block = "1h"
"#;
const SOON: Duration = Duration::from_secs(20);

fn clock() -> Now {
    Now { boot: Nanos::from_secs(1_000), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
}

struct Fixture {
    directory: TempDir,
    backend: Backend,
    hooks: Hooks,
    stop: watch::Sender<bool>,
}

impl Fixture {
    /// A hook `nginx`; `before` makes what is there before it.
    fn new(before: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = socket(directory.path());
        before(&socket);
        let state = directory.path().join("state");
        let text = format!(
            "{CONFIG}[[hook]]\nname = \"nginx\"\nsocket = {socket:?}\n[state]\ndirectory = {state:?}\n"
        );
        let config = Arc::new(config::parse(&text, Path::new("x")).unwrap());
        let lifelines = || Ok(Lifelines::default());
        let peers = || Ok(Vec::new());
        let writer = Box::new(MemoryDataplane::new(1_000));
        let parameters =
            Parameters { writer, config: Arc::clone(&config), boot_id: [1; 16], clock, lifelines, peers };
        let (enforcer, _) = enforcer::start(parameters).unwrap();
        let trail = Trail::open(config.audit.clone(), clock().wall).unwrap();
        let backend = Backend { enforcer, trail, clock };
        let (stop, stopping) = watch::channel(false);
        let hooks = Hooks::start(prepare(&config.hooks), &backend, &stopping);
        Self { directory, backend, hooks, stop }
    }

    fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    async fn sender(&self) -> Sender {
        until(|| self.socket().exists()).await;
        let sender = Sender::unbound().unwrap();
        sender.connect(self.socket()).unwrap();
        sender
    }

    fn frames(&self) -> [u64; 4] {
        Outcome::ALL.map(|outcome| self.hooks.counts[0].frames(outcome))
    }

    fn trail(&self) -> Vec<Value> {
        let file = self.directory.path().join("state/audit/audit.jsonl");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("nginx.sock")
}

async fn until(mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
}

fn frame(address: &str, category: &str) -> String {
    format!(r#"<29>Nov 22 06:00:00 limiter: {{"ip":"{address}","category":"{category}","uri":"/login"}}"#)
}

#[tokio::test]
async fn frames_become_blocks_and_are_written_down() {
    let fixture = Fixture::new(|_| {});
    let sender = fixture.sender().await;
    // Without a category it is that of the hook.
    for category in ["rate_limit", "-", "rate_limit"] {
        sender.send(frame("198.51.100.7", category).as_bytes()).unwrap();
    }
    sender.send(frame("198.51.100.8", "coffee").as_bytes()).unwrap();
    sender.send(b"<29>Nov 22 06:00:00 limiter: no JSON").unwrap();
    sender.send(&vec![b' '; MAX_FRAME + 100]).unwrap();
    until(|| fixture.frames() == [3, 1, 0, 2]).await;

    let page = fixture.backend.enforcer.page(Action::Block, None, None, 10).await.unwrap();
    let [claim] = page.claims.as_slice() else { panic!("{page:?}") };
    let told = (claim.prefix.as_str(), claim.owner.as_str(), claim.actor.as_deref(), claim.reason.as_deref());
    assert_eq!(told, ("198.51.100.7", "app:nginx", Some("hook:nginx"), Some("rate_limit: 3 within 1m")));

    // A proxy in front.
    sender.send(frame("192.0.2.9", "rate_limit").as_bytes()).unwrap();
    until(|| fixture.trail().len() == 2).await;
    assert_eq!(fixture.frames(), [3, 1, 1, 2]);
    let records = fixture.trail();
    let field = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    assert!(records.iter().all(|record| record["actor"] == "hook:nginx" && record["owner"] == "app:nginx"));
    let [done, refused] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((field(done, "what"), field(done, "outcome")), ("block.report".into(), "done".into()));
    assert_eq!(done["subjects"], serde_json::json!(["198.51.100.7"]));
    assert_eq!(
        field(refused, "why"),
        "192.0.2.9 lies in 192.0.2.0/24, protected by the configuration; if that is a proxy of yours, have the server \
         log the address of the client behind it"
    );

    fixture.stop.send_replace(true);
    let socket = fixture.socket();
    for task in fixture.hooks.into_tasks() {
        tokio::time::timeout(SOON, task).await.unwrap().unwrap();
    }
    assert!(!socket.exists());
    fixture.backend.enforcer.shutdown().await;
}

/// Who waits for the kernel's queue loses nothing, and refusals do not fill the trail.
#[tokio::test]
async fn a_burst_is_counted_whole_and_told_in_part() {
    const FRAMES: u64 = 20_000;
    let fixture = Fixture::new(|_| {});
    let sender = fixture.sender().await;
    let sending = std::thread::spawn(move || {
        for n in 0..FRAMES {
            let address = if n % 2 == 0 { "192.0.2.1".to_owned() } else { format!("198.51.100.{}", n % 200) };
            sender.send(frame(&address, "scraping").as_bytes()).unwrap();
        }
    });
    until(|| fixture.frames().iter().sum::<u64>() == FRAMES).await;
    sending.join().unwrap();
    assert_eq!(fixture.frames(), [FRAMES / 2, 0, FRAMES / 2, 0]);
    let page = fixture.backend.enforcer.page(Action::Block, None, None, 1_000).await.unwrap();
    assert_eq!(page.claims.len(), 100);
    let refused = fixture.trail().iter().filter(|record| record["outcome"] == "refused").count();
    assert!((1..=60).contains(&refused), "{refused}");
    fixture.backend.enforcer.shutdown().await;
}

/// The clock jumps to the next attempt.
#[tokio::test(start_paused = true)]
async fn a_socket_that_cannot_be_made_is_told_and_tried_again() {
    let fixture = Fixture::new(|socket| std::fs::write(socket, "no socket").unwrap());
    let mut problem = fixture.hooks.problems[0].clone();
    let told = problem.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(told.starts_with("hook nginx takes no reports: ") && told.contains("not a socket"), "{told}");
    assert_eq!(fixture.hooks.problems().count(), 1);
    std::fs::remove_file(fixture.socket()).unwrap();
    problem.wait_for(Option::is_none).await.unwrap();
    fixture.sender().await.send(frame("198.51.100.7", "-").as_bytes()).unwrap();
    let counts = &fixture.hooks.counts[0];
    // The clock of the runtime stands still while frames are counted elsewhere.
    let end = std::time::Instant::now() + SOON;
    while counts.frames(Outcome::Counted) == 0 {
        assert!(std::time::Instant::now() < end, "not counted");
        tokio::task::yield_now().await;
    }
}

//! What cannot be seen from outside: faults of the disk at a chosen moment.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::*;
use crate::config;
use crate::dataplane::memory::MemoryDataplane;

fn clock() -> Now {
    Now { boot: Nanos::from_secs(1_000), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
}

/// A worker over an empty kernel, and that kernel.
fn started(directory: &Path) -> (Worker, MemoryDataplane) {
    started_at(directory, clock)
}

fn started_at(directory: &Path, clock: fn() -> Now) -> (Worker, MemoryDataplane) {
    let text = format!("[[interface]]\nname = \"eth0\"\n[state]\ndirectory = {directory:?}\n");
    let config = config::parse(&text, Path::new("x")).unwrap_or_else(|problems| panic!("{problems}"));
    let kernel = MemoryDataplane::new(1_000_000);
    let parameters = Parameters {
        writer: Box::new(kernel.clone()),
        config: Arc::new(config),
        boot_id: [1; 16],
        clock,
        lifelines: || Ok(Lifelines::default()),
    };
    let (publish, _) = watch::channel(Arc::default());
    (Worker::new(parameters, publish).unwrap().0, kernel)
}

fn add(worker: &mut Worker, prefix: &str) {
    let request = AddRequest {
        prefixes: vec![prefix.to_owned()],
        seconds: None,
        reason: None,
        force: false,
        ssh_peer: None,
    };
    worker.add(Action::Block, request, Caller { uid: 0 }).unwrap();
}

/// What a restart over an empty kernel puts in force.
fn stored(directory: &Path) -> usize {
    started(directory).1.lists().len()
}

#[test]
fn an_import_over_a_disk_fault_is_whole_when_it_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("claims.redb");
    let (mut worker, _) = started(directory.path());
    add(&mut worker, "192.0.2.1");
    let durable = std::fs::read(&file).unwrap();

    let address = |n: u32| Prefix::host(Address::V4((0x0b00_0000 + n).to_be_bytes()));
    let lines = u32::try_from(PART + 10).unwrap();
    let parsed = Parsed { prefixes: (0..lines).map(address).collect(), ..Parsed::default() };
    let (reply, mut answer) = oneshot::channel();
    let import = Long::Import(Action::Block, parsed, ImportOptions::default(), Caller { uid: 0 }, reply);
    worker.waiting.push_back(import);
    // Begun, and the first part.
    worker.work();
    worker.work();
    assert!(worker.work.is_some());
    // Another request's commit fails, and the disk has what was durable.
    worker.store.fail();
    std::fs::write(&file, durable).unwrap();
    while worker.work.is_some() {
        worker.work();
    }
    assert_eq!(answer.try_recv().unwrap().unwrap().added, u64::from(lines));
    drop(worker);
    assert_eq!(stored(directory.path()), PART + 11);
}

#[test]
fn a_store_that_is_gone_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, _) = started(directory.path());
    add(&mut worker, "192.0.2.1");
    worker.store.fail();
    std::fs::remove_file(directory.path().join("claims.redb")).unwrap();
    add(&mut worker, "192.0.2.2");
    drop(worker);
    assert_eq!(stored(directory.path()), 2);
}

#[test]
fn what_a_failed_commit_left_in_the_store_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, kernel) = started(directory.path());
    add(&mut worker, "192.0.2.1");
    worker.store.fail();
    let request = RemoveRequest { prefixes: vec!["192.0.2.1".to_owned()] };
    // Not opened again yet.
    let edits = vec![Edit::Remove(Key {
        prefix: request.prefixes[0].parse().unwrap(),
        action: Action::Block,
        owner: worker.operator,
    })];
    assert!(matches!(worker.make_at_any_rate(edits), Err(Error::NotDurable(_))));
    assert_eq!(kernel.lists().len(), 0);
    worker.settle();
    drop(worker);
    assert_eq!(stored(directory.path()), 0);
}

#[test]
fn the_end_of_blocks_is_recorded() {
    static SECONDS: AtomicU64 = AtomicU64::new(1_000);
    let directory = tempfile::tempdir().unwrap();
    let later = || Now { boot: Nanos::from_secs(SECONDS.load(Ordering::Relaxed)), ..clock() };
    let (mut worker, kernel) = started_at(directory.path(), later);
    let mut block = |seconds, hosts: std::ops::Range<u8>| {
        let request = AddRequest {
            prefixes: hosts.map(|host| format!("192.0.2.{host}")).collect(),
            seconds: Some(seconds),
            reason: None,
            force: false,
            ssh_peer: None,
        };
        worker.add(Action::Block, request, Caller { uid: 0 }).unwrap();
    };
    block(10, 1..3);
    block(20, 100..200);
    let log = directory.path().join("log");
    let file = Mutex::new(std::fs::File::create(&log).unwrap());
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(file).finish();
    tracing::subscriber::with_default(lines, || {
        for seconds in [1_010, 1_020, 1_030] {
            SECONDS.store(seconds, Ordering::Relaxed);
            worker.expire();
        }
    });
    assert_eq!(kernel.lists().len(), 0);
    let log = std::fs::read_to_string(log).unwrap();
    let told: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = told.iter().filter(|event| event["target"] == DECISION).collect();
    assert_eq!(told.len(), 2, "{log}");
    assert_eq!((told[0]["change"].as_str(), told[0]["action"].as_str()), (Some("expire"), Some("block")));
    assert_eq!(told[0]["prefixes"], "192.0.2.1 192.0.2.2");
    assert_eq!(told[1]["changed"], 100);
    assert!(told[1]["prefixes"].is_null(), "{log}");
}

//! What cannot be seen from outside: faults of the disk at a chosen moment.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use limiter_common::{Address, Prefix};

use super::*;
use crate::config;
use crate::config::lists::Parsed;
use crate::control::protocol::{AddRequest, AddResponse, RemoveRequest, RemoveResponse};
use crate::dataplane::memory::MemoryDataplane;
use crate::dataplane::{ApplyError, Change, Writer};
use crate::enforcer::{ImportOptions, Parameters};
use crate::telemetry::DECISION;

fn clock() -> Now {
    Now { boot: Nanos::from_secs(1_000), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
}

/// A worker over an empty kernel, and that kernel.
fn started(directory: &Path) -> (Worker, MemoryDataplane) {
    started_at(directory, clock)
}

fn started_at(directory: &Path, clock: fn() -> Now) -> (Worker, MemoryDataplane) {
    let kernel = MemoryDataplane::new(1_000_000);
    (started_over(directory, clock, Box::new(kernel.clone())), kernel)
}

fn started_over(directory: &Path, clock: fn() -> Now, writer: Box<dyn Writer>) -> Worker {
    let text = format!("[[interface]]\nname = \"eth0\"\n[state]\ndirectory = {directory:?}\n");
    let config = config::parse(&text, Path::new("x")).unwrap_or_else(|problems| panic!("{problems}"));
    let parameters = Parameters {
        writer,
        config: Arc::new(config),
        boot_id: [1; 16],
        clock,
        lifelines: || Ok(Lifelines::default()),
        peers: || Ok(Vec::new()),
    };
    let (publish, _) = watch::channel(Arc::default());
    Worker::new(parameters, publish, Events::default(), tokio::sync::mpsc::unbounded_channel().0).unwrap().0
}

/// What a single request would do, with a commit of its own.
fn add_now(worker: &mut Worker, action: Action, request: AddRequest) -> Result<AddResponse, Error> {
    let (mut together, (reply, mut answer)) = (Together::default(), oneshot::channel());
    worker.add(&mut together, action, request, None, &Caller::operator(0), reply);
    worker.finish(&mut together);
    answer.try_recv().unwrap()
}

fn remove_now(worker: &mut Worker, action: Action, request: &RemoveRequest) -> Result<RemoveResponse, Error> {
    let (mut together, (reply, mut answer)) = (Together::default(), oneshot::channel());
    worker.remove(&mut together, action, request, None, &Caller::operator(0), reply);
    worker.finish(&mut together);
    answer.try_recv().unwrap()
}

fn add(worker: &mut Worker, prefix: &str) {
    let request = AddRequest {
        prefixes: vec![prefix.to_owned()],
        seconds: None,
        reason: None,
        ..AddRequest::default()
    };
    add_now(worker, Action::Block, request).unwrap();
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

    let lines = u32::try_from(PART + 10).unwrap();
    let parsed = Parsed { prefixes: (0..lines).map(address).collect(), ..Parsed::default() };
    let (reply, mut answer) = oneshot::channel();
    let import =
        Long::Import(Action::Block, parsed, ImportOptions::default(), None, Caller::operator(0), reply);
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

/// The `number`th address of an import.
fn address(number: u32) -> Prefix {
    Prefix::host(Address::V4((0x0b00_0000 + number).to_be_bytes()))
}

#[test]
fn an_import_that_cannot_be_stored_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("claims.redb");
    let (mut worker, kernel) = started(directory.path());
    let seconds = |seconds| ImportOptions { seconds: Some(seconds), ..ImportOptions::default() };
    let add = |worker: &mut Worker, prefix: Prefix, options: &ImportOptions| {
        let request = AddRequest {
            prefixes: vec![prefix.to_string()],
            seconds: options.seconds,
            reason: None,
            ..AddRequest::default()
        };
        add_now(worker, Action::Block, request).unwrap();
    };
    add(&mut worker, address(5), &seconds(60));
    add(&mut worker, address(6), &seconds(60));
    let before = kernel.lists();

    let lines = u32::try_from(2 * PART).unwrap();
    let parsed = Parsed { prefixes: (0..lines).map(address).collect(), ..Parsed::default() };
    let (reply, mut answer) = oneshot::channel();
    worker.waiting.push_back(Long::Import(
        Action::Block,
        parsed,
        seconds(90),
        None,
        Caller::operator(0),
        reply,
    ));
    while kernel.lists().len() < 2 * PART {
        worker.work();
    }
    // All of it is in force, and nobody was told so yet. Somebody changes their mind about some.
    assert!(answer.try_recv().is_err());
    add(&mut worker, address(6), &seconds(70));
    let request = RemoveRequest { prefixes: vec![address(7).to_string()], ..RemoveRequest::default() };
    remove_now(&mut worker, Action::Block, &request).unwrap();
    worker.store.fail();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    while worker.work.is_some() {
        worker.work();
    }
    let error = answer.try_recv().unwrap().unwrap_err();
    assert!(matches!(error, Error::NotDurable(_)), "{error:?}");
    let until = |seconds| (clock().boot.saturating_add(Nanos::from_secs(seconds))).0;
    let left: Vec<_> =
        kernel.lists().iter().map(|change| (change.prefix, change.entry.block_until)).collect();
    assert_eq!(left, [(address(5), until(60)), (address(6), until(70))]);
    assert_eq!(before[0], kernel.lists()[0]);
}

/// Notes what is in a file whenever something is made in the kernel.
struct Watching {
    kernel: MemoryDataplane,
    file: std::path::PathBuf,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Writer for Watching {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        if !changes.is_empty() {
            self.seen.lock().unwrap().push(std::fs::read(&self.file).unwrap_or_default());
        }
        self.kernel.apply(changes)
    }

    fn installed(&mut self) -> Result<Vec<Change>, ApplyError> {
        self.kernel.installed()
    }
}

/// An attack does not wait for the disk; who is let through does.
#[test]
fn blocks_are_in_force_before_they_are_stored_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("claims.redb");
    let seen = Arc::default();
    let kernel = MemoryDataplane::new(1_000_000);
    let watching = Watching { kernel, file: file.clone(), seen: Arc::clone(&seen) };
    let mut worker = started_over(directory.path(), clock, Box::new(watching));
    let prefixes = || vec!["192.0.2.1".to_owned()];
    let mut check = |what: &str, first: bool, request: &dyn Fn(&mut Worker)| {
        let before = std::fs::read(&file).unwrap();
        request(&mut worker);
        let seen: Vec<Vec<u8>> = seen.lock().unwrap().drain(..).collect();
        assert_eq!(seen.len(), 1, "{what}");
        assert_eq!(seen[0] == before, first, "{what}");
        assert!(std::fs::read(&file).unwrap() != before, "{what}");
    };
    let add = |action: Action| {
        move |worker: &mut Worker| {
            let request =
                AddRequest { prefixes: prefixes(), seconds: None, reason: None, ..AddRequest::default() };
            add_now(worker, action, request).unwrap();
        }
    };
    let remove = |action: Action| {
        move |worker: &mut Worker| {
            remove_now(worker, action, &RemoveRequest { prefixes: prefixes(), ..RemoveRequest::default() })
                .unwrap();
        }
    };
    check("a block", true, &add(Action::Block));
    check("an allow", false, &add(Action::Allow));
    check("no allow", false, &remove(Action::Allow));
    check("no block", false, &remove(Action::Block));
    check("an import", true, &|worker| {
        let parsed = Parsed { prefixes: (0..9).map(address).collect(), ..Parsed::default() };
        let (reply, mut answer) = oneshot::channel();
        let options = ImportOptions::default();
        worker.waiting.push_back(Long::Import(
            Action::Block,
            parsed,
            options,
            None,
            Caller::operator(0),
            reply,
        ));
        while answer.try_recv().is_err() {
            worker.work();
        }
    });
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
    let request = RemoveRequest { prefixes: vec!["192.0.2.1".to_owned()], ..RemoveRequest::default() };
    let (mut together, (reply, mut answer)) = (Together::default(), oneshot::channel());
    worker.remove(&mut together, Action::Block, &request, None, &Caller::operator(0), reply);
    worker.store.fail();
    worker.finish(&mut together);
    assert!(matches!(answer.try_recv().unwrap(), Err(Error::NotDurable(_))));
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
            ..AddRequest::default()
        };
        add_now(&mut worker, Action::Block, request).unwrap();
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

fn request(prefixes: &[&str]) -> AddRequest {
    AddRequest { prefixes: prefixes.iter().map(|text| (*text).to_owned()).collect(), ..AddRequest::default() }
}

/// What was begun together fails together: what was added is out of force again, what was removed stays so.
#[test]
fn a_commit_that_fails_is_told_to_everybody_who_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, kernel) = started(directory.path());
    for prefix in ["192.0.2.1", "192.0.2.2"] {
        add(&mut worker, prefix);
    }
    add_now(&mut worker, Action::Allow, request(&["192.0.2.3"])).unwrap();
    let caller = Caller::operator(0);
    let mut together = Together::default();
    let mut adds = Vec::new();
    for (action, escalate, prefix) in [
        (Action::Block, false, "192.0.2.7"),
        // The same again, which relies on it.
        (Action::Block, false, "192.0.2.7"),
        (Action::Block, true, "192.0.2.8"),
        (Action::Allow, false, "192.0.2.9"),
        // Nothing has to be stored.
        (Action::Block, false, "192.0.2.1"),
    ] {
        let (reply, answer) = oneshot::channel();
        let asked = AddRequest { escalate, ..request(&[prefix]) };
        worker.add(&mut together, action, asked, None, &caller, reply);
        adds.push(answer);
    }
    let mut removes = Vec::new();
    for (action, prefix) in [(Action::Block, "192.0.2.2"), (Action::Allow, "192.0.2.3")] {
        let (reply, answer) = oneshot::channel();
        let gone = RemoveRequest { prefixes: vec![prefix.to_owned()], ..RemoveRequest::default() };
        worker.remove(&mut together, action, &gone, None, &caller, reply);
        removes.push(answer);
    }
    assert!(adds.iter_mut().all(|answer| answer.try_recv().is_err()), "not before it is durable");
    // Blocks are in force, nothing else is.
    assert_eq!(kernel.lists().len(), 5);
    assert_eq!(worker.offences.len(), 1);
    worker.store.fail();
    worker.finish(&mut together);
    let failed: Vec<bool> = adds.iter_mut().map(|answer| answer.try_recv().unwrap().is_err()).collect();
    assert_eq!(failed, [true, true, true, true, false]);
    assert!(removes.iter_mut().all(|answer| answer.try_recv().unwrap().is_err()));
    let listed = |kernel: &MemoryDataplane| -> Vec<String> {
        kernel.lists().iter().map(|change| change.prefix.to_string()).collect()
    };
    assert_eq!(listed(&kernel), ["192.0.2.1", "192.0.2.3", "192.0.2.9"]);
    assert!(worker.offences.is_empty());
    worker.settle();
    drop(worker);
    let (worker, kernel) = started(directory.path());
    assert_eq!(listed(&kernel), ["192.0.2.1", "192.0.2.3", "192.0.2.9"]);
    assert!(worker.offences.is_empty());
}

#[test]
fn requests_about_the_same_do_not_share_a_commit_unless_both_block() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, kernel) = started(directory.path());
    let (mut together, caller) = (Together::default(), Caller::operator(0));
    let (reply, mut added) = oneshot::channel();
    worker.add(&mut together, Action::Block, request(&["192.0.2.1"]), None, &caller, reply);
    let (reply, mut elsewhere) = oneshot::channel();
    worker.add(&mut together, Action::Allow, request(&["192.0.2.9"]), None, &caller, reply);
    assert!(added.try_recv().is_err() && elsewhere.try_recv().is_err());
    let (reply, mut removed) = oneshot::channel();
    let gone = RemoveRequest { prefixes: vec!["192.0.2.1".to_owned()], ..RemoveRequest::default() };
    worker.remove(&mut together, Action::Block, &gone, None, &caller, reply);
    assert_eq!(added.try_recv().unwrap().unwrap().added, 1);
    assert!(elsewhere.try_recv().is_ok() && removed.try_recv().is_err());
    assert_eq!(kernel.lists().len(), 2, "not removed before that is durable");
    worker.finish(&mut together);
    assert_eq!(removed.try_recv().unwrap().unwrap().removed, 1);
    assert_eq!(kernel.lists().len(), 1);
}

/// A worker whose commits take as long as somebody holds the gate, in a thread of its own.
struct Slow {
    gate: Arc<Mutex<bool>>,
    to_worker: Option<Arc<Sender<Command>>>,
    thread: Option<std::thread::JoinHandle<()>>,
    kernel: MemoryDataplane,
}

impl Slow {
    fn started(directory: &Path) -> Self {
        let (worker, kernel) = started(directory);
        let gate = Arc::clone(&worker.store.gate);
        let (to_worker, commands) = std::sync::mpsc::channel();
        let to_worker = Arc::new(to_worker);
        let to_itself = Arc::downgrade(&to_worker);
        let thread = std::thread::spawn(move || drop(worker.run(&commands, &to_itself)));
        Self { gate, to_worker: Some(to_worker), thread: Some(thread), kernel }
    }

    fn send(&self, command: Command) {
        self.to_worker.as_ref().unwrap().send(command).unwrap();
    }

    fn block(&self, prefix: &str) -> oneshot::Receiver<Result<AddResponse, Error>> {
        self.block_for(prefix, None)
    }

    fn block_for(&self, prefix: &str, seconds: Option<u64>) -> oneshot::Receiver<Result<AddResponse, Error>> {
        let (reply, answer) = oneshot::channel();
        let asked = AddRequest { seconds, ..request(&[prefix]) };
        self.send(Command::Add(Action::Block, asked, None, Caller::operator(0), reply));
        answer
    }

    fn unblock(&self, prefix: &str) -> oneshot::Receiver<Result<RemoveResponse, Error>> {
        let (reply, answer) = oneshot::channel();
        let gone = RemoveRequest { prefixes: vec![prefix.to_owned()], ..RemoveRequest::default() };
        self.send(Command::Remove(Action::Block, gone, None, Caller::operator(0), reply));
        answer
    }

    /// Waits until these are in force.
    #[track_caller]
    fn wait_for(&self, expected: &[&str]) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let lists = self.kernel.lists();
            let found: Vec<String> = lists.iter().map(|change| change.prefix.to_string()).collect();
            if found == expected {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{found:?}, not {expected:?}");
            std::thread::yield_now();
        }
    }

    /// Ends it, as when all handles are gone.
    fn end(mut self) {
        self.to_worker = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Of a single block there is a commit; those that come meanwhile are in force before it ends, and answered by the next.
#[test]
fn a_block_does_not_wait_for_the_commit_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let slow = Slow::started(directory.path());
    let gate = Arc::clone(&slow.gate);
    let held = gate.lock().unwrap();
    let mut first = slow.block("192.0.2.1");
    slow.wait_for(&["192.0.2.1"]);
    // It is not told apart from the one that is stored at the moment: it has to be stored, too.
    let mut again = slow.block("192.0.2.1");
    let mut second = slow.block("192.0.2.2");
    slow.wait_for(&["192.0.2.1", "192.0.2.2"]);
    // What lets somebody through has to wait, and is not overtaken by a later word on the same.
    let mut removed = slow.unblock("192.0.2.1");
    let mut third = slow.block("192.0.2.3");
    slow.wait_for(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert!(first.try_recv().is_err() && again.try_recv().is_err() && second.try_recv().is_err());
    assert!(removed.try_recv().is_err() && third.try_recv().is_err());
    drop(held);
    for answer in [first, again, second, third] {
        answer.blocking_recv().unwrap().unwrap();
    }
    assert_eq!(removed.blocking_recv().unwrap().unwrap().removed, 1);
    slow.wait_for(&["192.0.2.2", "192.0.2.3"]);
    slow.end();
    assert_eq!(stored(directory.path()), 2);
}

/// Who was begun while a commit was under way fails with it, and nothing is left of either; then all goes on.
#[test]
fn a_commit_that_fails_takes_what_was_begun_meanwhile_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let slow = Slow::started(directory.path());
    slow.block("192.0.2.9").blocking_recv().unwrap().unwrap();
    let gate = Arc::clone(&slow.gate);
    let mut held = gate.lock().unwrap();
    let first = slow.block("192.0.2.1");
    slow.wait_for(&["192.0.2.1", "192.0.2.9"]);
    // One that changes nothing but relies on the first, and one that changes what the first did.
    let (again, shorter) = (slow.block("192.0.2.1"), slow.block_for("192.0.2.1", Some(60)));
    let second = slow.block("192.0.2.2");
    slow.wait_for(&["192.0.2.1", "192.0.2.2", "192.0.2.9"]);
    *held = true;
    drop(held);
    for answer in [first, again, shorter, second] {
        assert!(matches!(answer.blocking_recv().unwrap(), Err(Error::NotDurable(_))));
    }
    slow.wait_for(&["192.0.2.9"]);
    *gate.lock().unwrap() = false;
    slow.block("192.0.2.3").blocking_recv().unwrap().unwrap();
    slow.end();
    let (worker, kernel) = started(directory.path());
    let listed: Vec<String> = kernel.lists().iter().map(|change| change.prefix.to_string()).collect();
    assert_eq!(listed, ["192.0.2.3", "192.0.2.9"]);
    drop(worker);
}

/// Blocks and their removal from many sides, while commits fail now and then: what was acknowledged last is so in the
/// kernel, and after a restart.
#[test]
fn whatever_is_acknowledged_is_so_while_commits_overlap_and_fail() {
    let directory = tempfile::tempdir().unwrap();
    let slow = Slow::started(directory.path());
    let sides: Vec<HashSet<String>> = std::thread::scope(|scope| {
        let sides: Vec<_> = (0..4_u64)
            .map(|side| {
                let slow = &slow;
                scope.spawn(move || {
                    let (mut model, mut seed) = (HashSet::new(), side + 1);
                    for step in 0..150 {
                        seed = seed
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let prefix = format!("10.0.{side}.{}", (seed >> 33) % 8);
                        if side == 0 {
                            *slow.gate.lock().unwrap() = step % 10 == 9;
                        }
                        if (seed >> 40) % 3 > 0 {
                            match slow.block(&prefix).blocking_recv().unwrap() {
                                Ok(_) => drop(model.insert(prefix)),
                                Err(Error::NotDurable(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        } else {
                            // In force in any case.
                            let _ = slow.unblock(&prefix).blocking_recv().unwrap();
                            model.remove(&prefix);
                        }
                    }
                    model
                })
            })
            .collect();
        sides.into_iter().map(|side| side.join().unwrap()).collect()
    });
    *slow.gate.lock().unwrap() = false;
    // With this one, what could not be stored before is.
    slow.block("192.0.2.1").blocking_recv().unwrap().unwrap();
    let mut expected: Vec<Prefix> = sides.iter().flatten().map(|prefix| prefix.parse().unwrap()).collect();
    expected.push("192.0.2.1".parse().unwrap());
    expected.sort_unstable();
    let listed = |kernel: &MemoryDataplane| {
        let mut listed: Vec<Prefix> = kernel.lists().iter().map(|change| change.prefix).collect();
        listed.sort_unstable();
        listed
    };
    assert_eq!(listed(&slow.kernel), expected);
    slow.end();
    assert_eq!(listed(&started(directory.path()).1), expected);
}

fn to_confirm(worker: &mut Worker, prefixes: &[&str]) {
    let request = AddRequest { confirm_seconds: Some(60), ..request(prefixes) };
    assert!(add_now(worker, Action::Block, request).unwrap().change.is_some());
}

/// The claims that each change would take back.
fn waiting(worker: &Worker) -> Vec<u64> {
    worker.changes().iter().map(|change| change.claims).collect()
}

#[test]
fn a_word_that_is_not_kept_leaves_changes_to_be_rolled_back() {
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, _) = started(directory.path());
    to_confirm(&mut worker, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    // The same once more changes nothing, but says it for good.
    for (prefix, seconds) in [("192.0.2.1", None), ("192.0.2.2", Some(600))] {
        let (mut together, (reply, mut answer)) = (Together::default(), oneshot::channel());
        let request = AddRequest { seconds, ..request(&[prefix]) };
        worker.add(&mut together, Action::Block, request, None, &Caller::operator(0), reply);
        worker.store.fail();
        worker.finish(&mut together);
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::NotDurable(_))), "{prefix}");
        assert_eq!(waiting(&worker), [3]);
    }
    drop(worker);
    let (mut worker, _) = started(directory.path());
    assert_eq!(waiting(&worker), [3]);
    add(&mut worker, "192.0.2.1");
    assert_eq!(waiting(&worker), [2]);
}

/// Killed in the middle: nobody was told that it is done, so what was to be rolled back still is.
#[test]
fn an_import_has_its_word_on_changes_when_it_ends() {
    static SECONDS: AtomicU64 = AtomicU64::new(0);
    fn later() -> Now {
        let seconds = Nanos::from_secs(SECONDS.load(Ordering::Relaxed));
        Now { boot: clock().boot.saturating_add(seconds), ..clock() }
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut worker, kernel) = started_at(directory.path(), later);
    let first = address(0).to_string();
    to_confirm(&mut worker, &[&first, "192.0.2.1"]);
    let parsed = Parsed { prefixes: [address(0), address(1)].into_iter().collect(), ..Parsed::default() };
    let (reply, mut answer) = oneshot::channel();
    let options = ImportOptions::default();
    worker.waiting.push_back(Long::Import(Action::Block, parsed, options, None, Caller::operator(0), reply));
    worker.work();
    worker.work();
    // Another request's commit.
    add(&mut worker, "192.0.2.9");
    let crashed = tempfile::tempdir().unwrap();
    std::fs::copy(directory.path().join("claims.redb"), crashed.path().join("claims.redb")).unwrap();
    let killed = started_over(crashed.path(), later, Box::new(kernel.clone()));
    assert_eq!(waiting(&killed), [2]);
    drop(killed);
    // It waits for the import even when its time is over.
    SECONDS.store(60, Ordering::Relaxed);
    worker.roll_back();
    assert_eq!(waiting(&worker), [2]);
    while worker.work.is_some() {
        worker.work();
    }
    assert!(answer.try_recv().unwrap().is_ok());
    assert_eq!(waiting(&worker), [1]);
    worker.roll_back();
    drop(worker);
    let (worker, kernel) = started_at(directory.path(), later);
    let expected = [&first, &address(1).to_string(), "192.0.2.9"].map(str::to_owned);
    let mut found: Vec<String> = kernel.lists().iter().map(|change| change.prefix.to_string()).collect();
    found.sort();
    assert_eq!((found, waiting(&worker)), (expected.to_vec(), vec![]));
}

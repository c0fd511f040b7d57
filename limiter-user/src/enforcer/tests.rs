//! The enforcer over tables in memory and a store on disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use limiter_common::Prefix;
use tempfile::TempDir;

use super::*;
use crate::control::protocol::Happened;
use crate::dataplane::Change;
use crate::dataplane::memory::MemoryDataplane;
use crate::store::Store;

/// Who asks.
fn uid() -> Caller {
    Caller::operator(7)
}
const BOOT: [u8; 16] = [1; 16];

/// Seconds since boot; they pass only when a test says so. Each test has its own.
macro_rules! clock {
    ($seconds:ident, $clock:ident) => {
        static $seconds: AtomicU64 = AtomicU64::new(1_000);
        fn $clock() -> Now {
            at($seconds.load(Ordering::Relaxed))
        }
    };
}

mod brake;
mod confirm;
mod dry_run;
mod reports;
mod share;

/// Who is connected.
fn peers() -> anyhow::Result<Vec<Address>> {
    Ok(["203.0.113.77", "198.51.100.77", "2001:db8::77"].map(|text| text.parse().unwrap()).to_vec())
}

fn at(seconds: u64) -> Now {
    Now { boot: Nanos::from_secs(seconds), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds) }
}

fn still() -> Now {
    at(1_000)
}

/// A state directory with a configuration that uses it.
struct Setup {
    directory: TempDir,
    kernel: MemoryDataplane,
    more: String,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, kernel: MemoryDataplane::new(1_000_000), more: String::new() }
    }

    fn with(more: &str) -> Self {
        Self { more: more.to_owned(), ..Self::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> Arc<Config> {
        let state = self.path("state");
        let text = format!("{}\n[[interface]]\nname = \"eth0\"\n[state]\ndirectory = {state:?}\n", self.more);
        Arc::new(config::parse(&text, Path::new("x")).unwrap_or_else(|problems| panic!("{problems}")))
    }

    fn start_at(&self, clock: fn() -> Now, boot_id: [u8; 16]) -> Handle {
        self.start_among(peers, clock, boot_id)
    }

    fn start_among(
        &self,
        peers: fn() -> anyhow::Result<Vec<Address>>,
        clock: fn() -> Now,
        boot_id: [u8; 16],
    ) -> Handle {
        let writer = Box::new(self.kernel.clone());
        let lifelines = || Ok(Lifelines::default());
        let parameters = Parameters { writer, config: self.config(), boot_id, clock, lifelines, peers };
        let (handle, _) = start(parameters).unwrap();
        handle
    }

    fn start(&self) -> Handle {
        self.start_at(still, BOOT)
    }

    /// What a restart would be, over the same kernel, with a store of its own that is empty.
    fn start_beside(&self) -> Handle {
        let elsewhere = self.path("beside");
        let config = Config { state_directory: elsewhere.clone(), ..(*self.config()).clone() };
        // Not a store that was lost.
        drop(Store::open(&elsewhere, BOOT, still()));
        let parameters = Parameters {
            writer: Box::new(self.kernel.clone()),
            config: Arc::new(config),
            boot_id: BOOT,
            clock: still,
            lifelines: || Ok(Lifelines::default()),
            peers,
        };
        start(parameters).unwrap().0
    }

    /// The kernel's lists as texts: prefix, `b` or `a`, and when it ends.
    fn lists(&self) -> Vec<String> {
        self.kernel.lists().iter().map(text).collect()
    }
}

fn text(Change { prefix, entry }: &Change) -> String {
    let part = |letter, until| match until {
        0 => String::new(),
        u64::MAX => format!(" {letter}"),
        until => format!(" {letter}{}", until / 1_000_000_000),
    };
    format!("{prefix}{}{}", part('b', entry.block_until), part('a', entry.allow_until))
}

fn asked(prefixes: &[&str]) -> AddRequest {
    AddRequest { prefixes: prefixes.iter().map(|text| (*text).to_owned()).collect(), ..AddRequest::default() }
}

fn gone(prefixes: &[&str]) -> RemoveRequest {
    RemoveRequest { prefixes: asked(prefixes).prefixes, ..RemoveRequest::default() }
}

async fn claims(handle: &Handle, action: Action) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut after = None;
    loop {
        let page = handle.page(action, None, after, 2).await.unwrap();
        claims.extend(page.claims);
        after = page.next;
        if after.is_none() {
            return claims;
        }
    }
}

/// Waits until the summary is as wanted.
async fn until(handle: &Handle, what: &str, wanted: impl Fn(&Summary) -> bool) {
    let mut summary = handle.summary();
    let waited =
        tokio::time::timeout(Duration::from_secs(20), summary.wait_for(|summary| wanted(summary))).await;
    assert!(waited.is_ok(), "{what}: {:?}", handle.summary().borrow());
}

#[tokio::test]
async fn what_is_added_is_in_force_durable_and_listed() {
    let setup = Setup::new();
    let handle = setup.start();
    let request = AddRequest {
        seconds: Some(60),
        reason: Some(" login\nflood ".to_owned()),
        ..asked(&["192.0.2.7", "198.51.100.9/24", "2001:db8::1", "192.0.2.7"])
    };
    let response = handle.add(Action::Block, request.clone(), uid()).await.unwrap();
    assert_eq!(response, AddResponse { added: 3, ..AddResponse::default() });
    assert_eq!(setup.lists(), ["192.0.2.7 b1060", "198.51.100.0/24 b1060", "2001:db8::1 b1060"]);

    let again = handle.add(Action::Block, request, uid()).await.unwrap();
    assert_eq!(again, AddResponse { unchanged: 3, ..AddResponse::default() });
    let longer = handle.add(Action::Block, asked(&["192.0.2.7"]), uid()).await.unwrap();
    assert_eq!((longer.updated, longer.added, longer.unchanged), (1, 0, 0));

    handle.shutdown().await;
    assert!(handle.page(Action::Block, None, None, 1).await.is_err());
    let before = setup.lists();
    let handle = setup.start();
    assert_eq!(setup.lists(), before);
    let listed = claims(&handle, Action::Block).await;
    let prefixes: Vec<&str> = listed.iter().map(|claim| claim.prefix.as_str()).collect();
    assert_eq!(prefixes, ["192.0.2.7", "198.51.100.0/24", "2001:db8::1"]);
    assert_eq!(
        listed[1],
        Claim {
            prefix: "198.51.100.0/24".to_owned(),
            action: Action::Block,
            owner: "operator".to_owned(),
            reason: Some("loginflood".to_owned()),
            actor: Some("uid:7".to_owned()),
            created: "2023-11-14T22:30:00Z".to_owned(),
            expires: Some("2023-11-14T22:31:00Z".to_owned()),
            seconds_left: Some(60),
            allowed: false,
            packets: None,
            last_seen: None,
        }
    );
    assert_eq!(claims(&handle, Action::Allow).await, []);
    let summary = handle.summary().borrow().clone();
    assert_eq!((summary.blocks, summary.allows, summary.durable), (3, 0, true));
    assert_eq!(summary.tables[0], ("addresses_v4", 1));
    assert_eq!(summary.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn removing_tells_what_is_missing_and_what_stays() {
    let setup = Setup::new();
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.7", "192.0.2.0/24"]), uid()).await.unwrap();
    let response = handle.remove(Action::Block, gone(&["192.0.2.7", "192.0.2.8"]), uid()).await.unwrap();
    assert_eq!(response.removed, 1);
    assert_eq!(response.missing, ["192.0.2.8"]);
    assert_eq!(
        response.still_listed,
        ["192.0.2.7 in 192.0.2.0/24 by operator", "192.0.2.8 in 192.0.2.0/24 by operator"]
    );
    assert_eq!(setup.lists(), ["192.0.2.0/24 b"]);
    handle.shutdown().await;
    setup.start();
    assert_eq!(setup.lists(), ["192.0.2.0/24 b"]);
}

#[tokio::test]
async fn what_is_wrong_changes_nothing() {
    let setup = Setup::with("protected = [\"203.0.113.0/24\"]");
    let handle = setup.start();
    let add = async |request| handle.add(Action::Block, request, uid()).await.unwrap_err();

    let error = add(asked(&["192.0.2.7", "192.0.2.300", "router"])).await;
    let Error::Invalid { items, .. } = error else { panic!("{error:?}") };
    assert_eq!(items.len(), 2);
    assert!(matches!(add(asked(&[])).await, Error::Invalid { .. }));
    for seconds in [0, u64::MAX] {
        let error = add(AddRequest { seconds: Some(seconds), ..asked(&["192.0.2.7"]) }).await;
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    }

    let peer = Some("198.51.100.1".to_owned());
    let lockout = ["203.0.113.5", "192.0.2.7", "127.0.0.1", "198.51.100.0/24", "0.0.0.0/0"];
    let error = add(AddRequest { ssh_peer: peer, ..asked(&lockout) }).await;
    let problem = Problem::from(error);
    assert_eq!(problem.kind, ProblemKind::Guarded);
    assert_eq!(
        problem.items,
        [
            "0.0.0.0/0 is wider than /8",
            "127.0.0.1 lies in 127.0.0.0/8, the loopback",
            "198.51.100.0/24 contains 198.51.100.1, the address you are logged in from",
            "203.0.113.5 lies in 203.0.113.0/24, protected by the configuration",
        ]
    );
    assert_eq!(setup.lists(), Vec::<String>::new());

    handle.add(Action::Block, AddRequest { force: true, ..asked(&lockout) }, uid()).await.unwrap();
    assert_eq!(setup.lists().len(), 5);
    handle.add(Action::Allow, asked(&["203.0.113.5"]), uid()).await.unwrap();
}

#[tokio::test]
async fn claims_expire_and_are_taken_out() {
    clock!(SECONDS, clock);
    let setup = Setup::new();
    let handle = setup.start_at(clock, BOOT);
    let for_a_minute = AddRequest { seconds: Some(60), ..asked(&["192.0.2.7", "192.0.2.0/24"]) };
    handle.add(Action::Block, for_a_minute, uid()).await.unwrap();
    handle.add(Action::Block, asked(&["192.0.2.8"]), uid()).await.unwrap();
    let mut events = handle.events().listen();
    SECONDS.store(1_059, Ordering::Relaxed);
    assert_eq!(claims(&handle, Action::Block).await.len(), 3);
    SECONDS.store(1_060, Ordering::Relaxed);
    assert_eq!(claims(&handle, Action::Block).await.len(), 1);
    until(&handle, "expiry", |summary| summary.blocks == 1).await;
    assert_eq!(setup.lists(), ["192.0.2.8 b"]);
    // Together, or one after the other.
    let mut told = Vec::new();
    while told.len() < 2 {
        let event =
            tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("told").unwrap();
        assert_eq!((event.event, event.action), (Happened::Expired, Action::Block));
        assert_eq!((event.count, &event.expires), (event.prefixes.len() as u64, &None));
        told.extend(event.prefixes.clone());
    }
    told.sort();
    assert_eq!(told, ["192.0.2.0/24", "192.0.2.7"]);
    assert!(events.try_recv().is_err(), "nothing else happened");
}

/// The wall clock is set back by years and the daemon restarted; then the machine is.
#[tokio::test]
async fn deadlines_survive_restarts_reboots_and_clock_steps() {
    let setup = Setup::new();
    let handle = setup.start();
    handle
        .add(Action::Block, AddRequest { seconds: Some(100), ..asked(&["192.0.2.7"]) }, uid())
        .await
        .unwrap();
    handle.shutdown().await;

    fn stepped() -> Now {
        Now { boot: Nanos::from_secs(1_050), wall: UNIX_EPOCH }
    }
    let handle = setup.start_at(stepped, BOOT);
    assert_eq!(setup.lists(), ["192.0.2.7 b1100"]);
    handle.shutdown().await;

    // 70 seconds later, in a boot that is 10 seconds old.
    fn rebooted() -> Now {
        Now { boot: Nanos::from_secs(10), ..at(1_070) }
    }
    let rebooted_machine = Setup { kernel: MemoryDataplane::new(100), ..setup };
    let handle = rebooted_machine.start_at(rebooted, [2; 16]);
    assert_eq!(rebooted_machine.lists(), ["192.0.2.7 b40"]);
    handle.shutdown().await;

    // In the same boot, the wall clock does not count any more.
    fn stepped_again() -> Now {
        Now { boot: Nanos::from_secs(20), wall: UNIX_EPOCH }
    }
    rebooted_machine.start_at(stepped_again, [2; 16]);
    assert_eq!(rebooted_machine.lists(), ["192.0.2.7 b40"]);
}

#[tokio::test]
async fn a_kernel_without_room_takes_the_whole_request_back() {
    let setup = Setup::new();
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.1"]), uid()).await.unwrap();
    setup.kernel.set_capacity(2);
    let error = handle.add(Action::Block, asked(&["192.0.2.2", "192.0.2.3"]), uid()).await.unwrap_err();
    assert!(matches!(&error, Error::Full(text) if text.contains("addresses_v4")), "{error:?}");
    assert_eq!(setup.lists(), ["192.0.2.1 b"]);
    setup.kernel.refuse(Some(12));
    let error = handle.remove(Action::Block, gone(&["192.0.2.1"]), uid()).await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error:?}");
    setup.kernel.refuse(None);
    handle.shutdown().await;
    let handle = setup.start();
    assert_eq!(claims(&handle, Action::Block).await.len(), 1);
    assert_eq!(setup.lists(), ["192.0.2.1 b"]);
}

#[tokio::test]
async fn configured_capacities_are_kept() {
    let setup = Setup::with("[capacity]\naddresses_v4 = 3\n");
    let setup = Setup { more: format!("{}addresses_v6 = 1", setup.more), ..setup };
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]), uid()).await.unwrap();
    let error = handle.add(Action::Block, asked(&["192.0.2.3", "192.0.2.4"]), uid()).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    // What is there already needs no room.
    let again = AddRequest { seconds: Some(5), ..asked(&["192.0.2.1", "192.0.2.3"]) };
    handle.add(Action::Block, again, uid()).await.unwrap();
    assert_eq!(setup.lists().len(), 4);
}

#[tokio::test]
async fn without_a_state_directory_it_enforces_and_refuses() {
    let setup = Setup::new();
    std::fs::write(setup.path("state"), "not a directory").unwrap();
    setup.kernel.clone().apply(&[block("192.0.2.1"), block("192.0.2.3")]).unwrap();
    let handle = setup.start();
    let error = handle.add(Action::Block, asked(&["192.0.2.7"]), uid()).await.unwrap_err();
    assert!(matches!(error, Error::NotDurable(_)), "{error:?}");
    assert_eq!(setup.lists(), ["192.0.2.1 b", "192.0.2.3 b"]);
    // Nobody is locked out for it.
    let error = handle.add(Action::Allow, asked(&["192.0.2.1"]), uid()).await.unwrap_err();
    assert!(matches!(&error, Error::NotDurable(text) if text.starts_with("in force")), "{error:?}");
    let error = handle.remove(Action::Block, gone(&["192.0.2.3"]), uid()).await.unwrap_err();
    assert!(matches!(error, Error::NotDurable(_)), "{error:?}");
    assert_eq!(setup.lists(), ["192.0.2.1 b a"]);
    let summary = handle.summary().borrow().clone();
    assert!(!summary.durable);
    let warned = summary.warnings.iter().any(|warning| warning.contains("cannot be written"));
    assert!(warned, "{:?}", summary.warnings);
    // It comes back without a restart.
    std::fs::remove_file(setup.path("state")).unwrap();
    handle.add(Action::Block, asked(&["192.0.2.7"]), uid()).await.unwrap();
    assert!(handle.summary().borrow().durable);
    // And what was done in the meantime is stored with it.
    handle.shutdown().await;
    let fresh = Setup { kernel: MemoryDataplane::new(100), ..setup };
    fresh.start();
    assert_eq!(fresh.lists(), ["192.0.2.1 b a", "192.0.2.7 b"]);
}

fn block(prefix: &str) -> Change {
    let prefix: Prefix = prefix.parse().unwrap();
    Change { prefix, entry: Entry { block_until: u64::MAX, allow_until: 0 } }
}

#[tokio::test]
async fn what_a_lost_store_knew_is_recovered_from_the_kernel() {
    let list = "[[list]]\nname = \"drop\"\naction = \"block\"\nfile = \"FILE\"\n";
    let mut setup = Setup::new();
    setup.more = list.replace("FILE", setup.path("drop.txt").to_str().unwrap());
    std::fs::write(setup.path("drop.txt"), "198.51.100.1\n").unwrap();
    let handle = setup.start();
    let for_a_while = AddRequest { seconds: Some(500), ..asked(&["192.0.2.7", "192.0.2.0/28"]) };
    handle.add(Action::Block, for_a_while, uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["192.0.2.0/24"]), uid()).await.unwrap();
    handle.shutdown().await;
    let before = setup.lists();
    assert_eq!(before, ["192.0.2.0/24 a", "192.0.2.0/28 b1500", "192.0.2.7 b1500", "198.51.100.1 b"]);

    let store = setup.path("state").join("claims.redb");
    std::fs::write(&store, vec![0x55; 8192]).unwrap();
    let handle = setup.start();
    assert_eq!(setup.lists(), before);
    let summary = handle.summary().borrow().clone();
    assert!(summary.warnings.iter().any(|warning| warning.contains("corrupt-1")), "{:?}", summary.warnings);
    assert!(summary.warnings.iter().any(|warning| warning.starts_with("3 entries were recovered")));
    let blocks = claims(&handle, Action::Block).await;
    let owners: Vec<&str> = blocks.iter().map(|claim| claim.owner.as_str()).collect();
    assert_eq!(owners, ["operator", "operator", "list:drop"]);
    assert_eq!(blocks[0].reason.as_deref(), Some("recovered from the kernel"));
    handle.shutdown().await;

    // And it was stored again.
    let fresh = Setup { kernel: MemoryDataplane::new(100), ..setup };
    let handle = fresh.start();
    assert_eq!(fresh.lists(), before);
    assert_eq!(handle.summary().borrow().warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_kernel_full_of_something_else_is_brought_to_the_stored_state() {
    let setup = Setup::new();
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.7"]), uid()).await.unwrap();
    handle.shutdown().await;
    let allow = Change { entry: Entry { block_until: 0, allow_until: 5 }, ..block("192.0.2.7") };
    setup.kernel.clone().apply(&[allow, block("10.0.0.0/8")]).unwrap();
    setup.start();
    assert_eq!(setup.lists(), ["192.0.2.7 b"]);
}

#[tokio::test]
async fn at_the_start_what_fits_is_installed() {
    let setup = Setup::new();
    let handle = setup.start();
    let request = asked(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "10.0.0.0/24", "10.0.1.0/24"]);
    handle.add(Action::Block, request, uid()).await.unwrap();
    handle.shutdown().await;
    let small = Setup { kernel: MemoryDataplane::new(3), ..setup };
    let handle = small.start();
    assert_eq!(small.lists().len(), 5);
    let summary = handle.summary().borrow().clone();
    assert!(summary.warnings[0].starts_with("1 entries are not in force"), "{:?}", summary.warnings);
}

#[tokio::test]
async fn lists_follow_their_files() {
    let mut setup = Setup::new();
    let (drop, vip) = (setup.path("drop.txt"), setup.path("vip.txt"));
    let list = |name, action, file: &Path| {
        format!("[[list]]\nname = \"{name}\"\naction = \"{action}\"\nfile = {file:?}\n")
    };
    setup.more = "protected = [\"203.0.113.0/24\"]\n".to_owned()
        + &list("drop", "block", &drop)
        + &list("vip", "allow", &vip);
    std::fs::write(&drop, "192.0.2.1\n192.0.2.2\n203.0.113.7 # ours\n198.51.100.0/24\n").unwrap();
    let handle = setup.start();
    assert_eq!(setup.lists(), ["192.0.2.1 b", "192.0.2.2 b", "198.51.100.0/24 b"]);
    let statuses = handle.summary().borrow().lists.clone();
    assert_eq!((statuses[0].name.as_str(), statuses[0].entries), ("drop", 3));
    let problem = statuses[0].problem.as_deref().unwrap();
    assert_eq!(
        problem,
        "1 entries refused by guards: 203.0.113.7 lies in 203.0.113.0/24, protected by the configuration"
    );
    assert!(statuses[1].problem.as_deref().unwrap().contains("cannot read"), "{:?}", statuses[1].problem);

    // New content, and the file that was missing.
    std::fs::write(&drop, "192.0.2.2\n192.0.2.3\n").unwrap();
    std::fs::write(&vip, "192.0.2.3\n").unwrap();
    let mut told = handle.reload(setup.config()).await.unwrap();
    told.sort();
    assert_eq!(told, ["list drop: 1 added, 2 removed", "list vip: 1 added, 0 removed"]);
    assert_eq!(setup.lists(), ["192.0.2.2 b", "192.0.2.3 b a"]);
    assert!(claims(&handle, Action::Block).await[1].allowed);
    assert_eq!(handle.reload(setup.config()).await.unwrap(), Vec::<String>::new());

    // A bad line: the content before stays.
    std::fs::write(&drop, "192.0.2.9\n<html>\n").unwrap();
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.2 b", "192.0.2.3 b a"]);
    let problem = handle.summary().borrow().lists[0].problem.clone().unwrap();
    assert_eq!(
        problem,
        "1 lines are not understood: line 2: \"<html>\": not an IPv4 or IPv6 address or prefix; the 2 entries read \
         before stay in force"
    );

    // The same for a file without entries, and both over a restart.
    for (content, why) in [
        ("# nothing\n", "drop.txt has no entries; the 2 entries read before stay in force"),
        ("<html>\n", "the 2 entries read before stay in force"),
        ("", "drop.txt has no entries; the 2 entries read before stay in force"),
    ] {
        std::fs::write(&drop, content).unwrap();
        handle.reload(setup.config()).await.unwrap();
        let again = setup.start_beside();
        assert_eq!(setup.lists(), ["192.0.2.2 b", "192.0.2.3 b a"], "{content:?}");
        for handle in [&handle, &again] {
            let status = handle.summary().borrow().lists[0].clone();
            assert_eq!(status.entries, 2, "{content:?}");
            let problem = status.problem.unwrap();
            assert!(
                problem.ends_with(why) || problem.ends_with("; 2 entries read before stay in force"),
                "{problem}"
            );
        }
    }

    // Gone from the disk: the same, even over a restart.
    std::fs::remove_file(&drop).unwrap();
    handle.reload(setup.config()).await.unwrap();
    handle.shutdown().await;
    let handle = setup.start();
    assert_eq!(setup.lists(), ["192.0.2.2 b", "192.0.2.3 b a"]);
    let status = handle.summary().borrow().lists[0].clone();
    assert_eq!(status.entries, 2);
    assert!(status.problem.is_some());

    // Readable again, with a bad line: what is known stays. Then without.
    std::fs::write(&drop, "192.0.2.4\n").unwrap();
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.3 a", "192.0.2.4 b"]);

    // Gone from the configuration.
    setup.more = list("vip", "block", &vip);
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.3 b"]);
    let summary = handle.summary().borrow().clone();
    assert_eq!(summary.lists.len(), 1);
}

#[tokio::test]
async fn at_the_first_load_the_good_lines_of_a_list_are_enforced() {
    let mut setup = Setup::new();
    let file = setup.path("drop.txt");
    setup.more = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
    std::fs::write(&file, "192.0.2.1\nexample.net\n").unwrap();
    let handle = setup.start();
    assert_eq!(setup.lists(), ["192.0.2.1 b"]);
    let problem = handle.summary().borrow().lists[0].problem.clone().unwrap();
    assert!(problem.ends_with("the other lines are in force"), "{problem}");
}

#[tokio::test]
async fn a_list_that_does_not_fit_is_left_out_as_a_whole() {
    let mut setup = Setup::new();
    let file = setup.path("drop.txt");
    setup.more = format!(
        "[capacity]\naddresses_v4 = 4\n[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n"
    );
    std::fs::write(&file, "192.0.2.1\n192.0.2.2\n192.0.2.3\n").unwrap();
    let handle = setup.start();
    assert_eq!(setup.lists().len(), 3);
    std::fs::write(&file, "192.0.2.1\n192.0.2.2\n192.0.2.3\n192.0.2.4\n192.0.2.5\n").unwrap();
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists().len(), 3);
    let problem = handle.summary().borrow().lists[0].problem.clone().unwrap();
    assert!(problem.contains("addresses_v4 has room for 4 entries and 5 are needed"), "{problem}");
    // All different: it fits only if the former ones go first.
    setup.kernel.set_capacity(4);
    std::fs::write(&file, "192.0.2.11\n192.0.2.12\n192.0.2.13\n").unwrap();
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.11 b", "192.0.2.12 b", "192.0.2.13 b"]);
}

/// 70,000 lines, while other requests are answered in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_are_all_or_nothing_and_let_others_pass() {
    let setup = Setup::new();
    let handle = setup.start();
    let address = |n: u32| Address::V4((0x0b00_0000 + n).to_be_bytes());
    let mut text: Vec<u8> = (0..70_000).flat_map(|n| format!("{}\n", address(n)).into_bytes()).collect();
    let import = |text: &[u8], options| {
        let (handle, text) = (handle.clone(), text.to_vec());
        tokio::spawn(async move {
            handle.import(Action::Block, config::lists::parse(&text), options, uid()).await
        })
    };

    let error =
        import(&[text.as_slice(), b"oops\n"].concat(), ImportOptions::default()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { items, .. } if items[0].starts_with("line 70001:")),
        "{error:?}"
    );
    text.extend(b"127.0.0.1\n");
    let error = import(&text, ImportOptions::default()).await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Guarded { items, .. } if items.len() == 1), "{error:?}");
    assert_eq!(setup.lists().len(), 0);

    let forced = ImportOptions { force: true, reason: Some("bulk".to_owned()), ..ImportOptions::default() };
    let running = import(&text, forced.clone());
    // Part of it is in force before all of it is, and requests are answered then.
    until(&handle, "import", |summary| summary.blocks > 0).await;
    handle.add(Action::Block, asked(&["192.0.2.7"]), uid()).await.unwrap();
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.added, 70_001);
    assert_eq!(setup.lists().len(), 70_002);
    assert_eq!(import(&text, forced).await.unwrap().unwrap().unchanged, 70_001);

    // The kernel is full in the middle of another one: nothing of it stays, and what was asked meanwhile does.
    let more: Vec<u8> =
        (0..70_000).flat_map(|n| format!("{}\n", address(1 << 20 | n)).into_bytes()).collect();
    setup.kernel.set_capacity(120_000);
    let running = import(&more, ImportOptions::default());
    until(&handle, "second import", |summary| summary.blocks > 70_002).await;
    handle.remove(Action::Block, gone(&["192.0.2.7"]), uid()).await.unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_eq!(setup.lists().len(), 70_001);
    handle.shutdown().await;
    setup.start();
    assert_eq!(setup.lists().len(), 70_001);
}

#[tokio::test]
async fn explanations_come_from_the_policy_itself() {
    let limits = "limit = [ { per = \"source\", rate = \"10/s\", burst = 5 } ]";
    let setup = Setup::with(&format!(
        "[[rule]]\nname = \"all\"\n{limits}\n[[rule]]\nname = \"udp\"\nmatch = {{ protocol = \"udp\" }}\n{limits}\n\
         [[rule]]\nname = \"dns\"\nmatch = {{ protocol = \"udp\", port = 53 }}\n{limits}\n"
    ));
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.0/24"]), uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["192.0.2.7"]), uid()).await.unwrap();
    let explain = async |address: &str, protocol, port| {
        let address = address.parse().unwrap();
        let question = Question { address, protocol, port, interface: None };
        let told = handle.explain(question).await.unwrap();
        let limits: Vec<String> = told.limits.iter().map(|limit| limit.rule.clone()).collect();
        (told.action, told.reason, told.claims.len(), limits.join(" "))
    };
    let expected = |action: &str, reason: &str, claims, limits: &str| {
        (action.to_owned(), reason.to_owned(), claims, limits.to_owned())
    };
    assert_eq!(explain("192.0.2.8", None, None).await, expected("drop", "blocked", 1, ""));
    assert_eq!(explain("::ffff:192.0.2.8", None, None).await, expected("drop", "blocked", 1, ""));
    assert_eq!(explain("192.0.2.7", Some(17), Some(53)).await, expected("pass", "allowed", 2, ""));
    assert_eq!(explain("198.51.100.1", None, None).await, expected("pass", "passed", 0, "all"));
    assert_eq!(explain("198.51.100.1", Some(17), Some(53)).await, expected("pass", "passed", 0, "all dns"));
    assert_eq!(explain("198.51.100.1", Some(17), Some(54)).await, expected("pass", "passed", 0, "all udp"));
    assert_eq!(explain("127.0.0.1", None, None).await, expected("drop", "impossible_source", 0, ""));
    let question = Question {
        address: "192.0.2.1".parse().unwrap(),
        protocol: None,
        port: None,
        interface: Some("x".into()),
    };
    assert!(matches!(handle.explain(question).await, Err(Error::Invalid { .. })));

    let shadowed = handle.add(Action::Block, asked(&["192.0.2.7", "192.0.2.9"]), uid()).await.unwrap();
    assert_eq!(shadowed.shadowed_by_allow, ["192.0.2.7"]);
}

#[tokio::test]
async fn the_thread_ends_with_its_last_handle() {
    let setup = Setup::new();
    let handle = setup.start();
    let mut summary = handle.summary();
    drop(handle);
    // The sender is dropped with the thread.
    let ended = async { while summary.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
}

/// The list of the earlier run and that of this one do not fit at the same time.
#[tokio::test]
async fn what_did_not_fit_beside_what_goes_is_put_in_force_after_it() {
    let mut setup = Setup::new();
    let file = setup.path("drop.txt");
    setup.more = format!(
        "[capacity]\naddresses_v4 = 100\n[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n"
    );
    setup.kernel.set_capacity(100);
    let lines = |network: u8| (0..60).map(|host| format!("192.0.{network}.{host}\n")).collect::<String>();
    std::fs::write(&file, lines(2)).unwrap();
    setup.start().shutdown().await;
    std::fs::write(&file, lines(3)).unwrap();
    let handle = setup.start();
    let expected: Vec<String> = lines(3).lines().map(|line| format!("{line} b")).collect();
    let mut lists = setup.lists();
    lists.sort();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(lists, sorted);
    let summary = handle.summary().borrow().clone();
    assert_eq!((summary.missing, summary.warnings.len()), (0, 0), "{summary:?}");
}

#[tokio::test]
async fn what_is_missing_is_told_and_comes_into_force_when_there_is_room() {
    clock!(SECONDS, clock);
    let setup = Setup::new();
    let handle = setup.start();
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
    handle.add(Action::Block, AddRequest { seconds: Some(60), ..asked(&all[..1]) }, uid()).await.unwrap();
    handle.add(Action::Block, asked(&all[1..]), uid()).await.unwrap();
    handle.shutdown().await;
    let small = Setup { kernel: MemoryDataplane::new(2), ..setup };
    let handle = small.start_at(clock, BOOT);
    assert_eq!(small.lists(), ["192.0.2.1 b1060", "192.0.2.2 b"]);
    assert_eq!(handle.summary().borrow().missing, 3);
    let found = handle.lookup("192.0.2.3".parse().unwrap()).await.unwrap();
    assert_eq!((found.entry, found.claims.len()), (Entry::NONE, 1));
    // Adding it again does not say that it is there.
    let error = handle.add(Action::Block, asked(&["192.0.2.3"]), uid()).await.unwrap_err();
    assert!(matches!(&error, Error::Full(text) if text.contains("not in force")), "{error:?}");

    handle.remove(Action::Block, gone(&["192.0.2.2"]), uid()).await.unwrap();
    assert_eq!(small.lists(), ["192.0.2.1 b1060", "192.0.2.3 b"]);
    SECONDS.store(1_060, Ordering::Relaxed);
    assert_eq!(claims(&handle, Action::Block).await.len(), 3);
    until(&handle, "expiry", |summary| summary.missing == 1).await;
    assert_eq!(small.lists(), ["192.0.2.3 b", "192.0.2.4 b"]);
    small.kernel.set_capacity(3);
    handle.add(Action::Block, asked(&["192.0.2.5"]), uid()).await.unwrap();
    assert_eq!(small.lists(), ["192.0.2.3 b", "192.0.2.4 b", "192.0.2.5 b"]);
    let summary = handle.summary().borrow().clone();
    assert_eq!((summary.missing, summary.warnings.len()), (0, 0), "{summary:?}");
}

#[tokio::test]
async fn a_table_that_holds_too_much_refuses_only_what_makes_it_worse() {
    let mut setup = Setup::new();
    let file = setup.path("drop.txt");
    let capacity = "[capacity]\naddresses_v4 = 4\n";
    let list = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
    std::fs::write(&file, "198.51.100.1\n198.51.100.2\n").unwrap();
    setup.more.clone_from(&list);
    let handle = setup.start();
    let many: Vec<String> = (1..=8).map(|host| format!("192.0.2.{host}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    handle.add(Action::Block, asked(&many), uid()).await.unwrap();
    handle.shutdown().await;

    setup.more = format!("{capacity}{list}");
    let handle = setup.start();
    handle.add(Action::Allow, asked(&["2001:db8::1"]), uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["192.0.2.7"]), uid()).await.unwrap();
    let error = handle.add(Action::Block, asked(&["192.0.2.9"]), uid()).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    setup.more = capacity.to_owned();
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists().len(), 9);
}

/// At boot the lists are read before there is an address; what they name of this machine must not stay blocked.
#[tokio::test]
async fn lists_are_checked_against_new_lifelines() {
    static SECONDS: AtomicU64 = AtomicU64::new(0);
    fn gather() -> anyhow::Result<Lifelines> {
        match SECONDS.load(Ordering::Relaxed) {
            0 => Err(anyhow::anyhow!("no netlink")),
            1 => Ok(Lifelines::default()),
            _ => Ok(Lifelines { gateways: vec!["192.0.2.254".parse().unwrap()], ..Lifelines::default() }),
        }
    }
    let setup = Setup::new();
    let path = setup.path("bad.txt");
    std::fs::write(&path, "192.0.2.254\n198.51.100.1\n").unwrap();
    let setup =
        Setup { more: format!("[[list]]\nname = \"bad\"\nfile = {path:?}\naction = \"block\"\n"), ..setup };
    let writer = Box::new(setup.kernel.clone());
    let config = setup.config();
    // Hardly after boot.
    let clock = || at(3);
    let parameters =
        Parameters { writer, config: Arc::clone(&config), boot_id: BOOT, clock, lifelines: gather, peers };
    let (handle, _) = start(parameters).unwrap();

    // Nothing is known: lists protect, but nobody locks themselves out.
    assert_eq!(setup.lists(), ["192.0.2.254 b", "198.51.100.1 b"]);
    let refused = handle.add(Action::Block, asked(&["192.0.2.9"]), uid()).await.unwrap_err();
    assert!(matches!(&refused, Error::Guarded { detail, .. } if detail.contains("not known")), "{refused:?}");
    assert!(handle.summary().borrow().warnings.iter().any(|warning| warning.contains("not known")));
    let refused = handle.report(Vec::new(), None, uid()).await.unwrap_err();
    assert!(matches!(&refused, Error::Guarded { detail, .. } if detail.contains("not known")), "{refused:?}");
    let forced = AddRequest { force: true, ..asked(&["192.0.2.0/24"]) };
    handle.add(Action::Block, forced, uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["192.0.2.8"]), uid()).await.unwrap();

    SECONDS.store(1, Ordering::Relaxed);
    assert_eq!(handle.reload(Arc::clone(&config)).await.unwrap(), Vec::<String>::new());
    assert!(handle.summary().borrow().warnings.is_empty());

    // What was forced stays, and is told.
    SECONDS.store(2, Ordering::Relaxed);
    let changes = handle.reload(Arc::clone(&config)).await.unwrap();
    assert!(changes.iter().any(|change| change.contains("192.0.2.0/24 contains 192.0.2.254")), "{changes:?}");
    let without = ["192.0.2.0/24 b", "192.0.2.8 a", "198.51.100.1 b"];
    assert_eq!(setup.lists(), without);

    // Also of a list that is kept since its file is lost.
    SECONDS.store(1, Ordering::Relaxed);
    handle.reload(Arc::clone(&config)).await.unwrap();
    assert_eq!(setup.lists().len(), 4);
    std::fs::remove_file(path).unwrap();
    SECONDS.store(2, Ordering::Relaxed);
    handle.reload(Arc::clone(&config)).await.unwrap();
    assert_eq!(setup.lists(), without);
    handle.shutdown().await;
}

#[tokio::test]
async fn a_list_that_was_always_empty_is_no_problem() {
    let mut setup = Setup::new();
    let file = setup.path("drop.txt");
    setup.more = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
    std::fs::write(&file, "# to be filled\n").unwrap();
    let handle = setup.start();
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(handle.summary().borrow().lists[0].problem, None);
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let mut setup = Setup::new();
    let (drop, more) = (setup.path("drop.txt"), setup.path("more.txt"));
    let list = |name: &str, file: &Path| {
        format!("[[list]]\nname = \"{name}\"\naction = \"block\"\nfile = {file:?}\n")
    };
    std::fs::write(&drop, "192.0.2.1\n").unwrap();
    std::fs::write(&more, "198.51.100.1\n198.51.100.2\n").unwrap();
    setup.more = list("drop", &drop);
    let handle = setup.start();
    let former = setup.more.clone();

    setup.kernel.set_capacity(1);
    setup.more = format!("protected = [\"203.0.113.0/24\"]\n{}", list("more", &more));
    let error = handle.reload(setup.config()).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert_eq!(setup.lists(), ["192.0.2.1 b"]);
    let names: Vec<String> = handle.summary().borrow().lists.iter().map(|list| list.name.clone()).collect();
    assert_eq!(names, ["drop"]);
    setup.kernel.set_capacity(3);
    handle.add(Action::Block, asked(&["203.0.113.1"]), uid()).await.unwrap();
    handle.remove(Action::Block, gone(&["203.0.113.1"]), uid()).await.unwrap();

    // What the failed one would have dropped still has an owner.
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["198.51.100.1 b", "198.51.100.2 b"]);
    setup.more = former;
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.1 b"]);
}

/// Something holds the store at the start: what is in it comes into force when it can be read.
#[tokio::test]
async fn what_could_not_be_read_at_the_start_is_taken_over_later() {
    for rebooted in [false, true] {
        let mut setup = Setup::new();
        let handle = setup.start();
        let because = AddRequest { reason: Some("flood".to_owned()), ..asked(&["192.0.2.1", "192.0.2.2"]) };
        handle.add(Action::Block, because, uid()).await.unwrap();
        handle.add(Action::Allow, asked(&["192.0.2.3"]), uid()).await.unwrap();
        handle.shutdown().await;
        if rebooted {
            setup.kernel = MemoryDataplane::new(100);
        }
        let holder = Store::open(&setup.path("state"), BOOT, still());
        let handle = setup.start();
        assert_eq!(setup.lists().len(), if rebooted { 0 } else { 3 });
        let warnings = handle.summary().borrow().warnings.clone();
        assert!(warnings.iter().any(|warning| warning.contains("not in force until it can")), "{warnings:?}");
        let error = handle.add(Action::Allow, asked(&["192.0.2.9"]), uid()).await.unwrap_err();
        assert!(matches!(error, Error::NotDurable(_)), "{error:?}");
        // Whether it was there or not is not known; it shall not come back.
        let error = handle.remove(Action::Block, gone(&["192.0.2.2"]), uid()).await.unwrap_err();
        assert!(matches!(error, Error::NotDurable(_)), "{error:?}");

        drop(holder);
        handle.add(Action::Block, asked(&["192.0.2.4"]), uid()).await.unwrap();
        let expected = ["192.0.2.1 b", "192.0.2.3 a", "192.0.2.4 b", "192.0.2.9 a"];
        assert_eq!(setup.lists(), expected);
        let reasons: Vec<Option<String>> =
            claims(&handle, Action::Block).await.into_iter().map(|claim| claim.reason).collect();
        assert_eq!(reasons, [Some("flood".to_owned()), None]);
        let summary = handle.summary().borrow().clone();
        assert!(summary.durable && !summary.warnings.iter().any(|warning| warning.contains("state")));
        handle.shutdown().await;
        let fresh = Setup { kernel: MemoryDataplane::new(100), ..setup };
        fresh.start();
        assert_eq!(fresh.lists(), expected);
    }
}

/// Something holds the store at the start, and it is one of yesterday: that is told when it can be read.
#[tokio::test]
async fn what_is_missing_from_what_is_read_later_is_told() {
    let setup = Setup::new();
    let store = setup.path("state/claims.redb");
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.1"]), uid()).await.unwrap();
    handle.shutdown().await;
    let yesterday = std::fs::read(&store).unwrap();
    let handle = setup.start();
    handle.add(Action::Block, asked(&["192.0.2.2"]), uid()).await.unwrap();
    handle.shutdown().await;
    std::fs::write(&store, yesterday).unwrap();

    let holder = std::fs::File::open(&store).unwrap();
    holder.lock().unwrap();
    let handle = setup.start();
    let problem = handle.summary().borrow().warnings.clone();
    assert!(problem.iter().any(|warning| warning.contains("not in force until it can")), "{problem:?}");
    drop(holder);
    handle.add(Action::Block, asked(&["192.0.2.3"]), uid()).await.unwrap();
    let warnings = handle.summary().borrow().warnings.clone();
    let missing =
        |warning: &String| warning.starts_with("the last ") && warning.ends_with("claims.redb are lost");
    assert!(warnings.iter().any(missing), "{warnings:?}");
    // The kernel had it.
    assert_eq!(setup.lists(), ["192.0.2.1 b", "192.0.2.2 b", "192.0.2.3 b"]);
}

/// Entries that stay because the file is broken do not lock anybody out.
#[tokio::test]
async fn what_a_broken_list_keeps_passes_the_guards_of_today() {
    let mut setup = Setup::new();
    let file = setup.path("drop.txt");
    let list = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
    std::fs::write(&file, "192.0.2.1\n203.0.113.1\n203.0.113.2\n").unwrap();
    setup.more.clone_from(&list);
    let handle = setup.start();
    assert_eq!(setup.lists().len(), 3);
    std::fs::write(&file, "").unwrap();
    setup.more = format!("protected = [\"203.0.113.1\"]\n{list}");
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.1 b", "203.0.113.2 b"]);
    handle.shutdown().await;
    setup.more = format!("protected = [\"203.0.113.0/24\"]\n{list}");
    setup.start();
    assert_eq!(setup.lists(), ["192.0.2.1 b"]);
}

// Behind the macro that it uses.
mod owners;

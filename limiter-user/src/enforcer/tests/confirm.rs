//! Changes that are rolled back unless somebody confirms them.

use super::*;

fn waiting(request: AddRequest, seconds: u64) -> AddRequest {
    AddRequest { confirm_seconds: Some(seconds), ..request }
}

fn number(change: Option<String>) -> u64 {
    change.unwrap().parse().unwrap()
}

/// Wakes the thread up: it looks at the clock with every command.
async fn rolled_back(handle: &Handle) {
    until(handle, "the rollback", |summary| {
        summary.warnings.iter().any(|warning| warning.contains("rolled back"))
    })
    .await;
    assert_eq!(handle.changes().await.unwrap(), []);
}

#[tokio::test]
async fn what_nobody_confirms_is_rolled_back_and_what_somebody_does_stays() {
    clock!(SECONDS, clock);
    let setup = Setup::new();
    let handle = setup.start_at(clock, BOOT);
    handle.add(Action::Block, asked(&["192.0.2.1", "192.0.2.2"]), uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["192.0.2.9"]), uid()).await.unwrap();
    let before = setup.lists();
    let shorter = AddRequest { seconds: Some(600), ..asked(&["192.0.2.1", "192.0.2.3"]) };
    let added = handle.add(Action::Block, waiting(shorter, 60), uid()).await.unwrap();
    let remove = |prefix| RemoveRequest { confirm_seconds: Some(60), ..gone(&[prefix]) };
    let removed = handle.remove(Action::Block, remove("192.0.2.2"), uid()).await.unwrap();
    let disallowed = handle.remove(Action::Allow, remove("192.0.2.9"), uid()).await.unwrap();
    let kept = handle.add(Action::Block, waiting(asked(&["192.0.2.4"]), 60), uid()).await.unwrap();
    assert_eq!(setup.lists(), ["192.0.2.1 b1600", "192.0.2.3 b1600", "192.0.2.4 b"]);
    let whats: Vec<String> = handle.changes().await.unwrap().into_iter().map(|change| change.what).collect();
    assert_eq!(whats, ["block.add", "block.remove", "allow.remove", "block.add"]);
    // Nothing is different: nothing to confirm.
    let same = handle.add(Action::Block, waiting(asked(&["203.0.113.1"]), 60), uid()).await.unwrap();
    let again = handle.add(Action::Block, waiting(asked(&["203.0.113.1"]), 60), uid()).await;
    assert!(matches!(again, Err(Error::Invalid { .. })), "{again:?}");
    let other = Caller { owner: "app:shop".parse().unwrap(), actor: "token:1".into() };
    let (kept, same) = (number(kept.change), number(same.change));
    assert_eq!(handle.confirm(kept, other).await, Ok(None));
    assert!(handle.confirm(kept, uid()).await.unwrap().is_some());
    assert_eq!(handle.confirm(kept, uid()).await, Ok(None));
    assert!(handle.confirm(same, uid()).await.unwrap().is_some());
    SECONDS.fetch_add(59, Ordering::Relaxed);
    assert_eq!(handle.changes().await.unwrap().len(), 3);
    SECONDS.fetch_add(1, Ordering::Relaxed);
    handle.changes().await.unwrap();
    rolled_back(&handle).await;
    let mut expected = before;
    expected.extend(["192.0.2.4 b".to_owned(), "203.0.113.1 b".to_owned()]);
    expected.sort();
    let mut lists = setup.lists();
    lists.sort();
    assert_eq!(lists, expected);
    for change in [added.change, removed.change, disallowed.change] {
        assert_eq!(handle.confirm(number(change), uid()).await, Ok(None));
    }
}

/// Killed in between: the memory is gone, the store and the kernel's lists are not.
#[tokio::test]
async fn a_restart_goes_on_waiting_or_rolls_back() {
    clock!(SECONDS, clock);
    let setup = Setup::new();
    let handle = setup.start_at(clock, BOOT);
    handle.add(Action::Block, asked(&["192.0.2.1"]), uid()).await.unwrap();
    handle.add(Action::Block, waiting(asked(&["192.0.2.7"]), 60), uid()).await.unwrap();
    let remove = RemoveRequest { confirm_seconds: Some(100), ..gone(&["192.0.2.1"]) };
    let removed = handle.remove(Action::Block, remove, uid()).await.unwrap();
    let kept = handle.add(Action::Block, waiting(asked(&["192.0.2.8"]), 60), uid()).await.unwrap();
    handle.confirm(number(kept.change), uid()).await.unwrap();
    handle.shutdown().await;
    SECONDS.fetch_add(70, Ordering::Relaxed);
    let handle = setup.start_at(clock, BOOT);
    assert_eq!(setup.lists(), ["192.0.2.8 b"]);
    let changes = handle.changes().await.unwrap();
    assert_eq!((changes.len(), changes[0].seconds_left), (1, 30));
    assert_eq!(Some(&changes[0].id), removed.change.as_ref());
    handle.shutdown().await;
    // Another boot, in which the clock begins anew: what was left is left by the wall clock.
    static LATER: AtomicU64 = AtomicU64::new(0);
    fn later() -> Now {
        Now { boot: Nanos::from_secs(5 + LATER.load(Ordering::Relaxed)), wall: at(1_090).wall }
    }
    let rebooted = Setup { kernel: MemoryDataplane::new(1_000), ..setup };
    let handle = rebooted.start_at(later, [2; 16]);
    assert_eq!(rebooted.lists(), ["192.0.2.8 b"]);
    assert_eq!(handle.changes().await.unwrap()[0].seconds_left, 10);
    LATER.fetch_add(10, Ordering::Relaxed);
    handle.changes().await.unwrap();
    rolled_back(&handle).await;
    assert_eq!(rebooted.lists(), ["192.0.2.1 b", "192.0.2.8 b"]);
    handle.shutdown().await;
    let handle = rebooted.start_at(later, [2; 16]);
    assert_eq!((rebooted.lists().len(), handle.changes().await.unwrap().len()), (2, 0));
}

#[tokio::test]
async fn what_somebody_says_meanwhile_stays() {
    clock!(SECONDS, clock);
    let setup = Setup::new();
    let handle = setup.start_at(clock, BOOT);
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
    handle.add(Action::Block, waiting(asked(&all), 60), uid()).await.unwrap();
    // The same again, but for good; with another end; and gone, and so never there again.
    handle.add(Action::Block, asked(&["192.0.2.1"]), uid()).await.unwrap();
    handle
        .add(Action::Block, AddRequest { seconds: Some(600), ..asked(&["192.0.2.2"]) }, uid())
        .await
        .unwrap();
    let list = config::lists::parse(b"192.0.2.3\n");
    handle.import(Action::Block, list, ImportOptions::default(), uid()).await.unwrap();
    assert_eq!(handle.changes().await.unwrap()[0].claims, 1);
    handle.shutdown().await;
    SECONDS.fetch_add(60, Ordering::Relaxed);
    let handle = setup.start_at(clock, BOOT);
    assert_eq!(setup.lists(), ["192.0.2.1 b", "192.0.2.2 b1600", "192.0.2.3 b"]);
    assert_eq!(handle.changes().await.unwrap(), []);
}

/// A change that was rolled back is over: it does not come back over what is said later, nor over a restart.
#[tokio::test]
async fn what_is_claimed_after_a_rollback_stays() {
    clock!(SECONDS, clock);
    let setup = Setup::new();
    let handle = setup.start_at(clock, BOOT);
    let mut rollbacks = handle.rollbacks().unwrap();
    let prefixes = ["192.0.2.1", "192.0.2.2"];
    handle
        .add(Action::Block, AddRequest { seconds: Some(600), ..asked(&prefixes[..1]) }, uid())
        .await
        .unwrap();
    handle.add(Action::Block, waiting(asked(&prefixes), 60), uid()).await.unwrap();
    SECONDS.fetch_add(60, Ordering::Relaxed);
    handle.changes().await.unwrap();
    rolled_back(&handle).await;
    let told = rollbacks.try_recv().unwrap();
    assert_eq!((&*told.what, &*told.owner, &*told.actor, told.count), ("block.add", "operator", "uid:7", 2));
    assert_eq!(told.before.as_deref(), Some("192.0.2.1 for good, 192.0.2.2 for good"));
    assert_eq!(setup.lists(), ["192.0.2.1 b1600"]);
    handle.add(Action::Block, asked(&prefixes), uid()).await.unwrap();
    for _ in 0..2 {
        handle.shutdown().await;
        SECONDS.fetch_add(3600, Ordering::Relaxed);
        let handle = setup.start_at(clock, BOOT);
        assert_eq!(setup.lists(), ["192.0.2.1 b", "192.0.2.2 b"]);
        assert_eq!(handle.changes().await.unwrap(), []);
        assert!(handle.rollbacks().unwrap().try_recv().is_err());
        handle.shutdown().await;
    }
}

#[tokio::test]
async fn what_was_claimed_before_is_told() {
    let setup = Setup::new();
    let handle = setup.start();
    let first = AddRequest { reason: Some("scan".to_owned()), seconds: Some(60), ..asked(&["192.0.2.1"]) };
    assert_eq!(handle.add(Action::Block, first, uid()).await.unwrap().before, None);
    let more = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"];
    let was = "192.0.2.1 until 2023-11-14T22:31:00Z (scan)";
    let added = handle.add(Action::Block, asked(&more), uid()).await.unwrap();
    assert_eq!(added.before.as_deref(), Some(was));
    let list = config::lists::parse(b"192.0.2.1\n192.0.2.7\n");
    let options = ImportOptions { seconds: Some(60), ..ImportOptions::default() };
    let imported = handle.import(Action::Block, list, options, uid()).await.unwrap();
    assert_eq!(imported.before.as_deref(), Some("192.0.2.1 for good"));
    let removed = handle.remove(Action::Block, gone(&more), uid()).await.unwrap();
    let was = "192.0.2.1 until 2023-11-14T22:31:00Z, 192.0.2.2 for good, 192.0.2.3 for good, 192.0.2.4 for good, and 2 more";
    assert_eq!(removed.before.as_deref(), Some(was));
    let gone = handle.remove(Action::Block, gone(&more), uid()).await.unwrap();
    assert_eq!(gone.before, None);
}

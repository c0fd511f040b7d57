//! How many of the hosts that are connected those who are no operators may cut off.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::config::lists::parse;

const POLICY: &str = r#"
protected = ["10.0.0.0/8"]
[[policy]]
category = "scraping"
threshold = 1
within = "1s"
block = "10m"
"#;

fn quarter() -> String {
    format!("{POLICY}[guards]\npeers_share = 25\n")
}

fn app() -> Caller {
    Caller { owner: "app:checkout".parse().unwrap(), actor: "token:7f3a".into() }
}

/// 40 hosts, and some that are protected.
fn connected() -> Vec<Address> {
    let hosts = (1..=40).map(|last| Address::V4([198, 51, 100, last]));
    (1..=40).map(|last| Address::V4([10, 0, 0, last])).chain(hosts).collect()
}

fn hosts(from: u8, to: u8) -> AddRequest {
    let prefixes = (from..=to).map(|last| format!("198.51.100.{last}")).collect();
    AddRequest { prefixes, ..AddRequest::default() }
}

#[track_caller]
fn refused<T: fmt::Debug>(done: Result<T, Error>, more: usize, cut: usize) {
    let detail = match done {
        Err(Error::Braked { detail, wait }) if more <= 10 => {
            assert_eq!(wait, Some(Duration::from_secs(600)));
            detail
        }
        // There never is room for so many.
        Err(Error::Guarded { detail, items }) if more > 10 && items.is_empty() => detail,
        other => panic!("{other:?}"),
    };
    let said = format!("would cut off {more} of the 40 hosts that were connected of late");
    assert!(detail.contains(&said), "{detail}");
    let said = format!("after {cut} in the last 10 minutes");
    assert_eq!(detail.contains(&said), cut > 0, "{detail}");
    assert!(detail.contains("25 %") && detail.contains("An operator may block these"), "{detail}");
}

#[tokio::test]
async fn blocks_that_cut_off_more_than_a_share_are_refused() {
    clock!(SECONDS, clock);
    let mut setup = Setup::with(&quarter());
    let handle = setup.start_among(|| Ok(connected()), clock, BOOT);
    // Who cannot be cut off is none of those.
    handle.add(Action::Allow, asked(&["198.51.100.40"]), uid()).await.unwrap();
    let elsewhere = hosts(41, 80);
    handle.add(Action::Block, elsewhere, app()).await.unwrap();
    refused_of_39(handle.add(Action::Block, asked(&["198.0.0.0/8"]), app()).await);
    handle.remove(Action::Allow, gone(&["198.51.100.40"]), uid()).await.unwrap();
    SECONDS.fetch_add(30, Ordering::Relaxed);
    refused(handle.add(Action::Block, asked(&["198.0.0.0/8"]), app()).await, 40, 0);
    let rehearsed = |prefix| AddRequest { dry_run: true, ..asked(&[prefix]) };
    refused(handle.add(Action::Block, rehearsed("198.51.100.0/28"), app()).await, 15, 0);
    // A dry run counts nothing.
    handle.add(Action::Block, rehearsed("198.51.100.0/29"), app()).await.unwrap();
    handle.add(Action::Block, asked(&["198.51.100.0/29"]), app()).await.unwrap();
    handle.add(Action::Block, asked(&["198.51.100.0/29"]), app()).await.unwrap();
    let more = parse(b"198.51.100.5\n198.51.100.8/30\n");
    let import = handle.import(Action::Block, more, ImportOptions::default(), app());
    refused(import.await, 4, 7);
    // Hosts are named one by one, for what each did.
    handle.add(Action::Block, hosts(8, 12), app()).await.unwrap();
    let report = |last| Report {
        address: [198, 51, 100, last].into(),
        category: "scraping".to_owned(),
        weight: 1,
        account: None,
        device: None,
    };
    let said = handle.report([20, 21, 22].map(report).to_vec(), None, app()).await.unwrap();
    assert_eq!((said.counted, said.blocks, said.refused), (3, 3, 0));
    let escalate = AddRequest { escalate: true, ..asked(&["198.51.100.14/31"]) };
    let done = handle.add(Action::Block, escalate, app()).await.unwrap();
    assert_eq!(done.escalated[0].level, 1);
    until(&handle, "the warning", |summary| {
        summary.warnings.iter().any(|warning| warning.contains("more than the 25 % of the connected hosts"))
    })
    .await;
    // Taking back is no way around it.
    handle.remove(Action::Block, gone(&["198.51.100.0/29"]), app()).await.unwrap();
    refused(handle.add(Action::Block, asked(&["198.51.100.24/31"]), app()).await, 2, 9);
    // An operator is not held back, and cuts off nobody who counts.
    handle.add(Action::Block, asked(&["198.51.100.24/31", "198.51.100.32/28"]), uid()).await.unwrap();
    handle.add(Action::Block, asked(&["198.51.100.24/31", "198.51.100.32/28"]), app()).await.unwrap();
    // Ten minutes after the last.
    SECONDS.fetch_add(601, Ordering::Relaxed);
    let done = handle.add(Action::Block, asked(&["198.51.100.16/30"]), app()).await;
    assert!(done.is_ok(), "{done:?}");
    setup.more = format!("{POLICY}[guards]\npeers_share = false\n");
    handle.reload(setup.config()).await.unwrap();
    handle.add(Action::Block, asked(&["198.0.0.0/8"]), app()).await.unwrap();
}

#[track_caller]
fn refused_of_39<T: fmt::Debug>(done: Result<T, Error>) {
    let Err(Error::Guarded { detail, .. }) = done else { panic!("{done:?}") };
    assert!(detail.contains("cut off 39 of the 39 hosts"), "{detail}");
}

#[tokio::test]
async fn nobody_looks_more_often_than_needed() {
    clock!(SECONDS, clock);
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    fn look() -> anyhow::Result<Vec<Address>> {
        LOOKS.fetch_add(1, Ordering::Relaxed);
        Ok(connected())
    }
    let looks = || LOOKS.load(Ordering::Relaxed);
    let mut setup = Setup::with(&format!("{POLICY}[guards]\npeers_share = false\n"));
    let handle = setup.start_among(look, clock, BOOT);
    let wide = || asked(&["203.0.113.0/24"]);
    handle.add(Action::Block, wide(), app()).await.unwrap();
    setup.more = quarter();
    handle.reload(setup.config()).await.unwrap();
    handle.add(Action::Block, wide(), uid()).await.unwrap();
    handle.add(Action::Block, hosts(2, 2), app()).await.unwrap();
    handle.add(Action::Allow, asked(&["203.0.113.0/25"]), app()).await.unwrap();
    assert_eq!(looks(), 0, "nobody is held back");
    for _ in 0..3 {
        handle.add(Action::Block, wide(), app()).await.unwrap();
        SECONDS.fetch_add(3, Ordering::Relaxed);
    }
    assert_eq!(looks(), 1);
    // Next to the request.
    SECONDS.fetch_add(1, Ordering::Relaxed);
    handle.add(Action::Block, wide(), app()).await.unwrap();
    while looks() < 2 {
        tokio::task::yield_now().await;
    }
    handle.connected.settled().await;
    // What was seen is too old: however many ask, one looks, and all wait.
    SECONDS.fetch_add(30, Ordering::Relaxed);
    let [one, other] = [asked(&["198.0.0.0/8"]), asked(&["198.51.0.0/16"])]
        .map(|request| handle.add(Action::Block, request, app()));
    let (one, other) = tokio::join!(one, other);
    assert!(one.is_err() && other.is_err());
    assert_eq!(looks(), 3);
}

#[tokio::test]
async fn if_the_kernel_does_not_say_nobody_is_held_back() {
    let setup = Setup::with(&quarter());
    let handle = setup.start_among(|| anyhow::bail!("no"), still, BOOT);
    handle.add(Action::Block, asked(&["198.0.0.0/8"]), app()).await.unwrap();
}

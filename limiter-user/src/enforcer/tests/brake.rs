//! Guards against mistakes of those who are no operators: the brake on ban storms, and proxies.

use super::*;
use crate::config::lists::parse;

const FEW: &str = r#"
proxies = ["198.51.100.0/24"]
[[policy]]
category = "scraping"
threshold = 1
within = "1s"
block = "10m"
[guards]
blocks_per_minute = 3
"#;

fn app() -> Caller {
    Caller { owner: "app:checkout".parse().unwrap(), actor: "token:7f3a".into() }
}

fn scraping(last: u8) -> Report {
    let address = [203, 0, 113, last].into();
    Report { address, category: "scraping".to_owned(), weight: 1, account: None, device: None }
}

fn list(text: &str) -> config::lists::Parsed {
    parse(text.as_bytes())
}

#[tokio::test]
async fn new_blocks_beyond_the_brake_are_refused_until_there_is_room() {
    clock!(SECONDS, clock);
    let setup = Setup::with(FEW);
    let handle = setup.start_at(clock, BOOT);
    handle.add(Action::Block, asked(&["203.0.113.1", "203.0.113.2"]), app()).await.unwrap();
    SECONDS.fetch_add(20, Ordering::Relaxed);
    // What is there already is not new, and allows are no blocks.
    handle.add(Action::Block, asked(&["203.0.113.1", "203.0.113.2"]), app()).await.unwrap();
    handle.add(Action::Block, asked(&["203.0.113.2", "203.0.113.3"]), app()).await.unwrap();
    handle.add(Action::Allow, asked(&["203.0.113.200"]), app()).await.unwrap();
    let refused = handle.add(Action::Block, asked(&["203.0.113.4"]), app()).await.unwrap_err();
    let Error::Braked { detail, wait } = &refused else { panic!("{refused:?}") };
    assert_eq!(*wait, Some(Duration::from_secs(40)));
    assert!(detail.contains("at most 3 new blocks a minute") && detail.contains("room again in 40s"));
    let problem = Problem::from(refused);
    assert_eq!((problem.kind, problem.status), (ProblemKind::Guarded, 429));
    // Of one that refuses nothing is counted, whoever of them asks.
    let escalate = AddRequest { escalate: true, ..asked(&["203.0.113.4"]) };
    let other = Caller { owner: "app:shop".parse().unwrap(), actor: "token:1".into() };
    assert!(matches!(
        handle.add(Action::Block, escalate.clone(), other.clone()).await,
        Err(Error::Braked { .. })
    ));
    let import =
        handle.import(Action::Block, list("203.0.113.1\n203.0.113.5\n"), ImportOptions::default(), app());
    assert!(matches!(import.await, Err(Error::Braked { .. })));
    until(&handle, "the warning", |summary| {
        summary.warnings.iter().any(|warning| warning.starts_with("3 new blocks of applications"))
    })
    .await;
    assert_eq!(setup.lists().len(), 4);
    // An operator is not held back, for whomever.
    let feed = AddRequest { owner: Some("feed:spam".to_owned()), ..asked(&["203.0.113.6", "203.0.113.7"]) };
    handle.add(Action::Block, feed, uid()).await.unwrap();
    handle.import(Action::Block, list("203.0.113.8\n"), ImportOptions::default(), uid()).await.unwrap();
    SECONDS.fetch_add(39, Ordering::Relaxed);
    assert!(handle.add(Action::Block, asked(&["203.0.113.4"]), app()).await.is_err());
    SECONDS.fetch_add(1, Ordering::Relaxed);
    // What was refused did not make the offender worse.
    let done = handle.add(Action::Block, escalate, other).await.unwrap();
    assert_eq!(done.escalated[0].level, 1);
    let import =
        handle.import(Action::Block, list("203.0.113.1\n203.0.113.5\n"), ImportOptions::default(), app());
    assert_eq!(import.await.unwrap().added, 1);
}

#[tokio::test]
async fn reports_beyond_the_brake_count_but_do_not_block() {
    let mut setup = Setup::with(FEW);
    let handle = setup.start();
    let response = handle.report((1..=5).map(scraping).collect(), None, app()).await.unwrap();
    assert_eq!((response.counted, response.blocks, response.refused), (5, 3, 2));
    assert!(response.items[0].starts_with("203.0.113.4 is not blocked: the brake on ban storms holds"));
    assert_eq!(setup.lists().len(), 3);
    // Whoever is blocked already is no more of a storm.
    let response = handle.report(vec![scraping(1)], None, app()).await.unwrap();
    assert_eq!((response.counted, response.blocks, response.refused), (1, 0, 0));
    let response = handle.report(vec![scraping(4)], None, uid()).await.unwrap();
    assert_eq!(response.blocks, 1);
    // Another number counts as soon as it is configured, and none is none.
    setup.more = FEW.replace("= 3", "= 4");
    handle.reload(setup.config()).await.unwrap();
    let response = handle.report(vec![scraping(5), scraping(6)], None, app()).await.unwrap();
    assert_eq!((response.blocks, response.refused), (1, 1));
    setup.more = FEW.replace("= 3", "= false");
    handle.reload(setup.config()).await.unwrap();
    let response = handle.report((10..=90).map(scraping).collect(), None, app()).await.unwrap();
    assert_eq!((response.blocks, response.refused), (81, 0));
}

#[tokio::test]
async fn a_proxy_is_neither_blocked_nor_counted() {
    let mut setup = Setup::with(FEW);
    let handle = setup.start();
    let why =
        "198.51.100.7 lies in 198.51.100.0/24, a trusted proxy: report the client behind it, not the proxy";
    let report = Report { address: [198, 51, 100, 7].into(), ..scraping(0) };
    let response = handle.report(vec![report], None, app()).await.unwrap();
    assert_eq!((response.counted, response.refused), (0, 1));
    assert_eq!(response.items, [why]);
    for caller in [app(), uid()] {
        let error = handle.add(Action::Block, asked(&["198.51.100.7"]), caller).await.unwrap_err();
        let Error::Guarded { items, .. } = error else { panic!("{error:?}") };
        assert_eq!(items, [why]);
    }
    handle.add(Action::Allow, asked(&["198.51.100.0/24"]), uid()).await.unwrap();
    let force = AddRequest { force: true, ..asked(&["198.51.100.7"]) };
    handle.add(Action::Block, force, uid()).await.unwrap();
    setup.more = FEW.replace("198.51.100.0/24", "203.0.113.0/24");
    let changes = handle.reload(setup.config()).await.unwrap();
    assert_eq!(changes, ["1 prefixes are trusted proxies"]);
    setup.more = FEW.replace("198.51.100.0/24\"", "198.51.100.7\", \"203.0.113.0/24\"");
    let changes = handle.reload(setup.config()).await.unwrap();
    assert!(changes[1].starts_with("1 blocks overlap what is guarded now"), "{changes:?}");
}

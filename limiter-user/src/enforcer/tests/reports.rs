//! From reports to blocks.

use super::*;
use crate::control::protocol::Blocked;

const POLICIES: &str = r#"
protected = ["192.0.2.0/24"]
[[policy]]
category = "login_failed"
threshold = 5
within = "1m"
block = "10m"
[[policy]]
category = "login_failed"
per = "account"
threshold = 8
within = "1m"
block = "5m"
[[policy]]
category = "scraping"
threshold = 1
within = "1s"
block = "escalate"
"#;

fn report(address: &str, category: &str) -> Report {
    let category = category.to_owned();
    Report { address: address.parse().unwrap(), category, weight: 1, account: None, device: None }
}

fn app() -> Caller {
    Caller { owner: "app:checkout".parse().unwrap(), actor: "token:7f3a".into() }
}

async fn send(handle: &Handle, reports: Vec<Report>) -> ReportResponse {
    handle.report(reports, None, app()).await.unwrap()
}

#[tokio::test]
async fn the_fifth_report_blocks_and_is_durable() {
    let setup = Setup::with(POLICIES);
    let handle = setup.start();
    let failed = report("203.0.113.7", "login_failed");
    for _ in 0..4 {
        let expected = ReportResponse { counted: 1, ..ReportResponse::default() };
        assert_eq!(send(&handle, vec![failed.clone()]).await, expected);
    }
    assert_eq!(setup.lists(), Vec::<String>::new());
    let response = send(&handle, vec![failed]).await;
    let reason = "login_failed: 5 within 1m".to_owned();
    let blocked = vec![Blocked { prefix: "203.0.113.7".to_owned(), seconds: 600, reason: reason.clone() }];
    assert_eq!(response, ReportResponse { counted: 1, blocks: 1, blocked, ..ReportResponse::default() });
    assert_eq!(setup.lists(), ["203.0.113.7 b1600"]);
    let claims = claims(&handle, Action::Block).await;
    let [claim] = claims.as_slice() else { panic!("{claims:?}") };
    let said = (claim.owner.as_str(), claim.actor.as_deref(), claim.reason.as_deref());
    assert_eq!(said, ("app:checkout", Some("token:7f3a"), Some(reason.as_str())));
    handle.shutdown().await;
    let again = Setup { kernel: MemoryDataplane::new(1_000), ..setup };
    again.start().shutdown().await;
    assert_eq!(again.lists(), ["203.0.113.7 b1600"]);
}

#[tokio::test]
async fn what_is_guarded_is_refused_and_the_rest_is_counted() {
    let setup = Setup::with(POLICIES);
    let handle = setup.start();
    let reports = ["192.0.2.1", "203.0.113.9", "127.0.0.1", "203.0.113.9"];
    let mut reports: Vec<Report> = reports.iter().map(|from| report(from, "scraping")).collect();
    reports.push(report("203.0.113.9", "coffee"));
    let response = send(&handle, reports).await;
    assert_eq!((response.counted, response.unknown, response.refused, response.blocks), (2, 1, 2, 1));
    assert_eq!(
        response.items,
        [
            "192.0.2.1 lies in 192.0.2.0/24, protected by the configuration",
            "127.0.0.1 lies in 127.0.0.0/8, the loopback"
        ]
    );
    assert_eq!(setup.lists(), ["203.0.113.9 b1600"]);
}

/// One policy more than one block: they stand and fall together.
#[tokio::test]
async fn all_that_was_seen_with_an_account_is_blocked() {
    let setup = Setup::with(POLICIES);
    let handle = setup.start();
    let with = |n: u8| Report {
        account: Some("alice".to_owned()),
        ..report(&format!("203.0.113.{n}"), "login_failed")
    };
    let response = send(&handle, (1..=7).map(with).collect()).await;
    assert_eq!((response.counted, response.blocks), (7, 0));
    // The eighth of the account, and the fifth of one address.
    let response = send(&handle, vec![with(1), with(1), with(1), with(1)]).await;
    assert_eq!((response.counted, response.blocks), (4, 8), "{response:?}");
    let mut expected = vec!["203.0.113.1 b1600".to_owned()];
    expected.extend((2..=7).map(|n| format!("203.0.113.{n} b1300")));
    assert_eq!(setup.lists(), expected);
}

#[tokio::test]
async fn repeated_offences_last_longer_but_not_longer_than_the_caller_may() {
    clock!(SECONDS, clock);
    let setup = Setup::with(POLICIES);
    let handle = setup.start_at(clock, BOOT);
    let scraping = || vec![report("203.0.113.7", "scraping")];
    let mut lasted = Vec::new();
    for most in [None, None, Some(60), None] {
        let response = handle.report(scraping(), most, app()).await.unwrap();
        let [blocked] = response.blocked.as_slice() else { panic!("{response:?}") };
        lasted.push(blocked.seconds);
        SECONDS.fetch_add(blocked.seconds + 1, Ordering::Relaxed);
    }
    // What was cut short stays on its step until it would have ended.
    assert_eq!(lasted, [600, 3600, 60, 86_400]);
    // A block for longer is not made shorter by another policy.
    SECONDS.fetch_sub(1_000, Ordering::Relaxed);
    let failed = vec![report("203.0.113.7", "login_failed"); 5];
    let response = send(&handle, failed).await;
    assert_eq!((response.counted, response.blocks), (5, 0), "{response:?}");
}

#[tokio::test]
async fn a_reload_brings_other_policies() {
    let mut setup = Setup::with(POLICIES);
    let handle = setup.start();
    send(&handle, vec![report("203.0.113.7", "login_failed"); 4]).await;
    setup.more = POLICIES.replace("\"scraping\"", "\"coffee\"");
    handle.reload(setup.config()).await.unwrap();
    assert_eq!(send(&handle, vec![report("203.0.113.8", "scraping")]).await.unknown, 1);
    assert_eq!(send(&handle, vec![report("203.0.113.8", "coffee")]).await.blocks, 1);
    // What did not change goes on counting.
    assert_eq!(send(&handle, vec![report("203.0.113.7", "login_failed")]).await.blocks, 1);
}

/// Each waits for the same commit, or for one of its own: what is told is there.
#[tokio::test]
async fn reports_between_other_requests() {
    // Nobody waits before their turn comes.
    let setup = Setup::with(&format!("{POLICIES}[guards]\npeers_share = false\n"));
    let handle = setup.start();
    let allow = handle.add(Action::Allow, asked(&["203.0.113.7"]), uid());
    let scraped = handle.report(vec![report("203.0.113.7", "scraping")], None, app());
    let removed = handle.remove(Action::Block, gone(&["203.0.113.7"]), app());
    let (allow, scraped, removed) = tokio::join!(allow, scraped, removed);
    assert_eq!((allow.unwrap().added, scraped.unwrap().blocks, removed.unwrap().removed), (1, 1, 1));
    assert_eq!(setup.lists(), ["203.0.113.7 a"]);
}

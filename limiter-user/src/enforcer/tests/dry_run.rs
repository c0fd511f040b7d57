//! Requests that change nothing, and say the same as if they did.

use super::*;
use crate::config::lists::parse;

/// Everything that can be seen from outside.
async fn state(setup: &Setup, handle: &Handle) -> (Vec<String>, Vec<Claim>, Vec<Claim>) {
    (setup.lists(), claims(handle, Action::Block).await, claims(handle, Action::Allow).await)
}

fn dry(request: AddRequest) -> AddRequest {
    AddRequest { dry_run: true, ..request }
}

fn not_dry(response: AddResponse) -> AddResponse {
    AddResponse { dry_run: false, cuts: None, ..response }
}

#[tokio::test]
async fn adding_says_what_would_be() {
    let setup = Setup::with("protected = [\"192.0.2.0/24\"]\n");
    let handle = setup.start();
    handle.add(Action::Block, asked(&["203.0.113.1"]), uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["198.51.100.0/24"]), uid()).await.unwrap();
    let before = state(&setup, &handle).await;
    let requests = [
        // Whoever is allowed is not cut off, and nobody is twice.
        (asked(&["203.0.113.0/24", "198.51.100.77"]), 1),
        (AddRequest { seconds: Some(60), ..asked(&["203.0.113.1", "2001:db8::/64", "203.0.113.64/26"]) }, 2),
        (AddRequest { escalate: true, ..asked(&["203.0.113.9"]) }, 0),
    ];
    let mut said = Vec::new();
    for (request, cuts) in &requests {
        for _ in 0..2 {
            let response = handle.add(Action::Block, dry(request.clone()), uid()).await.unwrap();
            assert!(response.dry_run);
            assert_eq!(response.cuts, Some(*cuts), "{request:?}");
            said.push(not_dry(response));
            assert_eq!(state(&setup, &handle).await, before);
        }
    }
    assert_eq!((said[0].added, said[0].shadowed_by_allow.len(), said[2].updated), (2, 1, 1));
    let refused = handle.add(Action::Block, dry(asked(&["203.0.113.7", "192.0.2.9"])), uid()).await;
    let Err(Error::Guarded { items, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(items, ["192.0.2.9 lies in 192.0.2.0/24, protected by the configuration"]);
    let allowed = handle.add(Action::Allow, dry(asked(&["203.0.113.77"])), uid()).await.unwrap();
    assert_eq!((allowed.added, allowed.cuts), (1, Some(0)));
    // Nothing is left of them: the same requests do what was said.
    for ((request, _), said) in requests.into_iter().zip(said.chunks(2)) {
        let done = handle.add(Action::Block, request, uid()).await.unwrap();
        let done = AddResponse { before: None, ..done };
        assert_eq!([&done, &done], [&said[0], &said[1]]);
    }
    // They are blocked by now.
    let again = handle.add(Action::Block, dry(asked(&["203.0.113.77"])), uid()).await.unwrap();
    assert_eq!((again.added, again.cuts), (1, Some(0)));
}

#[tokio::test]
async fn removing_says_who_would_be_dropped() {
    let setup = Setup::new();
    let handle = setup.start();
    handle.add(Action::Block, asked(&["203.0.113.0/24", "2001:db8::77"]), uid()).await.unwrap();
    let feed = AddRequest { owner: Some("feed:spam".to_owned()), ..asked(&["203.0.113.0/24"]) };
    handle.add(Action::Block, feed, uid()).await.unwrap();
    handle.add(Action::Allow, asked(&["203.0.113.77", "198.51.100.77"]), uid()).await.unwrap();
    let before = state(&setup, &handle).await;
    let dry = |prefixes: &[&str]| RemoveRequest { dry_run: true, ..gone(prefixes) };
    let response =
        handle.remove(Action::Allow, dry(&["203.0.113.77", "198.51.100.77", "192.0.2.1"]), uid()).await;
    let expected = RemoveResponse {
        removed: 2,
        missing: vec!["192.0.2.1".to_owned()],
        dry_run: true,
        cuts: Some(1),
        ..RemoveResponse::default()
    };
    assert_eq!(response, Ok(expected));
    let response = handle.remove(Action::Block, dry(&["203.0.113.0/24"]), uid()).await.unwrap();
    assert_eq!((response.removed, response.cuts), (1, Some(0)));
    assert_eq!(response.still_listed, ["203.0.113.0/24 by feed:spam"]);
    let all = RemoveRequest { owner: Some("operator".to_owned()), all: true, ..dry(&[]) };
    let response = handle.remove(Action::Block, all, uid()).await.unwrap();
    assert_eq!((response.removed, response.dry_run), (2, true));
    assert_eq!(state(&setup, &handle).await, before);
}

#[tokio::test]
async fn an_import_says_what_would_be() {
    let setup = Setup::new();
    let handle = setup.start();
    handle.add(Action::Block, asked(&["10.0.0.1"]), uid()).await.unwrap();
    let before = state(&setup, &handle).await;
    // More than one part.
    let text: String = (0..20_000).map(|n| format!("10.0.{}.{}\n", n / 256, n % 256)).collect();
    let text = format!("{text}203.0.113.77\n");
    let options = ImportOptions { dry_run: true, ..ImportOptions::default() };
    let response = handle.import(Action::Block, parse(text.as_bytes()), options.clone(), uid()).await;
    let expected =
        AddResponse { added: 20_000, unchanged: 1, dry_run: true, cuts: Some(1), ..AddResponse::default() };
    assert_eq!(response, Ok(expected));
    let wrong = handle.import(Action::Block, parse(b"10.0.0.1\nx\n"), options, uid()).await;
    assert!(matches!(wrong, Err(Error::Invalid { .. })), "{wrong:?}");
    assert_eq!(state(&setup, &handle).await, before);
}

#[tokio::test]
async fn a_dry_run_is_no_storm_but_says_that_the_request_would_be() {
    let setup = Setup::with("[guards]\nblocks_per_minute = 2\n");
    let handle = setup.start();
    let app = || Caller { owner: "app:checkout".parse().unwrap(), actor: "token:7f3a".into() };
    for _ in 0..3 {
        handle.add(Action::Block, dry(asked(&["192.0.2.1", "192.0.2.2"])), app()).await.unwrap();
        let more = dry(asked(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
        assert!(matches!(handle.add(Action::Block, more, app()).await, Err(Error::Braked { .. })));
    }
    assert_eq!(handle.summary().borrow().warnings, Vec::<String>::new());
    handle.add(Action::Block, asked(&["192.0.2.1", "192.0.2.2"]), app()).await.unwrap();
}

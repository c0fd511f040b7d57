use super::*;
use crate::control::client::{EventStream, Heard};
use crate::control::protocol::{Event, Happened, Report};
use crate::control::server::events::MAX_LISTENERS;

async fn next(events: &mut EventStream) -> Event {
    let heard = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
    match heard.expect("an event").unwrap() {
        Some(Heard::Event(event)) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_that_happens_is_told() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    client.add(Action::Block, &add(&["192.0.2.1"])).await.unwrap();
    let mut events = client.events().await.unwrap();

    client.add(Action::Block, &add(&["192.0.2.7", "2001:db8::/32"])).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.event, event.action, event.count), (Happened::Added, Action::Block, 2));
    assert_eq!(event.prefixes, ["192.0.2.7", "2001:db8::/32"]);
    assert_eq!(event.owner.as_deref(), Some("operator"));
    assert_eq!(event.reason.as_deref(), Some("a test"));
    assert_eq!(event.expires.as_deref(), Some("2026-01-01T13:00:00Z"));
    assert!(event.actor.is_some_and(|actor| actor.starts_with("uid:")));

    // What changes nothing is no event.
    client.add(Action::Block, &add(&["192.0.2.7"])).await.unwrap();
    client.add(Action::Block, &add(&["10.0.0.1"])).await.unwrap_err();
    let event = next(&mut events).await;
    assert_eq!(
        (event.event, event.prefixes.as_slice()),
        (Happened::Refused, ["10.0.0.1".to_owned()].as_slice())
    );
    assert!(event.why.is_some());

    let request = RemoveRequest { prefixes: vec!["192.0.2.7".to_owned()], ..RemoveRequest::default() };
    client.remove(Action::Block, &request).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.event, event.count), (Happened::Removed, 1));

    let address = "198.51.100.9".parse().unwrap();
    let category = "login_failed".to_owned();
    let report = Report { address, category, weight: 5, account: None, device: None };
    client.report(&[report]).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!(
        (event.event, event.prefixes.as_slice()),
        (Happened::Added, ["198.51.100.9".to_owned()].as_slice())
    );

    let lines = stream::iter([Ok(Bytes::from("203.0.113.1\n203.0.113.2\n"))]);
    client.import(lines, &ImportOptions::default()).await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.event, event.count, event.expires), (Happened::Added, 2, None));
    assert_eq!(event.prefixes, ["203.0.113.1", "203.0.113.2"]);

    let request = RemoveRequest { owner: Some("operator".to_owned()), all: true, ..RemoveRequest::default() };
    let removed = client.remove(Action::Block, &request).await.unwrap().removed;
    let event = next(&mut events).await;
    assert_eq!((event.event, event.count), (Happened::Removed, removed));
    fixture.end().await;
}

#[tokio::test]
async fn listeners_are_bounded_and_end_with_the_daemon() {
    let fixture = Fixture::new().await;
    let mut listeners = Vec::new();
    for _ in 0..MAX_LISTENERS[0] {
        listeners.push(fixture.client.events().await.unwrap());
    }
    match fixture.client.events().await {
        Err(ClientError::Refused(problem)) => assert_eq!(problem.kind, ProblemKind::Busy),
        other => panic!("{other:?}"),
    }
    // A place is free when its listener has gone.
    listeners.pop();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match fixture.client.events().await {
            Ok(_) => break,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
    let begun = std::time::Instant::now();
    fixture.end().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for mut listener in listeners {
        assert_eq!(listener.next().await.unwrap(), None);
    }
}

/// Who does not read misses events, and hears how many; nobody waits for them.
#[tokio::test]
async fn who_is_slow_hears_what_was_missed() {
    let events = enforcer::Events::default();
    let mut slow = events.listen();
    for count in 0..2000 {
        events.tell(|| Event { count, ..enforcer::events::blank(Happened::Added, Action::Block, noon()) });
    }
    let missed = match slow.recv().await {
        Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => missed,
        other => panic!("{other:?}"),
    };
    assert_eq!((missed, slow.recv().await.unwrap().count), (976, 976));
}

//! What the audit trail says of requests.

use serde_json::Value;

use super::*;

impl Fixture {
    /// The records so far.
    fn trail(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("state/audit/audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn changes_and_refusals_are_written_down_before_they_are_answered() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    client.add(Action::Block, &add(&["192.0.2.1", "192.0.2.2"])).await.unwrap();
    let refused = client.add(Action::Block, &add(&["10.0.0.1"])).await;
    assert_eq!(kind(refused), ProblemKind::Guarded);
    let prefixes = vec!["192.0.2.1".to_owned()];
    client.remove(Action::Block, &RemoveRequest { prefixes, ..RemoveRequest::default() }).await.unwrap();
    // Nothing is changed by these.
    client.add(Action::Block, &add(&["192.0.2.2"])).await.unwrap();
    all(client, Action::Block).await;
    // Not even understood.
    fixture
        .raw(b"POST /v1/blocks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{")
        .await;
    let records = fixture.trail();
    let field = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let told: Vec<_> = records
        .iter()
        .map(|record| (field(record, "what"), record["count"].as_u64().unwrap(), field(record, "outcome")))
        .collect();
    let expected = [
        ("block.add", 2, "done"),
        ("block.add", 1, "refused"),
        ("block.remove", 1, "done"),
        ("POST /v1/blocks", 0, "refused"),
    ];
    assert_eq!(told, expected.map(|(what, count, outcome)| (what.to_owned(), count, outcome.to_owned())));
    let uid = format!("uid:{}", rustix::process::geteuid().as_raw());
    assert!(records.iter().all(|record| record["actor"] == uid && record["owner"] == "operator"));
    assert_eq!(records[0]["after"], "for 1h: 2 new, 0 updated, 0 as before");
    assert_eq!(records[0]["subjects"], serde_json::json!(["192.0.2.1", "192.0.2.2"]));
    assert_eq!(records[0]["reason"], "a test");
    assert!(field(&records[1], "why").contains("1 refused"), "{}", records[1]);
    assert!(field(&records[3], "why").contains("not as expected"), "{}", records[3]);
    let found = crate::audit::verify(&fixture.directory.path().join("state/audit")).unwrap();
    assert_eq!((found.problems.len(), found.records), (0, 4));
    fixture.end().await;
}

#[tokio::test]
async fn who_hangs_up_while_something_is_done_has_it_on_record() {
    let mut fixture = Fixture::new().await;
    let mut stream = UnixStream::connect(&fixture.path).await.unwrap();
    stream.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let Some(Request::Reload(None, reply)) = fixture.daemon.recv().await else { panic!("no reload") };
    stream.shutdown().await.unwrap();
    // The server gives the connection up.
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server closes").unwrap();
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    reply.send(Ok(Reloaded::default())).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while fixture.trail().iter().all(|record| record["what"] != "config.reload") {
        assert!(tokio::time::Instant::now() < deadline, "it is not on record");
        tokio::task::yield_now().await;
    }
    fixture.end().await;
}

#[tokio::test]
async fn nobody_without_a_name_fills_the_trail() {
    let fixture = Fixture::new().await;
    // Like a caller whom the socket does not know.
    let origin = Origin::Socket { uid: 1234, role: None };
    let router = fixture.app.router.clone().layer(axum::Extension(origin));
    for _ in 0..100 {
        let request = axum::http::Request::get("/v1/status").body(axum::body::Body::empty()).unwrap();
        let answer = hyper::service::Service::call(
            &hyper_util::service::TowerToHyperService::new(router.clone()),
            request,
        );
        assert_eq!(answer.await.unwrap().status(), 403);
    }
    let records = fixture.trail();
    assert_eq!(records.len(), 60);
    let (actor, what) = (records[0]["actor"].as_str(), records[0]["what"].as_str());
    assert_eq!((actor, what), (Some("uid:1234"), Some("GET /v1/status")));
    fixture.end().await;
}

#[tokio::test]
async fn a_dry_run_is_no_change_but_its_refusal_is_told() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    let dry = |prefixes: &[&str]| AddRequest { dry_run: true, ..add(prefixes) };
    let response = client.add(Action::Block, &dry(&["203.0.113.0/24"])).await.unwrap();
    assert_eq!((response.added, response.dry_run, response.cuts), (1, true, Some(1)));
    let remove = RemoveRequest {
        prefixes: vec!["203.0.113.0/24".to_owned()],
        dry_run: true,
        ..RemoveRequest::default()
    };
    assert_eq!(client.remove(Action::Block, &remove).await.unwrap().missing, ["203.0.113.0/24"]);
    assert_eq!(kind(client.add(Action::Block, &dry(&["10.0.0.1"])).await), ProblemKind::Guarded);
    let told: Vec<Value> = fixture.trail().into_iter().map(|mut record| record["what"].take()).collect();
    assert_eq!(told, ["block.add-dry-run"]);
    assert_eq!(fixture.tables.lists().len(), 0);
    fixture.end().await;
}

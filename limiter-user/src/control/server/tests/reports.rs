//! `POST /v1/reports`.

use super::*;
use crate::control::protocol::{Report, ReportResponse};

fn failed(address: &str) -> Report {
    Report {
        address: address.parse().unwrap(),
        category: "login_failed".to_owned(),
        weight: 1,
        account: Some("alice".to_owned()),
        device: None,
    }
}

/// A request with this content, and the status and body of its answer.
async fn post(fixture: &Fixture, media: &str, content: &str) -> (u16, String) {
    let request = format!(
        "POST /v1/reports HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media}\r\nContent-Length: \
         {}\r\n\r\n{content}",
        content.len()
    );
    let answer = fixture.raw(request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn five_failed_logins_are_a_block() {
    let fixture = Fixture::new().await;
    for _ in 0..4 {
        let response = fixture.client.report(&[failed("203.0.113.7")]).await.unwrap();
        assert_eq!(response, ReportResponse { counted: 1, ..ReportResponse::default() });
    }
    let response = fixture.client.report(&[failed("203.0.113.7")]).await.unwrap();
    assert_eq!((response.counted, response.blocks), (1, 1));
    let [claim] = &all(&fixture.client, Action::Block).await[..] else { panic!("one block") };
    assert_eq!((claim.prefix.as_str(), claim.seconds_left), ("203.0.113.7", Some(600)));
    assert_eq!(fixture.tables.lists().len(), 1);
    fixture.end().await;
}

#[tokio::test]
async fn batches_and_streams() {
    let fixture = Fixture::new().await;
    let reports: Vec<Report> =
        (0..10).map(|n| failed(if n % 2 == 0 { "203.0.113.1" } else { "10.0.0.1" })).collect();
    let response = fixture.client.report(&reports).await.unwrap();
    assert_eq!((response.counted, response.refused, response.blocks), (5, 5, 1));
    assert_eq!(response.items[0], "10.0.0.1 lies in 10.0.0.0/8, protected by the configuration");

    let line = r#"{"address":"2001:db8::7","category":"login_failed"}"#;
    let (status, body) =
        post(&fixture, "application/x-ndjson", &format!("{line}\n{line}\n\n{line}\r\n{line}\n{line}")).await;
    let response: ReportResponse = serde_json::from_str(&body).unwrap();
    assert_eq!((status, response.counted, response.blocks), (200, 5, 1), "{body}");
    assert_eq!(response.blocked[0].prefix, "2001:db8::/64");
    let many = format!("{line}\n").repeat(2_500);
    let (_, body) = post(&fixture, "application/x-ndjson", &many).await;
    let response: ReportResponse = serde_json::from_str(&body).unwrap();
    // Blocked for as long already: nothing new.
    assert_eq!((response.counted, response.blocks), (2_500, 0), "{body}");
    fixture.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_report() {
    let fixture = Fixture::new().await;
    let json = "application/json";
    let guarded = r#"{"address":"10.0.0.1","category":"login_failed"}"#;
    let long = format!(r#"{{"address":"192.0.2.1","category":"{}"}}"#, "x".repeat(257));
    let line = r#"{"address":"192.0.2.1","category":"login_failed"}"#;
    for (media, content, status, why) in [
        (json, "{", 400, "not as expected"),
        (json, r#"{"address":"gateway","category":"x"}"#, 400, "invalid IP address"),
        (json, r#"{"address":"192.0.2.1"}"#, 400, "missing field `category`"),
        (json, r#"{"address":"192.0.2.1","category":"x","wieght":2}"#, 400, "unknown field `wieght`"),
        (json, r#"[{"address":"192.0.2.1","category":"x","weight":-1}]"#, 400, "invalid value"),
        (json, &long, 400, "1 to 256 bytes"),
        (json, guarded, 409, "10.0.0.1 lies in 10.0.0.0/8, protected by the configuration"),
        ("text/plain", line, 415, "Content-Type"),
        ("application/x-ndjson", &format!("{line}\n{line}\n{{\n"), 400, "line 3: "),
        (
            "application/x-ndjson",
            &format!("{{\"a\":\"{}", "x".repeat(9_000)),
            400,
            "line 1: the line is too long",
        ),
    ] {
        let (answered, body) = post(&fixture, media, content).await;
        assert!(answered == status && body.contains(why), "{content:.60}: {answered} {body}");
    }
    assert_eq!(fixture.tables.lists().len(), 0);
    fixture.end().await;
}

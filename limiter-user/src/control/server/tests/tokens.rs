//! Tokens over the control socket and over the network.

use super::*;
use crate::control::protocol::{RotateRequest, TokenRequest};

fn request(name: &str, scopes: &[&str]) -> TokenRequest {
    TokenRequest {
        name: name.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        max_seconds: Some(3600),
        max_prefix: Some(32),
        per_minute: Some(1000),
        from: vec!["10.0.0.0/8".to_owned()],
        expires_in: Some(90 * 24 * 3600),
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> Problem {
    match outcome {
        Err(ClientError::Refused(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_life_of_a_token() {
    let fixture = Fixture::new().await;
    let client = &fixture.client;
    let made = client.create_token(&request("checkout", &["report:host", "block:host"])).await.unwrap();
    let id = made.known.id.clone();
    assert!(made.token.starts_with(&format!("lmt_{id}_")), "{}", made.token);
    assert_eq!(made.known.scopes, ["report", "block:host"]);
    assert_eq!(made.known.expires.as_deref(), Some("2026-04-01T12:00:00Z"));
    assert_eq!(
        (made.known.max_seconds, made.known.max_prefix, made.known.per_minute),
        (Some(3600), Some(32), Some(1000))
    );
    assert_eq!(made.known.from, ["10.0.0.0/8"]);
    assert!(made.known.created_by.starts_with("uid:"));
    assert!(!format!("{made:?}").contains(&made.token));

    assert_eq!(client.tokens().await.unwrap().tokens, std::slice::from_ref(&made.known));
    let rotated = client.rotate_token(&id, &RotateRequest { overlap_seconds: 3600 }).await.unwrap();
    assert_ne!(rotated.token, made.token);
    assert_eq!(rotated.known.former_until.as_deref(), Some("2026-01-01T13:00:00Z"));
    let revoked = client.revoke_token(&id).await.unwrap();
    assert_eq!(revoked.revoked.as_deref(), Some("2026-01-01T12:00:00Z"));
    assert_eq!(client.tokens().await.unwrap().tokens, [revoked]);
    // Neither the list nor what is kept has a secret.
    let listed = fixture.raw(b"GET /v1/tokens HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(listed.contains(&id) && !listed.contains("lmt_"), "{listed}");

    assert_eq!(refused(client.revoke_token("aaaaaaaa").await).status, 404);
    assert_eq!(refused(client.rotate_token("aaaaaaaa", &RotateRequest::default()).await).status, 404);
    assert_eq!(refused(client.rotate_token(&id, &RotateRequest::default()).await).status, 400);
    fixture.end().await;
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let fixture = Fixture::new().await;
    let odd = TokenRequest {
        scopes: vec!["write".to_owned(), "read".to_owned(), "block:prefix/4".to_owned()],
        max_seconds: Some(0),
        max_prefix: Some(33),
        per_minute: Some(0),
        from: vec!["10.0.0.0/33".to_owned()],
        expires_in: Some(u64::MAX),
        name: "x".to_owned(),
    };
    let problem = refused(fixture.client.create_token(&odd).await);
    assert_eq!((problem.status, problem.items.len()), (400, 7), "{:?}", problem.items);
    let problem = refused(fixture.client.create_token(&request("a b", &["read"])).await);
    assert!(problem.detail.contains("name"), "{}", problem.detail);
    assert_eq!(fixture.client.tokens().await.unwrap().tokens, []);
    fixture.end().await;
}

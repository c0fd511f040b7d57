use axum::body::Body;
use axum::routing::{get, post};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

/// A body that never ends, and one that comes too slowly to be seen.
fn router() -> Router {
    let endless = async || Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 4096])));
    let silent = async || Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    let slow = async || tokio::time::sleep(Duration::from_secs(600)).await;
    let read = async |body: String| body;
    Router::new()
        .route("/endless", get(endless))
        .route("/silent", get(silent))
        .route("/slow", get(slow))
        .route("/read", post(read))
}

/// Sends `request`, and reads until the server closes. Also how long that took.
async fn answer_for(activity: Arc<Activity>, request: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let server = tokio::spawn(serve_connection(near, Version::Http1, router(), activity, stopping));
    far.write_all(request).await.unwrap();
    let mut answer = String::new();
    far.read_to_string(&mut answer).await.unwrap();
    server.await.unwrap();
    (answer, begun.elapsed())
}

async fn answer(request: &[u8]) -> String {
    answer_for(Activity::local(), request).await.0
}

/// The clock stands still and jumps when nothing else is to be done: to the deadlines.
#[tokio::test(start_paused = true)]
async fn slow_peers_are_cut_off() {
    assert_eq!(answer(b"").await, "");
    assert_eq!(answer(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await, "");
    // Answered, and then silent.
    let kept = answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(kept.starts_with("HTTP/1.1 404 "), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn nobody_in_particular_gets_less_time() {
    let seconds = |(_, took): (String, Duration)| took.as_secs_f64();
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let patience = Patience::REMOTE;
    for request in [b"" as &[u8], b"GET / HTT", get] {
        let took = seconds(answer_for(Activity::new(patience), request).await);
        let longest = patience.first.as_secs_f64() + 2.0 * LOOK.as_secs_f64();
        assert!((patience.first.as_secs_f64()..=longest).contains(&took), "{took} s");
    }
    let known = Activity::new(patience);
    known.prove();
    let took = seconds(answer_for(known, get).await);
    assert!(took >= patience.idle.as_secs_f64(), "{took} s");
    // Headers that begin after a pause have their own deadline.
    let known = Activity::new(patience);
    known.prove();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let server = tokio::spawn(serve_connection(near, Version::Http1, router(), known, stopping));
    far.write_all(get).await.unwrap();
    assert!(far.read(&mut [0; 4096]).await.unwrap() > 0);
    tokio::time::sleep(patience.idle / 2).await;
    let begun = Instant::now();
    far.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    server.await.unwrap();
    let took = begun.elapsed();
    assert!(took >= patience.headers && took < patience.headers + 3 * LOOK, "{took:?}");
}

/// What takes this side long is no reason to cut the peer off; what the peer does not take is.
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_are_given_up() {
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    let activity = || {
        let activity = Activity::new(Patience::REMOTE);
        activity.prove();
        activity
    };
    let (text, took) = answer_for(activity(), &request("/slow")).await;
    assert!(text.starts_with("HTTP/1.1 200 ") && took.as_secs() >= 600, "{took:?} {text}");

    let (near, mut far) = UnixStream::pair().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let begun = Instant::now();
    let server = tokio::spawn(serve_connection(near, Version::Http1, router(), activity(), stopping));
    far.write_all(&request("/endless")).await.unwrap();
    server.await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Patience::REMOTE.stalled && took < 2 * Patience::REMOTE.stalled, "{took:?}");

    // An answer in which nothing happens goes on until the connection is old, and the stop ends it.
    let (near, mut far) = UnixStream::pair().unwrap();
    let (stop, stopping) = watch::channel(false);
    let server = tokio::spawn(serve_connection(near, Version::Http1, router(), activity(), stopping));
    far.write_all(&request("/silent")).await.unwrap();
    tokio::time::sleep(10 * Patience::REMOTE.idle).await;
    assert!(!server.is_finished());
    stop.send_replace(true);
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_idle_connections() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let (stop, stopping) = watch::channel(false);
    let server =
        tokio::spawn(serve_connection(near, Version::Http1, Router::new(), Activity::local(), stopping));
    stop.send_replace(true);
    let before = Instant::now();
    server.await.unwrap();
    assert!(before.elapsed() <= GOODBYE, "{:?}", before.elapsed());
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn headers_are_bounded() {
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEADERS as usize));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(MAX_HEADER_COUNT + 1));
    for request in [large, many] {
        let answer = answer(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post};
use futures_util::{StreamExt, stream};
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
        .route("/fine", get(async || "fine"))
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
    let get = b"GET /fine HTTP/1.1\r\nHost: x\r\n\r\n";
    let patience = Patience::REMOTE;
    for request in [b"" as &[u8], b"GET / HTT", get] {
        let took = seconds(answer_for(Activity::new(patience), request).await);
        let longest = patience.first.as_secs_f64() + 2.0 * LOOK.as_secs_f64();
        assert!((patience.first.as_secs_f64()..=longest).contains(&took), "{took} s");
    }
    let known = Activity::new(patience);
    known.prove(|| "somebody".to_owned());
    let took = seconds(answer_for(known, get).await);
    assert!(took >= patience.idle.as_secs_f64(), "{took} s");
    // Nothing but refusals is nothing.
    let known = Activity::new(patience);
    known.prove(|| "somebody".to_owned());
    let took = seconds(answer_for(known, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await);
    assert!(took >= patience.begun.as_secs_f64() && took < patience.idle.as_secs_f64() / 2.0, "{took} s");
    // Headers that begin after a pause have their own deadline.
    let known = Activity::new(patience);
    known.prove(|| "somebody".to_owned());
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
        activity.prove(|| "somebody".to_owned());
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

/// Short answers fit into the buffer, and have ended for HTTP/1.1 before anybody has taken them.
#[tokio::test(start_paused = true)]
async fn who_asks_and_does_not_listen_is_given_up() {
    let known = Activity::new(Patience::REMOTE);
    known.prove(|| "somebody".to_owned());
    let (near, far) = tokio::io::duplex(1024);
    let (mut ears, mut mouth) = tokio::io::split(far);
    let (_stop, stopping) = watch::channel(false);
    let begun = Instant::now();
    let server = tokio::spawn(serve_connection(near, Version::Http1, router(), known, stopping));
    let asking = tokio::spawn(async move {
        let request = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n";
        while mouth.write_all(request).await.is_ok() && mouth.write_all(&[b'x'; 100]).await.is_ok() {}
    });
    // A piece now and then is taken in time.
    for _ in 0..3 {
        tokio::time::sleep(Patience::REMOTE.stalled * 3 / 4).await;
        ears.read_exact(&mut [0; 1024]).await.unwrap();
        assert!(!server.is_finished());
    }
    server.await.unwrap();
    let took = begun.elapsed();
    assert!(took >= 3 * Patience::REMOTE.stalled && took < 4 * Patience::REMOTE.stalled, "{took:?}");
    asking.await.unwrap();
}

/// In HTTP/1.1 the connection ends with the rest of the body, in HTTP/2 it could go on.
#[tokio::test(start_paused = true)]
async fn who_was_too_slow_is_asked_to_leave() {
    let late = async || StatusCode::REQUEST_TIMEOUT;
    let router = router().route("/late", get(late));
    for (path, ends) in [("/late", true), ("/fine", false)] {
        let known = Activity::new(Patience::REMOTE);
        known.prove(|| "somebody".to_owned());
        let (near, far) = tokio::io::duplex(1 << 16);
        let (_stop, stopping) = watch::channel(false);
        let server = tokio::spawn(serve_connection(near, Version::Http2, router.clone(), known, stopping));
        let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far));
        let (mut sender, connection) = client.await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::get(format!("http://x{path}")).body(String::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status() == StatusCode::REQUEST_TIMEOUT, ends);
        tokio::time::sleep(3 * LOOK).await;
        assert_eq!(server.is_finished(), ends, "{path}");
        assert_eq!(sender.ready().await.is_err(), ends, "{path}");
    }
}

/// Pings of HTTP/2, of whichever side, are no requests.
#[tokio::test(start_paused = true)]
async fn who_does_nothing_but_ping_is_idle() {
    let known = Activity::new(Patience::REMOTE);
    known.prove(|| "somebody".to_owned());
    let (near, far) = tokio::io::duplex(1 << 16);
    let (_stop, stopping) = watch::channel(false);
    let server = tokio::spawn(serve_connection(near, Version::Http2, router(), known, stopping));
    let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(1))
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(far));
    let (mut sender, connection) = client.await.unwrap();
    tokio::spawn(connection);
    let mut begun = Instant::now();
    for pause in [Duration::ZERO, Patience::REMOTE.idle / 2, Patience::REMOTE.idle / 2] {
        tokio::time::sleep(pause).await;
        let request = hyper::Request::get("http://x/fine").body(String::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
        begun = Instant::now();
    }
    let ended = tokio::time::timeout(10 * Patience::REMOTE.idle, server).await;
    ended.expect("the connection goes on").unwrap();
    let (took, idle) = (begun.elapsed(), Patience::REMOTE.idle);
    assert!(took >= idle && took < idle + FAREWELL + 3 * LOOK, "{took:?}");
}

/// Who is refused while they send hears why, and is not listened to for ever.
#[tokio::test(start_paused = true)]
async fn who_is_refused_may_finish_within_bounds() {
    let full = async || StatusCode::PAYLOAD_TOO_LARGE;
    let router = router().route("/full", post(full));
    let head = |length: usize| format!("POST /full HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    let known = || {
        let known = Activity::new(Patience::REMOTE);
        known.prove(|| "somebody".to_owned());
        known
    };
    let serve = |near| {
        let (stop, stopping) = watch::channel(false);
        let served = serve_connection(near, Version::Http1, router.clone(), known(), stopping);
        tokio::spawn(async move {
            served.await;
            drop(stop);
        })
    };
    // All of it first, then the answer.
    let (near, mut far) = UnixStream::pair().unwrap();
    let server = serve(near);
    far.write_all(head(linger::MOST).as_bytes()).await.unwrap();
    far.write_all(&vec![b'x'; linger::MOST]).await.unwrap();
    let mut answer = String::new();
    let begun = Instant::now();
    far.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    drop(far);
    server.await.unwrap();
    assert!(
        begun.elapsed() < linger::LONGEST,
        "the peer has ended, and is waited for: {:?}",
        begun.elapsed()
    );

    // Without end.
    let (near, far) = UnixStream::pair().unwrap();
    let server = serve(near);
    let (mut ears, mut mouth) = far.into_split();
    let begun = Instant::now();
    let talking = tokio::spawn(async move {
        let mut said = 0;
        mouth.write_all(head(1 << 30).as_bytes()).await.unwrap();
        while mouth.write_all(&[b'x'; 4096]).await.is_ok() {
            said += 4096;
        }
        said
    });
    let mut answer = [0; 13];
    ears.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413 ");
    server.await.unwrap();
    let took = begun.elapsed();
    assert!(took >= linger::LONGEST && took < linger::LONGEST + LOOK, "{took:?}");
    // And what fits the kernel's buffers.
    let said = talking.await.unwrap();
    assert!((linger::MOST..2 * linger::MOST).contains(&said), "{said}");
}

/// In HTTP/2, a reset behind the answer is taken for a failure by some.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_is_not_reset_at_once() {
    const PIECE: usize = 16 << 10;
    let full = async || StatusCode::PAYLOAD_TOO_LARGE;
    let router = router().route("/full", post(full));
    let known = Activity::new(Patience::REMOTE);
    known.prove(|| "somebody".to_owned());
    let (near, far) = tokio::io::duplex(1 << 16);
    let (_stop, stopping) = watch::channel(false);
    let server = tokio::spawn(serve_connection(near, Version::Http2, router, known, stopping));
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far));
    let (mut sender, connection) = client.await.unwrap();
    tokio::spawn(connection);
    for (pieces, all) in [(linger::MOST / PIECE, true), (100 * linger::MOST / PIECE, false)] {
        let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let pieces_of = stream::iter(0..pieces).map(move |n| {
            // Nobody listens any more when it is over.
            let _ = said.send(n);
            Ok::<_, Infallible>(hyper::body::Frame::data(hyper::body::Bytes::from(vec![b'x'; PIECE])))
        });
        let body = http_body_util::StreamBody::new(pieces_of);
        let request = hyper::Request::post("http://x/full").body(body).unwrap();
        let begun = Instant::now();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
        // Until the body is dropped: at its end, or by the reset.
        let mut taken = 0;
        while hears.recv().await.is_some() {
            taken += 1;
        }
        assert_eq!(taken == pieces, all, "{taken} of {pieces}");
        assert!(taken * PIECE <= 2 * linger::MOST, "{taken}");
        assert_eq!(begun.elapsed() >= linger::LONGEST, !all, "{:?}", begun.elapsed());
        assert!(begun.elapsed() < linger::LONGEST + LOOK);
    }
    assert!(!server.is_finished(), "the connection goes on");
}

/// Answers that wait for their reader make nobody somebody.
#[tokio::test(start_paused = true)]
async fn nobody_stays_by_not_reading() {
    let activity = Activity::new(Patience::REMOTE);
    let begun = Instant::now();
    let mut exchange = activity.exchange();
    while activity.standing(Instant::now()) == Standing::Good {
        exchange.offers();
        assert!(begun.elapsed() < 2 * Patience::REMOTE.first);
        tokio::time::sleep(LOOK).await;
    }
    assert_eq!(activity.standing(Instant::now()), Standing::Overdue);
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

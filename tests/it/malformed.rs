//! Requests that nobody should send, over the control socket and over TLS: each is answered with a refusal or with the end
//! of the connection, and the daemon goes on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use limiter_tests::lab::OUTSIDE;
use limiter_tests::{Dice, in_lab};
use tokio_rustls::rustls::ClientConfig;

use crate::remote::{self, Session};

/// Requests that are sent in all, unless `LIMITER_MALFORMED` says otherwise.
const REQUESTS: usize = 20_000;
/// A benchmarking network (RFC 2544): who gets much wrong has to wait, and so has each of these addresses for itself.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Bodies as they should be.
const BODIES: [&str; 9] = [
    r#"{"prefixes":["192.0.2.7","2001:db8::/64"],"seconds":60,"reason":"a test","force":false}"#,
    r#"{"prefixes":["192.0.2.7"],"escalate":true,"dry_run":true,"confirm_seconds":60,"owner":"app:x","ssh_peer":"192.0.2.1"}"#,
    r#"{"prefixes":["192.0.2.7"],"all_owners":true,"all":false,"expected":7}"#,
    r#"{"address":"192.0.2.7","category":"scraping","weight":3,"account":"alice","device":"d-1"}"#,
    r#"[{"address":"192.0.2.7","category":"scraping"},{"address":"2001:db8::7","category":"other"}]"#,
    "{\"address\":\"192.0.2.7\",\"category\":\"scraping\"}\n{\"address\":\"192.0.2.8\",\"category\":\"scraping\"}\n",
    r#"{"name":"x","scopes":["read","block:prefix/24"],"max_seconds":3600,"per_minute":10,"from":["10.0.0.0/8"],"expires_in":60}"#,
    "192.0.2.7\n2001:db8::/48 # a comment\n; another\n",
    "[[interface]]\nname = \"eth0\"\n[[rule]]\nname = \"r\"\nlimit = [ { per = \"source\", rate = \"10k/s\", burst = 20000 } ]\n",
];

/// Where they belong. Not `detach`, which might be meant.
const PATHS: [&str; 20] = [
    "/v1/blocks",
    "/v1/blocks/remove",
    "/v1/blocks/import",
    "/v1/allows",
    "/v1/allows/remove",
    "/v1/reports",
    "/v1/config/check",
    "/v1/tokens",
    "/v1/tokens/aaaaaaaa/rotate",
    "/v1/tokens/aaaaaaaa/revoke",
    "/v1/changes/1/confirm",
    "/v1/explain?address=192.0.2.7&protocol=udp&port=53",
    "/v1/lookup/192.0.2.7",
    "/v1/blocks?limit=5&owner=operator&cursor=block",
    "/v1/allows?limit=5",
    "/v1/status",
    "/v1/counters",
    "/v1/openapi.json",
    "/healthz",
    "/v1/changes",
];

const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "G E T"];

const TYPES: [&str; 7] = [
    "application/json",
    "application/x-ndjson",
    "text/plain",
    "application/json; charset=\"",
    "application/JSONL;",
    "\u{1}",
    "multipart/form-data; boundary=x",
];

const VERSIONS: [&str; 5] = ["HTTP/0.9", "HTTP/3.0", "HTTP/1.1.1", "", "HTCPCP/1.0"];

/// What queries and paths have that were made by hand.
const PIECES: [&[u8]; 21] = [
    b"%00",
    b"%",
    b"%ff%fe",
    b"..",
    b"//",
    b"?",
    b"&",
    b"=",
    b"#",
    b"*",
    b"+",
    b"-1",
    b"1e9",
    b"99999999999999999999",
    b"::1",
    b"0.0.0.0/0",
    b"%2F",
    b"{id}",
    b"\xc3\xbc",
    b"limit=0",
    b"&cursor=@",
];

/// Headers that say something about the body, or are looked at; some contradict what is sent.
const HEADERS: [&str; 22] = [
    "Content-Length: -1",
    "Content-Length: 18446744073709551616",
    "Content-Length: 5, 6",
    "Content-Length: 0x10",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding : chunked",
    "Expect: 100-continue",
    "Expect: 200-ok",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    "Connection: close, keep-alive, \u{7f}",
    "Host: a\r\nHost: b",
    "Idempotency-Key: ",
    "Idempotency-Key: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "Idempotency-Key: k",
    "X-Request-Id: \"}{\"",
    "Authorization: Bearer lmt_aaaaaaaa_00",
    "Authorization: Basic Og==\r\nAuthorization: Bearer x",
    " folded: line",
    "no colon",
    ": no name",
];

/// A request, and whether its end is where it says.
struct Odd {
    bytes: Vec<u8>,
    framed: bool,
}

/// Something of one kind or another; `token` is good.
fn odd(dice: &mut Dice, token: &str) -> Odd {
    match dice.below(20) {
        0 => noise(dice),
        1 => broken_headers(dice, token),
        2 => broken_chunks(dice, token),
        3..=5 => odd_target(dice, token),
        _ => odd_body(dice, token),
    }
}

fn bearer(token: &str) -> String {
    if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") }
}

/// A request as it should be, but for bytes that were changed anywhere.
fn noise(dice: &mut Dice) -> Odd {
    let body = *dice.of::<&str>(&BODIES);
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        dice.of(&PATHS),
        body.len()
    );
    let mut bytes = request.into_bytes();
    for _ in 0..=dice.below(20) {
        mutate(dice, &mut bytes);
    }
    Odd { bytes, framed: false }
}

fn broken_headers(dice: &mut Dice, token: &str) -> Odd {
    let mut request =
        format!("{} {} HTTP/1.1\r\nHost: x\r\n{}", dice.of(&METHODS), dice.of(&PATHS), bearer(token));
    for _ in 0..=dice.below(3) {
        request += *dice.of::<&str>(&HEADERS);
        request += "\r\n";
    }
    match dice.below(8) {
        0 => request += &"X: x\r\n".repeat(70),
        1 => request += &format!("X: {}\r\n", "x".repeat(20_000)),
        2 => request = request.replacen("HTTP/1.1", dice.of::<&str>(&VERSIONS), 1),
        3 => request = request.replace("\r\n", "\n"),
        _ => {}
    }
    request += "\r\n";
    request += *dice.of::<&str>(&BODIES);
    Odd { bytes: request.into_bytes(), framed: false }
}

fn broken_chunks(dice: &mut Dice, token: &str) -> Odd {
    let mut request = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{}\r\n",
        dice.of(&PATHS),
        bearer(token)
    );
    let sizes = ["5", "0005", "FFFFFFFFFFFFFFFF", "10000000000000000", "-1", "0x5", "", "5;x=\"", " 5", "5 "];
    for _ in 0..=dice.below(3) {
        request += &format!("{}\r\n12345\r\n", dice.of(&sizes));
    }
    request += *dice.of::<&str>(&["0\r\n\r\n", "0\r\nTrailer: x\r\n\r\n", "0\r\n: \r\n\r\n", "", "0\n\n"]);
    Odd { bytes: request.into_bytes(), framed: false }
}

/// A path or query that is not as expected.
fn odd_target(dice: &mut Dice, token: &str) -> Odd {
    let mut path = dice.of(&PATHS).as_bytes().to_vec();
    for _ in 0..=dice.below(4) {
        let piece: &[u8] = dice.of::<&[u8]>(&PIECES);
        let at = dice.below(path.len() + 1);
        path.splice(at..at, piece.iter().copied());
    }
    let head = format!(" HTTP/1.1\r\nHost: x\r\n{}Content-Length: 0\r\n\r\n", bearer(token));
    let bytes = [dice.of(&["GET ", "POST "]).as_bytes(), &path, head.as_bytes()].concat();
    Odd { bytes, framed: false }
}

/// The frame of a request as it should be, and a body that is not.
fn odd_body(dice: &mut Dice, token: &str) -> Odd {
    let mut body = dice.of(&BODIES).as_bytes().to_vec();
    match dice.below(12) {
        0 => body = [vec![b'['; 1 + dice.below(2000)], body].concat(),
        1 => body = b"{\"a\":".repeat(1 + dice.below(500)),
        2 => body.truncate(dice.below(body.len())),
        3 => body = (0..dice.below(300)).map(|_| dice.byte()).collect(),
        4 => body = replaced(&body, b"192.0.2.7", dice.of::<&[u8]>(&ADDRESSES)),
        5 => body = replaced(&body, b"60", dice.of::<&[u8]>(&NUMBERS)),
        6 => body = replaced(&body, b"scraping", dice.of::<&[u8]>(&TEXTS)),
        _ => {
            for _ in 0..=dice.below(6) {
                mutate(dice, &mut body);
            }
        }
    }
    let mut head = format!("POST {} HTTP/1.1\r\nHost: x\r\n{}", dice.of(&PATHS), bearer(token));
    if dice.one_in(2) {
        head += &format!("Content-Type: {}\r\n", dice.of(&TYPES[..5]));
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    Odd { bytes: [head.into_bytes(), body].concat(), framed: true }
}

const ADDRESSES: [&[u8]; 9] = [
    b"0.0.0.0/0",
    b"::/0",
    b"10.77.0.1",
    b"192.0.2.7/33",
    b"::ffff:192.0.2.7",
    b"1.2.3",
    b"fe80::1%eth0",
    b"\\u0000",
    b"",
];
const NUMBERS: [&[u8]; 9] = [
    b"-1",
    b"0",
    b"1e400",
    b"18446744073709551615",
    b"18446744073709551616",
    b"0.5",
    b"\"60\"",
    b"[60]",
    b"null",
];
const TEXTS: [&[u8]; 6] = [b"", b"\\ud800", b"\x1b[31m", b"\\n\\n", b"\xff\xfe", &[b'x'; 70_000]];

fn replaced(text: &[u8], former: &[u8], new: &[u8]) -> Vec<u8> {
    let found = text.windows(former.len()).position(|window| window == former);
    match found {
        Some(at) => [&text[..at], new, &text[at + former.len()..]].concat(),
        None => text.to_vec(),
    }
}

/// One byte more, less, or another; or some of them twice.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(dice.byte());
    }
    let at = dice.below(bytes.len());
    match dice.below(6) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => bytes[at] = dice.byte(),
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, dice.byte()),
        4 => bytes.insert(at, *dice.of(b"{}[]\",:\\/0-e\0\r\n")),
        _ => {
            let end = (at + 1 + dice.below(16)).min(bytes.len());
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
    }
}

/// How to come back when the connection was closed.
enum Way<'a> {
    Local(&'a Path),
    Remote(Arc<ClientConfig>),
}

/// Sends so many, and counts the answers by their status; 0 stands for none.
fn send(way: &Way<'_>, token: &str, seed: u64, number: usize) -> Result<BTreeMap<u16, usize>> {
    let (mut dice, mut counts) = (Dice::new(seed), BTreeMap::new());
    let mut session: Option<Session> = None;
    for n in 0..number {
        let odd = odd(&mut dice, token);
        let connected = match session.take() {
            Some(session) => session,
            None => match way {
                Way::Local(path) => Session::local(path)?,
                Way::Remote(config) => {
                    let from = Ipv4Addr::from(u32::from(NETWORK) + 1 + u32::try_from(n % 60_000)?);
                    Session::open_from(from, Arc::clone(config))?
                }
            },
        };
        let (status, open) = exchange(connected, &odd).with_context(|| {
            format!("seed {seed}, request {n}: {:?}", String::from_utf8_lossy(&odd.bytes))
        })?;
        *counts.entry(status).or_default() += 1;
        ensure!(
            status < 500,
            "seed {seed}, request {n} is answered with {status}: {:?}",
            String::from_utf8_lossy(&odd.bytes)
        );
        session = open;
    }
    Ok(counts)
}

/// The status of the answer, and the connection if it can be used again.
fn exchange(mut session: Session, odd: &Odd) -> Result<(u16, Option<Session>)> {
    // It may be closed before all is read.
    let sent = session.send(&odd.bytes).is_ok();
    if !odd.framed {
        // Where it ends is anybody's guess: nothing comes after it.
        let _ = session.finish();
        return Ok((session.head()?.map_or(0, |reply| reply.status), None));
    }
    let Some(reply) = session.reply()? else { return Ok((0, None)) };
    let closes = reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let open = (sent && !closes).then_some(session);
    Ok((reply.status, open))
}

#[test]
fn malformed_requests_are_refused() {
    in_lab("malformed", |lab| {
        let requests = match std::env::var("LIMITER_MALFORMED") {
            Ok(number) => number.parse().context("LIMITER_MALFORMED is a number")?,
            Err(_) => REQUESTS,
        };
        lab.outside.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
        lab.host.ip(&format!("route add {NETWORK}/16 via {}", OUTSIDE.v4))?;
        let policy =
            "[[policy]]\ncategory = \"scraping\"\nthreshold = 1000\nwithin = \"1m\"\nblock = \"1h\"\n";
        let (mut daemon, pin) = remote::prepare(lab, "", policy)?;
        remote::launch(&mut daemon)?;
        let pid = daemon.pid()?;
        let scopes = "--scope read --scope report --scope block:prefix/8 --scope allow --scope config";
        let token = daemon.cli.ok(&format!("token create --name odd {scopes}"))?;
        let config = remote::client(pin, b"http/1.1")?;
        let seed = Dice::seed();
        let before = daemon.memory()?;
        let socket = &daemon.places.socket;
        let (local, over_tls) = std::thread::scope(|scope| {
            let local = scope.spawn(|| send(&Way::Local(socket), "", seed, requests / 2));
            let over_tls =
                lab.outside.enter(|| send(&Way::Remote(config), token.trim(), !seed, requests / 2));
            (local.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), over_tls)
        });
        for (way, counts) in [("control socket", local?), ("TLS", over_tls?)] {
            println!("{way}: {counts:?}");
            let refused: usize = counts.range(400..500).map(|(_, number)| number).sum();
            ensure!(refused > requests / 4, "they are not malformed: {counts:?}");
        }
        println!("memory: {} KiB before, {} KiB after", before >> 10, daemon.memory()? >> 10);
        daemon.cli.ok("status")?;
        ensure!(daemon.pid()? == pid && !daemon.log().contains("panicked"), "the daemon has panicked");
        Ok(())
    });
}

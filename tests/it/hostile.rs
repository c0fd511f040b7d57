//! Ten thousand hostile connections to the API over the network, and somebody who works meanwhile.

mod attack;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_tests::daemon::memory;
use limiter_tests::lab::OUTSIDE;
use limiter_tests::{Daemon, in_lab};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_rustls::rustls::ClientConfig;

use crate::remote::{self, Session};
use attack::{Attack, Lasted, Means};

/// So many come at once; none of them has its place for long.
const AT_ONCE: u32 = 5_000;
/// And so many after that, each of which has the time to say something.
const ONE_BY_ONE: u32 = 5_000;
const A_SECOND: u32 = 1_000;
/// A benchmarking network (RFC 2544): each of them has an address of its own.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// What is promised for a connection that does nothing useful.
const LONGEST: Duration = Duration::from_secs(10);
/// What is promised for the requests of somebody who works.
const P99: Duration = Duration::from_millis(50);
/// Between two of these, whether or not the one before was answered.
const PACE: Duration = Duration::from_millis(5);
/// What the daemon may take of memory for all of it: bodies have 64 MiB, and each of 256 connections has buffers.
const MORE: u64 = 100 << 20;

/// When the `n`th of them comes.
fn comes(n: u32) -> Duration {
    Duration::from_secs(1) * n.saturating_sub(AT_ONCE) / A_SECOND
}

/// All of them. How long those of each kind lasted.
fn annoy(means: &Means) -> Result<BTreeMap<String, Vec<Lasted>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begun = tokio::time::Instant::now();
        let tasks: Vec<_> = (1..=AT_ONCE + ONE_BY_ONE)
            .zip(Attack::ALL.into_iter().cycle())
            .map(|(n, kind)| {
                let from = Ipv4Addr::from(u32::from(NETWORK) + n);
                let means = means.clone();
                let attack = async move {
                    tokio::time::sleep_until(begun + comes(n)).await;
                    kind.run(from, means).await
                };
                (kind, tokio::spawn(attack))
            })
            .collect();
        let until = begun + comes(AT_ONCE + ONE_BY_ONE) + 3 * LONGEST;
        let mut all: BTreeMap<String, Vec<Lasted>> = BTreeMap::new();
        for (kind, task) in tasks {
            let lasted = tokio::time::timeout_at(until, task).await;
            let lasted = lasted.with_context(|| format!("{kind:?} goes on"))??;
            all.entry(format!("{kind:?}")).or_default().push(lasted);
        }
        Ok(all)
    })
}

/// Reports somebody every [`PACE`] on one connection, until `done`. What each took since it was due, in order of size.
fn work(config: Arc<ClientConfig>, token: &str, done: &AtomicBool) -> Result<Vec<Duration>> {
    let mut session = Session::open(config)?;
    let mut took = Vec::new();
    let begun = Instant::now();
    for n in 0.. {
        let due = begun + PACE * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let body = format!(r#"{{"address":"192.0.2.{}","category":"scraping"}}"#, n % 250);
        let reply = session.ask("POST", "/v1/reports", token, &body)?;
        ensure!(reply.status == 200, "answered {reply:?}");
        took.push(due.elapsed());
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
    took.sort_unstable();
    Ok(took)
}

/// Comes again and again, with a connection each time, until `done`. What each took, and how often it failed, by why.
fn come_and_go(
    config: &Arc<ClientConfig>,
    token: &str,
    done: &AtomicBool,
) -> (Vec<Duration>, BTreeMap<String, usize>) {
    let (mut took, mut failed) = (Vec::new(), BTreeMap::new());
    loop {
        let begun = Instant::now();
        let reply = Session::open(Arc::clone(config))
            .and_then(|mut session| session.ask("GET", "/v1/counters", token, ""));
        match reply {
            Ok(reply) if reply.status == 200 => took.push(begun.elapsed()),
            Ok(reply) => *failed.entry(format!("answered with {}", reply.status)).or_default() += 1,
            Err(error) => *failed.entry(format!("{error:#}")).or_default() += 1,
        }
        if done.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep((begun + Duration::from_millis(50)).saturating_duration_since(Instant::now()));
    }
    took.sort_unstable();
    (took, failed)
}

/// Descriptors for all of them.
fn make_room() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let enough = u64::from(AT_ONCE + ONE_BY_ONE) + 500;
    ensure!(most >= enough, "{enough} descriptors are needed, and there may be {most}");
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// The most memory that the daemon has had since the last call of [`forget_peak`].
fn peak(daemon: &Daemon) -> Result<u64> {
    memory(daemon.pid()?, "VmHWM:")
}

/// proc(5), `clear_refs`.
fn forget_peak(daemon: &Daemon) -> Result<()> {
    Ok(std::fs::write(format!("/proc/{}/clear_refs", daemon.pid()?), "5")?)
}

#[test]
fn ten_thousand_hostile_connections() {
    in_lab("hostile", |lab| {
        make_room()?;
        lab.outside.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
        lab.host.ip(&format!("route add {NETWORK}/16 via {}", OUTSIDE.v4))?;
        let policy =
            "[[policy]]\ncategory = \"scraping\"\nthreshold = 1000000\nwithin = \"1m\"\nblock = \"1h\"\n";
        let (mut daemon, pin) = remote::prepare(lab, "", policy)?;
        remote::launch(&mut daemon)?;
        let good = daemon.cli.ok("token create --name good --scope report")?;
        let reads = daemon.cli.ok("token create --name reads --scope read")?;
        let stolen = |_| daemon.cli.ok("token create --name stolen --scope read --scope block:host");
        let tokens = Attack::ALL.into_iter().map(stolen).collect::<Result<_>>()?;
        let (http1, http2) = (remote::client(pin, b"http/1.1")?, remote::client(pin, b"h2")?);
        let means = Means { api: remote::address(), http1: Arc::clone(&http1), http2, tokens };

        // Who has come before: of strangers, who are all alike, it is luck who stays.
        lab.outside.enter(|| Ok(come_and_go(&http1, reads.trim(), &AtomicBool::new(true))))?;
        let before = daemon.memory()?;
        forget_peak(&daemon)?;
        let done = AtomicBool::new(false);
        let (lasted, took, guests) = std::thread::scope(|scope| {
            let working = scope.spawn(|| lab.outside.enter(|| work(Arc::clone(&http1), good.trim(), &done)));
            let coming = scope.spawn(|| lab.outside.enter(|| Ok(come_and_go(&http1, reads.trim(), &done))));
            let lasted = lab.outside.enter(|| annoy(&means));
            done.store(true, Ordering::Relaxed);
            let took = working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (lasted, took, coming.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (came, failed) = guests?;
        println!(
            "{} new connections served: p50 {:.1?}, p99 {:.1?}, longest {:.1?}; failed: {failed:?}",
            came.len(),
            came[came.len() / 2],
            came[came.len() * 99 / 100],
            came[came.len() - 1]
        );
        let (lasted, took) = (lasted?, took?);
        let (most, after) = (peak(&daemon)?, daemon.memory()?);

        for (kind, all) in &lasted {
            let longest = all.iter().map(|one| one.in_all).max().unwrap_or_default();
            let agreed = all.iter().filter_map(|one| one.agreed);
            println!(
                "{kind:13} {:4} connections, {:4} agreed on TLS; the longest {longest:.1?}, {:.1?} since TLS",
                all.len(),
                agreed.clone().count(),
                agreed.max().unwrap_or_default()
            );
        }
        let p99 = took[took.len() * 99 / 100];
        println!(
            "{} reports meanwhile: p50 {:.1?}, p99 {p99:.1?}, longest {:.1?}; memory {} KiB before, {} KiB at most, {} KiB after",
            took.len(),
            took[took.len() / 2],
            took[took.len() - 1],
            before >> 10,
            most >> 10,
            after >> 10
        );
        for (kind, all) in &lasted {
            let longest = all.iter().map(|one| one.in_all).max().unwrap_or_default();
            ensure!(longest < LONGEST, "{kind} lasted {longest:?}");
        }
        // Who is known is not turned out. One of a hundred may be too late on a machine that is busy.
        let failures: usize = failed.values().sum();
        ensure!(failures * 100 <= came.len(), "new connections of somebody known failed: {failed:?}");
        ensure!(p99 < P99, "p99 {p99:?}");
        ensure!(most < before + MORE, "{} MiB more", (most - before) >> 20);
        Ok(())
    });
}

/// Bodies have 64 MiB of memory, whoever sends them: who finds it taken is told to come again.
#[test]
fn large_bodies_share_their_room() {
    /// Bytes of a body.
    const LARGE: usize = 1 << 20;
    /// So many have room.
    const ROOM: u32 = 64;
    const BODIES: u32 = ROOM + 6;
    in_lab("room", |lab| {
        lab.outside.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
        lab.host.ip(&format!("route add {NETWORK}/16 via {}", OUTSIDE.v4))?;
        let (mut daemon, pin) = remote::prepare(lab, "", "")?;
        remote::launch(&mut daemon)?;
        // A caller has 32 requests at a time.
        let token = |_| daemon.cli.ok("token create --name test --scope block:host");
        let tokens: Vec<String> = (0..4).map(token).collect::<Result<_>>()?;
        let config = remote::client(pin, b"http/1.1")?;
        let begin = |n: u32| -> Result<Session> {
            let from = Ipv4Addr::from(u32::from(NETWORK) + n);
            let mut session = Session::open_from(from, Arc::clone(&config))?;
            let token = tokens[usize::try_from(n)? % tokens.len()].trim();
            let head = format!(
                "POST /v1/blocks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {LARGE}\r\n\r\n"
            );
            session.send(head.as_bytes())?;
            session.send(&vec![b' '; LARGE - 1])?;
            Ok(session)
        };
        let before = daemon.memory()?;
        forget_peak(&daemon)?;
        lab.outside.enter(|| {
            let mut sessions = (1..=BODIES).map(begin).collect::<Result<Vec<_>>>()?;
            let mut statuses = BTreeMap::new();
            // The last ones come too late, and hear it at once. What is not refused waits for its last byte.
            for (n, session) in sessions.iter_mut().enumerate().rev() {
                if n < usize::try_from(ROOM)? {
                    let _ = session.send(b" ");
                }
                let status = session.head()?.map_or(0, |reply| reply.status);
                *statuses.entry(status).or_insert(0) += 1;
            }
            println!(
                "{BODIES} bodies of {LARGE} bytes: {statuses:?}; {} KiB more at most",
                (peak(&daemon)? - before) >> 10
            );
            // 400: it has come as a whole, and is not JSON.
            ensure!(statuses == BTreeMap::from([(400, ROOM), (503, BODIES - ROOM)]), "{statuses:?}");
            drop(sessions);
            let mut last = begin(1)?;
            last.send(b" ")?;
            let status = last.head()?.map(|reply| reply.status);
            ensure!(status == Some(400), "the room is not given back: {status:?}");
            Ok(())
        })
    });
}

//! Listed sources, in the driver and in the stack: what is blocked does not get through, in whatever frame, and exactly
//! as long as it should.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_tests::lab::{HOST, OUTSIDE};
use limiter_tests::traffic::{Flood, Generator, Sender, same};
use limiter_tests::{Config, Daemon, Lab, frames, in_lab, wait};
use serde_json::Value;

const INTERFACE: &str = HOST.interface;
/// A hardware address of senders that are to be told apart by it.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
/// A port with a socket behind it.
const OPEN: u16 = 7000;

fn in_mode(mode: &'static str) -> Config {
    Config { mode, ..Config::default() }
}

fn check_mode(daemon: &Daemon, mode: &str) -> Result<()> {
    let status = daemon.cli.json("status")?;
    let interface = &status["interfaces"][0];
    ensure!(interface["mode"] == mode && interface["protected"] == true, "asked for {mode}: {status}");
    Ok(())
}

fn every_framing_of_blocked_sources(mode: &'static str) {
    in_lab(mode, |lab| {
        let blocked: [IpAddr; 2] = ["198.51.100.7".parse()?, "2001:db8:bad::7".parse()?];
        lab.witness.block(&["198.51.100.7", "2001:db8:bad::7"])?;
        lab.witness.watch_sender("sender", INTERFACE, SENDER)?;
        let daemon = Daemon::start(lab, &in_mode(mode))?;
        check_mode(&daemon, mode)?;
        let sender = Sender::open(lab)?;
        let framings: Vec<_> = blocked.iter().flat_map(|source| frames::framings(*source)).collect();
        let send = |framing: &frames::Framing| -> Result<u64> {
            let sent: Vec<_> =
                framing.frames.iter().map(|frame| frames::sent_by(frame.clone(), SENDER)).collect();
            ensure!(sender.send(&sent)? == sent.len(), "{}: not sent", framing.name);
            Ok(sent.len() as u64)
        };

        // Before they are blocked, the same frames get through: else the rest would prove nothing.
        let mut delivered = 0;
        for framing in &framings {
            let sent = send(framing)?;
            delivered += if framing.delivered { sent } else { 0 };
        }
        let (seen, arrived) = (lab.witness.blocked()?, lab.witness.count("sender")?);
        // All but the overlong chain of extension headers, which nobody may send.
        ensure!(seen == delivered - 1, "{seen} of {delivered} frames that Linux delivers got through");

        daemon.cli.ok("block add 198.51.100.7 2001:db8:bad::7")?;
        let start = daemon.cli.counters(INTERFACE)?;
        let mut sent = 0;
        for framing in &framings {
            let before = daemon.cli.counter(INTERFACE, "blocked")?;
            let frames = send(framing)?;
            let dropped = daemon.cli.counter(INTERFACE, "blocked")? - before;
            ensure!(dropped == frames, "{}: {dropped} of {frames} frames counted as blocked", framing.name);
            sent += frames;
        }
        let counted = daemon.cli.counters(INTERFACE)?.since(&start);
        println!("{mode}: {} framings, {sent} frames; counted: {counted}", framings.len());
        ensure!(lab.witness.blocked()? == seen, "the witness saw packets of a blocked source");
        ensure!(lab.witness.count("sender")? == arrived, "a frame of a blocked source got behind the driver");
        Ok(())
    });
}

#[test]
fn every_framing_of_blocked_sources_native() {
    every_framing_of_blocked_sources("native");
}

#[test]
fn every_framing_of_blocked_sources_generic() {
    every_framing_of_blocked_sources("generic");
}

fn prefixes_and_their_neighbours(mode: &'static str) {
    in_lab(mode, |lab| {
        let daemon = Daemon::start(lab, &in_mode(mode))?;
        daemon.cli.ok("block add 198.51.100.64/26 10.200.0.0/15 2001:db8:bad::/48 2001:db8:1:2::/63")?;
        let sender = Sender::open(lab)?;
        let cases = [
            ("198.51.100.63", false),
            ("198.51.100.64", true),
            ("198.51.100.127", true),
            ("198.51.100.128", false),
            ("10.199.255.255", false),
            ("10.200.0.0", true),
            ("10.201.255.255", true),
            ("10.202.0.0", false),
            ("2001:db8:bac:ffff:ffff:ffff:ffff:ffff", false),
            ("2001:db8:bad::", true),
            ("2001:db8:bad:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db8:bae::", false),
            ("2001:db8:1:2::1", true),
            ("2001:db8:1:3:ffff::", true),
            ("2001:db8:1:4::", false),
        ];
        for (number, (source, blocked)) in cases.into_iter().enumerate() {
            let family = if source.contains(':') { "ip6" } else { "ip" };
            let counter = format!("case{number}");
            lab.witness.watch(&counter, &format!("{family} saddr {source}"))?;
            sender.send(&[frames::udp(source.parse()?, 80)])?;
            let passed = lab.witness.count(&counter)? == 1;
            ensure!(passed != blocked, "{source} {}", if blocked { "got through" } else { "was dropped" });
            let code = daemon.cli.run(&["block", "test", source])?.code;
            ensure!(code == if blocked { 0 } else { 5 }, "block test {source}: exit code {code}");
        }
        Ok(())
    });
}

#[test]
fn prefixes_and_their_neighbours_native() {
    prefixes_and_their_neighbours("native");
}

#[test]
fn prefixes_and_their_neighbours_generic() {
    prefixes_and_their_neighbours("generic");
}

fn allow_wins_over_block(mode: &'static str) {
    in_lab(mode, |lab| {
        let daemon = Daemon::start(lab, &in_mode(mode))?;
        let sender = Sender::open(lab)?;
        let frame = |source: &str| -> Result<_> { Ok(frames::udp(source.parse()?, 80)) };
        lab.witness.watch("four", "ip saddr 198.51.100.7")?;
        lab.witness.watch("six", "ip6 saddr 2001:db8:bad::7")?;
        let mut passed = 0;
        let mut check = |pass: bool, what: &str| -> Result<()> {
            sender.send(&[frame("198.51.100.7")?, frame("2001:db8:bad::7")?])?;
            passed += u64::from(pass);
            for counter in ["four", "six"] {
                let seen = lab.witness.count(counter)?;
                ensure!(seen == passed, "{what}, {counter}: {seen} packets got through, expected {passed}");
            }
            Ok(())
        };
        check(true, "nothing listed")?;
        daemon.cli.ok("block add 198.51.100.0/24 2001:db8:bad::/48")?;
        check(false, "a prefix blocked")?;
        daemon.cli.ok("allow add 198.51.100.7 2001:db8:bad::7")?;
        check(true, "a host allowed in a blocked prefix")?;
        daemon.cli.ok("block add 198.51.100.7 2001:db8:bad::7")?;
        check(true, "the same host blocked and allowed")?;
        daemon.cli.ok("allow remove 198.51.100.7 2001:db8:bad::7")?;
        check(false, "no longer allowed")?;
        daemon.cli.ok("allow add 198.51.0.0/16 2001:db8::/32")?;
        check(true, "a wide prefix allowed, narrower ones blocked")?;
        daemon.cli.ok("allow remove 198.51.0.0/16 2001:db8::/32")?;
        daemon.cli.ok("block remove 198.51.100.0/24 2001:db8:bad::/48")?;
        check(false, "only the hosts still blocked")?;
        daemon.cli.ok("block remove 198.51.100.7 2001:db8:bad::7")?;
        check(true, "nothing listed any more")?;
        Ok(())
    });
}

#[test]
fn allow_wins_over_block_native() {
    allow_wins_over_block("native");
}

#[test]
fn allow_wins_over_block_generic() {
    allow_wins_over_block("generic");
}

/// Datagrams that say when they were sent, as nanoseconds since `origin`.
fn stamped(source: IpAddr, origin: Instant) -> Generator {
    Box::new(move |frame| {
        let sent = u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        *frame = frames::udp_with(source, OPEN, &sent.to_be_bytes());
    })
}

/// A datagram that got through.
struct Arrival {
    source: IpAddr,
    sent: Instant,
    received: Instant,
}

/// Receives stamped datagrams until the socket is told to give up by silence.
fn arrivals(lab: &Lab, origin: Instant) -> Result<Receiver<Arrival>> {
    let socket = lab.host.enter(|| Ok(UdpSocket::bind(("::", OPEN))?))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || -> io::Result<()> {
        loop {
            let mut stamp = [0; 8];
            let (_, from) = socket.recv_from(&mut stamp)?;
            let arrival = Arrival {
                source: from.ip().to_canonical(),
                sent: origin + Duration::from_nanos(u64::from_be_bytes(stamp)),
                received: Instant::now(),
            };
            if sender.send(arrival).is_err() {
                return Ok(());
            }
        }
    });
    Ok(receiver)
}

/// Waits for the first datagram that was sent behind `after`.
fn first_behind(arrivals: &Receiver<Arrival>, source: IpAddr, after: Instant) -> Result<Arrival> {
    loop {
        let arrival = arrivals.recv_timeout(Duration::from_secs(10)).context("nothing got through again")?;
        if arrival.source == source && arrival.sent > after {
            return Ok(arrival);
        }
    }
}

fn blocks_end_to_the_second(mode: &'static str) {
    const SECONDS: u64 = 2;
    in_lab(mode, |lab| {
        let daemon = Daemon::start(lab, &in_mode(mode))?;
        let origin = Instant::now();
        let arrivals = arrivals(lab, origin)?;
        for (source, prefix) in [
            ("198.51.100.7", "198.51.100.7"),
            ("198.51.100.7", "198.51.100.0/24"),
            ("2001:db8:bad::7", "2001:db8:bad::7"),
            ("2001:db8:bad::7", "2001:db8:bad::/48"),
        ] {
            let source: IpAddr = source.parse()?;
            let flood = Flood::start(lab, 2_000, vec![stamped(source, origin)])?;
            first_behind(&arrivals, source, Instant::now())?;
            let asked = Instant::now();
            daemon.cli.ok(&format!("block add {prefix} --for {SECONDS}s"))?;
            let answered = Instant::now();
            let first = first_behind(&arrivals, source, answered)?;
            flood.stop()?;
            // The deadline is counted from some moment between asking and the answer.
            let early = first.received.duration_since(asked);
            let late = first.sent.duration_since(answered);
            println!(
                "{mode}: {prefix} blocked for {SECONDS} s: first packet again after {early:.3?} to {late:.3?}"
            );
            ensure!(early >= Duration::from_secs(SECONDS), "too early: after {early:?}");
            ensure!(late <= Duration::from_secs(SECONDS + 1), "too late: after {late:?}");
        }
        Ok(())
    });
}

#[test]
fn blocks_end_to_the_second_native() {
    blocks_end_to_the_second("native");
}

#[test]
fn blocks_end_to_the_second_generic() {
    blocks_end_to_the_second("generic");
}

/// The kernel finds the longest prefix alone: an entry whose time is over must not hide a wider one that lives.
#[test]
fn ended_entries_do_not_hide_wider_ones() {
    in_lab("shadow", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        lab.witness.block(&["198.51.100.7", "2001:db8:bad::7"])?;
        for prefixes in [
            ["198.51.0.0/16", "198.51.100.0/24", "198.51.100.0/28", "198.51.100.7"],
            ["2001:db8::/32", "2001:db8:bad::/48", "2001:db8:bad::/64", "2001:db8:bad::7"],
        ] {
            // Wide first and narrow last, and once more the other way round.
            daemon.cli.ok(&format!("block add {}", prefixes[0]))?;
            daemon.cli.ok(&format!("block add {} {} {} --for 1s", prefixes[3], prefixes[2], prefixes[1]))?;
        }
        daemon.cli.ok("allow add 198.51.100.7 2001:db8:bad::7 --for 1s")?;
        let generators = vec![
            same(frames::udp("198.51.100.7".parse()?, 80)),
            same(frames::udp("2001:db8:bad::7".parse()?, 80)),
        ];
        let allowed = Flood::run(lab, 1_000, generators, Duration::from_millis(500))?;
        let seen = lab.witness.blocked()?;
        ensure!(seen == allowed.frames, "{seen} of {} packets passed while allowed", allowed.frames);

        let generator = || -> Result<Vec<Generator>> {
            Ok(vec![
                same(frames::udp("198.51.100.7".parse()?, 80)),
                same(frames::udp("2001:db8:bad::7".parse()?, 80)),
            ])
        };
        // Until all the short entries have ended …
        Flood::run(lab, 1_000, generator()?, Duration::from_millis(1_000))?;
        let ended = lab.witness.blocked()?;
        // … and on, while the daemon clears them away.
        let sent = Flood::run(lab, 1_000, generator()?, Duration::from_millis(1_500))?;
        let passed = lab.witness.blocked()? - ended;
        println!(
            "{} packets under a wide block whose narrower entries have ended: {passed} passed",
            sent.frames
        );
        ensure!(passed == 0, "an ended entry hid a wider one that is in force");
        Ok(())
    });
}

/// A flood is estimated by source and by prefix, and the blocks that nobody runs into have no hits.
#[test]
fn blocks_tell_their_hits() {
    in_lab("hits", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        daemon.cli.ok("block add 198.51.100.7 198.51.100.8 198.51.100.0/24 2001:db8:bad::/48")?;
        let flood = |source: &str| -> Result<u64> {
            let before = daemon.cli.counter(INTERFACE, "blocked")?;
            let generators = vec![same(frames::udp(source.parse()?, 60))];
            let sent = Flood::run(lab, 20_000, generators, Duration::from_millis(400))?;
            println!("{source}: {sent:?}");
            let dropped = || Ok(daemon.cli.counter(INTERFACE, "blocked")? - before);
            wait::until_true("a flood is dropped", Duration::from_secs(10), || {
                Ok(dropped()? >= sent.frames * 9 / 10)
            })?;
            dropped()
        };
        let host = flood("198.51.100.7")?;
        let prefix = host + flood("198.51.100.9")?;
        let wide = flood("2001:db8:bad::7")?;
        let listed = daemon.cli.ok("block list --json")?;
        let claims: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        for (prefix, frames) in [
            ("198.51.100.7", Some(host)),
            ("198.51.100.8", None),
            ("198.51.100.0/24", Some(prefix)),
            ("2001:db8:bad::/48", Some(wide)),
        ] {
            let claim = claims.iter().find(|claim| claim["prefix"] == prefix).context("not listed")?;
            let (packets, seen) = (claim["packets"].as_u64(), claim["last_seen"].as_str());
            println!("{prefix}: {packets:?} of {frames:?}, last seen {seen:?}");
            match (packets, frames) {
                (Some(packets), Some(frames)) => {
                    ensure!((frames / 2..=frames * 2).contains(&packets), "{prefix}: {claim}");
                    // To the second, in the form that sorts like time.
                    let (created, seen) = (claim["created"].as_str(), seen.context("never seen")?);
                    ensure!(created.is_some_and(|created| created <= seen), "{prefix}: {claim}");
                }
                (packets, frames) => ensure!(packets == frames && seen.is_none(), "{prefix}: {claim}"),
            }
        }
        let table = daemon.cli.ok("block list")?;
        let row = table.lines().find(|line| line.starts_with("198.51.100.7 ")).context("not listed")?;
        ensure!(row.contains("s ago"), "{table}");
        ensure!(daemon.cli.ok("block test 198.51.100.7")?.contains("last seen"));
        Ok(())
    });
}

/// Frames of more than one buffer: jumbo frames, and what hardware puts together.
fn large_frames(mode: &'static str) {
    in_lab(mode, |lab| {
        lab.host.ip(&format!("link set {INTERFACE} mtu 9000"))?;
        lab.outside.ip(&format!("link set {} mtu 9000", OUTSIDE.interface))?;
        lab.witness.block(&["198.51.100.7", "2001:db8:bad::7"])?;
        lab.witness.watch("other", "udp dport 9")?;
        let daemon = Daemon::start(lab, &in_mode(mode))?;
        let status = daemon.cli.json("status")?;
        ensure!(mode == "generic" || status["interfaces"][0]["frags"] == true, "{status}");
        daemon.cli.ok("block add 198.51.100.7 2001:db8:bad::7")?;
        let sender = Sender::open(lab)?;
        let sizes = [1_514, 3_000, 4_096, 5_000, 9_000];
        for size in sizes {
            for source in ["198.51.100.7", "2001:db8:bad::7", "203.0.113.9", "2001:db8::9"] {
                let sent = sender.send(&[frames::udp(source.parse()?, size)])?;
                ensure!(sent == 1, "{size} bytes from {source}: not sent");
            }
        }
        let (blocked, other) = (lab.witness.blocked()?, lab.witness.count("other")?);
        let counted = daemon.cli.counters(INTERFACE)?;
        println!(
            "{mode}: frames of up to 9,000 bytes: {other} of others passed, {blocked} of blocked sources; {counted}"
        );
        ensure!(blocked == 0, "{blocked} large frames of blocked sources got through");
        ensure!(other == 2 * sizes.len() as u64, "{other} large frames of others got through");
        ensure!(counted.packets("blocked") == 2 * sizes.len() as u64, "{counted}");
        let bytes = counted.0.iter().find(|count| count.reason == "blocked").map_or(0, |count| count.bytes);
        ensure!(bytes == 2 * sizes.iter().sum::<usize>() as u64, "{bytes} bytes counted");
        Ok(())
    });
}

#[test]
fn large_frames_native() {
    large_frames("native");
}

#[test]
fn large_frames_generic() {
    large_frames("generic");
}

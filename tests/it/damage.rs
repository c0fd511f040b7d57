//! The state file is cut off or has bits flipped: the daemon starts all the same, says what is lost, and what the kernel had
//! stays in force.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_tests::traffic::{Flood, same};
use limiter_tests::{Config, Control, Daemon, Dice, Sources, effort, frames, in_lab};
use serde_json::{Value, json};

/// Of the state's library.
const PAGE: usize = 4096;
/// Reason of what comes from the kernel alone.
const RECOVERED: &str = "recovered from the kernel";
/// Damaged files that are kept.
const KEPT: usize = 5;
const ATTACKER: &str = "198.51.100.250";

/// What is claimed, by action, owner and prefix, with the reason.
type Claims = BTreeMap<(String, String, String), String>;

fn claims(control: &mut Control<UnixStream>) -> Result<Claims> {
    let mut claims = Claims::new();
    for collection in ["blocks", "allows"] {
        for claim in control.lines(&format!("/v1/{collection}"))? {
            let field = |name: &str| claim[name].as_str().unwrap_or_default().to_owned();
            claims.insert((field("action"), field("owner"), field("prefix")), field("reason"));
        }
    }
    Ok(claims)
}

/// Many claims of several owners, and a change that somebody has to confirm. Returns the sources that are blocked, and those
/// that are not.
fn fill(control: &mut Control<UnixStream>) -> Result<(Vec<IpAddr>, Vec<IpAddr>)> {
    let mut ask = |path: &str, body: Value| -> Result<()> {
        let reply = control.post(path, &body)?;
        ensure!(reply.is_ok(), "{path}: {} {}", reply.status, reply.body);
        Ok(())
    };
    let (mut blocked, mut free) = (vec![ATTACKER.parse()?], vec!["203.0.113.9".parse()?]);
    ask("/v1/blocks", json!({ "prefixes": [ATTACKER], "reason": "first" }))?;
    for (number, owner) in ["operator", "crowdsec", "fail2ban:sshd", "app:shop"].iter().enumerate() {
        let mut prefixes = Vec::new();
        for host in 1..=100 {
            let address = if host % 4 == 0 {
                format!("2001:db8:{number}:{host}::1")
            } else {
                format!("100.64.{number}.{host}")
            };
            blocked.push(address.parse()?);
            prefixes.push(address);
        }
        prefixes.push(format!("100.65.{number}.0/24"));
        blocked.push(format!("100.65.{number}.77").parse()?);
        let seconds = if number % 2 == 0 { json!(36_000) } else { Value::Null };
        let reason = format!("as {owner} says");
        ask(
            "/v1/blocks",
            json!({ "prefixes": prefixes, "owner": owner, "seconds": seconds, "reason": reason }),
        )?;
    }
    ask("/v1/blocks", json!({ "prefixes": ["198.51.100.60"], "escalate": true }))?;
    blocked.push("198.51.100.60".parse()?);
    ask("/v1/allows", json!({ "prefixes": ["100.65.1.8/29"], "reason": "a partner" }))?;
    free.push("100.65.1.9".parse()?);
    ask(
        "/v1/blocks",
        json!({ "prefixes": ["198.51.100.61"], "reason": "for now", "confirm_seconds": 3600 }),
    )?;
    blocked.push("198.51.100.61".parse()?);
    Ok((blocked, free))
}

/// What is done to a file.
#[derive(Debug)]
enum Damage {
    CutTo(usize),
    Flip(Vec<(usize, u8)>),
}

impl Damage {
    fn of(&self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        match self {
            Self::CutTo(length) => bytes.truncate(*length),
            Self::Flip(bits) => {
                for (at, bit) in bits {
                    bytes[*at] ^= 1 << bit;
                }
            }
        }
        bytes
    }
}

/// Some of all cuts at the borders of pages and within the first, and flipped bits where there is something.
fn damages(dice: &mut Dice, good: &[u8]) -> Vec<Damage> {
    let mut cuts: Vec<usize> = (0..good.len()).step_by(PAGE).collect();
    cuts.extend((0..PAGE).step_by(64));
    cuts.retain(|at| *at < good.len());
    // The page of the header, and the end, are always among them.
    let mut some = vec![0, 1, 64, 320, PAGE, good.len() - 1];
    let wanted = effort(10, usize::MAX);
    while some.len() < wanted.min(cuts.len()) {
        some.push(cuts.swap_remove(dice.below(cuts.len())));
    }
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let flips = (0..effort(8, 150)).map(|round| {
        // Mostly one; those of the header twice as often as their share.
        let count = if round % 4 == 3 { 1 + dice.below(8) } else { 1 };
        let mut bit = || {
            let at = if dice.one_in(8) { dice.below(320) } else { *dice.of(&used) };
            (at, dice.byte() % 8)
        };
        Damage::Flip((0..count).map(|_| bit()).collect())
    });
    let flips: Vec<Damage> = flips.collect();
    some.into_iter().map(Damage::CutTo).chain(flips).collect()
}

#[test]
fn damaged_state_keeps_nobody_from_starting() {
    in_lab("damage", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        let sources = Sources::watched(lab)?;
        lab.witness.block(&[ATTACKER])?;
        let mut daemon = Daemon::start(lab, &Config::default())?;
        let mut control = Control::open(&daemon.places.socket)?;
        let (blocked, free) = fill(&mut control)?;
        sources.ensure_judged(&[], &["203.0.113.10".parse()?])?;
        sources.ensure_judged(&blocked, &free)?;
        let before = claims(&mut control)?;
        let store = daemon.places.state.join("claims.redb");
        // As a crash leaves it, and as a stop does.
        daemon.kill()?;
        let crashed = fs::read(&store)?;
        // It knows how many commits there were; those of the starts here are not meant.
        let serial = daemon.places.state.join("claims.serial");
        let commits = fs::read(&serial)?;
        daemon.restart()?;
        daemon.terminate()?;
        let stopped = fs::read(&store)?;
        let flood = Flood::start(lab, 2_000, vec![same(frames::udp(ATTACKER.parse()?, 60))])?;

        let (mut whole, mut told, mut slowest) = (0, 0, Duration::ZERO);
        let of_crashed = damages(&mut dice, &crashed).into_iter().map(|damage| (damage, &crashed));
        let of_stopped = damages(&mut dice, &stopped).into_iter().map(|damage| (damage, &stopped));
        let all: Vec<_> = of_crashed.chain(of_stopped).collect();
        for (damage, good) in &all {
            let what = || format!("LIMITER_SEED={seed}: {damage:?} of {} bytes", good.len());
            fs::write(&store, damage.of(good))?;
            fs::write(&serial, &commits)?;
            daemon.clear_log()?;
            slowest = slowest.max(daemon.restart().with_context(what)?);
            let mut control = Control::open(&daemon.places.socket)?;
            let now = claims(&mut control)?;
            let changes = control.get("/v1/changes")?.body;
            let waiting = changes["changes"].as_array().map_or(0, Vec::len);
            let status = control.get("/v1/status")?.body;
            let warnings: Vec<&str> =
                status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let same = now == before && waiting == 1;
            whole += usize::from(same);
            if !warnings.is_empty() {
                told += 1;
                let log = daemon.log();
                ensure!(
                    warnings.iter().all(|warning| log.contains(warning)),
                    "{}: not in the log: {warnings:?}",
                    what()
                );
            }
            ensure!(
                same || !warnings.is_empty(),
                "{}: something is lost, and nothing said: {status}",
                what()
            );
            for (claim, reason) in &now {
                let made_up = before.get(claim) != Some(reason) && reason != RECOVERED;
                ensure!(!made_up, "{}: {claim:?} for {reason:?} was made up", what());
            }
            let lost = before
                .keys()
                .find(|(action, _, prefix)| !now.keys().any(|(is, _, at)| is == action && at == prefix));
            ensure!(lost.is_none(), "{}: {lost:?} is in force, and not in the list", what());
            sources.ensure_judged(&blocked, &free).with_context(what)?;
            daemon.kill()?;
        }
        let sent = flood.stop()?;
        ensure!(sent.frames > 100 && lab.witness.blocked()? == 0, "packets got through meanwhile");
        let aside = fs::read_dir(&daemon.places.state)?
            .flatten()
            .filter(|file| file.file_name().to_string_lossy().starts_with("claims.redb.corrupt-"));
        let aside = aside.count();
        ensure!((1..=KEPT).contains(&aside), "{aside} damaged files were kept");
        println!(
            "{} damaged files of {} bytes: 0 failed starts, {told} told to be damaged, nothing lost of {whole}, slowest \
             start {slowest:.0?}; {} packets sent meanwhile, 0 passed",
            all.len(),
            stopped.len(),
            sent.frames
        );
        Ok(())
    });
}

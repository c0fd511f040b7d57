//! Reports and blocks come at some rate while a blocked source floods, and a few are looked at more closely: nothing that
//! was acknowledged is lost, in the kernel or in the list. `cargo xtask bench load` has the rates that are to be reached.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::traffic::{Flood, Sender, same};
use limiter_tests::{Lab, frames, in_lab};
use limiter_user::client::{AddRequest, Client, Report};
use limiter_user::config::Action;
use limiter_user::dataplane::kernel::testrun;

use super::client::{remote, run, started};

/// How long it lasts.
const TIME: Duration = Duration::from_secs(3);
/// Blocks, and reports, of one request.
const BATCH: u32 = 500;
/// Far below what the slowest machine does in a second.
const SLOW: u32 = 1000;

/// The `number`th of many sources, each family of its own: blocked, reported, and those that are watched.
fn source(first: u8, number: u32) -> Ipv4Addr {
    // Spread over 2^24 addresses.
    let [_, b, c, d] = number.wrapping_mul(0x9e_37_b1).to_be_bytes();
    Ipv4Addr::new(first, b, c, d)
}

/// Blocks as many as it can; returns how many.
async fn block(client: &Client, until: Instant) -> Result<u32> {
    let mut number = 0;
    while Instant::now() < until {
        let prefixes = (number..number + BATCH).map(|number| source(100, number).to_string()).collect();
        let request = AddRequest { prefixes, seconds: Some(3600), ..AddRequest::default() };
        let done = client.add(Action::Block, &request).await?;
        ensure!(done.added == u64::from(BATCH), "{done:?}");
        number += BATCH;
    }
    Ok(number)
}

/// Reports each of as many sources as it can five times, which blocks it; returns how many.
async fn report(client: &Client, until: Instant) -> Result<u32> {
    let mut number = 0;
    while Instant::now() < until {
        let sources = number..number + BATCH / 5;
        let mut blocks = 0;
        for _ in 0..5 {
            let reports =
                sources.clone().map(|number| Report::new(source(101, number).into(), "login_failed"));
            let said = client.report(&reports.collect::<Vec<_>>()).await?;
            ensure!(said.counted == u64::from(BATCH / 5) && said.refused == 0, "{said:?}");
            blocks += said.blocks;
        }
        ensure!(blocks == u64::from(BATCH / 5), "{blocks} of {} are blocked", BATCH / 5);
        number += BATCH / 5;
    }
    Ok(number)
}

/// Blocks one source after the other; no packet may come through that is sent behind the answer. Returns the times from
/// requests to answers.
fn watch(lab: &Lab, client: &Client, until: Instant) -> Result<Vec<Duration>> {
    let sender = Sender::open(lab)?;
    let mut times = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    while Instant::now() < until {
        let source = source(102, u32::try_from(times.len())?);
        let begun = Instant::now();
        let done = runtime.block_on(client.block(&[&source.to_string()], None, "watched"))?;
        times.push(begun.elapsed());
        sender.send(&[frames::udp(source.into(), 60)])?;
        ensure!(done.added == 1, "{done:?}");
    }
    Ok(times)
}

/// Says which of `sources` are lost, of which `kept` does not know.
fn all_kept(sources: &[Ipv4Addr], what: &str, mut kept: impl FnMut(Ipv4Addr) -> Result<bool>) -> Result<()> {
    let mut lost = Vec::new();
    for source in sources {
        if !kept(*source)? {
            lost.push(source);
        }
    }
    ensure!(lost.is_empty(), "{what}: {} of {} are lost: {:?}", lost.len(), sources.len(), lost.first());
    Ok(())
}

#[test]
fn nothing_is_lost_under_load() {
    in_lab("load", |lab| {
        let attacker = "198.51.100.7";
        lab.witness.watch("attacker", &format!("ip saddr {attacker}"))?;
        lab.witness.watch("watched", "ip saddr 102.0.0.0/8")?;
        let mut daemon = started(lab)?;
        daemon.cli.ok(&format!("block add {attacker}"))?;
        let shop = remote(lab, &daemon, &["report"])?;
        let flood = Flood::start(lab, 4_000, vec![same(frames::udp(attacker.parse()?, 60))])?;

        let until = Instant::now() + TIME;
        let local = || Client::new(&daemon.places.socket);
        let (blocked, reported, times) = thread::scope(|scope| {
            let blocked = scope.spawn(|| run(lab, async { block(&local(), until).await }));
            let reported = scope.spawn(|| run(lab, async { report(&Client::remote(shop), until).await }));
            let times = scope.spawn(|| watch(lab, &local(), until));
            match (blocked.join(), reported.join(), times.join()) {
                (Ok(blocked), Ok(reported), Ok(times)) => Ok((blocked?, reported?, times?)),
                _ => bail!("a client gave up"),
            }
        })?;
        let sent = flood.stop()?;
        let dropped = daemon.cli.counter(HOST.interface, "blocked")?;
        let expected = sent.frames + times.len() as u64;
        ensure!(dropped == expected, "{expected} packets were to be dropped, and {dropped} were");
        let passed = [lab.witness.count("attacker")?, lab.witness.count("watched")?];
        ensure!(passed == [0, 0], "{passed:?} packets got through");

        let link = lab.host.ip(&format!("-j -d link show {}", HOST.interface))?;
        let link: serde_json::Value = serde_json::from_str(&link)?;
        let program = link[0]["xdp"]["prog"]["id"].as_u64().context("there is no program")?;
        let watched = u32::try_from(times.len())?;
        let counts = [(100, blocked), (101, reported), (102, watched)];
        let sources = counts.map(|(first, count)| (0..count).map(move |number| source(first, number)));
        let sources: Vec<Ipv4Addr> = sources.into_iter().flatten().collect();
        daemon.kill()?;
        let program = u32::try_from(program)?;
        all_kept(&sources, "in the kernel", |source| {
            Ok(!testrun::passes(program, &frames::udp(source.into(), 60))?)
        })?;
        daemon.restart()?;
        let listed = daemon.cli.ok("block export")? + &daemon.cli.ok("block export --owner app:shop")?;
        let listed: HashSet<&str> =
            listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        all_kept(&sources, "in the list", |source| Ok(listed.contains(&*source.to_string())))?;

        let mut times = times;
        times.sort_unstable();
        let median = times.get(times.len() / 2).context("nothing was watched")?;
        let slowest = times.last().copied().unwrap_or_default();
        println!(
            "{blocked} blocks and {} reports in {TIME:?}; {watched} one by one, {median:?} each, {slowest:?} at most",
            reported * 5
        );
        let least = SLOW * u32::try_from(TIME.as_secs())?;
        ensure!(blocked >= least && reported * 5 >= least, "{blocked} blocks, {} reports", reported * 5);
        Ok(())
    });
}

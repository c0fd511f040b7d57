//! From a request to the first packet that is dropped, while the source floods: of a daemon that has nothing else to do,
//! and of one that counts 20,000 reports a second, of which each fifth ends as a block.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use limiter_tests::{Config, Daemon, Lab};
use limiter_user::client::Client;
use serde_json::{Value, json};

use super::probe;
use super::socket::{Connection, request};
use crate::load::clients::{self, Load, Pace};
use crate::machine;
use crate::report::Spread;
use crate::statistics::quantile;

/// Blocks, in the long form and in the short one.
const BLOCKS: [u32; 2] = [500, 200];
/// Between two packets of the flood: how exact the figures are.
const EVERY: Duration = Duration::from_micros(10);
/// Longer than it takes.
const FOREVER: Duration = Duration::from_secs(600);
/// Packets before the request, and behind the answer.
const AROUND: usize = 100;

/// What the daemon does besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Besides {
    Nothing,
    /// Counts reports, 100 in a request.
    Reports,
}

/// Of those, a second.
pub(super) const REPORTS: u32 = 20_000;
/// So many are offered, so that a rate that is reached shows.
const OFFERED: u32 = REPORTS / 100 * 102;

/// Milliseconds, sorted.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Reports a second that were answered meanwhile.
    pub(super) reports: Option<f64>,
    /// Until the first drop.
    dropped: Vec<f64>,
    /// Until the answer.
    answered: Vec<f64>,
}

/// Measures and prints.
pub(super) fn run(lab: &Lab, quick: bool, besides: Besides) -> Result<Latency> {
    // In a thread of its own, since it stays on one CPU.
    thread::scope(|scope| {
        let measured = scope.spawn(|| measure(lab, quick, besides));
        measured.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn measure(lab: &Lab, quick: bool, besides: Besides) -> Result<Latency> {
    // The flood comes from another machine: daemon and clients shall not share their CPU with the one who sends it.
    let cpus = machine::cpus()?;
    let [outside, .., host] = cpus.as_slice() else { bail!("it needs two CPUs, one for the flood") };
    machine::pin(*host)?;
    let config = Config { tables: clients::policy(), ..Config::default() };
    let name = if besides == Besides::Nothing { "latency" } else { "latency-beside" };
    let mut daemon = Daemon::prepare(lab, name, &config)?;
    daemon.launch()?;
    daemon.wait_ready()?;
    let (socket, stop) = (&daemon.places.socket, AtomicBool::new(false));
    let count = BLOCKS[usize::from(quick)];
    let mut latency = thread::scope(|scope| {
        let reporting = (besides == Besides::Reports).then(|| {
            let pace = Pace { rate: OFFERED, batch: 100, connections: 4, time: FOREVER };
            let client = || Client::new(socket);
            let stop = &stop;
            scope.spawn(move || clients::run(&client, Load::Reports, &pace, stop))
        });
        let latency = blocks(lab, socket, count, *outside);
        stop.store(true, Ordering::Relaxed);
        let reported = reporting.map(|reporting| match reporting.join() {
            Ok(done) => done.map(|done| done.rate()),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        Ok::<_, anyhow::Error>(Latency { reports: reported.transpose()?, ..latency? })
    })?;
    daemon.terminate()?;
    daemon.remove_pins()?;
    latency.dropped.sort_by(f64::total_cmp);
    latency.answered.sort_by(f64::total_cmp);
    match latency.reports {
        None => println!("  one block, milliseconds (median, 99 %, most):"),
        Some(rate) => println!("  the same while {rate:.0} reports a second are counted:"),
    }
    for (what, times) in [
        ("from request to first dropped packet", &latency.dropped),
        ("from request to answer, when it is durable", &latency.answered),
    ] {
        let [median, p99, most] = [0.5, 0.99, 1.0].map(|share| quantile(times, share));
        println!("    {what:<45} {median:>8.3} {p99:>8.3} {most:>8.3}");
    }
    Ok(latency)
}

/// Blocks one source after the other, each while it floods from the CPU `outside`.
fn blocks(lab: &Lab, socket: &Path, count: u32, outside: usize) -> Result<Latency> {
    let mut connection = Connection::open(socket)?;
    let mut latency = Latency::default();
    for number in 0..count {
        // From the network for benchmarks (RFC 2544).
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
        let request = request(vec![source.to_string()])?;
        let ((start, answered), drops) = probe::watch(lab, &[source], EVERY, Some(outside), |listener| {
            listener.wait_for(AROUND)?;
            let start = Instant::now();
            connection.send(&request)?;
            connection.receive()?;
            let answered = start.elapsed();
            listener.wait_for(AROUND)?;
            Ok((start, answered))
        })?;
        let dropped = drops.first().copied().flatten().with_context(|| format!("{source} is not dropped"))?;
        latency.dropped.push((dropped - start).as_secs_f64() * 1e3);
        latency.answered.push(answered.as_secs_f64() * 1e3);
    }
    Ok(latency)
}

impl Latency {
    /// So many of the first drops, the quickest ones, did not take longer.
    pub(super) fn dropped(&self, share: f64) -> Spread {
        Spread::exact(quantile(&self.dropped, share))
    }

    pub(super) fn json(&self) -> Value {
        let of = |times: &[f64]| {
            json!({
                "blocks": times.len(),
                "median": quantile(times, 0.5),
                "p99": quantile(times, 0.99),
                "most": quantile(times, 1.0),
            })
        };
        json!({
            "reports_per_second": self.reports,
            "dropped": of(&self.dropped),
            "answered": of(&self.answered),
        })
    }
}

//! From a request to the first packet that is dropped, while the source floods.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use limiter_tests::{Config, Daemon, Lab};
use serde_json::{Value, json};

use super::probe;
use super::socket::{Connection, request};
use crate::machine;
use crate::report::Spread;
use crate::statistics::quantile;

/// Blocks, in the long form and in the short one.
const BLOCKS: [u32; 2] = [500, 200];
/// Between two packets of the flood: how exact the figures are.
const EVERY: Duration = Duration::from_micros(10);
/// Packets before the request, and behind the answer.
const AROUND: usize = 100;

/// Milliseconds, sorted.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// Until the first drop.
    dropped: Vec<f64>,
    /// Until the answer.
    answered: Vec<f64>,
}

/// Measures and prints.
pub(super) fn run(lab: &Lab, quick: bool) -> Result<Latency> {
    // In a thread of its own, since it stays on one CPU.
    thread::scope(|scope| {
        let measured = scope.spawn(|| measure(lab, quick));
        measured.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn measure(lab: &Lab, quick: bool) -> Result<Latency> {
    // The flood comes from another machine: daemon and client shall not share their CPU with the one who sends it.
    let cpus = machine::cpus()?;
    let [outside, .., host] = cpus.as_slice() else { bail!("it needs two CPUs, one for the flood") };
    machine::pin(*host)?;
    let mut daemon = Daemon::prepare(lab, "latency", &Config::default())?;
    daemon.launch()?;
    daemon.wait_ready()?;
    let mut connection = Connection::open(&daemon.places.socket)?;
    let mut latency = Latency::default();
    for number in 0..BLOCKS[usize::from(quick)] {
        // From the network for benchmarks (RFC 2544).
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
        let request = request(vec![source.to_string()])?;
        let ((start, answered), drops) = probe::watch(lab, &[source], EVERY, Some(*outside), |listener| {
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
    daemon.terminate()?;
    daemon.remove_pins()?;
    latency.dropped.sort_by(f64::total_cmp);
    latency.answered.sort_by(f64::total_cmp);
    println!("  one block, milliseconds (median, 99 %, most):");
    for (what, times) in [
        ("from request to first dropped packet", &latency.dropped),
        ("from request to answer, when it is durable", &latency.answered),
    ] {
        let [median, p99, most] = [0.5, 0.99, 1.0].map(|share| quantile(times, share));
        println!("    {what:<45} {median:>8.3} {p99:>8.3} {most:>8.3}");
    }
    Ok(latency)
}

impl Latency {
    /// Of the first drop.
    pub(super) fn p99(&self) -> Option<Spread> {
        (!self.dropped.is_empty()).then(|| Spread::exact(quantile(&self.dropped, 0.99)))
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
        json!({ "dropped": of(&self.dropped), "answered": of(&self.answered) })
    }
}

//! Blocks per second, and from the report to the drop.
//!
//! [`tables`] is the way from parsed entries to enforced ones, beside ipset and nftables; [`import`] the same from a
//! file, by command line and daemon, until it is enforced and until it is durable; [`requests`] is blocks over the
//! control socket, one by one and in batches; [`latency`] is the time from a request to the first packet that is dropped.

mod import;
mod latency;
mod others;
mod probe;
mod requests;
mod socket;
mod tables;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use self::latency::Besides;
use crate::options::Options;
use crate::report::{Bound, Report, SAMPLED, Spread, Target};
use crate::statistics::spread;
use crate::{lab, machine};

/// Addresses of a large list.
const MANY: u32 = 1_000_000;
/// Rounds of what takes seconds, unless asked otherwise.
const ROUNDS: u32 = 5;
const QUICK_ROUNDS: u32 = 3;

/// Measures, prints, and adds to the report.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    lab::before_others(|| measure(options, report))
}

fn measure(options: &Options, report: &mut Report) -> Result<()> {
    println!("how fast blocks come into force; {}", machine::line());
    let rounds = options.rounds.unwrap_or(if options.quick { QUICK_ROUNDS } else { ROUNDS });
    let (mut tables, mut imports, mut others) = (Samples::default(), import::Times::default(), Vec::new());
    let lab = lab::make("apply")?;
    let files = others::Files::write(&lab, MANY)?;
    let wanted = |section: &str| options.only.as_ref().is_none_or(|only| section.contains(only.as_str()));
    for round in 0..rounds {
        if wanted("parsed") {
            tables.add(tables::fill(&lab, round, MANY)?);
        }
        if wanted("file") {
            imports.add(import::run(&lab, round, &files.list, MANY)?);
        }
        for (number, other) in others::Other::ALL.into_iter().enumerate() {
            let time = if wanted("others") { others::restore(&files, other)? } else { None };
            if others.len() == number {
                others.push((other, Samples::default()));
            }
            if let (Some((_, samples)), Some(time)) = (others.get_mut(number), time) {
                samples.add(time);
            }
        }
    }
    println!("  1M blocks, seconds:");
    line("limiter, from parsed entries to enforced", &tables);
    line("limiter block import FILE, until enforced", &imports.enforced);
    line("limiter block import FILE, until durable", &imports.durable);
    for (other, samples) in &others {
        line(other.label(), samples);
        for (what, ours, bound) in [
            ("from parsed entries to enforced", &tables, 20.0),
            ("from file to enforced", &imports.enforced, 5.0),
        ] {
            if let Some(measured) = samples.over(ours) {
                let what = format!("1M blocks, {what}: {} / limiter", other.label());
                report.target(Target {
                    id: "R10",
                    what,
                    measured,
                    bound: Bound::AtLeast(bound),
                    slack: SAMPLED,
                });
            }
        }
    }
    if let Some(measured) = imports.durable.spread() {
        let what = "1M blocks, from file to durable: seconds".to_owned();
        report.target(Target { id: "R10", what, measured, bound: Bound::AtMost(3.0), slack: SAMPLED });
    }

    let requests = if wanted("requests") { requests::run(&lab, options.quick)? } else { Value::Null };
    let mut latencies = serde_json::Map::new();
    for (name, besides, p50, p99) in
        [("idle", Besides::Nothing, 0.5, 1.0), ("reports", Besides::Reports, 0.5, 2.0)]
    {
        if !wanted("latency") {
            continue;
        }
        let latency = latency::run(&lab, options.quick, besides)?;
        let besides = if besides == Besides::Reports { " beside 20k reports a second" } else { "" };
        for (share, word, bound) in [(0.5, "median", p50), (0.99, "p99", p99)] {
            let what = format!("one block{besides}, from request to first dropped packet: {word} in ms");
            let (measured, bound) = (latency.dropped(share), Bound::AtMost(bound));
            report.target(Target { id: "R11", what, measured, bound, slack: SAMPLED });
        }
        if let Some(rate) = latency.reports {
            let what = "reports a second beside which it was measured".to_owned();
            let (measured, bound) = (Spread::exact(rate), Bound::AtLeast(latency::REPORTS.into()));
            report.target(Target { id: "R11", what, measured, bound, slack: SAMPLED });
        }
        latencies.insert(name.to_owned(), latency.json());
    }
    let others: serde_json::Map<_, _> =
        others.iter().map(|(other, samples)| (other.label().to_owned(), samples.json())).collect();
    report.part(
        "apply",
        json!({
            "machine": machine::description(),
            "rounds": rounds,
            "blocks": MANY,
            "seconds": {
                "tables": tables.json(),
                "import_enforced": imports.enforced.json(),
                "import_durable": imports.durable.json(),
                "others": others,
            },
            "requests": requests,
            "latency_ms": latencies,
        }),
    );
    Ok(())
}

fn line(what: &str, samples: &Samples) {
    match samples.spread() {
        Some(time) => println!("    {what:<45} {:>8.3}   ({:.3} – {:.3})", time.median, time.low, time.high),
        None => println!("    {what:<45} not installed, or not asked for"),
    }
}

/// Durations, in seconds, one for each round.
#[derive(Debug, Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
    }

    fn spread(&self) -> Option<Spread> {
        (!self.0.is_empty()).then(|| spread(&self.0))
    }

    /// How many times as long as in the same rounds of `other`.
    fn over(&self, other: &Self) -> Option<Spread> {
        let ratios: Vec<f64> = self.0.iter().zip(&other.0).map(|(this, other)| this / other).collect();
        (!ratios.is_empty()).then(|| spread(&ratios))
    }

    fn json(&self) -> Value {
        self.spread().map_or(Value::Null, |spread| spread.json())
    }
}

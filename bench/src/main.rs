//! The benchmark of limiter, in four parts: [`verdicts`] measures nanoseconds a packet without an interface, [`flood`]
//! sends real frames over a veth, and [`apply`] measures how fast lists come into force. Each compares limiter with the
//! usual ways to do the same job, in the same rounds, and speaks of ratios. [`load`] asks what the daemon bears, and
//! whether anything of it is lost.

mod apply;
mod bpf;
mod chart;
mod expected;
mod flood;
mod lab;
mod load;
mod machine;
mod options;
mod report;
mod statistics;
mod verdicts;

// Shared with the programs in the kernel, which draw the sources of packets from the same functions.
#[path = "../ebpf/src/model.rs"]
#[expect(dead_code, unreachable_pub, reason = "some is only for the kernel's side, a crate of its own")]
mod model;
#[path = "../ebpf/src/sources.rs"]
#[expect(unreachable_pub, reason = "likewise")]
mod sources;

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use clap::Parser as _;

use crate::options::{Options, Part};
use crate::report::Report;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing failed or regressed.
fn run(options: &Options) -> anyhow::Result<bool> {
    let mut report = Report::new();
    let parts = match options.part {
        Some(part) => vec![part],
        None => vec![Part::Verdicts, Part::Flood, Part::Apply, Part::Load],
    };
    for part in parts {
        let run = match part {
            Part::Verdicts => verdicts::run,
            Part::Flood => flood::run,
            Part::Apply => apply::run,
            Part::Load => load::run,
        };
        // Each on a thread of its own, since some keep theirs on one CPU.
        let done = thread::scope(|scope| scope.spawn(|| run(options, &mut report)).join());
        done.unwrap_or_else(|panic| resume_unwind(panic)).with_context(|| format!("bench {part}"))?;
    }
    report.print_targets();
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    if let Some(file) = &options.chart {
        chart::draw(file, &report.panels)?;
    }
    for failure in &report.failures {
        println!("failure: {failure}");
    }
    if options.keep {
        expected::keep(&report.targets)?;
    } else if options.quick {
        let regressions = expected::regressions(&report.targets)?;
        for regression in &regressions {
            println!("regression: {regression}");
        }
        return Ok(report.failures.is_empty() && regressions.is_empty());
    }
    Ok(report.failures.is_empty())
}

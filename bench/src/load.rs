//! What the daemon bears: reports and blocks at a steady rate, over the control socket and over TLS, while a blocked
//! source floods. Afterwards the kernel is asked about every source that was acknowledged, by its own program on a packet
//! of that source; then the daemon is killed, and the next one has to know all of them.
//!
//! [`clients`] sends at a given rate; [`attack`] is the flood, and what the program did with it; [`kept`] asks what is
//! left of what was acknowledged.

mod attack;
pub(crate) mod clients;
mod kept;
mod scene;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use self::clients::{Load, Pace};
use self::scene::{Outcome, Scene, Way};
use crate::options::Options;
use crate::report::{Bound, Report, SAMPLED, Spread, Target};
use crate::{lab, machine};

/// How long the load lasts, in the long form and in the short one.
const SECONDS: [u64; 2] = [30, 3];
/// What is asked of the daemon in a second.
const REPORTS: u32 = 20_000;
const BLOCKS: u32 = 50_000;
/// So much more is offered, in percent, so that a rate that is reached shows.
const MARGIN: u32 = 2;

/// What is sent, in which requests, and which way.
struct Plan {
    name: &'static str,
    way: Way,
    load: Load,
    /// Reports or blocks of a request.
    batch: u32,
    connections: u32,
}

const PLANS: [Plan; 6] = [
    Plan::blocks("blocks, 10,000 in a request, socket", Way::Socket),
    Plan::blocks("blocks, 10,000 in a request, TLS", Way::Tls),
    Plan::reports("reports, 100 in a request, socket", Way::Socket, 100, 4),
    Plan::reports("reports, 100 in a request, TLS", Way::Tls, 100, 4),
    Plan::reports("reports, 1 in a request, socket", Way::Socket, 1, 16),
    Plan::reports("reports, 1 in a request, TLS", Way::Tls, 1, 16),
];

impl Plan {
    const fn blocks(name: &'static str, way: Way) -> Self {
        Self { name, way, load: Load::Blocks, batch: 10_000, connections: 1 }
    }

    const fn reports(name: &'static str, way: Way, batch: u32, connections: u32) -> Self {
        Self { name, way, load: Load::Reports, batch, connections }
    }

    /// In a second.
    const fn rate(&self) -> u32 {
        match self.load {
            Load::Blocks => BLOCKS,
            Load::Reports => REPORTS,
        }
    }

    /// Whether the daemon has to reach the rate: not with requests of one.
    const fn is_wanted(&self) -> bool {
        self.batch > 1
    }
}

/// Measures, prints, and adds to the report.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    lab::before_others(|| measure(options, report))
}

fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let time = Duration::from_secs(SECONDS[usize::from(options.quick)]);
    println!("reports and blocks at a steady rate for {} s; {}", time.as_secs(), machine::line());
    let wanted = |plan: &&Plan| options.only.as_ref().is_none_or(|only| plan.name.contains(only.as_str()));
    let mut figures = Vec::new();
    for plan in PLANS.iter().filter(wanted) {
        let lab = lab::make("load")?;
        let outcome = one(&lab, plan, time).inspect_err(|_| {
            for (name, content) in lab.scratch.logs() {
                let end = content.lines().rev().take(20).collect::<Vec<_>>();
                eprintln!("--- {name}, the last lines first\n{}\n---", end.join("\n"));
            }
        })?;
        print(plan, &outcome);
        add_targets(plan, &outcome, report);
        figures.push(json!({ "plan": plan.name, "figures": outcome.json() }));
    }
    report.part(
        "load",
        json!({ "machine": machine::description(), "seconds": time.as_secs(), "plans": Value::Array(figures) }),
    );
    Ok(())
}

fn one(lab: &limiter_tests::Lab, plan: &Plan, time: Duration) -> Result<Outcome> {
    let rate = plan.rate() * (100 + MARGIN) / 100;
    let pace = Pace { rate, batch: plan.batch, connections: plan.connections, time };
    Scene::new(lab, plan.way)?.run(plan.load, &pace)
}

fn print(plan: &Plan, outcome: &Outcome) {
    let Outcome { done, before, during, .. } = outcome;
    println!("  {}:", plan.name);
    println!(
        "    {:.0} a second acknowledged, {} in all, {} sources blocked; answers in ms: {:.2}, 99 % {:.2}, most {:.1}",
        done.rate(),
        done.acknowledged,
        outcome.blocked,
        done.latency(0.5),
        done.latency(0.99),
        done.latency(1.0),
    );
    println!(
        "    not dropped by the kernel: {}; unknown after kill -9: {}; daemon: {:.0} % of a CPU, {} MiB",
        outcome.not_enforced,
        outcome.forgotten,
        outcome.cpu * 100.0,
        outcome.memory >> 20,
    );
    println!(
        "    flood: {:.0} dropped a second at {:.0} ns each before, {:.0} at {:.0} ns meanwhile; {} got through",
        before.per_second(),
        before.nanoseconds(),
        during.per_second(),
        during.nanoseconds(),
        outcome.passed,
    );
}

fn add_targets(plan: &Plan, outcome: &Outcome, report: &mut Report) {
    let mut target = |what: String, value: f64, bound: Bound| {
        report.target(Target { id: "R14", what, measured: Spread::exact(value), bound, slack: SAMPLED });
    };
    let name = plan.name;
    if plan.is_wanted() {
        target(format!("{name}: a second"), outcome.done.rate(), Bound::AtLeast(plan.rate().into()));
    }
    let lost = outcome.not_enforced + outcome.forgotten;
    target(format!("{name}: lost"), f64::from(lost), Bound::AtMost(0.0));
    #[expect(clippy::cast_precision_loss, reason = "a count of packets, mostly 0")]
    target(format!("{name}: packets of a blocked source"), outcome.passed as f64, Bound::AtMost(0.0));
    let ratio = outcome.during.per_second() / outcome.before.per_second();
    target(format!("{name}: dropped a second / before"), ratio, Bound::AtLeast(0.95));
    // How fast it is depends on the machine. Whether it keeps what it acknowledged does not.
    if lost > 0 {
        report.failures.push(format!("{name}: {lost} blocks that were acknowledged are lost"));
    }
    if outcome.passed > 0 {
        report.failures.push(format!("{name}: {} packets of a blocked source got through", outcome.passed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_fails_and_what_is_slow_does_not() {
        let failures = |not_enforced, forgotten, passed| {
            let outcome = Outcome {
                done: clients::Done::default(),
                blocked: 7,
                not_enforced,
                forgotten,
                before: attack::Work::default(),
                during: attack::Work::default(),
                passed,
                cpu: 0.1,
                memory: 1 << 20,
            };
            let mut report = Report::new();
            add_targets(&PLANS[0], &outcome, &mut report);
            assert!(report.targets.iter().any(|target| !target.bound.holds(target.measured.median)));
            report.failures.len()
        };
        assert_eq!(failures(0, 0, 0), 0);
        assert_eq!(failures(1, 0, 0), 1);
        assert_eq!(failures(0, 1, 0), 1);
        assert_eq!(failures(2, 0, 3), 2);
    }
}

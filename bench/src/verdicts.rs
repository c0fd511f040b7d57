//! Nanoseconds a packet, by test runs of the shipped program with the shipped daemon's maps and writer.
//!
//! A small program, the mutator, gives each packet its source and calls the program that is measured; the same with an
//! empty program is taken off. What is compared is measured in the same rounds, in an order that rotates.

mod comparison;
mod diagrams;
mod floors;
mod frame;
mod innocents;
mod lane;
mod limits;
mod lists;
mod memory;
mod object;
mod scenarios;
mod subject;

use std::rc::Rc;

use anyhow::Context as _;
use serde_json::{Value, json};

use self::comparison::{Comparison, Effort, Figures, Scenario};
use self::frame::Family;
use self::lane::{Expected, Traffic};
use self::lists::List;
use self::subject::Subject;
use crate::machine;
use crate::model::{Model, Parameters};
use crate::options::Options;
use crate::report::{Bound, Report, SAMPLED, Spread, Target};
use crate::sources::{listed_v4, listed_v6, resident_v4, resident_v6};

/// Rounds, unless asked otherwise.
const ROUNDS: u32 = 24;
const QUICK_ROUNDS: u32 = 9;
const MILLISECOND: f64 = 1e6;

type Section = (&'static str, fn(&mut Bench<'_>) -> anyhow::Result<()>);

/// What is measured, in order. Each loads what it needs and drops it again.
const SECTIONS: [Section; 8] = [
    ("floors", floors::measure),
    ("addresses", scenarios::addresses_v4),
    ("deadlines", scenarios::deadlines),
    ("prefixes", scenarios::prefixes_v4),
    ("ipv6", scenarios::sources_v6),
    ("limits", limits::spoofed_floods),
    ("mixed", limits::mixed),
    ("innocents", limits::innocents),
];

/// Measures, prints, and adds to the report.
pub(crate) fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    machine::keep_mounts_private()?;
    // The last one: interrupts rather go to the first.
    let cpus = machine::cpus()?;
    machine::pin(*cpus.last().context("no CPU")?)?;
    println!("nanoseconds a packet, net of an empty program; {}", machine::line());
    let mut bench = Bench::new(options, cpus, report)?;
    for (name, measure) in SECTIONS {
        if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            measure(&mut bench).context(name)?;
        }
    }
    let panels = diagrams::panels(&bench.figures);
    let comparisons: Vec<Value> = bench.figures.iter().map(Figures::json).collect();
    report.panels.extend(panels);
    report.part(
        "verdicts",
        json!({
            "machine": machine::description(),
            "quick": options.quick,
            "comparisons": comparisons,
        }),
    );
    Ok(())
}

/// What all scenarios need.
struct Bench<'a> {
    empty: Rc<Subject>,
    effort: Effort,
    quick: bool,
    /// Those that this process may use.
    cpus: Vec<usize>,
    figures: Vec<Figures>,
    report: &'a mut Report,
}

impl<'a> Bench<'a> {
    fn new(options: &Options, cpus: Vec<usize>, report: &'a mut Report) -> anyhow::Result<Self> {
        let (rounds, sample, warm_up) =
            if options.quick { (QUICK_ROUNDS, 8.0, 25.0) } else { (ROUNDS, 25.0, 40.0) };
        let rounds = usize::try_from(options.rounds.unwrap_or(rounds)).context("rounds")?;
        let (sample, warm_up) = (sample * MILLISECOND, warm_up * MILLISECOND);
        let effort = Effort { rounds, sample, warm_up, prime: 0 };
        Ok(Self {
            empty: Rc::new(Subject::empty()?),
            effort,
            quick: options.quick,
            cpus,
            figures: Vec::new(),
            report,
        })
    }

    /// Measures each subject under its traffic, and prints.
    fn compare(
        &mut self,
        traffic: impl Into<String>,
        list: Option<&List>,
        rows: &[Row<'_>],
    ) -> anyhow::Result<&Figures> {
        self.compare_for(traffic, list, rows, self.effort)
    }

    fn compare_for(
        &mut self,
        traffic: impl Into<String>,
        list: Option<&List>,
        rows: &[Row<'_>],
        effort: Effort,
    ) -> anyhow::Result<&Figures> {
        let list = list.map(|list| (list.to_string(), list.len()));
        let scenario = Scenario { traffic: traffic.into(), list };
        let title = scenario.to_string();
        let mut comparison = Comparison::new(scenario);
        for (subject, traffic, expected) in rows {
            comparison.lane(&self.empty, subject, *traffic, *expected).with_context(|| title.clone())?;
        }
        let figures = comparison.run(effort).with_context(|| title)?;
        figures.print();
        self.figures.push(figures);
        self.figures.last().context("it was just added")
    }

    /// Adds a figure that was counted.
    fn counted(&mut self, id: &'static str, what: String, figure: f64, bound: Bound, slack: f64) {
        self.report.target(Target { id, what, measured: Spread::exact(figure), bound, slack });
    }

    /// Adds a ratio with a target, if it was measured.
    fn target(&mut self, id: &'static str, what: impl Into<String>, measured: Option<Spread>, bound: Bound) {
        if let Some(measured) = measured {
            self.report.target(Target { id, what: what.into(), measured, bound, slack: SAMPLED });
        }
    }
}

/// A subject, the traffic it gets, and what it shall do with it.
type Row<'a> = (&'a Rc<Subject>, Traffic, Expected);

impl Traffic {
    const fn new(family: Family, model: Model, listed: u32) -> Self {
        Self { family, model, parameters: Parameters { listed, hot: 0 } }
    }

    /// One source that is not listed.
    fn one(family: Family) -> Self {
        Self::from_one(
            family,
            match family {
                Family::V4 => resident_v4(0).into(),
                Family::V6 => resident_v6(0),
            },
        )
    }

    /// The first listed one.
    fn one_listed(family: Family) -> Self {
        Self::from_one(
            family,
            match family {
                Family::V4 => listed_v4(0).into(),
                Family::V6 => listed_v6(0),
            },
        )
    }

    const fn from_one(family: Family, hot: u64) -> Self {
        Self { family, model: Model::Hot, parameters: Parameters { listed: 1, hot } }
    }
}

/// 1k, 1M and the like.
fn size(count: u32) -> String {
    match count {
        0 => "no".into(),
        count if count % 1_000_000 == 0 => format!("{}M", count / 1_000_000),
        count if count % 1_000 == 0 => format!("{}k", count / 1_000),
        count => count.to_string(),
    }
}

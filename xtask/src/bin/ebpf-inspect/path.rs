//! What sample frames run through in the compiled program: how many instructions, and which calls.
//!
//! A call costs more than most of what a verdict does otherwise, so the common ways to a verdict are to make none but
//! that of the clock. Lookups in arrays are calls only in the object: the kernel puts instructions in their place
//! (`array_map_gen_lookup`, for per-CPU arrays since Linux 6.10 on x86-64, `percpu_array_map_gen_lookup`).

mod kernel;
mod scenario;
mod vectors;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use self::scenario::Scenario;
use crate::machine::{Call, Helper, Kind, Machine, Run};

/// Options of `cargo xtask ebpf path`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the scenarios with this in their names, such as limiter_frags/clean
    filter: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "trace")]
    json: bool,
    /// Fail if a verdict on a plain IPv4 frame makes more calls than it may, or if a vector has another verdict than on
    /// the host
    #[arg(long, conflicts_with = "trace")]
    check: bool,
    /// Print every instruction of one scenario
    #[arg(long, value_name = "SCENARIO")]
    trace: Option<String>,
}

/// What one frame ran through.
#[derive(Debug, Serialize)]
struct Passage {
    scenario: String,
    /// Label of the reason.
    verdict: &'static str,
    /// As compiled: a call counts as one.
    instructions: usize,
    /// Calls that the kernel replaces by instructions.
    inlined: Vec<Inlined>,
    /// Calls that stay calls, in the order in which they are made.
    calls: Vec<String>,
    /// How many calls there may be, if this is checked.
    calls_allowed: Option<usize>,
}

/// Calls of one kind, and the instructions that the kernel executes instead of each.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Inlined {
    call: &'static str,
    instructions: usize,
    times: usize,
}

/// Runs all scenarios on an object.
pub(crate) fn path(object: &[u8], arguments: &Arguments) -> Result<()> {
    if let Some(name) = &arguments.trace {
        return trace(object, name);
    }
    let mut passages = Vec::new();
    let filter = arguments.filter.as_deref().unwrap_or_default();
    for scenario in scenario::all().filter(|scenario| scenario.to_string().contains(filter)) {
        let (run, machine) = scenario.run(object).with_context(|| format!("scenario {scenario}"))?;
        passages.push(Passage::new(&scenario, &run, &machine));
    }
    if passages.is_empty() {
        bail!("no scenario has {filter} in its name");
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&passages)?);
    } else {
        print(&passages);
    }
    if arguments.check {
        vectors::agree(object)?;
        check(&passages)?;
    }
    Ok(())
}

fn trace(object: &[u8], name: &str) -> Result<()> {
    let Some(scenario) = scenario::all().find(|scenario| scenario.to_string() == name) else {
        let names: Vec<_> = scenario::all().map(|scenario| scenario.to_string()).collect();
        bail!("no scenario {name}; there are: {}", names.join(", "));
    };
    let (run, machine) = scenario.run(object).with_context(|| format!("scenario {scenario}"))?;
    for at in run.steps {
        println!("{at:>6}  {}", machine.text(at));
    }
    Ok(())
}

fn check(passages: &[Passage]) -> Result<()> {
    let many =
        |passage: &&Passage| passage.calls_allowed.is_some_and(|allowed| passage.calls.len() > allowed);
    let complaints = passages.iter().filter(many).map(|passage| {
        let Passage { scenario, calls, .. } = passage;
        let allowed = passage.calls_allowed.unwrap_or_default();
        format!("{scenario} makes {} calls, allowed are {allowed}: {}", calls.len(), calls.join(", "))
    });
    let complaints: Vec<_> = complaints.collect();
    if !complaints.is_empty() {
        bail!("{}", complaints.join("; "));
    }
    Ok(())
}

fn print(passages: &[Passage]) {
    let row = |cells: [&str; 5]| {
        let [scenario, verdict, instructions, inlined, calls] = cells;
        println!("{scenario:<38} {verdict:<12} {instructions:>12}  {inlined:<30}  {calls}");
    };
    row(["scenario", "verdict", "instructions", "inlined", "calls"]);
    for Passage { scenario, verdict, instructions, inlined, calls, .. } in passages {
        let total: usize = inlined.iter().map(|call| call.times * call.instructions).sum();
        let inlined = inlined.iter().map(|call| times(call.call, call.times)).collect::<Vec<_>>().join(", ");
        let inlined = if inlined.is_empty() { "-".to_owned() } else { format!("{inlined} = {total}") };
        row([scenario, verdict, &instructions.to_string(), &inlined, &counted(calls)]);
    }
}

/// Each different call once, in the order of the first.
fn counted(calls: &[String]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for call in calls {
        match counts.iter_mut().find(|(name, _)| name == call) {
            Some((_, count)) => *count += 1,
            None => counts.push((call, 1)),
        }
    }
    let calls: Vec<_> = counts.into_iter().map(|(name, count)| times(name, count)).collect();
    if calls.is_empty() { "-".to_owned() } else { calls.join(", ") }
}

fn times(name: &str, count: usize) -> String {
    if count == 1 { name.to_owned() } else { format!("{count} {name}") }
}

impl Passage {
    fn new(scenario: &Scenario, run: &Run, machine: &Machine) -> Self {
        let mut inlined = BTreeMap::new();
        let mut calls = Vec::new();
        for call in &run.calls {
            match inline(*call) {
                Some(key) => *inlined.entry(key).or_insert(0) += 1,
                None => calls.push(name(*call, machine)),
            }
        }
        let inlined = inlined.into_iter();
        Self {
            scenario: scenario.to_string(),
            verdict: scenario.expected().label(),
            instructions: run.steps.len(),
            inlined: inlined
                .map(|((call, instructions), times)| Inlined { call, instructions, times })
                .collect(),
            calls,
            calls_allowed: scenario.calls_allowed(),
        }
    }
}

/// What the kernel makes of a call, if it inlines it: what to call it, and the instructions executed instead, as Linux
/// 6.18 has them on x86-64 for a loader with all capabilities.
const fn inline(call: Call) -> Option<(&'static str, usize)> {
    match call {
        Call::Lookup { kind: Kind::Array, found: true } => Some(("array", 6)),
        Call::Lookup { kind: Kind::PerCpuArray, found: true } => Some(("per-CPU array", 8)),
        Call::Lookup { found: false, .. } => Some(("beyond array", 4)),
        Call::Helper(Helper::Processor) => Some(("processor", 3)),
        Call::Helper(Helper::Jiffies) => Some(("jiffies", 2)),
        Call::Lookup { .. } | Call::Helper(_) | Call::Function(_) => None,
    }
}

fn name(call: Call, machine: &Machine) -> String {
    match call {
        Call::Lookup { .. } => Helper::MapLookup.name().to_owned(),
        Call::Helper(helper) => helper.name().to_owned(),
        Call::Function(at) => machine.function(at),
    }
}

//! Several lanes in the same rounds, so that what disturbs the machine disturbs them all.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use serde_json::{Value, json};

use super::lane::{Expected, Lane, Traffic};
use super::subject::{Subject, Verdicts};
use crate::report::Spread;
use crate::statistics::{median, spread};

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Rounds that count.
    pub(super) rounds: usize,
    /// Nanoseconds that a sample takes.
    pub(super) sample: f64,
    /// Nanoseconds that the run before it takes. The other lanes have emptied the caches of what this one needs, and to
    /// get 4 MiB back by random accesses takes some 300,000 of them.
    pub(super) warm_up: f64,
    /// Packets before all rounds, so that tables that fill up are as full as they get.
    pub(super) prime: u32,
}

/// A round is dropped if the empty program takes this much longer, or shorter, at its end than at its start.
const MOST_DRIFT: f64 = 0.05;
/// One source needs few cache lines: nanoseconds that the run before a sample of it takes at most.
const MOST_FOR_ONE: f64 = 2e6;
/// The least packets in a sample.
const LEAST_PACKETS: f64 = 1000.0;

/// What is compared: one scenario.
#[derive(Debug)]
pub(super) struct Comparison {
    scenario: Scenario,
    empty: BTreeMap<Key, Lane>,
    lanes: Vec<(Key, Lane)>,
}

/// What is done to the subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scenario {
    /// The traffic, in words.
    pub(super) traffic: String,
    /// The list, in words, and how many entries it has.
    pub(super) list: Option<(String, u32)>,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.list {
            Some((list, _)) => write!(f, "{}; {list} blocked", self.traffic),
            None => f.write_str(&self.traffic),
        }
    }
}

/// Lanes with the same traffic are compared with the same empty program.
type Key = (u8, u8, u32);

/// The figures of one scenario.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) scenario: Scenario,
    /// By lane: nanoseconds a packet net of the empty program, one for each round.
    net: Vec<(String, Vec<f64>)>,
    verdicts: Vec<Option<Verdicts>>,
    /// Nanoseconds a packet of the empty program.
    pub(super) empty: f64,
    /// Rounds that did not count.
    pub(super) dropped_rounds: usize,
}

impl Comparison {
    pub(super) fn new(scenario: Scenario) -> Self {
        Self { scenario, empty: BTreeMap::new(), lanes: Vec::new() }
    }

    /// Adds a subject under some traffic.
    pub(super) fn lane(
        &mut self,
        empty: &Rc<Subject>,
        subject: &Rc<Subject>,
        traffic: Traffic,
        expected: Expected,
    ) -> anyhow::Result<()> {
        let key = (traffic.family as u8, traffic.model as u8, traffic.parameters.listed);
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.empty.entry(key) {
            vacant.insert(Lane::new(empty, traffic, Expected::Anything)?);
        }
        self.lanes.push((key, Lane::new(subject, traffic, expected)?));
        Ok(())
    }

    /// Measures, and checks what the subjects did.
    pub(super) fn run(mut self, effort: Effort) -> anyhow::Result<Figures> {
        let lanes = self.lanes.len();
        let mut packets = Vec::with_capacity(lanes);
        for (_, lane) in &mut self.lanes {
            packets.push(packets_for(lane, effort)?);
        }
        let mut empty_packets = BTreeMap::new();
        for (key, lane) in &mut self.empty {
            empty_packets.insert(*key, packets_for(lane, effort)?);
        }

        let mut net = vec![Vec::with_capacity(effort.rounds); lanes];
        let (mut empties, mut dropped_rounds) = (Vec::new(), 0);
        while empties.len() < effort.rounds && dropped_rounds <= effort.rounds {
            let round = empties.len() + dropped_rounds;
            let before = measure_empty(&mut self.empty, &empty_packets)?;
            let mut gross = vec![0.0; lanes];
            for turn in 0..lanes {
                // Each lane comes after each other one in turn.
                let at = if round % 2 == 0 {
                    (turn + round / 2) % lanes
                } else {
                    (round / 2 + lanes - turn) % lanes
                };
                let (_, lane) = &mut self.lanes[at];
                lane.measure(packets[at].1)?;
                gross[at] = lane.measure(packets[at].0)?;
            }
            let after = measure_empty(&mut self.empty, &empty_packets)?;
            let drift = |(before, after): (&f64, &f64)| (after / before - 1.0).abs();
            if before.values().zip(after.values()).map(drift).fold(0.0, f64::max) > MOST_DRIFT {
                dropped_rounds += 1;
                continue;
            }
            for (at, (key, _)) in self.lanes.iter().enumerate() {
                net[at].push(gross[at] - f64::midpoint(before[key], after[key]));
            }
            empties.push(before.values().next().copied().unwrap_or_default());
        }
        let verdicts = self.lanes.iter().map(|(_, lane)| lane.check()).collect::<anyhow::Result<_>>()?;
        let names = self.lanes.iter().map(|(_, lane)| lane.name().to_owned());
        Ok(Figures {
            scenario: self.scenario,
            net: names.zip(net).collect(),
            verdicts,
            empty: median(&empties),
            dropped_rounds,
        })
    }
}

/// Packets of a sample and of the run before it.
fn packets_for(lane: &mut Lane, effort: Effort) -> anyhow::Result<(u32, u32)> {
    lane.measure(effort.prime.max(2_000))?;
    let nanos = lane.measure(100_000)?.max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
    let packets = |time: f64| (time / nanos).max(LEAST_PACKETS) as u32;
    let warm_up = if lane.is_of_one_source() { effort.warm_up.min(MOST_FOR_ONE) } else { effort.warm_up };
    Ok((packets(effort.sample), packets(warm_up)))
}

fn measure_empty(
    lanes: &mut BTreeMap<Key, Lane>,
    packets: &BTreeMap<Key, (u32, u32)>,
) -> anyhow::Result<BTreeMap<Key, f64>> {
    let mut times = BTreeMap::new();
    for (key, lane) in lanes {
        times.insert(*key, lane.measure(packets[key].0)?);
    }
    Ok(times)
}

impl Figures {
    /// How many times as long `lane` takes as `other`, net of the empty program.
    pub(super) fn ratio(&self, lane: &str, other: &str) -> Option<Spread> {
        let ratios = self.samples(lane)?.iter().zip(self.samples(other)?).map(|(a, b)| a / b);
        Some(spread(&ratios.collect::<Vec<_>>()))
    }

    /// The median of a lane, in nanoseconds a packet net of the empty program.
    pub(super) fn median(&self, lane: &str) -> Option<f64> {
        Some(median(self.samples(lane)?))
    }

    fn samples(&self, lane: &str) -> Option<&[f64]> {
        let (_, samples) = self.net.iter().find(|(name, samples)| name == lane && !samples.is_empty())?;
        Some(samples)
    }

    /// One line for each lane.
    pub(super) fn print(&self) {
        let rounds = self.net.first().map_or(0, |(_, samples)| samples.len());
        let dropped = match self.dropped_rounds {
            0 => String::new(),
            rounds => format!(", {rounds} dropped"),
        };
        println!("{} (empty {:.1} ns, {rounds} rounds{dropped})", self.scenario, self.empty);
        for ((name, samples), verdicts) in self.net.iter().zip(&self.verdicts) {
            if samples.is_empty() {
                println!("    {name:<24} not measured: the machine was never quiet enough");
                continue;
            }
            let Spread { median, low, high } = spread(samples);
            let interval = format!("{low:.1} – {high:.1}");
            let share = verdicts.map_or_else(String::new, |verdicts| {
                #[expect(clippy::cast_precision_loss, reason = "far less than 2^53")]
                let share = 100.0 * verdicts.dropped as f64 / verdicts.all().max(1) as f64;
                format!("{share:>8.2} % dropped")
            });
            println!("    {name:<24} {median:>8.1} ns {interval:>18}{share}");
        }
    }

    pub(super) fn json(&self) -> Value {
        let lanes: Vec<Value> = self
            .net
            .iter()
            .zip(&self.verdicts)
            .filter(|((_, samples), _)| !samples.is_empty())
            .map(|((name, samples), verdicts)| {
                json!({
                    "subject": name,
                    "net_ns": spread(samples).json(),
                    "passed": verdicts.map(|verdicts| verdicts.passed),
                    "dropped": verdicts.map(|verdicts| verdicts.dropped),
                })
            })
            .collect();
        json!({
            "traffic": self.scenario.traffic,
            "list": self.scenario.list.as_ref().map(|(list, _)| list),
            "entries": self.scenario.list.as_ref().map(|(_, entries)| entries),
            "empty_ns": self.empty,
            "dropped_rounds": self.dropped_rounds,
            "lanes": lanes,
        })
    }
}

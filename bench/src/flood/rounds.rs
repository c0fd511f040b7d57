//! Rounds of samples: in each, every row has its turn.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use limiter_tests::{Lab, wait};
use serde_json::{Value, json};

use super::BURST;
use super::generator::Generator;
use super::link::Link;
use super::nft::Nft;
use super::pace::Pace;
use super::thread::{Rank, give_cpu};
use crate::model::{Model, Parameters};
use crate::report::Spread;
use crate::statistics::spread;

/// How long a row has the CPUs, after as much time again to find its pace and to fill caches.
const SAMPLE: Duration = Duration::from_millis(150);
/// The first frame is there in no time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the frames that should have been dropped this share may pass, and the other way round: frames that are on their way
/// when counters are read, and random sources that happen to be listed.
const ODD: f64 = 0.02;
/// Beside it as many as one source may send at once, if the frames before the sample did not use that up.
const ALWAYS: f64 = BURST as f64 * 1.2;
/// A receiver that computed for a smaller share of the time waited for frames: its figure is only a lower bound.
pub(super) const BUSY: f64 = 0.95;

/// What a contestant shall do with the frames of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Dropped,
    Passed,
}

/// The rows, before they are measured.
pub(super) struct Flood<'a> {
    lab: &'a Lab,
    nft: &'a Nft,
    sender: usize,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    name: &'static str,
    link: &'a Link,
    generator: Generator,
    expected: Expected,
    pace: Pace,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Frames per second.
    rate: f64,
    /// Share of the time that the receiving thread computed.
    busy: f64,
}

impl<'a> Flood<'a> {
    /// Sends from the CPU `sender`.
    pub(super) fn new(lab: &'a Lab, nft: &'a Nft, sender: usize) -> Self {
        Self { lab, nft, sender, rows: Vec::new() }
    }

    /// Adds a row: a link, the sources of the frames that are sent on it, and what shall become of them.
    pub(super) fn row(
        &mut self,
        name: &'static str,
        link: &'a Link,
        (model, parameters): (Model, Parameters),
        expected: Expected,
    ) -> Result<()> {
        let generator = Generator::new(link.source, model, parameters).context(name)?;
        self.rows.push(Row { name, link, generator, expected, pace: Pace::default(), samples: Vec::new() });
        Ok(())
    }

    /// Measures.
    pub(super) fn run(mut self, rounds: u32) -> Result<Figures> {
        // On the CPU of the sender, which costs no more than some packets that are not sent.
        give_cpu(0, self.sender, Rank::Observer)?;
        for round in 0..rounds as usize {
            for turn in 0..self.rows.len() {
                // Each round begins with another row.
                let row = (round + turn) % self.rows.len();
                let row = self.rows.get_mut(row).context("there are as many rows as turns")?;
                let sample = row.sample(self.lab, self.nft, self.sender).context(row.name)?;
                row.samples.push(sample);
            }
        }
        let rows = self.rows.into_iter().map(|row| (row.name, row.samples)).collect();
        Ok(Figures { rows })
    }
}

impl Row<'_> {
    fn sample(&mut self, lab: &Lab, nft: &Nft, sender: usize) -> Result<Sample> {
        nft.forget()?;
        let Link { name, received, .. } = self.link;
        let idle = received.count()?;
        let (sample, passed, all) = self.generator.while_sending(&lab.outside, sender, || {
            wait::until_true("frames arrive", PATIENCE, || Ok(received.count()? > idle))?;
            self.pace.find(&self.generator, self.link)?;
            let (passed, all) = (nft.passed(name)?, received.count()?);

            let (start, computed, before) = (Instant::now(), self.link.computed()?, received.count()?);
            thread::sleep(SAMPLE);
            let (time, count) = (start.elapsed(), received.count()? - before);
            let busy = (self.link.computed()? - computed).as_secs_f64() / time.as_secs_f64();

            let (passed, all) = (nft.passed(name)? - passed, received.count()? - all);
            Ok((Sample { rate: count as f64 / time.as_secs_f64(), busy }, passed, all))
        })?;
        let odd = match self.expected {
            Expected::Dropped => passed,
            Expected::Passed => all.saturating_sub(passed),
        };
        ensure!(
            sample.rate > 0.0 && odd as f64 <= ODD * all as f64 + ALWAYS,
            "of {all} frames that should be {:?} {passed} passed",
            self.expected
        );
        Ok(sample)
    }
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Figures {
    rows: Vec<(&'static str, Vec<Sample>)>,
}

impl Figures {
    /// The first row's rate over the second's, in the same rounds.
    pub(super) fn ratio(&self, ours: &str, theirs: &str) -> Option<Spread> {
        let samples = |name| self.rows.iter().find(|row| row.0 == name).map(|row| &row.1);
        let pairs = samples(ours)?.iter().zip(samples(theirs)?);
        let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours.rate / theirs.rate).collect();
        (!ratios.is_empty()).then(|| spread(&ratios))
    }

    /// Time for a frame of the first row over that of the second, both without that of the third.
    pub(super) fn net_ratio(&self, theirs: &str, ours: &str, base: &str) -> Option<Spread> {
        let times = |name| {
            let row = self.rows.iter().find(|row| row.0 == name)?;
            Some(row.1.iter().map(|sample| 1.0 / sample.rate))
        };
        let all = times(theirs)?.zip(times(ours)?).zip(times(base)?);
        let ratios: Vec<f64> = all.map(|((theirs, ours), base)| (theirs - base) / (ours - base)).collect();
        (!ratios.is_empty()).then(|| spread(&ratios))
    }

    pub(super) fn print(&self) {
        let width = self.rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0);
        println!("  {:<width$} {:>8} {:>15} {:>8} {:>6}", "", "Mpps", "95 %", "ns", "busy");
        for (name, samples) in &self.rows {
            let (rate, busy) = summary(samples);
            println!(
                "  {name:<width$} {:>8.3} {:>15} {:>8.1} {:>4.0} %{}",
                rate.median / 1e6,
                format!("{:.3} – {:.3}", rate.low / 1e6, rate.high / 1e6),
                1e9 / rate.median,
                busy.median * 100.0,
                if busy.median < BUSY { "  at least: it waited for frames" } else { "" }
            );
        }
    }

    pub(super) fn json(&self) -> Vec<Value> {
        self.rows
            .iter()
            .map(|(name, samples)| {
                let (rate, busy) = summary(samples);
                json!({ "name": name, "frames_per_second": rate.json(), "busy": busy.median })
            })
            .collect()
    }
}

fn summary(samples: &[Sample]) -> (Spread, Spread) {
    let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
    let busy: Vec<f64> = samples.iter().map(|sample| sample.busy).collect();
    (spread(&rates), spread(&busy))
}

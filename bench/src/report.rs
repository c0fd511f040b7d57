//! What was measured, for people and for programs.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::chart::Panel;

/// Everything that the parts found out.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Ratios that have a target.
    pub(crate) targets: Vec<Target>,
    /// What must not be on any machine, however slow, and was. Sentences.
    pub(crate) failures: Vec<String>,
    /// What a part adds to the JSON, under its name.
    parts: Map<String, Value>,
    /// Diagrams for the chart.
    pub(crate) panels: Vec<Panel>,
}

/// A measured ratio with a target.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its number, like `R1`.
    pub(crate) id: &'static str,
    pub(crate) what: String,
    pub(crate) measured: Spread,
    pub(crate) bound: Bound,
    /// How many times as bad as expected it may be, see [`crate::expected`].
    pub(crate) slack: f64,
}

/// The slack of what is sampled: CI runs on other machines, and beside others.
pub(crate) const SAMPLED: f64 = 2.0;

/// A median, and the 95 % interval of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// What a ratio shall be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Spread {
    /// A figure that was counted, not sampled.
    pub(crate) const fn exact(value: f64) -> Self {
        Self { median: value, low: value, high: value }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        json!({ "median": self.median, "low": self.low, "high": self.high })
    }
}

impl Bound {
    /// Whether a figure meets it.
    pub(crate) fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {}", short(*bound)),
            Self::AtLeast(bound) => write!(f, "≥ {}", short(*bound)),
        }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a ratio to the table of targets.
    pub(crate) fn target(&mut self, target: Target) {
        self.targets.push(target);
    }

    /// Adds the figures of a part to the JSON.
    pub(crate) fn part(&mut self, name: &str, figures: Value) {
        self.parts.insert(name.to_owned(), figures);
    }

    /// Says that a part was not run, and why.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        println!("bench {name}: skipped: {reason}");
        self.part(name, json!({ "skipped": reason }));
    }

    /// Prints the table of targets.
    pub(crate) fn print_targets(&self) {
        if self.targets.is_empty() {
            return;
        }
        let width = self.targets.iter().map(|target| target.what.chars().count()).max().unwrap_or(0);
        println!("\n{:<4} {:<width$} {:>9} {:>19} {:>9}", "", "ratio", "measured", "95 %", "target");
        let mut targets: Vec<&Target> = self.targets.iter().collect();
        targets.sort_by_key(|target| target.id.trim_start_matches('R').parse::<u32>().ok());
        for Target { id, what, measured, bound, .. } in targets {
            println!(
                "{id:<4} {what:<width$} {:>9} {:>19} {:>9}  {}",
                figure(measured.median),
                format!("{} – {}", figure(measured.low), figure(measured.high)),
                bound.to_string(),
                if bound.holds(measured.median) { "holds" } else { "does not hold" }
            );
        }
    }

    /// Writes everything.
    pub(crate) fn write_json(&self, file: &Path) -> anyhow::Result<()> {
        let targets: Vec<Value> = self
            .targets
            .iter()
            .map(|target| {
                json!({
                    "id": target.id,
                    "ratio": target.what,
                    "measured": target.measured.json(),
                    "target": target.bound.to_string(),
                    "holds": target.bound.holds(target.measured.median),
                })
            })
            .collect();
        let value = json!({ "targets": targets, "parts": self.parts });
        let text = format!("{value:#}\n");
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// A given figure, as it was given.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A ratio with as many digits as mean something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        0.99..1.001 => format!("{value:.5}"),
        0.95..1.05 => format!("{value:.3}"),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

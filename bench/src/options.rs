//! What can be asked for.

use std::fmt;
use std::path::PathBuf;

/// Measure limiter beside the usual ways to do the same job. Needs root; nothing stays behind.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub(crate) struct Options {
    /// One part instead of all
    #[arg(value_enum)]
    pub(crate) part: Option<Part>,
    /// A short form that fails if a ratio is clearly worse than bench/expected.json says
    #[arg(long)]
    pub(crate) quick: bool,
    /// Of verdicts only the sections with this in their names: floors, addresses, deadlines, prefixes, ipv6, limits,
    /// mixed, innocents; of apply likewise: parsed, file, others, requests, latency; of load: blocks, reports, socket, TLS
    #[arg(long, value_name = "SECTION")]
    pub(crate) only: Option<String>,
    /// Keep the ratios that were measured as those that are expected, in bench/expected.json
    #[arg(long, requires = "quick")]
    pub(crate) keep: bool,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the main figures into this file, an SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,
    /// Rounds of every comparison [default: 24, or fewer with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) rounds: Option<u32>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Nanoseconds a packet, by test runs
    Verdicts,
    /// Frames over a veth, handled per second
    Flood,
    /// Blocks per second, and from the report to the drop
    Apply,
    /// Reports and blocks at a steady rate: nothing is lost, and packets do not notice
    Load,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verdicts => "verdicts",
            Self::Flood => "flood",
            Self::Apply => "apply",
            Self::Load => "load",
        })
    }
}

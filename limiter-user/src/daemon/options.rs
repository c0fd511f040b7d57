//! What may be written on the command line of `limiterd`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::telemetry::LogFormat;

/// Where the configuration is unless said otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/limiter/limiter.toml";

/// Protect network interfaces with XDP
///
/// Examples:
///   limiterd --config /etc/limiter/limiter.toml --check
///   limiterd --config /etc/limiter/limiter.toml
///   limiterd --interface eth0
///
/// Stopping it leaves protection on; `limiter detach` takes it off. SIGHUP reads the configuration again.
#[derive(Debug, Clone, Parser)]
#[command(name = "limiterd", version, verbatim_doc_comment, max_term_width = 100)]
pub struct Options {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG, conflicts_with = "interface")]
    pub config: PathBuf,
    /// Print what is wrong with the configuration, or ok, and exit with 2 or 0
    #[arg(long)]
    pub check: bool,
    /// How to log on standard error; RUST_LOG says what
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub log_format: LogFormat,
    /// Replace XDP programs that are not limiter's
    #[arg(long)]
    pub replace: bool,
    /// Protect this interface with default settings, without a configuration; can be repeated
    #[arg(long, value_name = "NAME")]
    pub interface: Vec<String>,
    /// How to attach to the interfaces of --interface
    #[arg(long, default_value = "native", requires = "interface")]
    pub mode: Mode,
}

/// As `mode` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In the driver, or not at all
    Native,
    /// In the stack: slower, works with every driver
    Generic,
    /// In the driver if it can, else in the stack
    Auto,
}

//! The log: on standard error, for people or as JSON lines.
//!
//! Operational lines have the module as their target; decisions (a block was added, has expired …) have
//! [`DECISION`], so that the two can be told apart: `RUST_LOG=info,limiter::decision=off`.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Target of events that say what was blocked or allowed by whom.
pub const DECISION: &str = "limiter::decision";

/// Libraries whose debug lines are of use to their authors; `RUST_LOG=debug,aya_obj=debug` shows them. h2 warns of its
/// peers, once for each connection: anybody could fill the log.
const QUIET: &str = "aya=info,aya_obj=info,netlink_proto=info,hyper=info,hyper_util=info,h2=error";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

/// Starts the log of this process. `RUST_LOG` decides what is logged; `info` and above if it is not set.
pub fn start(format: LogFormat) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    // A default directive would only count if there were no others; of two for the same target the last one counts.
    let filter = EnvFilter::builder().parse_lossy(format!("info,{QUIET},{wanted}"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        // The journal adds the time itself (systemd.exec(5), JOURNAL_STREAM).
        LogFormat::Human if std::env::var_os("JOURNAL_STREAM").is_some() => {
            lines.without_time().with_ansi(false).init();
        }
        LogFormat::Human => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            lines.with_ansi(std::io::stderr().is_terminal() && !no_color).init();
        }
    }
}

/// Whether debug lines are logged anywhere: then the kernel program is asked for some, too.
#[must_use]
pub fn debug_is_on() -> bool {
    LevelFilter::current() >= LevelFilter::DEBUG
}

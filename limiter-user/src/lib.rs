//! The user space of limiter: one library under two thin binaries, `limiterd` and `limiter`.
//!
//! Data flows one way:
//!
//! ```text
//! config file, CLI ─► Request ─admit─► Claim ─► Blocklist ─► [Change] ─► Enforcer ─► dataplane Writer ─► BPF maps
//! BPF counters ─► dataplane Reader ─► metrics, status
//! ```

pub mod access;
pub mod admission;
pub mod audit;
pub mod blocklist;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod duration;
pub mod enforcer;
mod excerpt;
mod heap;
pub mod hook;
pub mod host;
mod http;
pub mod links;
pub mod metrics;
pub mod prefixes;
mod privileges;
mod replace;
pub mod reports;
mod secrets;
mod sha256;
mod socket_file;
pub mod store;
pub mod telemetry;
pub mod tls;

pub use control::client;

/// The example of the page is compiled as it is written there.
#[cfg(doctest)]
#[doc = include_str!("../../docs/reporting.md")]
mod reporting {}

//! The configuration: checked values, grouped by the part that receives them.

pub mod lists;

mod access;
mod api;
mod escalation;
mod file;
mod hooks;
mod policies;
mod problem;
mod reader;
mod rules;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use limiter_common::Prefix;
use limiter_common::abi::Limits;

use crate::audit;
use crate::reports::Policy;

pub use access::{Access, Client, ClientName, Jwks, KeysUrl, OAuth, Role};
pub use api::Api;
pub use escalation::Escalation;
pub use hooks::Hook;
pub use problem::{Problem, Problems};

/// Reads a configuration. Pure: no file that it names is opened.
///
/// # Errors
///
/// Everything that is wrong with `text`, each with its place in `file`.
pub fn parse(text: &str, file: &Path) -> Result<Config, Problems> {
    file::parse(text, file)
}

/// A configuration that was checked as a whole. See `config.example.toml` for what may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Prefixes that can never be blocked.
    pub protected: Vec<Prefix>,
    /// Proxies and CDNs that speak for others: they cannot be blocked either, and whoever reports one is told so.
    pub proxies: Vec<Prefix>,
    /// New blocks within a minute, all together, of those who are no operators. `None`: as many as they ask for.
    pub blocks_per_minute: Option<u64>,
    /// The percentage of the hosts that were connected of late that they may cut off, all together. `None`: everybody.
    pub peers_share: Option<u8>,
    pub interfaces: Vec<Interface>,
    pub lists: Vec<List>,
    /// When reports become blocks.
    pub policies: Vec<Policy>,
    pub escalation: Escalation,
    /// Where servers report by their logs.
    pub hooks: Vec<Hook>,
    pub capacity: Capacity,
    pub control: Control,
    /// `None`: no API over TCP.
    pub api: Option<Api>,
    /// `None`: no metrics listener.
    pub metrics: Option<SocketAddr>,
    /// Where the claims are kept.
    pub state_directory: PathBuf,
    /// A directory on a bpffs; pins live in `v<ABI>` below it.
    pub pins_directory: PathBuf,
    /// Where it is written down who asked for what.
    pub audit: audit::Options,
}

/// An interface to protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mode: Mode,
    /// The limits of all `[[rule]]`s that apply to this interface.
    pub limits: Limits,
    /// Whether any of them limits anything.
    pub limited: bool,
    /// The same rules for people and `explain`, in the order of the file.
    pub rules: Vec<Rule>,
}

/// One `[[rule]]` as it applies to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    /// Protocol number and destination port; `None`: every packet.
    pub service: Option<(u8, Option<u16>)>,
    /// Its limits as written, with the burst: `10k/s burst 20000`.
    pub limits: Vec<String>,
    /// The [identity](limiter_common::slots::Policy::id) of its policy.
    pub id: u32,
}

/// How the program may be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In the driver, or not at all.
    #[default]
    Native,
    /// In the stack: slower, works with every driver.
    Generic,
    /// In the driver if it can, else in the stack.
    Auto,
}

/// What a list does with its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Block,
    Allow,
}

impl Action {
    /// The word in configuration, JSON, metrics, logs and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
        }
    }
}

/// A file of prefixes that is loaded at start and on reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub name: String,
    pub action: Action,
    pub file: PathBuf,
}

/// Entries that there may be. The kernel's tables of lists grow as needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub addresses_v4: u32,
    pub addresses_v6: u32,
    pub prefixes_v4: u32,
    pub prefixes_v6: u32,
    /// Sources under a limit that can be told apart at the same time; rounded up to a power of two.
    pub sources: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub socket: PathBuf,
    /// Group whose members may operate, beside root.
    pub group: Option<String>,
    /// Group whose members may look, and change nothing.
    pub readers: Option<String>,
}

#[cfg(test)]
mod tests;

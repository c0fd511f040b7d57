//! What applications report, and what came of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Says what an address did. Policies of the configuration decide when that is enough for a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The peer of the connection; never what a header says, unless a proxy of yours wrote it.
    #[cfg_attr(test, schema(value_type = String, format = "ip"))]
    pub address: IpAddr,
    /// As in a `[[policy]]`: `login_failed`.
    pub category: String,
    /// How much it counts; 1 if absent.
    #[cfg_attr(test, schema(required = false))]
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// The user account it was about. Kept as a hash, and only while it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The device it was about, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl Report {
    /// An event of `category` that `address` is behind, of weight 1, about nobody in particular.
    #[must_use]
    pub fn new(address: IpAddr, category: impl Into<String>) -> Self {
        Self { address, category: category.into(), weight: 1, account: None, device: None }
    }

    /// The same, about this user account.
    #[must_use]
    pub fn account(self, account: impl Into<String>) -> Self {
        Self { account: Some(account.into()), ..self }
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_one(weight: &u32) -> bool {
    *weight == 1
}

/// What reports led to. The blocks are durable and in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReportResponse {
    /// Reports that a policy counted.
    pub counted: u64,
    /// Reports in categories without a policy: nothing follows from them.
    #[serde(default)]
    pub unknown: u64,
    /// Reports and blocks that were refused, by a guard or for want of room.
    #[serde(default)]
    pub refused: u64,
    /// Prefixes that are blocked now, or for longer.
    pub blocks: u64,
    /// The first 100 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<Blocked>,
    /// Why what was refused was, the first 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
}

impl ReportResponse {
    /// Counts what is refused, and tells the first ones.
    pub(crate) fn refuse(&mut self, what: &str, why: &str) {
        self.refused += 1;
        if self.items.len() < 100 {
            self.items.push(format!("{what} {why}"));
        }
    }
}

/// A block that a policy made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Blocked {
    pub prefix: String,
    pub seconds: u64,
    pub reason: String,
}

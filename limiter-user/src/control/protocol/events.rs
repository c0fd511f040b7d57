//! What happens to the lists, as it is told to those who listen.

use serde::{Deserialize, Serialize};

use crate::config::Action;

/// A request that changed something or was refused, or claims that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Event {
    pub at: String,
    pub event: Happened,
    pub action: Action,
    /// Claims that it is about.
    pub count: u64,
    /// The first 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Who asked, as in a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the first of them ends; absent for good, and of what is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What happened. `added` are claims that are in force and durable, also those that were there and last longer or shorter
/// now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Happened {
    Added,
    Removed,
    Expired,
    Refused,
}

impl Happened {
    /// As in JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// Instead of events, to those who do not read them as fast as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Lagged {
    /// Events that are lost.
    pub missed: u64,
}

//! Tokens, as they are asked for and told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Asks for a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Whose it is: claims belong to `app:NAME`. 1 to 64 of `A-Z a-z 0-9 - _ .`.
    pub name: String,
    /// `read`, `report`, `block:host`, `block:prefix/N`, `allow`, `config`, `admin`.
    pub scopes: Vec<String>,
    /// The longest block, in seconds; absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
    /// The widest block: the shortest length of an IPv4 prefix, 8 to 32; that of an IPv6 prefix is twice it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<u8>,
    /// Blocks, allows and reports a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    /// Networks that requests may come from; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// For how many seconds from now it is good; absent for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// What may be known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Token {
    pub id: String,
    pub name: String,
    pub scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefix: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_minute: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    pub created: String,
    /// The actor who made it: `uid:0`.
    pub created_by: String,
    /// Absent for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// To the minute; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
    /// Since when it is not good any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
    /// Until then, the secret before the last rotation is good, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_until: Option<String>,
}

/// A token with its secret, which is told only now.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct NewToken {
    /// `lmt_ID_SECRET`, for `Authorization: Bearer`.
    pub token: String,
    #[serde(flatten)]
    pub known: Token,
}

/// Without the secret.
impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("known", &self.known).finish_non_exhaustive()
    }
}

/// All tokens, and for a month those that were revoked or have expired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TokenList {
    pub tokens: Vec<Token>,
}

/// Asks for a new secret of a token.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// For so long, the former secret is good, too; at most 30 days. Absent or 0: it ends at once.
    #[serde(default)]
    pub overlap_seconds: u64,
}

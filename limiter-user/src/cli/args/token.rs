//! `limiter token`.

use clap::{Args, Subcommand};
use limiter_common::Prefix;

use crate::access::{PerMinute, Scope};
use crate::duration::Lifetime;

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token, and print it this once
    ///
    /// Examples:
    ///   limiter token create --name checkout --scope report --expires 90d > checkout.token
    ///   limiter token create --name waf --scope block:host --max-ttl 1h --quota 1000/min --from 10.0.0.0/8
    ///
    /// Only the token goes to standard output. limiterd keeps a hash of it: who loses it needs a new one.
    #[command(verbatim_doc_comment)]
    Create(CreateToken),
    /// List tokens, without their secrets
    ///
    /// Examples:
    ///   limiter token list
    ///   limiter token list --json
    ///
    /// Tokens that were revoked or have expired are listed for another 30 days.
    #[command(verbatim_doc_comment)]
    List,
    /// Make tokens worthless, at once
    ///
    /// Examples:
    ///   limiter token revoke k3f7a2xq
    ///
    /// What was blocked with it stays blocked.
    #[command(verbatim_doc_comment)]
    Revoke {
        /// As in `limiter token list`
        #[arg(required = true, value_name = "ID", value_parser = id)]
        ids: Vec<String>,
    },
    /// Give a token a new secret, and print it this once
    ///
    /// Examples:
    ///   limiter token rotate k3f7a2xq --overlap 1h > checkout.token
    #[command(verbatim_doc_comment)]
    Rotate {
        /// As in `limiter token list`
        #[arg(value_name = "ID", value_parser = id)]
        id: String,
        /// For how long the former secret is good, too: 10m, 1h; at once not, if left out
        #[arg(long, value_name = "TIME")]
        overlap: Option<Lifetime>,
    },
}

#[derive(Debug, Args)]
pub struct CreateToken {
    /// Whose it is: what is blocked with it belongs to app:NAME
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// What it is good for, repeatable: read, report, block:host, block:prefix/N, allow, config, admin
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub scopes: Vec<Scope>,
    /// The longest block: 10m, 1h
    #[arg(long, value_name = "TIME")]
    pub max_ttl: Option<Lifetime>,
    /// The widest block: the length of an IPv4 prefix; for IPv6 twice it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(8..=32))]
    pub max_prefix: Option<u8>,
    /// How many blocks and reports: 1000/min, 20/s
    #[arg(long, value_name = "N/min")]
    pub quota: Option<PerMinute>,
    /// Where requests may come from, repeatable
    #[arg(long, value_name = "PREFIX")]
    pub from: Vec<Prefix>,
    /// When it ends: 30d, 90d, permanent
    #[arg(long, value_name = "TIME", default_value = "permanent")]
    pub expires: Lifetime,
}

/// What may stand in a path as it is.
fn id(text: &str) -> Result<String, &'static str> {
    if (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(text.to_owned())
    } else {
        Err("an ID is eight letters and digits, as in `limiter token list`")
    }
}

//! What is said over the control socket: the stable JSON contract, also behind `--json`. No I/O.
//!
//! Times are RFC 3339 strings in UTC. Fields are only ever added.

mod changes;
mod events;
mod reports;
mod tokens;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::Action;
pub use changes::{ChangeList, UnconfirmedChange};
pub use events::{Event, Happened, Lagged};
pub use reports::{Blocked, Report, ReportResponse};
pub use tokens::{NewToken, RotateRequest, Token, TokenList, TokenRequest};

/// `time` as it is told, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = jiff::Timestamp::try_from(time).map_or(0, jiff::Timestamp::as_second);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Asks for addresses or prefixes to be blocked or allowed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    pub prefixes: Vec<String>,
    /// Seconds; absent for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// For longer each time, as `[escalation]` of the configuration says; blocks only, and without `seconds`. While the
    /// last such block of an address runs, nothing changes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub escalate: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Past the guards; operators only.
    #[serde(default)]
    pub force: bool,
    /// Where the caller is logged in from, so that it cannot lock itself out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_peer: Option<String>,
    /// Whose claims these are: `feed:NAME`, `crowdsec`, `fail2ban:JAIL`, `app:NAME`. The caller's own if absent; only
    /// operators may name others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Checks everything and says what would happen; nothing is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Rolls the change back after so many seconds, up to 3600, unless it is confirmed: `POST /v1/changes/ID/confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

/// All of them are durable and in force, unless it was a dry run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct AddResponse {
    /// New.
    pub added: u64,
    /// Were there already; their expiry and reason are now what was asked for.
    pub updated: u64,
    /// Were there already, just like this.
    pub unchanged: u64,
    /// Blocked but also allowed, so not dropped. Prefixes; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadowed_by_allow: Vec<String>,
    /// How long escalating blocks last that begin now; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalated: Vec<Escalated>,
    /// It was a dry run: nothing of this was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Of a dry run: the hosts with an established TCP connection to this machine that would be dropped, and are not yet.
    /// Absent for who may not read, and if the kernel does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuts: Option<u64>,
    /// The change that has to be confirmed, if it was asked for and anything is different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// What was claimed before, for the audit trail alone.
    #[serde(skip)]
    pub before: Option<String>,
}

/// A block whose time depends on those before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Escalated {
    pub prefix: String,
    /// From 1: the step of the ladder.
    pub level: u8,
    pub seconds: u64,
}

/// Asks for claims to be taken back. Those of others stay in force, and are told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    pub prefixes: Vec<String>,
    /// Whose claims; the caller's own if absent. Only operators may name others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whoever claims it, but for the files of lists; operators only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_owners: bool,
    /// Everything that `owner`, which has to be named, claims; without `prefixes`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// With `all`: refuses unless it would remove so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// Checks everything and says what would happen; nothing is changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Rolls the change back after so many seconds, up to 3600, unless it is confirmed: `POST /v1/changes/ID/confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct RemoveResponse {
    pub removed: u64,
    /// Prefixes that were not there under this owner.
    pub missing: Vec<String>,
    /// Removed, but somebody else still lists them: prefix and owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub still_listed: Vec<String>,
    /// It was a dry run: nothing of this was done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Of a dry run: the hosts with an established TCP connection to this machine that would be dropped, and are not yet.
    /// Absent for who may not read, and if the kernel does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuts: Option<u64>,
    /// The change that has to be confirmed, if it was asked for and anything is different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// What was claimed before, for the audit trail alone.
    #[serde(skip)]
    pub before: Option<String>,
}

/// One owner's word on one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Claim {
    pub prefix: String,
    pub action: Action,
    /// `operator`, `list:NAME`, `feed:NAME`, `crowdsec`, `fail2ban:JAIL` or `app:NAME`.
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asked: `uid:0`, `token:ID`, `cert:NAME`, `jwt:SUB`; absent for lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    pub created: String,
    /// Absent for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// Only for blocks: an allow covers it, so it does not drop.
    #[serde(default)]
    pub allowed: bool,
    /// Only for blocks: frames from here that were dropped of late, whoever's claim it was. An estimate from samples, and
    /// only of the sources that send most; absent if none was sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// When the last of them was sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
}

/// Part of a list of claims, in the order of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ClaimPage {
    pub claims: Vec<Claim>,
    /// The `cursor` of the next page; absent at the end. With `owner`, a page may have fewer than asked for, and others
    /// follow all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A text that would be a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Checked {
    /// Else the answer is a problem.
    pub ok: bool,
}

/// What would happen to a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Explanation {
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `pass` or `drop`.
    pub action: String,
    /// The label of the reason, as in the counters.
    pub reason: String,
    pub text: String,
    /// All claims on the address and on prefixes that contain it, narrowest first.
    pub claims: Vec<Claim>,
    /// Who would block it for longer next time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offences: Vec<Offence>,
    /// The limits the packet is held to, on each interface.
    pub limits: Vec<AppliedLimit>,
}

/// What an owner remembers of an address that it blocked before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Offence {
    pub owner: String,
    /// The address, or the IPv6 /64 that counts as one.
    pub offender: String,
    /// What is left of the level by now.
    pub level: u8,
    /// When the last block ends, or would have ended.
    pub ends: String,
    /// When nothing is left, if no other block begins.
    pub forgotten: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct AppliedLimit {
    pub interface: String,
    pub rule: String,
    /// As in the configuration: `1k/s burst 2000`, `200Mbit/s burst …`.
    pub limit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Status {
    /// Lists are loaded and every configured interface is protected.
    pub ready: bool,
    pub version: String,
    pub abi: u32,
    pub pid: u32,
    pub started: String,
    pub interfaces: Vec<InterfaceStatus>,
    pub blocks: u64,
    pub allows: u64,
    /// Entries that are listed, but which the kernel did not take; a warning says why.
    #[serde(default)]
    pub not_in_force: u64,
    pub tables: Vec<TableStatus>,
    pub lists: Vec<ListStatus>,
    /// Things an operator should know, as sentences: state that was lost, lists that failed, a failed reload.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct InterfaceStatus {
    pub name: String,
    pub protected: bool,
    /// `native` or `generic`, if protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Multi-buffer frames are seen whole.
    pub frags: bool,
    /// Why not protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct TableStatus {
    pub table: String,
    pub entries: u64,
    pub capacity: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ListStatus {
    pub name: String,
    pub action: Action,
    pub entries: u64,
    /// Why it is not as in its file; the last good content stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Counters {
    pub interfaces: Vec<InterfaceCounters>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct InterfaceCounters {
    pub interface: String,
    pub reasons: Vec<ReasonCount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ReasonCount {
    pub reason: String,
    pub action: String,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Reloaded {
    /// What is different now, as sentences; empty if nothing.
    pub changes: Vec<String>,
    /// What the configuration asks for and is not so, as sentences: exit code 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The change that has to be confirmed, if that was asked for and the configuration is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// All if empty.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Detached {
    pub interfaces: Vec<String>,
}

/// Problem details (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Problem {
    /// Names the kind; see [`ProblemKind`].
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    pub title: String,
    pub status: u16,
    /// What happened, and what to do about it.
    pub detail: String,
    /// One line for each prefix or line that was refused; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The request cannot be understood: exit code 2.
    Invalid,
    /// The caller may not do this: exit code 4.
    NotAuthorised,
    /// Exit code 5.
    NotFound,
    /// A guard refused; `force` overrides: exit code 6.
    Guarded,
    /// A kernel table is full.
    Full,
    /// The state cannot be written. Nothing was changed, unless it lets somebody through (a block removed, an allow
    /// added): that is in force, but a restart would undo it.
    NotDurable,
    /// Too much at a time, or too often; `Retry-After` says when to try again.
    Busy,
    /// limiterd starts, or stops: exit code 3. `Retry-After` says when to try again.
    Unavailable,
    Failed,
}

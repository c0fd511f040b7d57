//! Claims as they are told to people and programs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use limiter_common::{Nanos, Prefix};

use super::Now;
use crate::blocklist::{self, Blocklist, Edit, Ladder, Offence, Offender, Owner, Terms};
use crate::config::Action;
use crate::control::protocol;

/// `claim`, which is one of `list`.
pub(super) fn claim(list: &Blocklist, claim: blocklist::Claim, now: Now) -> protocol::Claim {
    let blocklist::Claim { key, terms } = claim;
    let left =
        (terms.until != Nanos::NEVER).then(|| Duration::from_nanos(terms.until.saturating_sub(now.boot).0));
    protocol::Claim {
        prefix: key.prefix.to_string(),
        action: key.action,
        owner: list.owner_of(key.owner).to_string(),
        reason: terms.reason.as_deref().map(str::to_owned),
        actor: terms.actor.as_deref().map(str::to_owned),
        created: time(UNIX_EPOCH.checked_add(Duration::from_secs(terms.created))),
        expires: left.map(|left| time(now.wall.checked_add(left))),
        // A claim that has a moment left has not expired.
        seconds_left: left.map(|left| left.as_secs() + u64::from(left.subsec_nanos() > 0)),
        allowed: key.action == Action::Block && list.entry(key.prefix).allows(now.boot),
        packets: None,
        last_seen: None,
    }
}

/// What `owner` remembers of an offender; `None` if nothing is left of it.
pub(super) fn offence(
    owner: &Owner,
    offender: Offender,
    offence: Offence,
    ladder: &Ladder,
    now: Now,
) -> Option<protocol::Offence> {
    let level = offence.level_at(ladder, seconds(now.wall));
    let moment = |seconds: u64| time(UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    (level > 0).then(|| protocol::Offence {
        owner: owner.to_string(),
        offender: offender.prefix().to_string(),
        level,
        ends: moment(offence.ends),
        forgotten: moment(offence.forgotten(ladder)),
    })
}

impl Now {
    /// A moment of the kernel's clock in the past, as RFC 3339. Too late by the time that the machine slept since.
    pub fn past(self, then: Nanos) -> String {
        let ago = Duration::from_nanos(self.boot.saturating_sub(then).0);
        time(Some(self.wall.checked_sub(ago).unwrap_or(UNIX_EPOCH)))
    }
}

/// Claims that are told one by one of what was there before a change.
const FEW: usize = 4;

/// What was claimed before edits that these `undo`, of what has not expired; `None` if nothing was.
pub(super) fn before(undo: &[Edit], now: Now) -> Option<String> {
    let former = undo.iter().filter_map(|edit| match edit {
        Edit::Set(claim) if claim.terms.until > now.boot => Some(claim),
        Edit::Set(_) | Edit::Remove(_) => None,
    });
    let count = former.clone().count();
    few(former.map(|claim| word(claim.key.prefix, claim.terms.until, &claim.terms, now)), count)
}

/// The first of `words`, and how many others there are.
pub(super) fn few(words: impl Iterator<Item = String>, count: usize) -> Option<String> {
    let mut told: Vec<String> = words.take(FEW).collect();
    if count > told.len() {
        told.push(format!("and {} more", count - told.len()));
    }
    (!told.is_empty()).then(|| told.join(", "))
}

/// `192.0.2.1 until 2027-01-01T00:00:00Z (reason)`.
pub(super) fn word(prefix: Prefix, until: Nanos, terms: &Terms, now: Now) -> String {
    let until = ends(until, now).map_or_else(|| "for good".to_owned(), |end| format!("until {end}"));
    match &terms.reason {
        Some(reason) => format!("{prefix} {until} ({reason})"),
        None => format!("{prefix} {until}"),
    }
}

/// When a claim ends; `None` for good.
pub(super) fn ends(until: Nanos, now: Now) -> Option<String> {
    let left = (until != Nanos::NEVER).then(|| Duration::from_nanos(until.saturating_sub(now.boot).0));
    left.map(|left| time(now.wall.checked_add(left)))
}

/// RFC 3339 in UTC, to the second; the last moment that can be written for what is later.
pub(super) fn time(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok()).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

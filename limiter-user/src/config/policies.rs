//! `[[policy]]`: when reports become blocks.

use std::time::Duration;

use limiter_common::Nanos;

use super::file::{MAX_NAME, choice, is_name};
use super::reader::{Table, Value};
use crate::duration::Lifetime;
use crate::reports::{Length, Per, Policy};

/// The longest window: memory of what was reported is kept for so long.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Weights that can be asked for.
const MAX_THRESHOLD: u64 = 1_000_000;
/// Prefixes of IPv6 that a policy may block: what is given to one customer, to one address.
const IPV6_PREFIXES: std::ops::RangeInclusive<u64> = 48..=128;
/// What one host has (RFC 4291 section 2.5.1).
const IPV6_HOST: u8 = 64;

const PER: &str = "what the weights add up for: \"address\", \"account\" or \"device\"";

/// Reads all `[[policy]]`s.
pub(super) fn read(root: &mut Table<'_>) -> Vec<Policy> {
    root.tables("policy").into_iter().filter_map(policy).collect()
}

fn policy(mut table: Table<'_>) -> Option<Policy> {
    let what = "what is reported, like \"login_failed\"";
    let category = table.required("category", what).and_then(|value| category(&value, what));
    let what = "how much is enough, like 5";
    let threshold = table.required("threshold", what).and_then(|value| value.integer(1..=MAX_THRESHOLD));
    let what = "the time in which it is enough, like \"1m\"";
    let within = table.required("within", what).and_then(|value| within(&value, what));
    let what = "how long to block, like \"10m\", or \"escalate\" for longer each time";
    let block = table.required("block", what).and_then(|value| length(&value, what));
    let per = choice(
        table.optional("per"),
        &[("address", Per::Address), ("account", Per::Account), ("device", Per::Device)],
        PER,
    );
    let ipv6_prefix = table.optional("ipv6_prefix").map(|value| value.integer(IPV6_PREFIXES));
    table.finish();
    Some(Policy {
        category: category?.into(),
        threshold: u32::try_from(threshold?).ok()?,
        within: within?,
        per: per.unwrap_or(Per::Address),
        block: block?,
        ipv6_prefix: ipv6_prefix.flatten().and_then(|bits| u8::try_from(bits).ok()).unwrap_or(IPV6_HOST),
    })
}

/// A category, as it is reported.
pub(super) fn category<'a>(value: &Value<'a>, what: &str) -> Option<&'a str> {
    let category = value.string(what)?;
    if !is_name(category) {
        value.problem(format!(
            "{category:?} cannot be a category: expected 1 to {MAX_NAME} of A-Z a-z 0-9 - _ ."
        ));
        return None;
    }
    Some(category)
}

fn within(value: &Value<'_>, what: &str) -> Option<Nanos> {
    let text = value.string(what)?;
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() && time <= LONGEST => {
            Some(Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
        }
        Ok(_) => {
            value.problem(format!("{text:?} is out of bounds: expected more than 0 and at most 1d"));
            None
        }
        Err(_) => {
            value.problem(format!("{text:?} is no time; expected {what}"));
            None
        }
    }
}

fn length(value: &Value<'_>, what: &str) -> Option<Length> {
    let text = value.string(what)?;
    if text == "escalate" {
        return Some(Length::Escalating);
    }
    match text.parse() {
        Ok(Lifetime::Seconds(seconds)) => Some(Length::Seconds(seconds)),
        Ok(Lifetime::Permanent) => {
            value.problem("a report cannot block for good; expected a time, or \"escalate\"");
            None
        }
        Err(_) => {
            value.problem(format!("{text:?} is no time; expected {what}"));
            None
        }
    }
}

//! Reports: applications say what an address did, policies say when that is enough for a block. Pure: no I/O, no clock.
//!
//! A policy is for one category of reports. Their weights add up in a sliding window, for each address, account or
//! device; when the sum reaches the threshold, the addresses behind it are to be blocked, and the sum begins anew. Who
//! reported plays no part in the sum: the instances of one application count together.
//!
//! Memory is bounded: of the [`SUBJECTS`] that were reported last, some may be forgotten before their time when more than
//! half as many others are reported. Accounts and devices are kept as keyed hashes, never as text.

mod window;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use limiter_common::{Address, Nanos, Prefix};

use window::Window;

/// Addresses, accounts and devices that are counted at a time, over all policies.
pub const SUBJECTS: usize = 1 << 18;
/// Addresses that are remembered with one account or device.
const SEEN: usize = 64;

/// What somebody observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// Whose packets it was about: the peer of the connection.
    pub address: Address,
    pub category: &'a str,
    /// How much it counts; 1 for one event.
    pub weight: u32,
    /// The user account it was about.
    pub account: Option<&'a str>,
    /// The device it was about.
    pub device: Option<&'a str>,
}

/// When reports of a category become blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub category: Arc<str>,
    /// Weights that are enough, from 1.
    pub threshold: u32,
    /// In this time.
    pub within: Nanos,
    pub per: Per,
    pub block: Length,
    /// Blocks the IPv6 prefix of this length that the address is in: 64 is what one host has.
    pub ipv6_prefix: u8,
}

/// What the weights of a policy add up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// The address, or the IPv6 prefix, that is reported.
    Address,
    /// The account; all addresses that were reported with it in the window are blocked.
    Account,
    /// The same of the device.
    Device,
}

/// How long a block of a policy lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Seconds(u64),
    /// Longer each time.
    Escalating,
}

/// What a report led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No policy is for this category.
    Unknown,
    /// Not enough yet, by any policy of the category.
    Counted,
    /// Enough: these are to be blocked.
    Blocks(Vec<Verdict>),
}

/// A block that a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub prefix: Prefix,
    pub length: Length,
    /// For people: `login_failed: 5 within 1m`.
    pub reason: String,
}

/// The sums of all policies.
#[derive(Debug)]
pub struct Reports {
    policies: Vec<Policy>,
    /// Those reported of late, and those before them: what is found in `older` moves to `recent`. When half of the places
    /// are taken, or nothing in `older` can count any more, `recent` becomes `older`.
    recent: HashMap<Subject, Tally>,
    older: HashMap<Subject, Tally>,
    turned: Nanos,
    secret: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Subject {
    policy: usize,
    who: Who,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Prefix(Prefix),
    /// A hash with a key that nobody knows.
    Hidden(u64),
}

#[derive(Debug, Default)]
struct Tally {
    window: Window,
    /// With an account or device: the prefixes that were reported with it, each with the last time, oldest first.
    seen: Vec<(Prefix, Nanos)>,
}

impl Tally {
    fn see(&mut self, prefix: Prefix, now: Nanos, within: Nanos) {
        self.seen.retain(|(seen, at)| *seen != prefix && now.saturating_sub(*at) < within);
        if self.seen.len() == SEEN {
            self.seen.remove(0);
        }
        self.seen.push((prefix, now));
    }
}

impl Reports {
    /// Counts by `policies`. There may be several of one category.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        Self {
            policies,
            recent: HashMap::new(),
            older: HashMap::new(),
            turned: Nanos(0),
            secret: RandomState::new(),
        }
    }

    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Goes on with other policies. Those that stay keep their sums.
    pub fn set_policies(&mut self, policies: Vec<Policy>) {
        let moved: Vec<Option<usize>> =
            self.policies.iter().map(|former| policies.iter().position(|policy| policy == former)).collect();
        for subjects in [&mut self.recent, &mut self.older] {
            *subjects = std::mem::take(subjects)
                .into_iter()
                .filter_map(|(subject, tally)| {
                    let policy = moved.get(subject.policy).copied().flatten()?;
                    Some((Subject { policy, ..subject }, tally))
                })
                .collect();
        }
        self.policies = policies;
    }

    /// Counts a report that came `now`; times never go back.
    pub fn take(&mut self, report: &Report<'_>, now: Nanos) -> Outcome {
        self.turn(now);
        let mut known = false;
        let mut verdicts = Vec::new();
        for number in 0..self.policies.len() {
            if *self.policies[number].category == *report.category {
                known = true;
                self.count(number, report, now, &mut verdicts);
            }
        }
        match (known, verdicts.is_empty()) {
            (false, _) => Outcome::Unknown,
            (true, true) => Outcome::Counted,
            (true, false) => Outcome::Blocks(verdicts),
        }
    }

    /// Adds a report to the sum of one policy.
    fn count(&mut self, number: usize, report: &Report<'_>, now: Nanos, verdicts: &mut Vec<Verdict>) {
        let policy = &self.policies[number];
        let prefix = policy.prefix_of(report.address);
        let who = match policy.per {
            Per::Address => Some(Who::Prefix(prefix)),
            Per::Account => report.account.map(|account| Who::Hidden(self.secret.hash_one(account))),
            Per::Device => report.device.map(|device| Who::Hidden(self.secret.hash_one(device))),
        };
        // An account that is not named cannot be counted.
        let Some(who) = who else { return };
        let subject = Subject { policy: number, who };
        let older = &mut self.older;
        let tally = self.recent.entry(subject).or_insert_with(|| older.remove(&subject).unwrap_or_default());
        if policy.per != Per::Address {
            tally.see(prefix, now, policy.within);
        }
        if tally.window.add(report.weight, now, policy.within) < u64::from(policy.threshold) {
            return;
        }
        let tally = self.recent.remove(&subject).unwrap_or_default();
        let seen = tally.seen.into_iter().map(|(prefix, _)| prefix);
        let addresses = if policy.per == Per::Address { vec![prefix] } else { seen.collect() };
        let reason = policy.reason();
        for prefix in addresses {
            verdicts.push(Verdict { prefix, length: policy.block, reason: reason.clone() });
        }
    }

    /// Forgets what has not been reported for long.
    fn turn(&mut self, now: Nanos) {
        let longest = self.policies.iter().map(|policy| policy.within).max().unwrap_or(Nanos(0));
        if self.recent.len() >= SUBJECTS / 2 || now.saturating_sub(self.turned) >= longest {
            self.older = std::mem::take(&mut self.recent);
            self.turned = now;
        }
    }
}

impl Policy {
    /// What is counted and blocked for `address`.
    fn prefix_of(&self, address: Address) -> Prefix {
        let host = Prefix::host(address);
        if address.is_v4() {
            return host;
        }
        Prefix::new(address, self.ipv6_prefix).unwrap_or(host)
    }

    /// Why it blocks: `login_failed: 5 within 1m`.
    fn reason(&self) -> String {
        let within = humantime::format_duration(std::time::Duration::from_nanos(self.within.0));
        let per = match self.per {
            Per::Address => "",
            Per::Account => " for an account",
            Per::Device => " for a device",
        };
        format!("{}: {} within {within}{per}", self.category, self.threshold)
    }
}

#[cfg(test)]
mod tests;

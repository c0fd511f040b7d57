//! Reports: counted here, where blocks are made, so that nothing comes between a report and its block.

use limiter_common::{Address, Nanos, Prefix};

use super::together::{Answer, Effect, Planned, Together};
use super::{TOLD, Worker};
use crate::admission::{self, Guards};
use crate::blocklist::{Edit, Key, OwnerId};
use crate::config::Action;
use crate::control::protocol::{self, AddResponse, Blocked, ReportResponse};
use crate::enforcer::{Caller, Error, ImportOptions, Reply, lists};
use crate::prefixes::Prefixes;
use crate::reports::{Length, Outcome, Report, Verdict};

/// What policies ask for, alike but for the prefix.
struct Group {
    length: Length,
    reason: String,
    prefixes: Prefixes,
}

impl Worker {
    /// Counts reports, and begins the blocks that follow. `most` is the longest in seconds that the caller may block.
    pub(super) fn report(
        &mut self,
        together: &mut Together,
        reports: &[protocol::Report],
        most: Option<u64>,
        caller: &Caller,
        reply: Reply<ReportResponse>,
    ) {
        let owner = match self.owner(caller, None) {
            Ok(owner) => owner,
            Err(error) => return self.answer(reply, Err(error)),
        };
        // Asked for, if that is due.
        let guards = self.guards();
        if let Err(error) = self.require_lifelines() {
            return self.answer(reply, Err(error));
        }
        let mut response = ReportResponse::default();
        let groups = self.count(&guards, reports, &mut response);
        if groups.len() > 1 {
            // From here to the last of them nothing may be answered.
            self.finish(together);
            self.mend();
        }
        let mut begun = false;
        for group in groups {
            let reason = group.reason.clone();
            match self.begin_blocks(together, group, most, owner, caller, &mut response) {
                Ok(()) => begun = true,
                Err(error) => response.refuse(&reason, &error.to_string()),
            }
        }
        if begun {
            together.last(|answer| *answer = Answer::Report(reply, response));
        } else {
            self.answer(reply, Ok(response));
        }
    }

    /// The blocks that follow from `reports`.
    fn count(
        &mut self,
        guards: &Guards,
        reports: &[protocol::Report],
        response: &mut ReportResponse,
    ) -> Vec<Group> {
        let now = (self.clock)().boot;
        let mut groups: Vec<Group> = Vec::new();
        for report in reports {
            let address = Address::from(report.address).canonical();
            if let Some(refusal) = guards.refusal(Action::Block, Prefix::host(address)) {
                response.refuse(&address.to_string(), &refusal.why);
                continue;
            }
            let report = Report {
                address,
                category: &report.category,
                weight: report.weight,
                account: report.account.as_deref(),
                device: report.device.as_deref(),
            };
            match self.reports.take(&report, now) {
                Outcome::Unknown => response.unknown += 1,
                Outcome::Counted => response.counted += 1,
                Outcome::Blocks(verdicts) => {
                    response.counted += 1;
                    verdicts.into_iter().for_each(|verdict| join(&mut groups, verdict));
                }
            }
        }
        for group in &mut groups {
            let asked = std::mem::take(&mut group.prefixes);
            let (admitted, refusals) = admission::admit_what_may(guards, Action::Block, asked);
            for refusal in &refusals.told {
                response.refuse(&refusal.prefix.to_string(), &refusal.why);
            }
            group.prefixes = admitted.prefixes().clone();
        }
        groups.retain(|group| !group.prefixes.is_empty());
        groups
    }

    fn begin_blocks(
        &mut self,
        together: &mut Together,
        group: Group,
        most: Option<u64>,
        owner: OwnerId,
        caller: &Caller,
        response: &mut ReportResponse,
    ) -> Result<(), Error> {
        let Group { length, reason, prefixes } = group;
        let prefixes = self.not_braked(&prefixes, owner, caller, response);
        let relies = self.make_way(together, Effect::AtOnce, &prefixes);
        self.kernel.insist(&prefixes, &self.list).map_err(Error::Full)?;
        let seconds = match length {
            Length::Seconds(seconds) => Some(seconds.min(most.unwrap_or(u64::MAX))),
            Length::Escalating => None,
        };
        let options = ImportOptions { seconds, reason: Some(reason), ..ImportOptions::default() };
        let asked = self.asked(&options, owner, caller);
        let mut added = AddResponse::default();
        let planned = match length {
            Length::Seconds(_) => {
                // What is blocked for longer stays so.
                let shorter = |prefix: &Prefix| {
                    let claim = self.list.get(Key { prefix: *prefix, action: Action::Block, owner });
                    claim.is_none_or(|claim| claim.terms.until < asked.until)
                };
                let prefixes: Prefixes = prefixes.iter().filter(shorter).collect();
                let edits = self.edits(Action::Block, prefixes.iter(), &asked, &mut added);
                Planned { edits, ..Planned::default() }
            }
            Length::Escalating => self.escalated(&prefixes, &asked, most, &mut added),
        };
        if let Err(full) = lists::room(&self.list, self.config.capacity, &planned.edits) {
            self.remember(planned.former);
            return Err(Error::Full(full));
        }
        let now = (self.clock)().boot;
        for edit in &planned.edits {
            response.blocks += 1;
            if let Edit::Set(claim) = edit
                && response.blocked.len() < TOLD
            {
                let left = claim.terms.until.saturating_sub(now);
                response.blocked.push(Blocked {
                    prefix: claim.key.prefix.to_string(),
                    seconds: left.0.div_ceil(Nanos::from_secs(1).0),
                    reason: asked.reason.as_deref().unwrap_or_default().to_owned(),
                });
            }
        }
        let unanswered = self.begin(together, Effect::AtOnce, planned, relies)?;
        together.push(unanswered, Answer::Nobody);
        Ok(())
    }
}

fn join(groups: &mut Vec<Group>, verdict: Verdict) {
    let Verdict { prefix, length, reason } = verdict;
    match groups.iter_mut().find(|group| group.length == length && group.reason == reason) {
        Some(group) => group.prefixes.push(prefix),
        None => groups.push(Group { length, reason, prefixes: [prefix].into_iter().collect() }),
    }
}

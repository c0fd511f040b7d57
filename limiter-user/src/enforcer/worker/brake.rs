//! Where the [brake](crate::admission::brake) is: at new blocks of whoever is no operator.

use limiter_common::Prefix;

use super::Worker;
use crate::admission::brake::Braked;
use crate::blocklist::{Key, Owner, OwnerId};
use crate::config::Action;
use crate::control::protocol::ReportResponse;
use crate::duration::rough;
use crate::enforcer::{Caller, Error};
use crate::prefixes::Prefixes;
use crate::telemetry::DECISION;

impl Worker {
    /// Counts `added` claims of `action` that are new, all or none.
    pub(super) fn brake(&mut self, caller: &Caller, action: Action, added: u64) -> Result<(), Error> {
        if action == Action::Allow || caller.owner == Owner::Operator {
            return Ok(());
        }
        let now = (self.clock)().boot;
        let Err(braked) = self.brake.take(added, now) else { return Ok(()) };
        if braked.begins {
            tracing::warn!(
                target: DECISION,
                action = action.label(),
                change = "brake",
                actor = &*caller.actor,
                owner = %caller.owner,
                blocks_per_minute = braked.most,
                "new blocks are refused"
            );
        }
        Err(Error::Braked { detail: sentence(braked), wait: braked.wait })
    }

    /// The same of a dry run, which counts nothing.
    pub(super) fn would_brake(&mut self, caller: &Caller, action: Action, added: u64) -> Result<(), Error> {
        if action == Action::Allow || caller.owner == Owner::Operator {
            return Ok(());
        }
        let checked = self.brake.check(added, (self.clock)().boot);
        checked.map_err(|braked| Error::Braked { detail: sentence(braked), wait: braked.wait })
    }

    /// The same for each of `prefixes` that policies of reports ask for. Returns those that may be blocked.
    pub(super) fn not_braked(
        &mut self,
        prefixes: &Prefixes,
        owner: OwnerId,
        caller: &Caller,
        response: &mut ReportResponse,
    ) -> Prefixes {
        let may = |prefix: &Prefix| match self.brake(caller, Action::Block, self.news([*prefix], owner)) {
            Ok(()) => true,
            Err(error) => {
                response.refuse(&prefix.to_string(), &format!("is not blocked: {error}"));
                false
            }
        };
        prefixes.iter().filter(may).collect()
    }

    /// How many of `prefixes` the owner does not block yet.
    pub(super) fn news(&self, prefixes: impl IntoIterator<Item = Prefix>, owner: OwnerId) -> u64 {
        let now = (self.clock)().boot;
        let is_new = |prefix: &Prefix| {
            let claim = self.list.get(Key { prefix: *prefix, action: Action::Block, owner });
            claim.is_none_or(|claim| claim.terms.until <= now)
        };
        prefixes.into_iter().filter(is_new).count() as u64
    }

    /// A sentence for the status, if blocks were refused of late.
    pub(super) fn brake_warning(&self) -> Option<String> {
        let (refused, most) = self.brake.refused((self.clock)().boot)?;
        Some(format!(
            "{refused} new blocks of applications were refused within the last hour: they asked for more than the {most} a \
             minute of blocks_per_minute in [guards]; if that is no mistake of theirs, raise it"
        ))
    }
}

fn sentence(Braked { most, wait, .. }: Braked) -> String {
    let when = match wait {
        Some(wait) => format!("there is room again in {}", rough(wait.as_secs().max(1))),
        None => "there never is room for so many at once".to_owned(),
    };
    format!(
        "the brake on ban storms holds: at most {most} new blocks a minute of all that are no operators, and {when}; nothing \
         was changed. An operator may block these, or raise blocks_per_minute in [guards]"
    )
}

//! Where the brakes are, [on many blocks](crate::admission::brake) and [on wide ones](crate::admission::share): at new blocks of
//! whoever is no operator.

use limiter_common::{Address, Prefix};

use super::Worker;
use crate::admission::brake::Braked;
use crate::admission::share::TooMany;
use crate::blocklist::{Key, Owner, OwnerId};
use crate::config::Action;
use crate::control::protocol::ReportResponse;
use crate::duration::rough;
use crate::enforcer::{Caller, Error};
use crate::prefixes::Prefixes;
use crate::telemetry::DECISION;

impl Worker {
    /// Counts `prefixes` that get a claim of `action`, of which `added` are new, all or none.
    pub(super) fn brake(
        &mut self,
        caller: &Caller,
        action: Action,
        prefixes: &Prefixes,
        added: u64,
    ) -> Result<(), Error> {
        if !is_held_back(caller, action) {
            return Ok(());
        }
        let now = (self.clock)().boot;
        // What the other brake refuses, however long it is, is not looked through.
        let hit = if self.brake.check(added, now).is_ok() { self.hit(prefixes) } else { Vec::new() };
        if let Err(too_many) = self.share.may(&hit, prefixes.len() as u64, now) {
            if too_many.begins {
                tell(caller, "peers_share", u64::from(too_many.most));
            }
            return Err(too_wide(too_many));
        }
        if let Err(braked) = self.brake.take(added, now) {
            if braked.begins {
                tell(caller, "blocks_per_minute", braked.most);
            }
            return Err(too_fast(braked));
        }
        self.share.take(&hit, now);
        Ok(())
    }

    /// The same of a dry run, which counts nothing.
    pub(super) fn would_brake(
        &mut self,
        caller: &Caller,
        action: Action,
        prefixes: &Prefixes,
        added: u64,
    ) -> Result<(), Error> {
        if !is_held_back(caller, action) {
            return Ok(());
        }
        let now = (self.clock)().boot;
        self.brake.check(added, now).map_err(too_fast)?;
        let hit = self.hit(prefixes);
        self.share.check(&hit, now).map_err(too_wide)
    }

    /// The same for each of `prefixes` that policies of reports ask for. Returns those that may be blocked.
    pub(super) fn not_braked(
        &mut self,
        prefixes: &Prefixes,
        owner: OwnerId,
        caller: &Caller,
        response: &mut ReportResponse,
    ) -> Prefixes {
        let may = |prefix: &Prefix| {
            let one = [*prefix].into_iter().collect();
            match self.brake(caller, Action::Block, &one, self.news([*prefix], owner)) {
                Ok(()) => true,
                Err(error) => {
                    response.refuse(&prefix.to_string(), &format!("is not blocked: {error}"));
                    false
                }
            }
        };
        prefixes.iter().filter(may).collect()
    }

    /// Remembers who is connected, but for those whom no block cuts off: who is guarded or allowed. Who is blocked already may
    /// have a connection for long that nothing comes over.
    pub(super) fn see(&mut self, connected: Vec<Address>) {
        let (now, guards) = ((self.clock)().boot, self.guards());
        let list = &self.list;
        let counts = |address: &Address| {
            let entry = list.entry(Prefix::host(*address));
            let listed = entry.blocks(now) || entry.allows(now);
            !listed && guards.refusal(Action::Block, Prefix::host(*address)).is_none()
        };
        self.share.see(connected.into_iter().filter(counts), now);
    }

    /// The peers that a block of the wide ones of `prefixes` would cut off.
    fn hit(&self, prefixes: &Prefixes) -> Vec<Prefix> {
        let now = (self.clock)().boot;
        self.share.hit(prefixes.iter(), |address| {
            let entry = self.list.entry(Prefix::host(address));
            entry.blocks(now) || entry.allows(now)
        })
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

    /// Sentences for the status, if blocks were refused of late.
    pub(super) fn brake_warnings(&self) -> impl Iterator<Item = String> {
        let now = (self.clock)().boot;
        let fast = self.brake.refused(now).map(|(refused, most)| {
            format!(
                "{refused} new blocks of applications were refused within the last hour: they asked for more than the \
                 {most} a minute of blocks_per_minute in [guards]; if that is no mistake of theirs, raise it"
            )
        });
        let wide = self.share.refused(now).map(|(refused, most)| {
            format!(
                "{refused} blocks of applications were refused within the last hour: they would have cut off more than the \
                 {most} % of the connected hosts of peers_share in [guards]; if that is no mistake of theirs, block these \
                 as an operator, or raise it"
            )
        });
        fast.into_iter().chain(wide)
    }
}

fn is_held_back(caller: &Caller, action: Action) -> bool {
    action == Action::Block && caller.owner != Owner::Operator
}

/// Logs the first refusal for a while.
fn tell(caller: &Caller, which: &str, most: u64) {
    tracing::warn!(
        target: DECISION,
        action = Action::Block.label(),
        change = "brake",
        actor = &*caller.actor,
        owner = %caller.owner,
        which,
        most,
        "new blocks are refused"
    );
}

fn too_fast(Braked { most, wait, .. }: Braked) -> Error {
    let when = match wait {
        Some(wait) => format!("there is room again in {}", rough(wait.as_secs().max(1))),
        None => "there never is room for so many at once".to_owned(),
    };
    let detail = format!(
        "the brake on ban storms holds: at most {most} new blocks a minute of all that are no operators, and {when}; nothing \
         was changed. An operator may block these, or raise blocks_per_minute in [guards]"
    );
    Error::Braked { detail, wait }
}

fn too_wide(TooMany { more, cut, peers, most, wait, .. }: TooMany) -> Error {
    let before = match cut {
        0 => String::new(),
        cut => format!(", after {cut} in the last 10 minutes"),
    };
    let detail = format!(
        "the brake on ban storms holds: this would cut off {more} of the {peers} hosts that were connected of late{before}, and \
         all that are no operators may cut off {most} % of them by networks; nothing was changed. An operator may block these, or raise \
         peers_share in [guards]"
    );
    match wait {
        Some(_) => Error::Braked { detail, wait },
        None => Error::Guarded { detail, items: Vec::new() },
    }
}

//! The thread of the enforcer: what it owns, and how requests get their turn. What is done for each kind of them is in the
//! modules below.

mod brake;
mod confirm;
mod edits;
mod expire;
mod guards;
mod import;
mod keeper;
mod long;
mod look;
mod mend;
mod purge;
mod rehearsal;
mod reload;
mod report;
mod start;
mod together;
mod warnings;

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use limiter_common::Nanos;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use super::install::Installer;
use super::lists::Listed;
use super::{Caller, Command, Error, Events, Now, Reply, RolledBack, Summary};
use crate::admission::Guards;
use crate::admission::brake::Brake;
use crate::admission::share::Share;
use crate::blocklist::{Blocklist, Key, Offences, Owner, OwnerId};
use crate::config::{Action, Config};
use crate::dataplane::Table;
use crate::host::Lifelines;
use crate::prefixes::Prefixes;
use crate::reports::Reports;
use crate::store::Unconfirmed;
use keeper::Keeper;
use long::{Long, Work};
use together::Together;
use warnings::Warnings;

/// Edits that are made before other requests get their turn.
const PART: usize = 1 << 15;
/// Requests that are answered before a long one goes on.
const TURN: usize = 64;
/// Commits in a row during which blocks are begun, before everything else gets its turn.
const IN_A_ROW: usize = 8;
/// Items of a problem or an answer that are told one by one.
const TOLD: usize = 100;
/// Claims that are looked at for one page, so that whoever searches for few of many keeps nobody waiting.
const LOOKED_AT: usize = 1 << 15;
/// The reason of claims that nobody remembers.
const RECOVERED: &str = "recovered from the kernel";
/// The thread looks around at least this often, in case the machine slept.
const LOOK_AROUND: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    pub(super) list: Blocklist,
    offences: Offences,
    reports: Reports,
    brake: Brake,
    share: Share,
    unconfirmed: Vec<Unconfirmed>,
    store: Keeper,
    /// Requests that wait for the commit that is under way, while others are begun already.
    storing: Option<Together>,
    /// What came meanwhile and has to wait for its turn.
    held: VecDeque<Command>,
    /// While what is stored could not be read: what was decided meanwhile, which outranks it.
    unseen: Option<HashSet<Key>>,
    kernel: Installer,
    config: Arc<Config>,
    pub(super) clock: fn() -> Now,
    operator: OwnerId,
    lists: Vec<Listed>,
    gather: fn() -> anyhow::Result<Lifelines>,
    lifelines: Option<(Nanos, Lifelines)>,
    /// What follows from them and from the configuration; `None` when one of them may be another.
    guards: Option<Arc<Guards>>,
    /// What happened at the start, and later without anybody asking.
    warnings: Warnings,
    publish: watch::Sender<Arc<Summary>>,
    pub(super) events: Events,
    rollbacks: UnboundedSender<RolledBack>,
    /// Long requests that wait for their turn.
    waiting: VecDeque<Long>,
    /// The one that is being worked on.
    work: Option<Work>,
    stopping: Option<oneshot::Sender<()>>,
    /// When it last tried again what had failed.
    settled: Nanos,
}

impl Worker {
    fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        self.warnings.push(warning, (self.clock)().boot);
    }

    /// Serves until it is told to stop, or nobody is left to tell it anything. Returns who waits for the end.
    /// `to_itself` is the way to `commands`.
    pub(super) fn run(
        mut self,
        commands: &Receiver<Command>,
        to_itself: &Weak<Sender<Command>>,
    ) -> Option<oneshot::Sender<()>> {
        loop {
            let busy = self.work.is_some() || !self.waiting.is_empty() || !self.held.is_empty();
            let alive = if busy {
                self.turn(None, commands, to_itself)
            } else if self.stopping.is_some() {
                self.settle();
                return self.stopping;
            } else {
                match commands.recv_timeout(self.idle()) {
                    Ok(command) => self.turn(Some(command), commands, to_itself),
                    Err(RecvTimeoutError::Timeout) => {
                        self.settle();
                        true
                    }
                    Err(RecvTimeoutError::Disconnected) => false,
                }
            };
            if (self.clock)().boot.saturating_sub(self.settled) >= Nanos::from_secs(LOOK_AROUND.as_secs()) {
                self.settle();
            }
            self.expire();
            self.roll_back();
            self.work();
            self.publish();
            if !alive && self.work.is_none() && self.waiting.is_empty() {
                return None;
            }
        }
    }

    /// Answers `first` and some of what waits behind it. False if nobody is left to ask.
    fn turn(
        &mut self,
        first: Option<Command>,
        commands: &Receiver<Command>,
        to_itself: &Weak<Sender<Command>>,
    ) -> bool {
        let (mut first, mut together, mut alive) = (first, Together::default(), true);
        for _ in 0..TURN {
            let next = first.take().or_else(|| self.held.pop_front());
            match next.map_or_else(|| commands.try_recv(), Ok) {
                Ok(command) => self.serve(command, &mut together),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    alive = false;
                    break;
                }
            }
            if together.is_full() {
                break;
            }
        }
        for _ in 0..IN_A_ROW {
            let goes_on = self.may_go_on() && !together.is_empty();
            let Some(to_itself) = to_itself.upgrade().filter(|_| goes_on) else { break };
            self.begin_commit(&mut together, to_itself);
            self.go_on(commands, &mut together);
        }
        self.finish(&mut together);
        alive
    }

    /// Whether nothing but short requests has to be done.
    fn may_go_on(&self) -> bool {
        let long = self.work.is_some() || !self.waiting.is_empty();
        !long && self.held.is_empty() && self.unconfirmed.is_empty() && self.unseen.is_none()
    }

    /// Begins the blocks that are asked for while a commit is under way, since an attack does not wait for the disk, not
    /// even on behalf of others. Everything else has to wait until it has ended.
    fn go_on(&mut self, commands: &Receiver<Command>, together: &mut Together) {
        while self.storing.is_some() {
            match commands.recv() {
                // Another one, which somebody has waited for, and so nobody listened.
                Ok(Command::Stored(number)) if !self.store.is_last(number) => {}
                Ok(Command::Stored(_)) | Err(_) => self.land(together),
                Ok(command) if command.may_overtake() && !together.is_full() => {
                    self.serve(command, together);
                }
                Ok(command) => self.held.push_back(command),
            }
        }
    }

    /// How long nothing has to be done.
    fn idle(&self) -> Duration {
        let now = (self.clock)().boot;
        let next = self.list.next_expiry().into_iter().chain(self.next_rollback()).min();
        let left = next.map_or(Nanos::NEVER, |next| next.saturating_sub(now));
        // A little later, so that one look finds all that expires together.
        (Duration::from_nanos(left.0) + Duration::from_millis(1)).min(LOOK_AROUND)
    }

    /// Answers a command, or begins what is answered when `together` is finished.
    fn serve(&mut self, command: Command, together: &mut Together) {
        match command {
            Command::Add(action, request, rehearsal, caller, reply) => {
                self.add(together, action, request, rehearsal, &caller, reply);
            }
            Command::Remove(action, request, rehearsal, caller, reply) if request.all => {
                self.waiting.push_back(Long::Purge(action, request, rehearsal, caller, reply));
            }
            Command::Remove(action, request, rehearsal, caller, reply) => {
                self.remove(together, action, &request, rehearsal, &caller, reply);
            }
            Command::Report(reports, most, caller, reply) => {
                self.report(together, &reports, most, &caller, reply);
            }
            Command::Changes(reply) => drop(reply.send(Ok(self.changes()))),
            Command::Confirm(id, caller, reply) => {
                self.finish(together);
                let confirmed = self.confirm(id, &caller);
                self.answer(reply, confirmed);
            }
            Command::Page(action, owner, after, limit, reply) => {
                drop(reply.send(Ok(self.page(action, owner.as_ref(), after, limit))));
            }
            Command::Lookup(address, reply) => {
                drop(reply.send(Ok((self.lookup(address), Arc::clone(&self.config)))));
            }
            Command::Seen(connected) => self.see(connected),
            // What is under way has announced what it needs.
            Command::Prepare(families) if self.work.is_none() => self.kernel.prepare(families),
            Command::Prepare(_) => {}
            Command::Import(action, parsed, options, rehearsal, caller, reply) => {
                self.waiting.push_back(Long::Import(action, parsed, options, rehearsal, caller, reply));
            }
            Command::Reload(config, files, reply) => {
                self.waiting.push_back(Long::Reload(config, files, reply))
            }
            // Something else has waited for it before.
            Command::Stored(_) => {}
            Command::Shutdown(reply) => self.stopping = Some(reply),
        }
    }

    /// Answers when everybody can see what was done.
    fn answer<T>(&self, reply: Reply<T>, answer: Result<T, Error>) {
        self.publish();
        // An error means that whoever asked has gone away.
        let _ = reply.send(answer);
    }

    /// Whose claims a request is about: the caller's, or those of `named`, which only operators may say.
    fn owner(&mut self, caller: &Caller, named: Option<&str>) -> Result<OwnerId, Error> {
        let invalid = |detail: String| Error::Invalid { detail, items: Vec::new() };
        let owner = match named {
            None => caller.owner.clone(),
            Some(text) => {
                let shown: String = text.chars().take(80).collect();
                text.parse().map_err(|error| invalid(format!("{shown:?} is no owner: {error}")))?
            }
        };
        if owner != caller.owner && caller.owner != Owner::Operator {
            return Err(Error::Denied(format!(
                "{} may not change what {owner} claims; nothing was changed",
                caller.owner
            )));
        }
        if !owner.is_stored() {
            return Err(invalid(format!("what {owner} claims is in its file; change that, and reload")));
        }
        self.list.owner(&owner).map_err(|error| Error::Failed(error.to_string()))
    }

    /// Tells what is different.
    fn publish(&self) {
        let totals = self.list.totals();
        let mut warnings: Vec<String> = self.warnings.told((self.clock)().boot).map(str::to_owned).collect();
        warnings.extend(self.kernel.problem());
        warnings.extend(self.store_problem());
        warnings.extend(self.brake_warnings());
        if self.lifelines.is_none() {
            warnings.push(
                "this machine's own addresses, gateways and DNS servers are not known: lists may block them, and other \
                 blocks are refused without --force"
                    .to_owned(),
            );
        }
        let summary = Summary {
            blocks: totals.blocks,
            allows: totals.allows,
            tables: vec![
                (Table::AddressesV4.name(), totals.addresses_v4),
                (Table::AddressesV6.name(), totals.addresses_v6),
                (Table::PrefixesV4.name(), totals.prefixes_v4),
                (Table::PrefixesV6.name(), totals.prefixes_v6),
            ],
            lists: self.lists.iter().map(|listed| listed.status(&self.list)).collect(),
            warnings,
            missing: self.kernel.missing(),
            durable: self.store.problem().is_none(),
        };
        self.publish.send_if_modified(|published| {
            let modified = **published != summary;
            if modified {
                *published = Arc::new(summary);
            }
            modified
        });
    }
}

impl Command {
    /// Whether it is made at once even while others wait for the disk: blocks that are added, and what changes nothing.
    fn may_overtake(&self) -> bool {
        match self {
            Self::Add(Action::Block, request, rehearsal, ..) => {
                rehearsal.is_none() && request.confirm_seconds.is_none()
            }
            Self::Report(..)
            | Self::Seen(_)
            | Self::Prepare(_)
            | Self::Changes(_)
            | Self::Page(..)
            | Self::Lookup(..) => true,
            Self::Add(..)
            | Self::Remove(..)
            | Self::Import(..)
            | Self::Confirm(..)
            | Self::Reload(..)
            | Self::Stored(_)
            | Self::Shutdown(_) => false,
        }
    }
}

/// Reads all of `texts`.
fn prefixes(texts: &[String]) -> Result<Prefixes, Error> {
    let mut prefixes = Prefixes::default();
    let mut items = Vec::new();
    let mut wrong = 0;
    for text in texts {
        match text.parse() {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => {
                wrong += 1;
                if items.len() < TOLD {
                    let shown: String = text.chars().take(60).collect();
                    items.push(format!("{shown:?}: {error}"));
                }
            }
        }
    }
    if wrong > 0 {
        let detail = format!("{wrong} of {} are not understood; nothing was changed", texts.len());
        return Err(Error::Invalid { detail, items });
    }
    Ok(prefixes)
}

#[cfg(test)]
mod tests;

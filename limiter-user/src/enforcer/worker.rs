//! The thread of the enforcer.

mod brake;
mod confirm;
mod guards;
mod import;
mod purge;
mod rehearsal;
mod report;
mod together;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use anyhow::Context;
use limiter_common::{Address, Nanos, Prefix};
use tokio::sync::{oneshot, watch};

use super::install::Installer;
use super::lists::{self, ListFile, Listed, Order};
use super::{
    Caller, Command, Cursor, Error, Events, ImportOptions, Lookup, Now, Page, Parameters, Rehearsal, Reply,
    Started, Summary, render,
};
use crate::admission::Guards;
use crate::admission::brake::Brake;
use crate::blocklist::{Blocklist, Claim, Edit, Key, Offences, Offender, Outcome, Owner, OwnerId, reason};
use crate::config::lists::Parsed;
use crate::config::{Action, Config, Escalation};
use crate::control::protocol::{AddResponse, RemoveRequest, RemoveResponse};
use crate::dataplane::{Change, Table};
use crate::heap;
use crate::host::Lifelines;
use crate::prefixes::Prefixes;
use crate::reports::Reports;
use crate::store::{NotStored, Record, Repeat, Store, Unconfirmed, Write};
use crate::telemetry::DECISION;
use import::{Asked, Import, not_kept};
use purge::Purge;
use together::Together;

/// Edits that are made before other requests get their turn.
const PART: usize = 1 << 15;
/// Requests that are answered before a long one goes on.
const TURN: usize = 64;
/// Prefixes whose expired claims are taken out at a time.
const EXPIRED: usize = 1 << 13;
/// Items of a problem or an answer that are told one by one.
const TOLD: usize = 100;
/// Claims that are looked at for one page, so that whoever searches for few of many keeps nobody waiting.
const LOOKED_AT: usize = 1 << 15;
/// Expired prefixes that are named in one event; of more only the number is told.
const NAMED: usize = 20;
/// The reason of claims that nobody remembers.
const RECOVERED: &str = "recovered from the kernel";
/// The thread looks around at least this often, in case the machine slept.
const LOOK_AROUND: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    pub(super) list: Blocklist,
    offences: Offences,
    reports: Reports,
    brake: Brake,
    unconfirmed: Vec<Unconfirmed>,
    store: Store,
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
    warnings: Vec<String>,
    publish: watch::Sender<Arc<Summary>>,
    pub(super) events: Events,
    /// Long requests that wait for their turn.
    waiting: VecDeque<Long>,
    /// The one that is being worked on.
    work: Option<Work>,
    stopping: Option<oneshot::Sender<()>>,
    /// When it last tried again what had failed.
    settled: Nanos,
}

/// Requests that are worked on in parts.
enum Long {
    Import(Action, Parsed, ImportOptions, Option<Rehearsal>, Caller, Reply<AddResponse>),
    Reload(Arc<Config>, Vec<ListFile>, Reply<Vec<String>>),
    Purge(Action, RemoveRequest, Option<Rehearsal>, Caller, Reply<RemoveResponse>),
}

/// Edits in the order in which they are made, a turn's work each.
type Parts = VecDeque<Vec<Edit>>;

/// What a reload makes of the lists: the edits, the lists then, and what is different.
type Reload = (Parts, Vec<Listed>, Vec<String>);

/// A long request that was checked as a whole, and is being made.
struct Work {
    job: Job,
    /// What was changed by others meanwhile, and so is not taken back.
    touched: HashSet<Key>,
}

enum Job {
    Import(Box<Import>),
    Reload(Reloading),
    Purge(Purge),
}

/// A reload that was planned.
struct Reloading {
    parts: Parts,
    undo: Vec<Edit>,
    /// The configuration that was in force before.
    former: Arc<Config>,
    lists: Vec<Listed>,
    sentences: Vec<String>,
    reply: Reply<Vec<String>>,
}

impl Worker {
    pub(super) fn new(
        parameters: Parameters,
        publish: watch::Sender<Arc<Summary>>,
        events: Events,
    ) -> anyhow::Result<(Self, Started)> {
        let Parameters { writer, config, boot_id, clock, lifelines, peers: _ } = parameters;
        let begun = clock();
        let mut kernel = Installer::new(writer);
        let installed = kernel.installed().context("cannot read what is in the kernel's lists")?;

        let mut list = Blocklist::new();
        let operator = list.owner(&Owner::Operator)?;
        let opened = Store::open(&config.state_directory, boot_id, begun);
        let stored = opened.records.len();
        // Claims of lists are in their files.
        let records = opened.records;
        let mut owners = HashMap::new();
        for owner in records.owners().filter(|owner| owner.is_stored()) {
            owners.insert(owner.clone(), list.owner(owner)?);
        }
        list.fill(records.iter().filter_map(|Record { prefix, action, owner, terms }| {
            let owner = *owners.get(&owner)?;
            Some(Claim { key: Key { prefix, action, owner }, terms })
        }));

        let offences = remembered(&mut list, &config.escalation, records.repeats());
        let unconfirmed = records.unconfirmed().to_vec();
        drop(records);

        let mut worker = Self {
            list,
            offences,
            reports: Reports::new(config.policies.clone()),
            brake: Brake::new(config.blocks_per_minute),
            unconfirmed,
            store: opened.store,
            unseen: opened.unseen.then(HashSet::new),
            kernel,
            config,
            clock,
            operator,
            lists: Vec::new(),
            gather: lifelines,
            lifelines: None,
            guards: None,
            warnings: opened.warnings,
            publish,
            events,
            waiting: VecDeque::new(),
            work: None,
            stopping: None,
            settled: begun.boot,
        };
        for warning in worker.warnings.iter().cloned().chain(worker.store_problem()) {
            tracing::warn!("{warning}");
        }
        let files = lists::read(&worker.config.lists);
        let guards = worker.guards();
        let created = render::seconds(begun.wall);
        let plan = lists::plan(&mut worker.list, &guards, worker.config.capacity, &[], files, created)?;
        let listed = plan.edits.len();
        // In parts, since what an application returns is large. Nothing of it is in the kernel yet, so no order matters.
        let mut edits = plan.edits.into_iter();
        while edits.len() > 0 {
            worker.list.apply(edits.by_ref().take(PART).collect());
        }
        worker.lists = plan.lists;
        worker.recover(&installed, &guards, opened.lost, begun);

        let found = installed.len();
        let mut had: Vec<Prefix> = installed.iter().map(|change| change.prefix).collect();
        had.sort_unstable();
        let changes = worker.list.reconcile(installed);
        let changed = changes.len();
        worker.kernel.expect(changes.iter().map(|change| change.prefix));
        worker.kernel.apply_what_fits(changes, &had, &worker.list);
        worker.kernel.expect(std::iter::empty());
        drop(had);
        if let Some(problem) = worker.kernel.problem() {
            tracing::warn!("{problem}");
        }
        worker.expire();
        worker.roll_back();
        worker.publish();
        let took = (clock)().boot.saturating_sub(begun.boot);
        let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
        let started = Started {
            stored: count(stored),
            listed: count(listed),
            found: count(found),
            changed: count(changed),
            took: Duration::from_nanos(took.0),
        };
        tracing::info!(
            stored,
            listed,
            found,
            changed,
            milliseconds = started.took.as_millis(),
            "the lists are in force"
        );
        Ok((worker, started))
    }

    /// Keeps what the kernel enforces and nobody remembers: of a store that lost something, and of list files that
    /// cannot be read.
    fn recover(&mut self, installed: &[Change], guards: &Guards, lost: bool, now: Now) {
        let mut unread = self.lists.clone();
        unread.retain(|listed| listed.unread.is_some());
        if !lost && unread.is_empty() {
            return;
        }
        let mut excess = self.list.excess(installed, self.operator);
        excess.retain(|claim| claim.terms.until > now.boot);
        let (mut recovered, mut kept) = (Vec::new(), Vec::new());
        for mut claim in excess {
            claim.terms.created = render::seconds(now.wall);
            // Lists have no deadlines.
            let list = unread
                .iter()
                .find(|listed| listed.action == claim.key.action && claim.terms.until == Nanos::NEVER);
            match list {
                Some(_) if guards.refusal(claim.key.action, claim.key.prefix).is_some() => {}
                Some(listed) => {
                    claim.key.owner = listed.owner;
                    kept.push(Edit::Set(claim));
                }
                None if lost => {
                    claim.terms.reason = reason(RECOVERED);
                    recovered.push(Edit::Set(claim));
                }
                None => {}
            }
        }
        if !kept.is_empty() {
            for listed in &mut self.lists {
                let entries = kept.iter().filter(|edit| edit.key().owner == listed.owner).count();
                if entries > 0 {
                    listed.keeps(entries);
                    tracing::warn!("list {}: {}", listed.name, listed.problem.as_deref().unwrap_or_default());
                }
            }
            self.list.apply(kept);
        }
        if !recovered.is_empty() {
            self.warn(format!(
                "{} entries were recovered from the kernel as the operator's",
                recovered.len()
            ));
            let writes = self.writes_of(&recovered);
            // Otherwise with all else, when the store can be opened again.
            if let Err(NotStored(why)) = self.store.commit(&writes, now) {
                tracing::warn!("what was recovered from the kernel is not stored yet: {why}");
            }
            self.list.apply(recovered);
        }
    }

    fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        if self.warnings.len() < TOLD && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Serves until it is told to stop, or nobody is left to tell it anything. Returns who waits for the end.
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Option<oneshot::Sender<()>> {
        loop {
            let alive = if self.work.is_some() || !self.waiting.is_empty() {
                self.turn(None, commands)
            } else if self.stopping.is_some() {
                self.settle();
                return self.stopping;
            } else {
                match commands.recv_timeout(self.idle()) {
                    Ok(command) => self.turn(Some(command), commands),
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

    /// Tries again what could not be stored, or not be put in force.
    fn settle(&mut self) {
        self.settled = (self.clock)().boot;
        self.kernel.settle(&self.list);
        self.mend();
    }

    /// Opens the store again if that is due, and makes it hold what is claimed here: everything, since some of what was
    /// written last may be lost. What could not be read at the start is taken over first.
    ///
    /// Comes before edits are planned: what is claimed may be different afterwards. If it fails, so does what has to be
    /// stored.
    fn mend(&mut self) {
        if let Err(NotStored(why)) = self.try_to_mend() {
            tracing::debug!("the state cannot be written: {why}");
        }
    }

    fn try_to_mend(&mut self) -> Result<(), NotStored> {
        let now = (self.clock)();
        let Some(records) = self.store.reopen(now)? else { return Ok(()) };
        let decided = self.unseen.take();
        let recovered = reason(RECOVERED);
        let mut stored = Vec::with_capacity(records.len());
        let (mut found, mut writes) =
            (Vec::new(), self.remember_stored(records.repeats(), decided.is_some()));
        for Record { prefix, action, owner, terms } in records.iter() {
            let id = self.list.owner(&owner).ok().filter(|_| owner.is_stored());
            let Some(id) = id else { continue };
            let key = Key { prefix, action, owner: id };
            let news = decided.as_ref().is_some_and(|decided| !decided.contains(&key));
            match self.list.get(key) {
                Some(claim) if claim.terms == terms => stored.push(key),
                Some(claim) if !news || claim.terms.reason != recovered => {}
                None if !news => writes.push(Write::Delete { prefix, action, owner }),
                Some(_) | None => {
                    stored.push(key);
                    found.push(Edit::Set(Claim { key, terms }));
                }
            }
        }
        if !found.is_empty() {
            tracing::info!("{} stored claims could be read at last, and are in force", found.len());
            let changes = self.list.apply(found).changes;
            self.kernel.apply_what_fits(changes, &[], &self.list);
        }
        for change in records.unconfirmed() {
            let known = self.unconfirmed.iter().any(|known| known.id == change.id);
            match decided {
                Some(_) if !known => self.unconfirmed.push(change.clone()),
                None if !known => writes.push(Write::Confirmed(change.id)),
                Some(_) | None => {}
            }
        }
        writes.extend(self.unconfirmed.iter().cloned().map(Write::Unconfirmed));
        stored.sort_unstable();
        let unstored = self.list.from(None).filter(|claim| stored.binary_search(&claim.key).is_err());
        writes.extend(unstored.filter_map(|claim| self.write_of(&Edit::Set(claim))));
        for part in writes.chunks(PART) {
            self.store.commit_later(part, now)?;
        }
        // Once more the last, to wait for the disk.
        self.store.commit(writes.get(writes.len().saturating_sub(1)..).unwrap_or_default(), now)
    }

    /// Compares what is remembered of offenders with what is stored, which is taken over if it is `news`. Returns what has
    /// to be written for both to be the same.
    fn remember_stored(&mut self, stored: &[Repeat], news: bool) -> Vec<Write> {
        let (mut same, mut writes) = (Vec::new(), Vec::new());
        for repeat in stored {
            let Some(offender) =
                self.list.owner(&repeat.owner).ok().map(|id| Offender::new(repeat.offender, id))
            else {
                continue;
            };
            if news && self.offences.get(offender).is_none() {
                let ladder = self.config.escalation.of(&repeat.owner);
                self.offences.set(offender, repeat.offence, ladder);
            }
            if self.offences.get(offender) == repeat.offence {
                same.push(offender);
            } else if self.offences.get(offender).is_none() {
                writes.push(Write::Repeat(Repeat { offence: None, ..repeat.clone() }));
            }
        }
        same.sort_unstable();
        let differ = self.offences.iter().filter(|(offender, _)| same.binary_search(offender).is_err());
        writes.extend(differ.map(|(offender, _)| Write::Repeat(self.repeat(offender))));
        writes
    }

    /// Notes what was decided while it is not known what is stored.
    fn decide(&mut self, keys: impl Iterator<Item = Key>) {
        if let Some(decided) = &mut self.unseen {
            decided.extend(keys);
        }
    }

    /// A sentence about the store, if it is unusable.
    fn store_problem(&self) -> Option<String> {
        let why = self.store.problem()?;
        let directory = self.config.state_directory.display();
        Some(match self.unseen {
            None => format!("the state in {directory} cannot be written, so nothing can be added: {why}"),
            Some(_) => format!(
                "the state in {directory} cannot be written or read, so nothing can be added, and what is stored there is \
                 not in force until it can: {why}"
            ),
        })
    }

    /// Answers `first` and some of what waits behind it. False if nobody is left to ask.
    fn turn(&mut self, first: Option<Command>, commands: &Receiver<Command>) -> bool {
        let (mut first, mut together, mut alive) = (first, Together::default(), true);
        for _ in 0..TURN {
            match first.take().map_or_else(|| commands.try_recv(), Ok) {
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
        self.finish(&mut together);
        alive
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
            // What is under way has announced what it needs.
            Command::Prepare(families) if self.work.is_none() => self.kernel.prepare(families),
            Command::Prepare(_) => {}
            Command::Import(action, parsed, options, rehearsal, caller, reply) => {
                self.waiting.push_back(Long::Import(action, parsed, options, rehearsal, caller, reply));
            }
            Command::Reload(config, files, reply) => {
                self.waiting.push_back(Long::Reload(config, files, reply))
            }
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

    /// Remembers what is changed while a long request is worked on.
    fn touch(&mut self, edits: &[Edit]) {
        if let Some(work) = &mut self.work {
            work.touched.extend(edits.iter().map(Edit::key));
        }
    }

    /// The edits that claim what was `asked` of `prefixes`, counted in `response`.
    fn edits(
        &self,
        action: Action,
        prefixes: impl Iterator<Item = Prefix>,
        asked: &Asked,
        response: &mut AddResponse,
    ) -> Vec<Edit> {
        let now = (self.clock)().boot;
        let mut edits = Vec::with_capacity(prefixes.size_hint().0);
        for prefix in prefixes {
            let key = Key { prefix, action, owner: asked.owner };
            let former = self.list.get(key).filter(|claim| claim.terms.until > now).map(|claim| claim.terms);
            let created = former.as_ref().map_or(asked.created, |former| former.created);
            let same =
                former.as_ref().map(|former| former.until == asked.until && former.reason == asked.reason);
            match same {
                None => response.added += 1,
                Some(true) => response.unchanged += 1,
                Some(false) => response.updated += 1,
            }
            // What an import that is under way has claimed is not stored yet, and may be taken back.
            if same != Some(true) || self.work.is_some() {
                edits.push(Edit::Set(Claim { key, terms: asked.terms(created) }));
            }
            self.tell_shadowed(action, prefix, now, response);
        }
        edits
    }

    /// Says so if a block does nothing because of an allow.
    fn tell_shadowed(&self, action: Action, prefix: Prefix, now: Nanos, response: &mut AddResponse) {
        let any_allowed = action == Action::Block && self.list.totals().allows > 0;
        if any_allowed && response.shadowed_by_allow.len() < TOLD && self.list.entry(prefix).allows(now) {
            response.shadowed_by_allow.push(prefix.to_string());
        }
    }

    /// Splits edits into parts, in an order in which they have room.
    fn parts(&self, edits: Vec<Edit>) -> Result<Parts, Error> {
        let order = lists::room(&self.list, self.config.capacity, &edits).map_err(Error::Full)?;
        let (raises, lowers) = self.list.split(edits);
        let (first, second) = match order {
            Order::RaiseFirst => (raises, lowers),
            Order::LowerFirst => (lowers, raises),
        };
        Ok([first, second].iter().flat_map(|edits| edits.chunks(PART)).map(<[Edit]>::to_vec).collect())
    }

    /// Makes a part of a long request. The answer comes after the last part, and so does the wait for the disk.
    fn make_part(&mut self, edits: Vec<Edit>, last: bool) -> Result<Vec<Edit>, Error> {
        let writes = self.writes_of(&edits);
        let outcome = self.list.apply(edits);
        let commit = if last { Store::commit } else { Store::commit_later };
        if let Err(NotStored(why)) = commit(&mut self.store, &writes, (self.clock)()) {
            return Err(self.give_up(outcome.undo, &why));
        }
        self.install(outcome)
    }

    /// Takes edits back that the kernel has not seen.
    fn give_up(&mut self, undo: Vec<Edit>, why: &str) -> Error {
        self.list.apply(undo);
        not_kept(why)
    }

    /// Makes the changes of an outcome in the kernel, or takes it back. Returns what takes it back later.
    fn install(&mut self, outcome: Outcome) -> Result<Vec<Edit>, Error> {
        if let Err(error) = self.kernel.apply(&outcome.changes, &self.list) {
            self.take_back(outcome.undo);
            return Err(error.into());
        }
        Ok(outcome.undo)
    }

    /// Takes edits back that were made in the kernel, but are not stored.
    fn take_out_of_force(&mut self, undo: Vec<Edit>) {
        let changes = self.list.apply(undo).changes;
        self.kernel.apply_what_fits(changes, &[], &self.list);
        if let Some(problem) = self.kernel.problem() {
            tracing::error!("taking back a failed request: {problem}");
        }
    }

    /// Takes edits back that were made only in part.
    fn take_back(&mut self, undo: Vec<Edit>) {
        let writes = self.writes_of(&undo);
        self.take_out_of_force(undo);
        if let Err(NotStored(why)) = self.store.commit(&writes, (self.clock)()) {
            tracing::warn!("taking back a failed request: {why}");
        }
    }

    fn writes_of(&self, edits: &[Edit]) -> Vec<Write> {
        edits.iter().filter_map(|edit| self.write_of(edit)).collect()
    }

    /// What the store has to know of an edit: lists are in their files.
    fn write_of(&self, edit: &Edit) -> Option<Write> {
        let Key { prefix, action, owner } = edit.key();
        let owner = self.list.owner_of(owner);
        if !owner.is_stored() {
            return None;
        }
        let owner = owner.clone();
        Some(match edit {
            Edit::Set(claim) => Write::Put(Record { prefix, action, owner, terms: claim.terms.clone() }),
            Edit::Remove(_) => Write::Delete { prefix, action, owner },
        })
    }

    fn page(&self, action: Action, owner: Option<&Owner>, after: Option<Cursor>, limit: usize) -> Page {
        let now = (self.clock)();
        let mut page = Page::default();
        let owner = match owner.map(|owner| self.list.find_owner(owner)) {
            Some(None) => return page,
            Some(owner) => owner,
            None => None,
        };
        let after = after.map(|Cursor { prefix, owner }| match owner {
            // Of an owner that is not known any more, the prefix comes once more.
            Some(owner) => Key { prefix, action, owner: self.list.find_owner(&owner).unwrap_or_default() },
            None => Key { prefix, action: Action::Allow, owner: OwnerId::LAST },
        });
        let (mut looked_at, mut last) = (0, None);
        for claim in self.list.from(after) {
            let key = claim.key;
            if looked_at >= LOOKED_AT
                && let Some(prefix) = last.filter(|last| *last != key.prefix)
            {
                page.next = Some(Cursor { prefix, owner: None });
                break;
            }
            (looked_at, last) = (looked_at + 1, Some(key.prefix));
            if key.action != action
                || owner.is_some_and(|owner| owner != key.owner)
                || claim.terms.until <= now.boot
            {
                continue;
            }
            page.claims.push(render::claim(&self.list, claim, now));
            if page.claims.len() >= limit.max(1) {
                let owner = Some(self.list.owner_of(key.owner).clone());
                page.next = Some(Cursor { prefix: key.prefix, owner });
                break;
            }
        }
        page
    }

    fn lookup(&self, address: Address) -> Lookup {
        let now = (self.clock)();
        let host = Prefix::host(address);
        let mut claims = self.list.covering(host);
        claims.retain(|claim| claim.terms.until > now.boot);
        let claims = claims.into_iter().map(|claim| render::claim(&self.list, claim, now)).collect();
        let entry = self.list.entry_of(host, |prefix| !self.kernel.is_missing(prefix));
        let offences = self.list.owners().filter_map(|(id, owner)| {
            let offender = Offender::new(host, id);
            let (offence, ladder) = (self.offences.get(offender)?, self.config.escalation.of(owner));
            render::offence(owner, offender, offence, ladder, now)
        });
        Lookup { now, entry, claims, offences: offences.collect() }
    }

    /// Makes the next part of a long request, or begins one.
    fn work(&mut self) {
        if self.work.is_none() && self.waiting.is_empty() {
            return;
        }
        self.mend();
        let Some(mut work) = self.work.take() else {
            let job = match self.waiting.pop_front() {
                Some(Long::Import(action, parsed, options, rehearsal, caller, reply)) => self
                    .begin_import(action, parsed, &options, rehearsal, &caller, reply)
                    .map(|import| Job::Import(Box::new(import))),
                Some(Long::Purge(action, request, rehearsal, caller, reply)) => {
                    self.begin_purge(action, &request, rehearsal.is_some(), &caller, reply).map(Job::Purge)
                }
                Some(Long::Reload(config, files, reply)) => {
                    self.begin_reload(config, files, reply).map(Job::Reload)
                }
                None => None,
            };
            self.work = job.map(|job| Work { job, touched: HashSet::new() });
            return;
        };
        let done = match &mut work.job {
            Job::Import(import) => self.import_part(import),
            Job::Reload(reloading) => self.reload_part(reloading),
            Job::Purge(purge) => self.purge_part(purge),
        };
        match done {
            Ok(false) => self.work = Some(work),
            Ok(true) => self.end(work.job),
            Err(error) => self.fail(work, error),
        }
        if self.work.is_none() {
            heap::give_back();
        }
    }

    /// Takes back what was made of a long request.
    fn fail(&mut self, work: Work, error: Error) {
        let Work { job, touched } = work;
        self.kernel.expect(std::iter::empty());
        match job {
            Job::Import(import) => {
                let reply = self.take_import_back(*import, |key| touched.contains(key));
                self.answer(reply, Err(error));
            }
            Job::Reload(Reloading { mut undo, former, reply, .. }) => {
                undo.retain(|edit| !touched.contains(&edit.key()));
                for part in undo.chunks(PART) {
                    self.take_back(part.to_vec());
                }
                self.take_config(former);
                self.answer(reply, Err(error));
            }
            // What is out of force stays so, as was asked.
            Job::Purge(purge) => self.answer(purge.reply, Err(error)),
        }
    }

    fn end(&mut self, job: Job) {
        self.kernel.expect(std::iter::empty());
        match job {
            Job::Import(import) => self.end_import(*import),
            Job::Purge(purge) => self.end_purge(purge),
            Job::Reload(Reloading { lists, sentences, undo, reply, .. }) => {
                self.tell_changed(&undo);
                self.lists = lists;
                self.reports.set_policies(self.config.policies.clone());
                self.brake.set(self.config.blocks_per_minute);
                self.answer(reply, Ok(sentences));
            }
        }
    }

    /// Makes the next part of a reload. True if it was the last.
    fn reload_part(&mut self, reloading: &mut Reloading) -> Result<bool, Error> {
        let part = reloading.parts.pop_front().unwrap_or_default();
        let last = reloading.parts.is_empty();
        reloading.undo.extend(self.make_part(part, last)?);
        Ok(last)
    }

    /// Plans a reload. From here on its guards and capacities count, until it [fails](Self::fail).
    fn begin_reload(
        &mut self,
        config: Arc<Config>,
        files: Vec<ListFile>,
        reply: Reply<Vec<String>>,
    ) -> Option<Reloading> {
        let former = self.take_config(config);
        match self.plan_reload(&former, files) {
            Ok((parts, lists, sentences)) => {
                let sets = parts.iter().flatten().filter(|edit| matches!(edit, Edit::Set(_)));
                self.kernel.expect(sets.map(|edit| edit.key().prefix));
                Some(Reloading { parts, undo: Vec::new(), former, lists, sentences, reply })
            }
            Err(error) => {
                self.take_config(former);
                self.answer(reply, Err(error));
                None
            }
        }
    }

    fn plan_reload(&mut self, former: &Config, files: Vec<ListFile>) -> Result<Reload, Error> {
        let known = self.lifelines.clone();
        self.ask_for_lifelines();
        let guards = self.guards();
        let moved = known.map(|(_, known)| known) != self.lifelines.as_ref().map(|(_, now)| now.clone());
        let created = render::seconds((self.clock)().wall);
        let capacity = self.config.capacity;
        let lists::Plan { edits, lists, mut sentences } =
            lists::plan(&mut self.list, &guards, capacity, &self.lists, files, created)
                .map_err(|error| Error::Failed(error.to_string()))?;
        if former.protected != self.config.protected {
            sentences.push(format!("{} prefixes are protected", self.config.protected.len()));
        }
        if former.proxies != self.config.proxies {
            sentences.push(format!("{} prefixes are trusted proxies", self.config.proxies.len()));
        }
        let guarded = |config: &Config| (config.protected.clone(), config.proxies.clone());
        if moved || guarded(former) != guarded(&self.config) {
            sentences.extend(self.blocked_though_guarded(&guards));
        }
        Ok((self.parts(edits)?, lists, sentences))
    }

    /// Blocks, but for those of lists, that a guard would refuse now.
    fn blocked_though_guarded(&self, guards: &Guards) -> Option<String> {
        let keys = self.list.keys().filter(|key| self.list.owner_of(key.owner).is_stored());
        let mut refused = keys.filter_map(|key| guards.refusal(key.action, key.prefix));
        let first = refused.next()?;
        Some(format!(
            "{} blocks overlap what is guarded now and stay until they are removed, the first: {first}",
            1 + refused.count()
        ))
    }

    /// Takes out some of what has expired; the kernel has enforced it already.
    fn expire(&mut self) {
        let now = (self.clock)();
        if self.list.next_expiry().is_none_or(|next| next > now.boot) {
            return;
        }
        let mut forgotten = self.forget(now);
        let outcome = self.list.expire(now.boot, EXPIRED);
        let gone = outcome.undo.iter().map(|edit| Edit::Remove(edit.key()));
        let mut writes: Vec<Write> = gone.filter_map(|edit| self.write_of(&edit)).collect();
        writes.append(&mut forgotten);
        for action in [Action::Block, Action::Allow] {
            decide_expired(action, &outcome.undo);
        }
        self.tell_expired(&outcome.undo);
        // Neither matters much: what has expired says nothing, wherever it is left behind.
        self.kernel.apply_what_fits(outcome.changes, &[], &self.list);
        if let Err(NotStored(why)) = self.store.commit_later(&writes, now) {
            tracing::warn!("taking out expired entries: {why}");
        }
    }

    /// Forgets some offenders, of whom nothing is left.
    fn forget(&mut self, now: Now) -> Vec<Write> {
        let mut writes = Vec::new();
        while writes.len() < EXPIRED
            && let Some((offender, _)) = self
                .offences
                .pop(|owner| self.config.escalation.of(self.list.owner_of(owner)), render::seconds(now.wall))
        {
            writes.push(Write::Repeat(self.repeat(offender)));
        }
        writes
    }

    /// Tells what is different.
    fn publish(&self) {
        let totals = self.list.totals();
        let mut warnings = self.warnings.clone();
        warnings.extend(self.kernel.problem());
        warnings.extend(self.store_problem());
        warnings.extend(self.brake_warning());
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

/// What is stored of offenders, as it is kept here.
fn remembered(list: &mut Blocklist, escalation: &Escalation, stored: &[Repeat]) -> Offences {
    let mut offences = Offences::default();
    for Repeat { offender, owner, offence } in stored {
        if let Ok(id) = list.owner(owner) {
            offences.set(Offender::new(*offender, id), *offence, escalation.of(owner));
        }
    }
    offences
}

/// Records the end of the claims of `action` that `undo` would bring back: one event, however many they are.
fn decide_expired(action: Action, undo: &[Edit]) {
    let expired = undo.iter().map(Edit::key).filter(|key| key.action == action);
    let changed = expired.clone().count();
    if changed == 0 {
        return;
    }
    let prefixes = (changed <= NAMED).then(|| {
        let prefixes: Vec<String> = expired.map(|key| key.prefix.to_string()).collect();
        prefixes.join(" ")
    });
    let action = action.label();
    tracing::info!(target: DECISION, action, change = "expire", changed, prefixes, "expired");
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

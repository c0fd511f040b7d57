//! The one writer: a thread that owns the [blocklist](crate::blocklist), its [store](crate::store) and the
//! dataplane's [`Writer`]. Everybody else holds a [`Handle`].
//!
//! What is acknowledged is in the kernel and durable. Blocks that are added go to the kernel first, since an attack does
//! not wait for the disk; all else to the disk first, so that nobody is let through on a word that a power cut forgets.
//! What either refuses is taken back as a whole, and refused.

mod connected;
pub(crate) mod events;
mod explain;
mod install;
mod lists;
mod render;
mod worker;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use limiter_common::abi::Entry;
use limiter_common::{Address, Nanos, Prefix};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};

use crate::admission::share::is_wide;
use crate::blocklist::Owner;
use crate::config::{self, Action, Config};
use crate::control::protocol::{
    AddRequest, AddResponse, Claim, Explanation, ListStatus, Offence, Problem, ProblemKind, RemoveRequest,
    RemoveResponse, Report, ReportResponse, UnconfirmedChange,
};
use crate::dataplane::{ApplyError, Writer};
use crate::heap;
use crate::host::Lifelines;
use connected::Connected;
pub use events::Events;
use lists::ListFile;
use worker::Worker;

/// The time by both clocks, read at the same moment. [`crate::host::now`] reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What the kernel's deadlines are in: `CLOCK_MONOTONIC`, which stands still while the machine sleeps.
    pub boot: Nanos,
    /// What people and disks go by.
    pub wall: SystemTime,
}

impl Now {
    /// The wall clock, in nanoseconds since 1970.
    pub(crate) fn wall_nanos(self) -> u64 {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What the enforcer is made of.
pub struct Parameters {
    pub writer: Box<dyn Writer>,
    /// Lists, protected prefixes, capacities and the state directory are read from it.
    pub config: Arc<Config>,
    /// `/proc/sys/kernel/random/boot_id`, see [`crate::host::boot_id`].
    pub boot_id: [u8; 16],
    pub clock: fn() -> Now,
    /// [`Lifelines::gather`], or something else in tests.
    pub lifelines: fn() -> anyhow::Result<Lifelines>,
    /// [`crate::host::tcp_peers`], or something else in tests.
    pub peers: fn() -> anyhow::Result<Vec<Address>>,
}

/// What the start found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    /// Claims read from the store.
    pub stored: u64,
    /// Entries of the list files.
    pub listed: u64,
    /// Entries that were in the kernel already.
    pub found: u64,
    /// Changes that were made to them.
    pub changed: u64,
    pub took: Duration,
}

/// Loads store and lists, brings the kernel's lists to that state, and starts the thread. Blocks meanwhile (seconds
/// with millions of entries): when it returns, everything is in force. A broken store or list never fails the start; it
/// becomes a warning in the [`Summary`].
///
/// The thread ends after [`Handle::shutdown`], or when all handles are gone. The kernel's lists stay as they are.
///
/// # Errors
///
/// If the thread cannot be made or the kernel's lists cannot be read at all.
pub fn start(parameters: Parameters) -> anyhow::Result<(Handle, Started)> {
    let (to_worker, commands) = mpsc::channel();
    let to_worker = Arc::new(to_worker);
    // Not one more, so that the worker sees when all handles are gone.
    let to_itself = Arc::downgrade(&to_worker);
    let (publish, summary) = watch::channel(Arc::default());
    let connected = Connected::new(parameters.peers, parameters.clock, &parameters.config);
    let events = Events::default();
    let (rollbacks, rolled_back) = tokio::sync::mpsc::unbounded_channel();
    let (worker, started) = Worker::new(parameters, publish, events.clone(), rollbacks)?;
    // What was read and compared is large, and gone only now.
    heap::give_back();
    // The thread ends by itself, after `shutdown` or with the last handle; see `Worker::run`.
    std::thread::Builder::new().name("enforcer".to_owned()).spawn(move || {
        let waits = worker.run(&commands, &to_itself);
        // Everything is closed by now. An error means that nobody waits any more.
        let _ = waits.map(|waits| waits.send(()));
    })?;
    let rolled_back = Arc::new(Mutex::new(Some(rolled_back)));
    Ok((Handle { to_worker, summary, connected, events, rolled_back }, started))
}

/// Who asks. Whether they may is the control server's business, but for what needs an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose claims they make and take back. [`Owner::Operator`] may name another owner, and pass the guards.
    pub owner: Owner,
    /// For whoever asks later: `uid:0`, `token:ID`, `cert:NAME`, `jwt:SUB`. Kept as [`crate::blocklist::actor`] says.
    pub actor: Arc<str>,
}

impl Caller {
    /// A user of this machine who may do everything.
    #[must_use]
    pub fn operator(uid: u32) -> Self {
        Self { owner: Owner::Operator, actor: Arc::from(format!("uid:{uid}")) }
    }
}

/// What applies to every line of an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// `None`: for good.
    pub seconds: Option<u64>,
    pub reason: Option<String>,
    pub force: bool,
    pub ssh_peer: Option<String>,
    /// See [`AddRequest::owner`].
    pub owner: Option<String>,
    /// See [`AddRequest::dry_run`].
    pub dry_run: bool,
}

/// Where a listing goes on: behind the claim of an owner on a prefix, or behind all claims on it. As text `PREFIX@OWNER`
/// or `PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    prefix: Prefix,
    owner: Option<Owner>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "{}@{owner}", self.prefix),
            None => self.prefix.fmt(f),
        }
    }
}

/// A text that no page ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCursor;

impl fmt::Display for InvalidCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected the cursor that came with the page before")
    }
}

impl std::error::Error for InvalidCursor {}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (prefix, owner) = match text.split_once('@') {
            Some((prefix, owner)) => (prefix, Some(owner.parse().ok().ok_or(InvalidCursor)?)),
            None => (text, None),
        };
        Ok(Self { prefix: prefix.parse().ok().ok_or(InvalidCursor)?, owner })
    }
}

/// Part of a listing, in the order of addresses.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub claims: Vec<Claim>,
    /// `None`: that was all.
    pub next: Option<Cursor>,
}

/// Everything the lists say of one address.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub now: Now,
    /// What the kernel finds.
    pub entry: Entry,
    /// Claims on the address and on prefixes that contain it, both actions, narrowest first.
    pub claims: Vec<Claim>,
    /// Who remembers it as an offender.
    pub offences: Vec<Offence>,
}

/// A question to [`Handle::explain`].
#[derive(Debug, Clone)]
pub struct Question {
    pub address: IpAddr,
    pub protocol: Option<u8>,
    pub port: Option<u16>,
    /// Only this interface's limits; all interfaces if `None`.
    pub interface: Option<String>,
}

/// The state in numbers, published after every change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Prefixes with at least one block.
    pub blocks: u64,
    /// Prefixes with at least one allow.
    pub allows: u64,
    /// Entries of each kind, by the name of the [table](crate::dataplane::Table).
    pub tables: Vec<(&'static str, u64)>,
    pub lists: Vec<ListStatus>,
    /// Sentences for the operator: state that was lost, lists that failed, a store that cannot be written.
    pub warnings: Vec<String>,
    /// Entries that are listed but not in force, because the kernel did not take them.
    pub missing: u64,
    /// Whether claims can be made durable; if not, adding is refused.
    pub durable: bool,
}

/// Why a request was not fulfilled. Nothing was changed, unless it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// It cannot be understood; one line for each thing that is wrong, at most 100.
    Invalid { detail: String, items: Vec<String> },
    /// Only operators may do that.
    Denied(String),
    /// Guards refused; one line for each prefix, at most 100.
    Guarded { detail: String, items: Vec<String> },
    /// More new blocks than there may be in a minute of those who are no operators, or blocks that would cut off more of
    /// the peers than they may. `wait`: when there is room for these, if that is known.
    Braked { detail: String, wait: Option<Duration> },
    /// A kernel table has no room.
    Full(String),
    /// The store cannot be written. What lets somebody through (a block removed, an allow added) is in force all the
    /// same, and stored as soon as that is possible; nothing else was changed.
    NotDurable(String),
    /// The kernel refused, or the enforcer is gone.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { detail, .. } | Self::Guarded { detail, .. } | Self::Braked { detail, .. } => {
                f.write_str(detail)
            }
            Self::Denied(detail) | Self::Full(detail) | Self::NotDurable(detail) | Self::Failed(detail) => {
                f.write_str(detail)
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Full { .. } => Self::Full(error.to_string()),
            ApplyError::Kernel { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (kind, title, status, detail, items) = match error {
            Error::Invalid { detail, items } => {
                (ProblemKind::Invalid, "the request cannot be understood", 400, detail, items)
            }
            Error::Denied(detail) => (ProblemKind::NotAuthorised, "not authorised", 403, detail, Vec::new()),
            Error::Guarded { detail, items } => {
                (ProblemKind::Guarded, "refused by a guard", 409, detail, items)
            }
            Error::Braked { detail, wait: _ } => {
                (ProblemKind::Guarded, "refused by a guard", 429, detail, Vec::new())
            }
            Error::Full(detail) => (ProblemKind::Full, "no room in the kernel", 507, detail, Vec::new()),
            Error::NotDurable(detail) => {
                (ProblemKind::NotDurable, "the state cannot be written", 507, detail, Vec::new())
            }
            Error::Failed(detail) => (ProblemKind::Failed, "failed", 500, detail, Vec::new()),
        };
        Self { kind, title: title.to_owned(), status, detail, items }
    }
}

/// What a dry run looks at.
#[derive(Debug, Clone)]
struct Rehearsal {
    /// Who has a TCP connection with this machine. `None` if the kernel does not say.
    peers: Option<Vec<Address>>,
}

/// What the thread is asked. With a [`Rehearsal`], nothing is changed.
enum Command {
    Add(Action, AddRequest, Option<Rehearsal>, Caller, Reply<AddResponse>),
    Remove(Action, RemoveRequest, Option<Rehearsal>, Caller, Reply<RemoveResponse>),
    /// Who is connected, one address of each host.
    Seen(Vec<Address>),
    /// Prefixes of a list that is on its way, by family.
    Prepare([usize; 2]),
    Import(Action, config::lists::Parsed, ImportOptions, Option<Rehearsal>, Caller, Reply<AddResponse>),
    Report(Vec<Report>, Option<u64>, Caller, Reply<ReportResponse>),
    Changes(Reply<Vec<UnconfirmedChange>>),
    Confirm(u64, Caller, Reply<Option<UnconfirmedChange>>),
    Page(Action, Option<Owner>, Option<Cursor>, usize, Reply<Page>),
    Lookup(Address, Reply<(Lookup, Arc<Config>)>),
    Reload(Arc<Config>, Vec<ListFile>, Reply<Vec<String>>),
    /// From the worker to itself: the commit with this number has ended.
    Stored(u64),
    Shutdown(oneshot::Sender<()>),
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// The way to the enforcer, for any number of tasks.
#[derive(Debug, Clone)]
pub struct Handle {
    to_worker: Arc<mpsc::Sender<Command>>,
    summary: watch::Receiver<Arc<Summary>>,
    connected: Connected,
    events: Events,
    rolled_back: Arc<Mutex<Option<UnboundedReceiver<RolledBack>>>>,
}

/// A change that nobody confirmed in time, and that was taken back.
#[derive(Debug, Clone)]
pub struct RolledBack {
    /// `block.add`.
    pub what: Arc<str>,
    pub owner: String,
    /// Who had asked for it.
    pub actor: Arc<str>,
    /// Of what was taken back, at most 100.
    pub prefixes: Vec<Prefix>,
    pub count: u64,
    /// What was claimed until then.
    pub before: Option<String>,
}

impl Handle {
    /// The changes that are rolled back, those of the start among them; for the first who asks.
    #[must_use]
    pub fn rollbacks(&self) -> Option<UnboundedReceiver<RolledBack>> {
        // Nothing panics while it is locked.
        self.rolled_back.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What happens to the lists, whoever asked for it.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Adds claims of the caller, or of the owner that the request names: all or none. Claims that are there get the new
    /// expiry and reason.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn add(
        &self,
        action: Action,
        request: AddRequest,
        caller: Caller,
    ) -> Result<AddResponse, Error> {
        let rehearsal = self.rehearsal(request.dry_run).await?;
        // Without a length it is an address. What is not understood is refused later.
        let networks = request.prefixes.iter().filter(|text| text.contains('/'));
        self.look_around(action, &caller, networks.filter_map(|text| text.parse().ok())).await;
        self.ask(|reply| Command::Add(action, request, rehearsal, caller, reply)).await
    }

    /// Takes back claims of the caller, or of the owner that the request names. What others claim stays, and is told.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Prefixes that were not there are no error here.
    pub async fn remove(
        &self,
        action: Action,
        request: RemoveRequest,
        caller: Caller,
    ) -> Result<RemoveResponse, Error> {
        let rehearsal = self.rehearsal(request.dry_run).await?;
        self.ask(|reply| Command::Remove(action, request, rehearsal, caller, reply)).await
    }

    /// Tells that [a list](Self::import) of about so many prefixes is on its way, by family, so that the kernel's tables
    /// can grow while it is read.
    pub fn prepare(&self, families: [usize; 2]) {
        // An error means that the thread is gone, which the import will tell.
        let _ = self.to_worker.send(Command::Prepare(families));
    }

    /// Adds every prefix of a list, if all of its lines are understood: applied in parts, between which other requests
    /// are served. All or none.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn import(
        &self,
        action: Action,
        parsed: config::lists::Parsed,
        options: ImportOptions,
        caller: Caller,
    ) -> Result<AddResponse, Error> {
        let rehearsal = self.rehearsal(options.dry_run).await?;
        self.look_around(action, &caller, parsed.prefixes.iter()).await;
        self.ask(|reply| Command::Import(action, parsed, options, rehearsal, caller, reply)).await
    }

    /// Counts what applications report, and blocks what policies say, as claims of the caller; for `most` seconds at the
    /// longest. What is refused does not keep the others from being counted.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Then none of the blocks that would have followed is in force.
    pub async fn report(
        &self,
        reports: Vec<Report>,
        most: Option<u64>,
        caller: Caller,
    ) -> Result<ReportResponse, Error> {
        self.ask(|reply| Command::Report(reports, most, caller, reply)).await
    }

    /// The changes that are rolled back unless somebody confirms them.
    ///
    /// # Errors
    ///
    /// If the enforcer is gone.
    pub async fn changes(&self) -> Result<Vec<UnconfirmedChange>, Error> {
        self.ask(Command::Changes).await
    }

    /// Keeps a change. `None` if none of the caller has this number: it may have been rolled back.
    ///
    /// # Errors
    ///
    /// If it cannot be stored; then the change is still rolled back.
    pub async fn confirm(&self, id: u64, caller: Caller) -> Result<Option<UnconfirmedChange>, Error> {
        self.ask(|reply| Command::Confirm(id, caller, reply)).await
    }

    /// Up to `limit` claims of `action` behind `after`; from the start if `None`. Only those of `owner` if there is one:
    /// then a page may have fewer, and none, and others follow all the same. Pages see the state of their own moment.
    ///
    /// # Errors
    ///
    /// If the enforcer is gone.
    pub async fn page(
        &self,
        action: Action,
        owner: Option<Owner>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.ask(|reply| Command::Page(action, owner, after, limit, reply)).await
    }

    /// What the lists say of `address`.
    ///
    /// # Errors
    ///
    /// If the enforcer is gone.
    pub async fn lookup(&self, address: Address) -> Result<Lookup, Error> {
        let (lookup, _) = self.ask(|reply| Command::Lookup(address, reply)).await?;
        Ok(lookup)
    }

    /// What would happen to a packet now, by the same `decide` that the kernel runs, with the limits of the
    /// configuration in force.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the interface is not configured; else if the enforcer is gone.
    pub async fn explain(&self, question: Question) -> Result<Explanation, Error> {
        let address = Address::from(question.address).canonical();
        let (lookup, config) = self.ask(|reply| Command::Lookup(address, reply)).await?;
        explain::explain(&question, address, lookup, &config)
    }

    /// Makes `config` the one in force: reads the list files again, takes over protected prefixes and limits (for
    /// `explain`). Returns what is different, as sentences.
    ///
    /// # Errors
    ///
    /// If the enforcer is gone, or the kernel or the store refuses: then lists and configuration are what they were.
    /// A list that cannot be read keeps its last good content, with a problem in the [`Summary`].
    pub async fn reload(&self, config: Arc<Config>) -> Result<Vec<String>, Error> {
        let of = Arc::clone(&config);
        let files = blocking(move || lists::read(&of.lists)).await?;
        let of = Arc::clone(&config);
        let changes = self.ask(|reply| Command::Reload(config, files, reply)).await?;
        self.connected.configure(&of);
        Ok(changes)
    }

    /// The latest numbers; the receiver wakes up when they change.
    #[must_use]
    pub fn summary(&self) -> watch::Receiver<Arc<Summary>> {
        self.summary.clone()
    }

    /// Ends the thread after the requests that were made before, and waits for it.
    pub async fn shutdown(&self) {
        let (reply, ended) = oneshot::channel();
        if self.to_worker.send(Command::Shutdown(reply)).is_ok() {
            // An error means that the thread ended otherwise.
            let _ = ended.await;
        }
    }

    /// For a dry run, who is connected: asked for here, since it takes a while on a busy machine.
    async fn rehearsal(&self, dry_run: bool) -> Result<Option<Rehearsal>, Error> {
        if !dry_run {
            return Ok(None);
        }
        Ok(Some(Rehearsal { peers: self.connected.all().await? }))
    }

    /// Has the thread know who is connected, before `caller` adds `prefixes`, if these are wide blocks that may be held back.
    async fn look_around(&self, action: Action, caller: &Caller, mut prefixes: impl Iterator<Item = Prefix>) {
        if action == Action::Allow || !self.connected.holds_back(caller) || !prefixes.any(is_wide) {
            return;
        }
        let to_worker = self.to_worker.clone();
        // An error means that the thread is gone, which the request itself will tell.
        self.connected.look(move |seen| drop(to_worker.send(Command::Seen(seen)))).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let gone = || Error::Failed("the enforcer has ended; restart the daemon".to_owned());
        let (reply, answer) = oneshot::channel();
        if self.to_worker.send(command(reply)).is_err() {
            return Err(gone());
        }
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Failed(format!("the request was not completed: {error}")))
}

#[cfg(test)]
mod tests;

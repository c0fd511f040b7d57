//! The daemon: puts the parts together, and is the only file that knows them all. It owns the clock, the signals and
//! the tasks.
//!
//! The order of a start is what keeps the promise that there is never an open window, and never a half-filled list in
//! front of traffic: configuration, kernel tables, store and lists into the tables, then programs onto interfaces. A stop
//! takes nothing off.

mod interfaces;
pub mod options;
mod service;
mod source;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Parser;
use limiter_common::abi::ABI_VERSION;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access::Authenticator;
use crate::audit::Trail;
use crate::config::{Access, Config};
use crate::control::peers::Operators;
use crate::control::protocol::{Detached, Problem, ProblemKind, Reloaded, Status, TableStatus, rfc3339};
use crate::control::server::{self, App, Backend, Request, Socket, Tcp};
use crate::daemon::interfaces::{DetachError, Interfaces};
use crate::daemon::options::Options;
use crate::daemon::source::{Source, keep_fixed};
use crate::dataplane::Reader;
use crate::dataplane::kernel::{self, Dataplane, OpenOptions};
use crate::enforcer::{self, Parameters, Summary};
use crate::heap;
use crate::hook::{self, Hooks};
use crate::host::Lifelines;
use crate::http::stopped;
use crate::links::Changed;
use crate::metrics::{self, DaemonState, LastReload};
use crate::privileges::{self, Needs};
use crate::{host, links, telemetry};

/// The configuration is wrong (`EX_CONFIG` of sysexits.h): starting again does not help.
const EXIT_CONFIG: u8 = 78;
/// `--check` found problems.
const EXIT_CHECK: u8 = 2;

/// Interfaces are looked at this often, should an event be lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Events come in bursts: the first look is this much later.
const SETTLE: Duration = Duration::from_millis(30);
/// Between two questions after this machine's addresses, however often they change.
const LIFELINES_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at the keys of issuers.
const TEND: Duration = Duration::from_secs(60);
/// The file of the tokens, in the directory of the state.
const TOKENS: &str = "tokens.json";
/// What a stop waits for the servers and the enforcer.
const STOP: Duration = Duration::from_secs(10);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    heap::keep_little();
    let options = Options::parse();
    let source = Source::new(&options);
    let config = source.load();
    if options.check {
        return check(config);
    }
    telemetry::start(options.log_format);
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                tracing::error!("{problem}");
            }
            return EXIT_CONFIG.into();
        }
    };
    // Before there are threads, which would keep what they were made with.
    let prepared = match Prepared::new(&options, &config) {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&options, source, config, prepared)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(config: Result<Config, Vec<String>>) -> ExitCode {
    use std::io::Write;

    let (exit, outcome) = match config {
        Ok(_) => (ExitCode::SUCCESS, writeln!(std::io::stdout(), "ok")),
        Err(problems) => (
            EXIT_CHECK.into(),
            problems.iter().try_for_each(|problem| writeln!(std::io::stderr(), "{problem}")),
        ),
    };
    // Nobody reads it: the exit code remains.
    drop(outcome);
    exit
}

/// What takes privileges that the daemon does not keep.
struct Prepared {
    operators: Operators,
    socket: Socket,
    hooks: Vec<hook::Prepared>,
    /// What an operator should know of it, as sentences.
    notes: Vec<String>,
}

impl Prepared {
    /// Does it, then gives up the privileges.
    fn new(options: &Options, config: &Config) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        // Nobody is the wiser if the machine stays without protection for a group.
        let operators = Operators::new(&config.control).unwrap_or_else(|error| {
            notes.push(format!("only root may use the control socket: {error:#}, and restart the daemon"));
            Operators::default()
        });
        kernel::prepare(&config.pins_directory)?;
        let socket = server::bind(&config.control.socket, operators)?;
        let hooks = hook::prepare(&config.hooks);

        let listen = config.api.iter().flat_map(|api| api.listen.iter().copied()).chain(config.metrics);
        let kept = privileges::reduce(Needs::new(listen, options.replace).kept())?;
        tracing::info!("privileges are given up, but for {}", privileges::names(kept));
        Ok(Self { operators, socket, hooks, notes })
    }
}

/// Starts everything, and returns when it was told to stop.
async fn run(options: &Options, source: Source, config: Config, prepared: Prepared) -> anyhow::Result<()> {
    let started = host::now().wall;
    // From here on SIGHUP is a reload, not the end.
    let hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let config = Arc::new(config);
    let Prepared { operators, socket, hooks, mut notes } = prepared;
    let dataplane = Dataplane::open(&OpenOptions {
        pins_directory: config.pins_directory.clone(),
        capacity: config.capacity,
        log_drops: telemetry::debug_is_on(),
        replace: options.replace,
    })?;
    notes.extend_from_slice(dataplane.notes());
    for note in &notes {
        tracing::warn!("{note}");
    }
    if dataplane.adopted() {
        tracing::info!("taking over what an earlier run left in {}", config.pins_directory.display());
    }

    // Before the enforcer gathers them: what changes in between is found later.
    let lifelines = gather_lifelines();
    let parameters = Parameters {
        writer: dataplane.writer(),
        config: Arc::clone(&config),
        boot_id: host::boot_id()?,
        clock: host::now,
        lifelines: Lifelines::gather,
        peers: host::tcp_peers,
    };
    let (enforcer, _) = tokio::task::spawn_blocking(move || enforcer::start(parameters))
        .await
        .context("the enforcer panicked")??;
    let reader = dataplane.reader()?;
    let protection = dataplane.protection()?;
    let kernel_log = tokio::spawn(protection.log().run());
    let mut interfaces = Interfaces::new(protection);
    tokio::task::block_in_place(|| interfaces.configure(&config.interfaces, Instant::now()));

    let reload = LastReload { successful: true, succeeded_at: started };
    let state = DaemonState { started, interfaces: interfaces.statuses(), reload };
    let (published, state) = watch::channel(Arc::new(state));
    let (stop, stopping) = watch::channel(false);
    let (to_daemon, requests) = mpsc::channel(16);
    let (reader_too, clock) = (Arc::clone(&reader), host::now);
    let access = Arc::new(Authenticator::open(&config.state_directory.join(TOKENS)));
    configure(&access, &config);
    let tending = tokio::spawn(tend(Arc::clone(&access), stopping.clone()));
    let access_too = Arc::clone(&access);
    let (readiness, ready) = watch::channel(false);
    let trail = Trail::open(config.audit.clone(), started).context("cannot start the audit trail")?;
    let backend = Backend {
        enforcer: enforcer.clone(),
        reader: reader_too,
        clock,
        daemon: to_daemon,
        ready,
        access,
        trail: trail.clone(),
    };
    let app = App::new(backend);
    let mut servers = vec![tokio::spawn(server::serve(socket, operators, app.clone(), stopping.clone()))];
    let tcp = config.api.as_ref().map(|api| Tcp::start(api, &app, &stopping));
    let backend = hook::Backend { enforcer: enforcer.clone(), trail: trail.clone(), clock };
    let hooks = Hooks::start(hooks, &backend, &stopping);
    let (metrics_told, metrics_problem) = watch::channel(None);
    if let Some(address) = config.metrics {
        let sources = metrics::server::Sources {
            daemon: state,
            summary: enforcer.summary(),
            traffic: app.traffic(),
            hooks: hooks.counts(),
            reader: Arc::clone(&reader),
        };
        servers.push(tokio::spawn(metrics::server::run(address, sources, stopping, metrics_told)));
    }

    let (finished, reloads) = mpsc::channel(1);
    let mut daemon = Daemon {
        source,
        config,
        enforcer: enforcer.clone(),
        reader,
        interfaces,
        started,
        reload,
        reload_problem: None,
        notes,
        metrics_problem,
        tcp,
        hooks,
        access: access_too,
        trail,
        readiness,
        needs_restart: Vec::new(),
        published,
        headline: String::new(),
        was_ready: false,
        under_way: false,
        waiting: Vec::new(),
        finished,
        lifelines,
        resolvers_written: host::resolvers_written(),
        gather_at: None,
        lists_due: false,
    };
    let outcome = daemon.run(hangup, requests, reloads).await;
    let (tcp, hooks) = (daemon.tcp.take(), std::mem::take(&mut daemon.hooks));
    drop(daemon);

    stop.send_replace(true);
    servers.push(tending);
    servers.extend(tcp.into_iter().flat_map(Tcp::into_listeners));
    servers.extend(hooks.into_tasks());
    for server in servers {
        end(server).await;
    }
    // After the last request was answered.
    if tokio::time::timeout(STOP, enforcer.shutdown()).await.is_err() {
        tracing::warn!("the enforcer does not end; leaving without it");
    }
    kernel_log.abort();
    outcome?;
    tracing::info!("stopped; enforcement stays on, `limiter detach` takes it off");
    Ok(())
}

/// Who may come over the network: nobody, without `[api]`.
fn configure(access: &Authenticator, config: &Config) {
    let nobody = Access::default();
    access.configure(config.api.as_ref().map_or(&nobody, |api| &api.access), &config.protected);
}

/// Writes down what is known of the use of tokens, and reads the keys of issuers again, until the daemon stops.
async fn tend(access: Arc<Authenticator>, mut stop: watch::Receiver<bool>) {
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(TEND) => false,
            () = stopped(&mut stop) => true,
        };
        let access = Arc::clone(&access);
        // Files. It can only fail by a panic, which is logged elsewhere.
        let _ = tokio::task::spawn_blocking(move || access.tend()).await;
        if stopping {
            return;
        }
    }
}

/// Waits for a task that was told to stop.
async fn end(mut task: JoinHandle<()>) {
    match tokio::time::timeout(STOP, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("a server failed: {error}"),
        Err(_) => task.abort(),
    }
}

type ReloadReply = oneshot::Sender<Result<Reloaded, Problem>>;

/// What the loop owns.
struct Daemon {
    source: Source,
    /// In force.
    config: Arc<Config>,
    enforcer: enforcer::Handle,
    reader: Arc<dyn Reader>,
    interfaces: Interfaces,
    started: SystemTime,
    reload: LastReload,
    /// Why the last reload changed nothing.
    reload_problem: Option<String>,
    /// Of the start.
    notes: Vec<String>,
    metrics_problem: watch::Receiver<Option<String>>,
    /// `None` without `[api]`.
    tcp: Option<Tcp>,
    hooks: Hooks,
    access: Arc<Authenticator>,
    trail: Trail,
    /// For who asks whether all is well.
    readiness: watch::Sender<bool>,
    /// Of the last reload.
    needs_restart: Vec<String>,
    published: watch::Sender<Arc<DaemonState>>,
    /// What was last said of the whole; empty at first.
    headline: String,
    /// Whether that was good.
    was_ready: bool,
    /// A reload runs; `waiting` want another one after it.
    under_way: bool,
    waiting: Vec<Option<ReloadReply>>,
    finished: mpsc::Sender<ListsReloaded>,
    /// Those that the lists in force were checked against; `None` if the kernel did not answer.
    lifelines: Option<Lifelines>,
    resolvers_written: [Option<SystemTime>; 2],
    /// When to ask for them again.
    gather_at: Option<Instant>,
    /// The lists have to be checked against them.
    lists_due: bool,
}

/// Who wants the lists to be read again.
enum Cause {
    /// A reload, for whoever waits for the answer; `None` for a signal.
    Configuration { needs_restart: Vec<String>, replies: Vec<Option<ReloadReply>> },
    /// The machine has other lifelines than before.
    Lifelines,
}

/// The enforcer has taken over a configuration; the interfaces are next.
struct ListsReloaded {
    config: Arc<Config>,
    outcome: Result<Vec<String>, enforcer::Error>,
    cause: Cause,
}

impl Daemon {
    async fn run(
        &mut self,
        mut hangup: Signal,
        mut requests: mpsc::Receiver<Request>,
        mut reloads: mpsc::Receiver<ListsReloaded>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let (changed, mut links_changed) = mpsc::channel(1);
        let (lifelines, mut lifelines_changed) = mpsc::channel(1);
        let links = tokio::spawn(links::watch(Changed { links: changed, lifelines }));
        let mut summary = self.enforcer.summary();
        let mut watchdog = service::watchdog().map(tokio::time::interval);
        let mut check_at = Instant::now();

        self.publish();
        service::ready(&self.headline);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.begin_reload(vec![None]),
                Some(request) = requests.recv() => self.answer(request),
                Some(reloaded) = reloads.recv() => {
                    self.finish_reload(reloaded);
                    check_at = Instant::now();
                }
                Some(()) = links_changed.recv() => check_at = check_at.min(Instant::now() + SETTLE),
                Some(()) = lifelines_changed.recv() => self.gather_soon(),
                () = sleep_until(self.gather_at) => self.check_lifelines(),
                () = tokio::time::sleep_until(check_at) => {
                    self.check_interfaces();
                    self.check_resolvers();
                    let regular = Instant::now() + CHECK_INTERVAL;
                    check_at = self.interfaces.next_retry().map_or(regular, |retry| retry.min(regular));
                }
                outcome = summary.changed() => {
                    if outcome.is_err() {
                        bail!("the enforcer has ended; the kernel enforces what it has");
                    }
                    self.publish();
                }
                () = tick(&mut watchdog) => service::alive(),
            }
        }

        service::stopping();
        tracing::info!("stopping");
        links.abort();
        Ok(())
    }

    fn answer(&mut self, request: Request) {
        // Who does not wait for the answer any more needs none: hence `_`.
        match request {
            Request::Status(reply) => {
                self.check_interfaces();
                let _ = reply.send(self.status());
            }
            Request::Reload(reply) => self.begin_reload(vec![Some(reply)]),
            Request::Detach(request, reply) => {
                let _ = reply.send(self.detach(&request.interfaces));
            }
        }
    }

    fn check_interfaces(&mut self) {
        // System calls, and a program to load if one is missing.
        tokio::task::block_in_place(|| self.interfaces.check(Instant::now()));
        self.publish();
    }

    fn detach(&mut self, names: &[String]) -> Result<Detached, Problem> {
        let outcome = tokio::task::block_in_place(|| self.interfaces.detach(names));
        self.publish();
        match outcome {
            Ok(interfaces) => Ok(Detached { interfaces }),
            Err(DetachError::Unknown(names)) => Err(Problem {
                kind: ProblemKind::NotFound,
                title: "not found".to_owned(),
                status: 404,
                detail: format!("limiter does not protect {}", names.join(", ")),
                items: Vec::new(),
            }),
            Err(DetachError::Failed { failed, detached }) => Err(Problem {
                kind: ProblemKind::Failed,
                title: "failed".to_owned(),
                status: 500,
                detail: match detached.as_slice() {
                    [] => "cannot detach".to_owned(),
                    names => format!("detached from {}, but not from all", names.join(", ")),
                },
                items: failed,
            }),
        }
    }

    /// Reads the configuration. If it is good, the enforcer takes it over next to this loop, which goes on.
    fn begin_reload(&mut self, replies: Vec<Option<ReloadReply>>) {
        if self.under_way {
            self.waiting.extend(replies);
            return;
        }
        service::reloading();
        let config = match tokio::task::block_in_place(|| self.source.load()) {
            Ok(config) => config,
            Err(problems) => {
                let problem = Problem {
                    // Not the request is wrong, but a file.
                    kind: ProblemKind::Failed,
                    title: "configuration refused".to_owned(),
                    status: 422,
                    detail: "the configuration has problems; the former one stays in force".to_owned(),
                    items: problems,
                };
                self.refuse_reload(replies, problem);
                return;
            }
        };
        let (config, needs_restart) = keep_fixed(&self.config, config);
        self.reload_lists(Arc::new(config), Cause::Configuration { needs_restart, replies });
    }

    fn reload_lists(&mut self, config: Arc<Config>, cause: Cause) {
        self.under_way = true;
        // Whatever the cause, the enforcer asks for the lifelines again.
        self.lists_due = false;
        let (enforcer, finished) = (self.enforcer.clone(), self.finished.clone());
        tokio::spawn(async move {
            let outcome = enforcer.reload(Arc::clone(&config)).await;
            // The loop is gone: so is whoever asked.
            let _ = finished.send(ListsReloaded { config, outcome, cause }).await;
        });
    }

    fn gather_soon(&mut self) {
        self.gather_at.get_or_insert_with(|| Instant::now() + LIFELINES_PAUSE);
    }

    /// The files are not watched, but looked at regularly.
    fn check_resolvers(&mut self) {
        let written = host::resolvers_written();
        if written != self.resolvers_written || self.lifelines.is_none() {
            self.resolvers_written = written;
            self.gather_soon();
        }
    }

    /// At boot, the machine has neither addresses nor a gateway when the lists are read: what a list names of them must
    /// not stay blocked.
    fn check_lifelines(&mut self) {
        self.gather_at = None;
        let lifelines = tokio::task::block_in_place(gather_lifelines);
        if lifelines.is_none() {
            // Those that were known stay guarded.
            self.gather_at = Some(Instant::now() + CHECK_INTERVAL);
            return;
        }
        if lifelines == self.lifelines {
            return;
        }
        self.lifelines = lifelines;
        self.lists_due = true;
        self.check_lists();
    }

    fn check_lists(&mut self) {
        if self.lists_due && !self.under_way {
            tracing::info!(
                "this machine's addresses, gateways or DNS servers have changed: checking the lists"
            );
            self.reload_lists(Arc::clone(&self.config), Cause::Lifelines);
        }
    }

    fn finish_reload(&mut self, reloaded: ListsReloaded) {
        self.under_way = false;
        let ListsReloaded { config, outcome, cause } = reloaded;
        match cause {
            Cause::Configuration { needs_restart, replies } => {
                self.finish_configuration(config, needs_restart, outcome, replies);
            }
            Cause::Lifelines => self.finish_lifelines(outcome),
        }
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            self.begin_reload(waiting);
        }
        self.check_lists();
    }

    fn finish_lifelines(&mut self, outcome: Result<Vec<String>, enforcer::Error>) {
        match outcome {
            Ok(changes) => {
                for change in changes {
                    tracing::warn!("{change}");
                }
            }
            Err(error) => {
                tracing::error!("the lists could not be checked against this machine's addresses: {error}");
                // The next check finds them different, and tries again.
                self.lifelines = None;
            }
        }
        self.publish();
    }

    fn finish_configuration(
        &mut self,
        config: Arc<Config>,
        needs_restart: Vec<String>,
        outcome: Result<Vec<String>, enforcer::Error>,
        replies: Vec<Option<ReloadReply>>,
    ) {
        match outcome {
            Ok(mut changes) => {
                self.config = config;
                let interfaces = &mut self.interfaces;
                let wanted = &self.config.interfaces;
                let configured = tokio::task::block_in_place(|| interfaces.configure(wanted, Instant::now()));
                changes.extend(configured.changes);
                let mut problems = configured.problems;
                let access = &self.access;
                tokio::task::block_in_place(|| configure(access, &self.config));
                if let (Some(tcp), Some(api)) = (&mut self.tcp, &self.config.api)
                    && let Err(problem) = tcp.reload(api)
                {
                    problems.push(problem);
                }
                changes.extend(needs_restart.iter().cloned());
                self.needs_restart = needs_restart;
                self.reload = LastReload { successful: true, succeeded_at: host::now().wall };
                self.reload_problem = None;
                for change in &changes {
                    tracing::info!("reload: {change}");
                }
                for problem in &problems {
                    tracing::error!("reload: {problem}");
                }
                tracing::info!("reloaded");
                for reply in replies.into_iter().flatten() {
                    let (changes, problems) = (changes.clone(), problems.clone());
                    let _ = reply.send(Ok(Reloaded { changes, problems }));
                }
            }
            Err(error) => {
                let mut problem = Problem::from(error);
                problem.items.insert(0, problem.detail);
                problem.detail = "the configuration could not be applied".to_owned();
                self.refuse_reload(replies, problem);
            }
        }
        self.publish();
        service::ready(&self.headline);
    }

    fn refuse_reload(&mut self, replies: Vec<Option<ReloadReply>>, problem: Problem) {
        tracing::error!("reload: {}", problem.detail);
        for item in &problem.items {
            tracing::error!("reload: {item}");
        }
        self.reload.successful = false;
        self.reload_problem = Some(format!("{}: {}", problem.detail, problem.items.join("; ")));
        for reply in replies.into_iter().flatten() {
            let _ = reply.send(Err(problem.clone()));
        }
        self.publish();
        service::ready(&self.headline);
    }

    /// Tells metrics, the service manager and the log what is different.
    fn publish(&mut self) {
        let interfaces = self.interfaces.statuses();
        let protected = interfaces.iter().filter(|interface| interface.protected).count();
        let summary = self.enforcer.summary().borrow().clone();
        let ready = self.ready(&summary);
        let headline = format!(
            "{}: {protected} of {} interfaces protected, {} prefixes blocked, {} allowed",
            if ready { "ready" } else { "NOT READY, see limiter status" },
            interfaces.len(),
            summary.blocks,
            summary.allows
        );
        if ready != self.was_ready || self.headline.is_empty() {
            if ready {
                tracing::info!("{headline}");
            } else {
                tracing::error!("{headline}");
            }
        }
        if headline != self.headline {
            service::status(&headline);
        }
        self.was_ready = ready;
        self.readiness.send_if_modified(|former| std::mem::replace(former, ready) != ready);
        self.headline = headline;

        let state = DaemonState { started: self.started, interfaces, reload: self.reload };
        self.published.send_if_modified(|published| {
            let modified = **published != state;
            if modified {
                *published = Arc::new(state);
            }
            modified
        });
    }

    fn ready(&self, summary: &Summary) -> bool {
        // A list that has its last good content is loaded.
        let missing = summary.lists.iter().any(|list| list.problem.is_some() && list.entries == 0);
        self.interfaces.ready() && !missing && summary.missing == 0
    }

    fn status(&self) -> Status {
        let summary = self.enforcer.summary().borrow().clone();
        let tables = self.reader.capacities().into_iter().map(|table| TableStatus {
            table: table.table.to_owned(),
            entries: summary
                .tables
                .iter()
                .find(|(name, _)| *name == table.table)
                .map_or(0, |(_, count)| *count),
            capacity: u64::from(table.capacity),
        });
        let mut warnings = self.notes.clone();
        warnings.extend(self.metrics_problem.borrow().clone());
        warnings.extend(self.tcp.iter().flat_map(Tcp::problems));
        warnings.extend(self.hooks.problems());
        warnings.extend(self.access.warnings());
        warnings.extend(self.trail.problem());
        warnings.extend(self.reload_problem.clone());
        warnings.extend(self.needs_restart.iter().cloned());
        warnings.extend(summary.warnings.iter().cloned());
        Status {
            ready: self.ready(&summary),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            pid: std::process::id(),
            started: rfc3339(self.started),
            interfaces: self.interfaces.statuses(),
            blocks: summary.blocks,
            allows: summary.allows,
            not_in_force: summary.missing,
            tables: tables.collect(),
            lists: summary.lists.clone(),
            warnings,
        }
    }
}

/// `None` if the kernel does not answer, which is told.
fn gather_lifelines() -> Option<Lifelines> {
    match Lifelines::gather() {
        // That somebody has logged in or out is no reason to read the lists again.
        Ok(lifelines) => Some(Lifelines { sessions: Vec::new(), ..lifelines }),
        Err(error) => {
            tracing::warn!("this machine's own addresses are not known: {error:#}");
            None
        }
    }
}

/// Never, without a deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Never, without a watchdog.
async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

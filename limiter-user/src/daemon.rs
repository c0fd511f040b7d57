//! The daemon: puts the parts together, and is the only file that knows them all. It owns the clock, the signals and
//! the tasks.
//!
//! The order of a start is what keeps the promise that there is never an open window, and never a half-filled list in
//! front of traffic: configuration, kernel tables, store and lists into the tables, then programs onto interfaces. A stop
//! takes nothing off.

mod begun;
mod confirm;
mod interfaces;
mod lifelines;
pub mod options;
mod pending;
mod prepared;
mod reload;
mod rollbacks;
mod service;
mod source;
mod standing;
mod unconfirmed;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access::Authenticator;
use crate::audit::Trail;
use crate::config::{Access, Config};
use crate::control::protocol::{Detached, Problem, ProblemKind};
use crate::control::server::{self, App, Backend, Request, Tcp};
use crate::daemon::begun::Begun;
use crate::daemon::interfaces::{DetachError, Interfaces};
use crate::daemon::lifelines::gather_lifelines;
use crate::daemon::options::Options;
use crate::daemon::pending::Pending;
use crate::daemon::prepared::Prepared;
use crate::daemon::reload::{ListsReloaded, ReloadReply};
use crate::daemon::source::Source;
use crate::dataplane::Reader;
use crate::dataplane::kernel::{Dataplane, OpenOptions};
use crate::enforcer::{self, Parameters};
use crate::heap;
use crate::hook::{self, Hooks};
use crate::host::Lifelines;
use crate::http::stopped;
use crate::links::Changed;
use crate::metrics::{self, DaemonState, LastReload};
use crate::{host, links, telemetry};

/// The configuration is wrong (`EX_CONFIG` of sysexits.h): starting again does not help.
const EXIT_CONFIG: u8 = 78;
/// `--check` found problems.
const EXIT_CHECK: u8 = 2;

/// Interfaces are looked at this often, should an event be lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Events come in bursts: the first look is this much later.
const SETTLE: Duration = Duration::from_millis(30);
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
    let begun = match config {
        Ok((config, text)) => Begun::new(&source, config, text),
        Err(problems) => {
            for problem in problems {
                tracing::error!("{problem}");
            }
            return EXIT_CONFIG.into();
        }
    };
    // Before there are threads, which would keep what they were made with.
    let prepared = match Prepared::new(&options, &begun.config) {
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
    match runtime.block_on(run(&options, source, begun, prepared)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(config: Result<(Config, String), Vec<String>>) -> ExitCode {
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

/// Starts everything, and returns when it was told to stop.
async fn run(options: &Options, source: Source, begun: Begun, prepared: Prepared) -> anyhow::Result<()> {
    let started = host::now().wall;
    // From here on SIGHUP is a reload, not the end.
    let hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let Begun { config, text, unconfirmed, rolled_back, notes: at_start } = begun;
    let config = Arc::new(config);
    let boot = host::boot_id()?;
    let Prepared { operators, socket, hooks, mut notes } = prepared;
    let dataplane = Dataplane::open(&OpenOptions {
        pins_directory: config.pins_directory.clone(),
        capacity: config.capacity,
        log_drops: telemetry::debug_is_on(),
        replace: options.replace,
    })?;
    notes.extend(at_start);
    notes.extend_from_slice(dataplane.notes());
    for note in &notes {
        tracing::warn!("{note}");
    }
    if dataplane.adopted() {
        tracing::info!("taking over what an earlier run left in {}", config.pins_directory.display());
    }

    let (started_up, starting) = watch::channel(false);
    let meanwhile = tokio::spawn(server::turn_away(&socket, operators, starting));
    // Before the enforcer gathers them: what changes in between is found later.
    let lifelines = gather_lifelines();
    let parameters = Parameters {
        writer: dataplane.writer(),
        config: Arc::clone(&config),
        boot_id: boot,
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
    tokio::task::block_in_place(|| {
        interfaces.configure(&config.interfaces, interfaces::Detached::Return, Instant::now())
    });

    let reload = LastReload { successful: true, succeeded_at: started };
    let state = DaemonState { started, interfaces: interfaces.statuses(), reload };
    let (published, state) = watch::channel(Arc::new(state));
    let (stop, stopping) = watch::channel(false);
    let (to_daemon, requests) = mpsc::channel(16);
    let (reader_too, clock) = (Arc::clone(&reader), host::now);
    let access = Arc::new(Authenticator::open(&config.state_directory.join(TOKENS)));
    configure(&access, &config);
    let tending = tokio::spawn(tend(Arc::clone(&access), stopping.clone()));
    let fetching = tokio::spawn(fetch_keys(Arc::clone(&access), stopping.clone()));
    let access_too = Arc::clone(&access);
    let (readiness, ready) = watch::channel(false);
    let (awaited, awaits) = watch::channel(None);
    let trail = Trail::open(config.audit.clone(), started).context("cannot start the audit trail")?;
    let backend = Backend {
        enforcer: enforcer.clone(),
        reader: reader_too,
        clock,
        daemon: to_daemon,
        ready,
        unconfirmed: awaits,
        access,
        trail: trail.clone(),
    };
    // Ends with the enforcer.
    let recording =
        enforcer.rollbacks().map(|rolled_back| tokio::spawn(rollbacks::record(rolled_back, trail.clone())));
    let app = App::new(backend);
    // Whoever comes from here on waits for what is served now.
    started_up.send_replace(true);
    end(meanwhile).await;
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
        text,
        boot,
        pending: Pending::new(awaited),
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
    daemon.pending.set(unconfirmed, host::now().boot);
    if rolled_back {
        daemon.rolled_back().await;
    }
    let outcome = daemon.run(hangup, requests, reloads).await;
    let (tcp, hooks) = (daemon.tcp.take(), std::mem::take(&mut daemon.hooks));
    drop(daemon);

    stop.send_replace(true);
    servers.extend([tending, fetching]);
    servers.extend(tcp.into_iter().flat_map(Tcp::into_listeners));
    servers.extend(hooks.into_tasks());
    for server in servers {
        end(server).await;
    }
    // After the last request was answered.
    if tokio::time::timeout(STOP, enforcer.shutdown()).await.is_err() {
        tracing::warn!("the enforcer does not end; leaving without it");
    }
    if let Some(recording) = recording {
        end(recording).await;
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

/// Fetches the keys of issuers that are behind a URL, until the daemon stops.
async fn fetch_keys(access: Arc<Authenticator>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = access.fetch_keys() => {}
        () = stopped(&mut stop) => {}
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

/// What the loop owns.
struct Daemon {
    source: Source,
    /// In force.
    config: Arc<Config>,
    /// How it is written.
    text: String,
    boot: [u8; 16],
    /// What has to be confirmed, or was not.
    pending: Pending,
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
                () = sleep_until(self.pending.roll_back_at()) => self.roll_configuration_back(),
                Some(request) = requests.recv() => self.answer(request),
                Some(reloaded) = reloads.recv() => {
                    if self.finish_reload(reloaded) {
                        self.rolled_back().await;
                    }
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
            Request::Reload(None, reply) => self.begin_reload(vec![Some(reply)]),
            Request::Reload(Some(to_confirm), reply) => self.begin_reload_to_confirm(&to_confirm, reply),
            Request::Confirm(id, reply) => {
                let _ = reply.send(self.confirm_configuration(id));
            }
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

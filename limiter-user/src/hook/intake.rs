//! From datagrams to the enforcer: one task reads, so that the kernel's queue stays short, and one has them counted.

use std::os::unix::net::UnixDatagram as StdDatagram;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::counts::{Counts, Outcome};
use super::frame::{MAX_FRAME, parse};
use super::listen;
use crate::audit::{Budget, Event, Trail};
use crate::blocklist::Owner;
use crate::config::Hook;
use crate::control::protocol::{Report, ReportResponse};
use crate::enforcer::{self, Caller, Now};
use crate::excerpt;
use crate::http::stopped;
use crate::socket_file::SocketFile;
use crate::telemetry::DECISION;

/// Frames that are counted together.
const BATCH: usize = 256;
/// Frames that wait for it. Behind that, the kernel's queue fills up.
const QUEUE: usize = 1024;
/// Refusals of a hook that are written down, each minute.
const REFUSALS: u32 = 60;
/// Lines of the log that say what is no report, each minute.
const INVALID: u32 = 6;
/// Between two attempts to make a socket: its group or directory may come later.
const PAUSE: Duration = Duration::from_secs(5);

/// Where reports go, and what is written down about them.
#[derive(Debug, Clone)]
pub struct Backend {
    pub enforcer: enforcer::Handle,
    pub trail: Trail,
    pub clock: fn() -> Now,
}

/// All hooks of the daemon.
#[derive(Debug, Default)]
pub struct Hooks {
    counts: Vec<Arc<Counts>>,
    problems: Vec<watch::Receiver<Option<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// A hook, and its socket if that could be made.
#[derive(Debug)]
pub struct Prepared {
    hook: Hook,
    bound: Option<(StdDatagram, SocketFile)>,
}

/// Makes the sockets of hooks while that takes no more privileges than there are. What cannot be made is tried again later.
#[must_use]
pub fn prepare(hooks: &[Hook]) -> Vec<Prepared> {
    // Why not, the first attempt of the intake says.
    hooks.iter().map(|hook| Prepared { hook: hook.clone(), bound: listen::bind(hook).ok() }).collect()
}

impl Hooks {
    /// Has each of `hooks` listen until the daemon stops. One that cannot is told by [`Self::problems`] and tried again:
    /// protection does not wait for it.
    #[must_use]
    pub fn start(hooks: Vec<Prepared>, backend: &Backend, stop: &watch::Receiver<bool>) -> Self {
        let mut all = Self::default();
        for Prepared { hook, bound } in hooks {
            let counts = Arc::new(Counts::new(Arc::from(hook.name.as_str())));
            let (tell, problem) = watch::channel(None);
            let intake = Intake { hook, counts: Arc::clone(&counts), backend: backend.clone() };
            all.tasks.push(tokio::spawn(intake.run(bound, stop.clone(), tell)));
            all.counts.push(counts);
            all.problems.push(problem);
        }
        all
    }

    /// For metrics.
    #[must_use]
    pub fn counts(&self) -> Vec<Arc<Counts>> {
        self.counts.clone()
    }

    /// Those that do not listen, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().filter_map(|problem| problem.borrow().clone())
    }

    /// What ends after the stop.
    #[must_use]
    pub fn into_tasks(self) -> Vec<JoinHandle<()>> {
        self.tasks
    }
}

/// One of them.
struct Intake {
    hook: Hook,
    counts: Arc<Counts>,
    backend: Backend,
}

impl Intake {
    async fn run(
        self,
        mut bound: Option<(StdDatagram, SocketFile)>,
        mut stop: watch::Receiver<bool>,
        problem: watch::Sender<Option<String>>,
    ) {
        let name = &self.hook.name;
        let (socket, file) = loop {
            let made = bound.take().map_or_else(|| listen::bind(&self.hook), Ok);
            match made.and_then(|(socket, file)| Ok((UnixDatagram::from_std(socket)?, file))) {
                Ok(bound) => break bound,
                Err(error) => {
                    tell(&problem, format!("hook {name} takes no reports: {error:#}; trying again"))
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopped(&mut stop) => return,
            }
        };
        problem.send_replace(None);
        tracing::info!("hook {name} takes reports at {}", self.hook.socket.display());
        let (to_counter, reports) = mpsc::channel(QUEUE);
        let counter = Counter {
            name: name.clone(),
            actor: format!("hook:{name}"),
            owner: Owner::App(Arc::clone(&self.counts.name)),
            counts: Arc::clone(&self.counts),
            backend: self.backend.clone(),
            refusals: Budget::a_minute(REFUSALS),
        };
        let counting = tokio::spawn(counter.run(reports));
        tokio::select! {
            () = self.read(&socket, to_counter) => {}
            () = stopped(&mut stop) => {}
        }
        // Who has more to say is told so at once.
        drop((socket, file));
        // It can only fail by a panic, which is logged elsewhere.
        let _ = counting.await;
    }

    /// Reads until there is nobody to count.
    async fn read(&self, socket: &UnixDatagram, to_counter: mpsc::Sender<Report>) {
        // A byte more: what is longer shows, since the kernel cuts it off.
        let mut frame = vec![0; MAX_FRAME + 1];
        let mut told = Budget::a_minute(INVALID);
        loop {
            let length = match socket.recv(&mut frame).await {
                Ok(length) => length,
                Err(error) => {
                    tracing::warn!("hook {}: cannot read: {error}", self.hook.name);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match parse(frame.get(..length).unwrap_or_default()) {
                Ok(body) => {
                    let category = body.category.unwrap_or_else(|| self.hook.category.clone());
                    let (address, weight) = (body.address, body.weight);
                    let report =
                        Report { address, category, weight, account: body.account, device: body.device };
                    if to_counter.send(report).await.is_err() {
                        return;
                    }
                }
                Err(invalid) => {
                    self.counts.add(Outcome::Invalid, 1);
                    if let Some(untold) = told.next((self.backend.clock)().boot) {
                        // A field, since it may quote the sender: both formats of the log escape those.
                        let why = excerpt::of(&invalid.to_string(), excerpt::LONGEST);
                        tracing::warn!(hook = self.hook.name, why, untold, "a datagram is no report");
                    }
                }
            }
        }
    }
}

fn tell(problem: &watch::Sender<Option<String>>, sentence: String) {
    problem.send_if_modified(|former| {
        let news = former.as_deref() != Some(&sentence);
        if news {
            tracing::warn!("{sentence}");
            *former = Some(sentence);
        }
        news
    });
}

/// Has reports counted, and writes down what came of them.
struct Counter {
    name: String,
    actor: String,
    owner: Owner,
    counts: Arc<Counts>,
    backend: Backend,
    refusals: Budget,
}

impl Counter {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            if reports.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            self.count(batch).await;
        }
    }

    async fn count(&mut self, batch: Vec<Report>) {
        let frames = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let caller = Caller { owner: self.owner.clone(), actor: Arc::from(self.actor.as_str()) };
        match self.backend.enforcer.report(batch, None, caller).await {
            Ok(response) => {
                let refused = frames.saturating_sub(response.counted + response.unknown);
                self.counts.add(Outcome::Counted, response.counted);
                self.counts.add(Outcome::Unknown, response.unknown);
                self.counts.add(Outcome::Refused, refused);
                if response.blocks > 0 {
                    self.blocked(&response).await;
                }
                if let Some(first) = response.items.first() {
                    self.refused(response.refused, &with_hint(first)).await;
                }
            }
            Err(error) => {
                self.counts.add(Outcome::Refused, frames);
                self.refused(frames, &error.to_string()).await;
            }
        }
    }

    async fn blocked(&self, response: &ReportResponse) {
        let prefixes: Vec<String> = response.blocked.iter().map(|blocked| blocked.prefix.clone()).collect();
        let first = response.blocked.first();
        let reason = first.map(|blocked| blocked.reason.as_str());
        tracing::info!(
            target: DECISION,
            action = "block",
            change = "report",
            changed = response.blocks,
            prefixes = prefixes.join(" "),
            seconds = first.map(|blocked| blocked.seconds),
            reason,
            actor = self.actor,
            "decided"
        );
        let event = Event {
            subjects: &prefixes,
            count: response.blocks,
            after: Some(format!("of {} reports", response.counted)),
            reason,
            ..Event::default()
        };
        self.write(event).await;
    }

    async fn refused(&mut self, count: u64, why: &str) {
        let Some(untold) = self.refusals.next((self.backend.clock)().boot) else { return };
        tracing::info!(
            target: DECISION,
            action = "block",
            change = "report",
            count,
            why,
            untold,
            actor = self.actor,
            "refused"
        );
        let others =
            (untold > 0).then(|| format!("{untold} others of the last minutes are not written down"));
        self.write(Event { count, reason: others.as_deref(), refused: Some(why), ..Event::default() }).await;
    }

    async fn write(&self, event: Event<'_>) {
        let owner = format!("app:{}", self.name);
        let event = Event { actor: &self.actor, owner: &owner, what: "block.report", ..event };
        self.backend.trail.record(event, (self.backend.clock)().wall).await;
    }
}

/// The usual reason why a guard refuses what a web server reports.
fn with_hint(refusal: &str) -> String {
    if refusal.contains("proxy") {
        return refusal.to_owned();
    }
    format!("{refusal}; if that is a proxy of yours, have the server log the address of the client behind it")
}

#[cfg(test)]
mod tests;

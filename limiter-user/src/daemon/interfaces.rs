//! Keeps the configured interfaces protected: at start, on reload, and when one comes back or loses its program.

use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::control::protocol::InterfaceStatus;
use crate::dataplane::kernel::{Attached, ProtectError, Protection};

/// Pauses between attempts at an interface that refuses: each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Said of [`Attached::superseded`].
const SUPERSEDED: &str =
    "what runs there has superseded tables, whose lists stay as they were, or limiterd may not look at it";

/// What became of a configuration, as sentences.
#[derive(Debug, Default)]
pub(super) struct Configured {
    /// What is different.
    pub(super) changes: Vec<String>,
    /// What should be, and is not.
    pub(super) problems: Vec<String>,
}

/// What becomes of interfaces that were taken off by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detached {
    /// They are protected again.
    Return,
    Stay,
}

/// The configured interfaces and what runs on them.
pub(super) struct Interfaces {
    protection: Protection,
    watched: Vec<Watched>,
    /// Whether what earlier versions left behind was cleared away.
    settled: bool,
}

struct Watched {
    config: config::Interface,
    /// What the kernel said last.
    attached: Option<Attached>,
    /// Whether `config` is what runs there.
    current: bool,
    /// Why it is not.
    problem: Option<String>,
    /// Taken off by the operator.
    detached: bool,
    /// When to try again by ourselves; `None` if only an event can help.
    retry: Option<Instant>,
    pause: Duration,
}

impl Interfaces {
    pub(super) fn new(protection: Protection) -> Self {
        Self { protection, watched: Vec::new(), settled: false }
    }

    /// Makes `wanted` the interfaces to protect, with their limits, and releases all others.
    pub(super) fn configure(
        &mut self,
        wanted: &[config::Interface],
        by_hand: Detached,
        now: Instant,
    ) -> Configured {
        let mut done = Configured::default();
        let mut former = std::mem::take(&mut self.watched);
        for config in wanted {
            let known = former.iter().position(|watched| watched.config.name == config.name);
            let mut watched = Watched::renewed(known.map(|at| former.swap_remove(at)), config, by_hand);
            if !watched.detached {
                watched.refresh(&self.protection);
            }
            if !watched.current && !watched.detached {
                watched.protect(&mut self.protection, now);
                let told = if watched.current { &mut done.changes } else { &mut done.problems };
                told.push(watched.sentence());
            }
            self.watched.push(watched);
        }
        // Also those that an earlier run protected and this configuration does not know.
        match self.protection.linked() {
            Ok(linked) => {
                for name in linked {
                    if !self.watched.iter().any(|watched| watched.config.name == name) {
                        self.release(&name, &mut done);
                    }
                }
            }
            Err(error) => tracing::warn!("cannot tell which interfaces are protected: {error:#}"),
        }
        self.settle();
        done
    }

    fn release(&mut self, name: &str, done: &mut Configured) {
        match self.protection.release(name) {
            Ok(true) => {
                tracing::warn!(
                    "interface {name} is not in the configuration: released, it is no longer protected"
                );
                done.changes.push(format!("interface {name} is no longer protected"));
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!("cannot release interface {name}: {error:#}");
                done.problems.push(format!("interface {name} could not be released: {error:#}"));
            }
        }
    }

    /// Asks the kernel, and protects what is not protected.
    pub(super) fn check(&mut self, now: Instant) {
        for watched in self.watched.iter_mut().filter(|watched| !watched.detached) {
            watched.refresh(&self.protection);
            if !watched.current && watched.retry.is_none_or(|retry| retry <= now) {
                watched.protect(&mut self.protection, now);
            }
        }
        self.settle();
    }

    /// When [`Self::check`] has something to do by itself.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.watched.iter().filter(|watched| !watched.current && !watched.detached);
        waiting.filter_map(|watched| watched.retry).min()
    }

    /// Takes the program off `names`, or off all if there are none; [`Self::configure`] puts it back. Returns those
    /// that it was taken off.
    ///
    /// # Errors
    ///
    /// Names that are not ours, then nothing is done; or those that could not be released, when all were tried.
    pub(super) fn detach(&mut self, names: &[String]) -> Result<Vec<String>, DetachError> {
        let linked = self.protection.linked().map_err(|error| DetachError::Failed {
            failed: vec![format!("{error:#}")],
            detached: Vec::new(),
        })?;
        let configured = |name: &String| self.watched.iter().any(|watched| watched.config.name == *name);
        let unknown: Vec<_> =
            names.iter().filter(|name| !configured(name) && !linked.contains(name)).cloned().collect();
        if !unknown.is_empty() {
            return Err(DetachError::Unknown(unknown));
        }
        let all = || {
            let mut all: Vec<_> = self.watched.iter().map(|watched| watched.config.name.clone()).collect();
            all.extend(linked.iter().filter(|name| !configured(name)).cloned());
            all
        };
        let names = if names.is_empty() { all() } else { names.to_vec() };
        let (mut detached, mut failed) = (Vec::new(), Vec::new());
        for name in names {
            if let Some(watched) = self.watched.iter_mut().find(|watched| watched.config.name == name) {
                watched.detached = true;
            }
            match self.protection.release(&name) {
                Ok(true) => {
                    tracing::warn!("interface {name} was detached by hand: it is not protected");
                    detached.push(name.clone());
                }
                Ok(false) => {}
                Err(error) => {
                    failed.push(format!("interface {name}: {error:#}"));
                    continue;
                }
            }
            if let Some(watched) = self.watched.iter_mut().find(|watched| watched.config.name == name) {
                watched.attached = None;
                watched.current = false;
                watched.problem = Some(
                    "detached by hand; `limiter reload` or a restart of limiterd protects it again"
                        .to_owned(),
                );
            }
        }
        if failed.is_empty() { Ok(detached) } else { Err(DetachError::Failed { failed, detached }) }
    }

    /// Whether every interface runs what is configured.
    pub(super) fn ready(&self) -> bool {
        self.watched.iter().all(|watched| watched.current)
    }

    pub(super) fn statuses(&self) -> Vec<InterfaceStatus> {
        self.watched.iter().map(Watched::status).collect()
    }

    fn settle(&mut self) {
        if self.settled || !self.ready() {
            return;
        }
        match self.protection.settle() {
            Ok(done) => {
                self.settled = true;
                for sentence in done {
                    tracing::info!("{sentence}");
                }
            }
            Err(error) => tracing::warn!("cannot clear away what an earlier version left: {error:#}"),
        }
    }
}

/// Why nothing was detached, or not everything.
#[derive(Debug)]
pub(super) enum DetachError {
    Unknown(Vec<String>),
    Failed { failed: Vec<String>, detached: Vec<String> },
}

impl Watched {
    fn new(config: config::Interface) -> Self {
        Self {
            config,
            attached: None,
            current: false,
            problem: None,
            detached: false,
            retry: None,
            pause: FIRST_PAUSE,
        }
    }

    /// What is known of `former`, with another configuration.
    fn renewed(former: Option<Self>, config: &config::Interface, by_hand: Detached) -> Self {
        let mut watched = former.unwrap_or_else(|| Self::new(config.clone()));
        watched.current &= watched.config == *config;
        watched.config = config.clone();
        watched.detached &= by_hand == Detached::Stay;
        watched.try_now();
        watched
    }

    fn try_now(&mut self) {
        self.retry = None;
        self.pause = FIRST_PAUSE;
    }

    /// Takes over what the kernel says.
    fn refresh(&mut self, protection: &Protection) {
        let name = &self.config.name;
        let mut found = protection.attached(name);
        // A table that grows replaces the program and the table one after the other, and `put_there` waits until both are:
        // what was seen in between says nothing.
        if let Ok(Some(attached)) = &found
            && (!protection.put_there(attached) || attached.superseded)
        {
            found = protection.attached(name);
        }
        match found {
            Ok(Some(attached)) => {
                let same = self.attached.as_ref().is_some_and(|known| known.ifindex == attached.ifindex);
                // Its program may be another one by now: those of growing tables are replaced.
                self.current &= same && !attached.superseded && protection.put_there(&attached);
                self.attached = Some(attached);
            }
            Ok(None) => {
                if self.attached.take().is_some() {
                    tracing::warn!(
                        "interface {name} has lost its protection: removed, or taken off by somebody"
                    );
                    self.try_now();
                }
                self.current = false;
            }
            Err(error) => tracing::warn!("cannot tell whether interface {name} is protected: {error:#}"),
        }
    }

    fn protect(&mut self, protection: &mut Protection, now: Instant) {
        match protection.protect(&self.config) {
            Ok(attached) => {
                tracing::info!(
                    ifindex = attached.ifindex,
                    mode = attached.mode.label(),
                    frags = attached.frags,
                    program = attached.program_id,
                    "interface {} is protected",
                    attached.interface
                );
                self.attached = Some(attached);
                self.current = true;
                self.problem = None;
                self.try_now();
            }
            Err(error) => {
                match &error {
                    ProtectError::NoInterface { .. } => self.try_now(),
                    ProtectError::Stranger { .. } | ProtectError::Failed { .. } => {
                        self.retry = Some(now + self.pause);
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    }
                }
                let problem = error.to_string();
                // Said once, not at every attempt. Further lines are what the verifier said, figures of the moment
                // among it.
                if self.problem.as_ref().and_then(|former| former.lines().next()) != problem.lines().next() {
                    match &self.attached {
                        Some(attached) if attached.superseded => {
                            tracing::error!("NOT PROTECTED: {problem}; {SUPERSEDED}");
                        }
                        Some(_) => tracing::error!("{problem}; the former program still runs there"),
                        None => tracing::error!("NOT PROTECTED: {problem}"),
                    }
                }
                self.problem = Some(problem);
            }
        }
    }

    /// After an attempt.
    fn sentence(&self) -> String {
        let name = &self.config.name;
        match (&self.attached, &self.problem) {
            (Some(attached), None) => {
                format!(
                    "interface {name} is protected with its new configuration ({})",
                    attached.mode.label()
                )
            }
            (Some(attached), Some(problem)) if attached.superseded => {
                format!("interface {name} is NOT PROTECTED: {problem}; {SUPERSEDED}")
            }
            (Some(_), Some(problem)) => format!("interface {name} keeps its former configuration: {problem}"),
            (None, problem) => {
                format!(
                    "interface {name} is NOT PROTECTED: {}",
                    problem.as_deref().unwrap_or("not yet tried")
                )
            }
        }
    }

    fn status(&self) -> InterfaceStatus {
        InterfaceStatus {
            name: self.config.name.clone(),
            protected: self.attached.as_ref().is_some_and(|attached| !attached.superseded),
            mode: self.attached.as_ref().map(|attached| attached.mode.label().to_owned()),
            frags: self.attached.as_ref().is_some_and(|attached| attached.frags),
            problem: match &self.attached {
                Some(attached) if attached.superseded => Some(
                    self.problem
                        .iter()
                        .map(String::as_str)
                        .chain([SUPERSEDED])
                        .collect::<Vec<_>>()
                        .join("; "),
                ),
                Some(_) | None => self.problem.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_was_taken_off_by_hand_returns_when_somebody_asks_for_it() {
        let text = "[[interface]]\nname = \"eth0\"\n";
        let config = config::parse(text, Path::new("test.toml")).unwrap().interfaces.remove(0);
        for (by_hand, stays) in [(Detached::Return, false), (Detached::Stay, true)] {
            let former = Watched { detached: true, ..Watched::new(config.clone()) };
            assert_eq!(Watched::renewed(Some(former), &config, by_hand).detached, stays);
            let attached = Watched { current: true, ..Watched::new(config.clone()) };
            assert!(!Watched::renewed(None, &config, by_hand).detached, "nobody took it off");
            assert!(Watched::renewed(Some(attached), &config, by_hand).current, "nothing is different");
        }
    }
}

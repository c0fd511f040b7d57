//! A reload: the configuration is read, the enforcer takes the lists over, then interfaces, access and the rest follow.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::interfaces::Detached;
use super::pending::Confirmation;
use super::unconfirmed;
use super::{Daemon, configure, service};
use crate::config::Config;
use crate::control::protocol::{Problem, ProblemKind, Reloaded};
use crate::enforcer;
use crate::host;
use crate::metrics::LastReload;

pub(super) type ReloadReply = oneshot::Sender<Result<Reloaded, Problem>>;

/// Who wants the lists to be read again.
pub(super) enum Cause {
    /// A reload, for whoever waits for the answer; `None` for a signal.
    Configuration { needs_restart: Vec<String>, replies: Vec<Option<ReloadReply>>, taken: Taken },
    /// The machine has other lifelines than before.
    Lifelines,
}

/// What a configuration is, once it is in force.
pub(super) struct Taken {
    pub(super) text: String,
    pub(super) confirmation: Confirmation,
}

/// The enforcer has taken over a configuration; the interfaces are next.
pub(super) struct ListsReloaded {
    pub(super) config: Arc<Config>,
    pub(super) outcome: Result<Vec<String>, enforcer::Error>,
    pub(super) cause: Cause,
}

impl Daemon {
    /// Reads the configuration. If it is good, the enforcer takes it over next to this loop, which goes on.
    pub(super) fn begin_reload(&mut self, replies: Vec<Option<ReloadReply>>) {
        if self.under_way {
            self.waiting.extend(replies);
            return;
        }
        service::reloading();
        let (config, text) = match tokio::task::block_in_place(|| self.source.load()) {
            Ok(loaded) => loaded,
            Err(problems) => return self.refuse_reload(replies, Self::not_understood(problems)),
        };
        // Whoever has lists read again has no word on what is not confirmed; whoever has written another text has.
        let (config, text, confirmation) = match self.pending.change() {
            Some(change) if !change.tries(&text) => (config, text, Confirmation::NotNeeded),
            // The one before is in force.
            Some(change) if change.is_over => match self.source.parse(&change.former) {
                Ok(former) => (former, self.text.clone(), Confirmation::AsBefore),
                Err(problems) => return self.refuse_reload(replies, Self::not_understood(problems)),
            },
            Some(_) => (config, text, Confirmation::AsBefore),
            None => (config, text, Confirmation::NotNeeded),
        };
        self.reload_text(config, Taken { text, confirmation }, replies);
    }

    pub(super) fn not_understood(problems: Vec<String>) -> Problem {
        Problem {
            // Not the request is wrong, but a file.
            kind: ProblemKind::Failed,
            title: "configuration refused".to_owned(),
            status: 422,
            detail: "the configuration has problems; the former one stays in force".to_owned(),
            items: problems,
        }
    }

    pub(super) fn reload_lists(&mut self, config: Arc<Config>, cause: Cause) {
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

    /// True if a configuration that nobody confirmed was rolled back.
    pub(super) fn finish_reload(&mut self, reloaded: ListsReloaded) -> bool {
        self.under_way = false;
        let ListsReloaded { config, outcome, cause } = reloaded;
        let mut rolled_back = false;
        match cause {
            Cause::Configuration { needs_restart, replies, taken } => {
                rolled_back = matches!(taken.confirmation, Confirmation::Missed) && outcome.is_ok();
                self.finish_configuration(config, needs_restart, taken, outcome, replies);
            }
            Cause::Lifelines => self.finish_lifelines(outcome),
        }
        if !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            self.begin_reload(waiting);
        }
        self.check_lists();
        rolled_back
    }

    pub(super) fn finish_lifelines(&mut self, outcome: Result<Vec<String>, enforcer::Error>) {
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

    pub(super) fn finish_configuration(
        &mut self,
        config: Arc<Config>,
        needs_restart: Vec<String>,
        taken: Taken,
        outcome: Result<Vec<String>, enforcer::Error>,
        replies: Vec<Option<ReloadReply>>,
    ) {
        match outcome {
            Ok(mut changes) => {
                self.config = config;
                let interfaces = &mut self.interfaces;
                let wanted = &self.config.interfaces;
                let by_hand = match taken.confirmation {
                    // Nobody asked for it just now: what somebody took off has to stay off.
                    Confirmation::Missed => Detached::Stay,
                    Confirmation::Wanted(_) | Confirmation::AsBefore | Confirmation::NotNeeded => {
                        Detached::Return
                    }
                };
                let configured =
                    tokio::task::block_in_place(|| interfaces.configure(wanted, by_hand, Instant::now()));
                changes.extend(configured.changes);
                let mut problems = configured.problems;
                let access = &self.access;
                tokio::task::block_in_place(|| configure(access, &self.config));
                if let (Some(tcp), Some(api)) = (&mut self.tcp, &self.config.api)
                    && let Err(problem) = tcp.reload(api)
                {
                    problems.push(problem);
                }
                problems.extend(self.take(taken));
                let change = self.pending.waits().map(|change| change.id.to_string());
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
                    let _ = reply.send(Ok(Reloaded { changes, problems, change: change.clone() }));
                }
            }
            Err(error) => {
                match taken.confirmation {
                    Confirmation::Wanted(_) => {
                        if let Err(error) = self.keep_as_it_was() {
                            tracing::warn!("what has to be confirmed is not stored: {error}");
                        }
                    }
                    Confirmation::Missed => self.pending.rollback_failed(),
                    Confirmation::AsBefore | Confirmation::NotNeeded => {}
                }
                let mut problem = Problem::from(error);
                problem.items.insert(0, problem.detail);
                problem.detail = "the configuration could not be applied".to_owned();
                self.refuse_reload(replies, problem);
            }
        }
        self.publish();
        service::ready(&self.headline);
    }

    /// What is to be confirmed from here on, if anything. Returns what an operator should know of it.
    fn take(&mut self, taken: Taken) -> Option<String> {
        let Taken { text, confirmation } = taken;
        self.text = text;
        let forgotten = self.pending.reloaded(confirmation, host::now().boot);
        if forgotten && let Err(error) = self.keep_as_it_was() {
            return Some(format!("that nothing has to be confirmed any more is not stored: {error}"));
        }
        self.pending.was_missed().then(|| self.not_confirmed())
    }

    /// The file says what is to be confirmed here.
    fn keep_as_it_was(&self) -> std::io::Result<()> {
        match self.pending.change() {
            Some(change) => self.keep(change),
            None => unconfirmed::forget(&self.config.state_directory),
        }
    }

    pub(super) fn refuse_reload(&mut self, replies: Vec<Option<ReloadReply>>, problem: Problem) {
        let why = format!("{}: {}", problem.detail, problem.items.join("; "));
        // A rollback, which nobody asks for, is tried again and again: what is wrong with it is said once.
        if !replies.is_empty() || self.reload_problem.as_ref() != Some(&why) {
            tracing::error!("reload: {}", problem.detail);
            for item in &problem.items {
                tracing::error!("reload: {item}");
            }
        }
        self.reload.successful = false;
        self.reload_problem = Some(why);
        for reply in replies.into_iter().flatten() {
            let _ = reply.send(Err(problem.clone()));
        }
        self.publish();
        service::ready(&self.headline);
    }
}

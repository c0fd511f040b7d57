//! A reload: the configuration is read, the enforcer takes the lists over, then interfaces, access and the rest follow.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Daemon, configure, service};
use crate::config::Config;
use crate::control::protocol::{Problem, ProblemKind, Reloaded};
use crate::daemon::source::keep_fixed;
use crate::enforcer;
use crate::host::{self};
use crate::metrics::LastReload;

pub(super) type ReloadReply = oneshot::Sender<Result<Reloaded, Problem>>;

/// Who wants the lists to be read again.
pub(super) enum Cause {
    /// A reload, for whoever waits for the answer; `None` for a signal.
    Configuration { needs_restart: Vec<String>, replies: Vec<Option<ReloadReply>> },
    /// The machine has other lifelines than before.
    Lifelines,
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

    pub(super) fn finish_reload(&mut self, reloaded: ListsReloaded) {
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

    pub(super) fn refuse_reload(&mut self, replies: Vec<Option<ReloadReply>>, problem: Problem) {
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
}

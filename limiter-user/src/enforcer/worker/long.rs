//! Long requests: each is checked as a whole and made in parts, so that others get their turn in between, and taken back
//! if a part fails.

use std::collections::HashSet;
use std::sync::Arc;

use super::import::Import;
use super::purge::Purge;
use super::reload::Reloading;
use super::{PART, Worker};
use crate::blocklist::Key;
use crate::config::lists::Parsed;
use crate::config::{Action, Config};
use crate::control::protocol::{AddResponse, RemoveRequest, RemoveResponse};
use crate::enforcer::lists::ListFile;
use crate::enforcer::{Caller, Error, ImportOptions, Rehearsal, Reply};
use crate::heap;

/// Requests that are worked on in parts.
pub(super) enum Long {
    Import(Action, Parsed, ImportOptions, Option<Rehearsal>, Caller, Reply<AddResponse>),
    Reload(Arc<Config>, Vec<ListFile>, Reply<Vec<String>>),
    Purge(Action, RemoveRequest, Option<Rehearsal>, Caller, Reply<RemoveResponse>),
}

/// A long request that was checked as a whole, and is being made.
pub(super) struct Work {
    pub(super) job: Job,
    /// What was changed by others meanwhile, and so is not taken back.
    pub(super) touched: HashSet<Key>,
}

pub(super) enum Job {
    Import(Box<Import>),
    Reload(Reloading),
    Purge(Purge),
}

impl Worker {
    /// Makes the next part of a long request, or begins one.
    pub(super) fn work(&mut self) {
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
    pub(super) fn fail(&mut self, work: Work, error: Error) {
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

    pub(super) fn end(&mut self, job: Job) {
        self.kernel.expect(std::iter::empty());
        match job {
            Job::Import(import) => self.end_import(*import),
            Job::Purge(purge) => self.end_purge(purge),
            Job::Reload(Reloading { lists, sentences, undo, reply, .. }) => {
                self.tell_changed(&undo);
                self.lists = lists;
                self.reports.set_policies(self.config.policies.clone());
                self.brake.set(self.config.blocks_per_minute);
                self.share.set(self.config.peers_share);
                self.answer(reply, Ok(sentences));
            }
        }
    }
}

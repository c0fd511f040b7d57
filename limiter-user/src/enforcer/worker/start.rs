//! The start: what is stored and what lists say comes together, and the kernel is brought to it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use limiter_common::{Nanos, Prefix};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::keeper::Keeper;
use super::warnings::Warnings;
use super::{PART, RECOVERED, Worker};
use crate::admission::Guards;
use crate::admission::brake::Brake;
use crate::admission::share::Share;
use crate::blocklist::{Blocklist, Claim, Edit, Key, Offences, Offender, Owner, reason};
use crate::config::Escalation;
use crate::dataplane::Change;
use crate::enforcer::install::Installer;
use crate::enforcer::{Events, Now, Parameters, RolledBack, Started, Summary, lists, render};
use crate::reports::Reports;
use crate::store::{NotStored, Record, Repeat, Store};

impl Worker {
    pub(in crate::enforcer) fn new(
        parameters: Parameters,
        publish: watch::Sender<Arc<Summary>>,
        events: Events,
        rollbacks: UnboundedSender<RolledBack>,
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
            share: Share::new(config.peers_share),
            unconfirmed,
            store: Keeper::new(opened.store).context("cannot start the thread that stores")?,
            storing: None,
            held: VecDeque::new(),
            unseen: opened.unseen.then(HashSet::new),
            kernel,
            config,
            clock,
            operator,
            lists: Vec::new(),
            gather: lifelines,
            lifelines: None,
            guards: None,
            warnings: Warnings::default(),
            publish,
            events,
            rollbacks,
            waiting: VecDeque::new(),
            work: None,
            stopping: None,
            settled: begun.boot,
        };
        for warning in opened.warnings {
            worker.warn(warning);
        }
        if let Some(problem) = worker.store_problem() {
            tracing::warn!("{problem}");
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
    pub(super) fn recover(&mut self, installed: &[Change], guards: &Guards, lost: bool, now: Now) {
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

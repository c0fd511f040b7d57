//! How it is with the whole: for who asks, for metrics, the service manager and the log.

use std::sync::Arc;

use limiter_common::abi::ABI_VERSION;

use super::{Daemon, service};
use crate::control::protocol::{Status, TableStatus, rfc3339};
use crate::control::server::Tcp;
use crate::enforcer::Summary;
use crate::metrics::DaemonState;

impl Daemon {
    /// Tells metrics, the service manager and the log what is different.
    pub(super) fn publish(&mut self) {
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

    pub(super) fn ready(&self, summary: &Summary) -> bool {
        // A list that has its last good content is loaded.
        let missing = summary.lists.iter().any(|list| list.problem.is_some() && list.entries == 0);
        self.interfaces.ready() && !missing && summary.missing == 0
    }

    pub(super) fn status(&self) -> Status {
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
        warnings.extend(self.confirmation());
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

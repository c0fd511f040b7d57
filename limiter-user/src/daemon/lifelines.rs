//! What the machine needs may change while the daemon runs: then the lists are checked against it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::reload::Cause;
use super::{CHECK_INTERVAL, Daemon};
use crate::host::{self, Lifelines};

/// Between two questions after this machine's addresses, however often they change.
const LIFELINES_PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    pub(super) fn gather_soon(&mut self) {
        self.gather_at.get_or_insert_with(|| Instant::now() + LIFELINES_PAUSE);
    }

    /// The files are not watched, but looked at regularly.
    pub(super) fn check_resolvers(&mut self) {
        let written = host::resolvers_written();
        if written != self.resolvers_written || self.lifelines.is_none() {
            self.resolvers_written = written;
            self.gather_soon();
        }
    }

    /// At boot, the machine has neither addresses nor a gateway when the lists are read: what a list names of them must
    /// not stay blocked.
    pub(super) fn check_lifelines(&mut self) {
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

    pub(super) fn check_lists(&mut self) {
        if self.lists_due && !self.under_way {
            tracing::info!(
                "this machine's addresses, gateways or DNS servers have changed: checking the lists"
            );
            self.reload_lists(Arc::clone(&self.config), Cause::Lifelines);
        }
    }
}

/// `None` if the kernel does not answer, which is told.
pub(super) fn gather_lifelines() -> Option<Lifelines> {
    match Lifelines::gather() {
        // That somebody has logged in or out is no reason to read the lists again.
        Ok(lifelines) => Some(Lifelines { sessions: Vec::new(), ..lifelines }),
        Err(error) => {
            tracing::warn!("this machine's own addresses are not known: {error:#}");
            None
        }
    }
}

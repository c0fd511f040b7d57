//! What happens on a connection, and whether the peer keeps it waiting for too long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the first request of somebody who has not proven to be anybody.
    pub(crate) first: Duration,
    /// For all of the first request, whoever it is, from the moment that the connection was accepted.
    pub(crate) begun: Duration,
    /// From the first byte of a request to the last of its headers.
    pub(crate) headers: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// For a piece of an answer to be taken.
    pub(crate) stalled: Duration,
    /// After this the connection ends with the requests that are under way.
    pub(crate) life: Duration,
}

impl Patience {
    /// With callers on this machine.
    pub(crate) const LOCAL: Self = Self {
        first: Duration::from_secs(10),
        begun: Duration::from_secs(24 * 3600),
        headers: Duration::from_secs(10),
        idle: Duration::from_secs(30),
        stalled: Duration::from_secs(60),
        life: Duration::from_secs(24 * 3600),
    };
    /// With callers from the network. Who does nothing useful is gone within 10 s of being accepted.
    pub(crate) const REMOTE: Self = Self {
        first: Duration::from_secs(4),
        begun: Duration::from_secs(8),
        headers: Duration::from_secs(5),
        idle: Duration::from_secs(30),
        stalled: Duration::from_secs(8),
        life: Duration::from_secs(3600),
    };
}

/// Whether a connection may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// It has lived long enough.
    Old,
    /// Nothing is under way, for too long.
    Idle,
    /// The peer keeps something waiting that is under way.
    Overdue,
}

/// Shared by the connection, its requests and whoever may end it.
#[derive(Debug)]
pub(crate) struct Activity {
    patience: Patience,
    accepted: Instant,
    /// Somebody known has made a request.
    proven: AtomicBool,
    out: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    begun: Instant,
    /// A request has been answered.
    answered: bool,
    /// Requests whose answers have not ended.
    open: usize,
    /// Those that wait for this side.
    working: usize,
    /// The last end of an answer, or byte that was written.
    quiet_since: Instant,
    /// The first byte that came after that.
    heard: Option<Instant>,
    /// The last piece of an answer that was made.
    offered: Instant,
}

impl Activity {
    pub(crate) fn new(patience: Patience) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            begun: now,
            answered: false,
            open: 0,
            working: 0,
            quiet_since: now,
            heard: None,
            offered: now,
        };
        Arc::new(Self {
            patience,
            accepted: now,
            proven: AtomicBool::new(false),
            out: Notify::new(),
            state: Mutex::new(state),
        })
    }

    /// Of a peer who needs not prove anything.
    pub(crate) fn local() -> Arc<Self> {
        let activity = Self::new(Patience::LOCAL);
        activity.prove();
        activity
    }

    /// From now on requests are waited for.
    pub(crate) fn begin(&self) {
        let now = Instant::now();
        let mut state = self.state();
        (state.begun, state.quiet_since) = (now, now);
    }

    /// The peer is somebody.
    pub(crate) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// When the first request has to be there as a whole; `None` if it was.
    pub(crate) fn first_request_by(&self) -> Option<Instant> {
        (!self.state().answered).then(|| self.accepted + self.patience.begun)
    }

    /// Ends the connection: its place is needed.
    pub(crate) fn turn_out(&self) {
        self.out.notify_one();
    }

    pub(crate) async fn turned_out(&self) {
        self.out.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked, and no state of it is worse than another.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self) {
        let mut state = self.state();
        if state.open == 0 && state.heard.is_none() {
            state.heard = Some(Instant::now());
        }
    }

    pub(super) fn wrote(&self) {
        self.state().quiet_since = Instant::now();
    }

    /// A request begins to be answered.
    pub(super) fn exchange(self: &Arc<Self>) -> Exchange {
        let mut state = self.state();
        state.open += 1;
        state.working += 1;
        state.heard = None;
        Exchange { activity: Arc::clone(self), working: true }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let state = self.state();
        let patience = &self.patience;
        let waited = |since: Instant, at_most: Duration| now.saturating_duration_since(since) >= at_most;
        if state.open > 0 {
            return if state.working == 0 && waited(state.offered, patience.stalled) {
                Standing::Overdue
            } else if waited(state.begun, patience.life) {
                Standing::Old
            } else {
                Standing::Good
            };
        }
        let nobody = !self.is_proven() && waited(state.begun, patience.first);
        if nobody || state.heard.is_some_and(|heard| waited(heard, patience.headers)) {
            Standing::Overdue
        } else if waited(state.quiet_since, patience.idle) {
            Standing::Idle
        } else if waited(state.begun, patience.life) {
            Standing::Old
        } else {
            Standing::Good
        }
    }
}

/// A request and its answer, until the last byte of it is handed on.
#[derive(Debug)]
pub(super) struct Exchange {
    activity: Arc<Activity>,
    working: bool,
}

impl Exchange {
    /// The next piece of the answer is being waited for.
    pub(super) fn works(&mut self) {
        if !self.working {
            self.working = true;
            self.activity.state().working += 1;
        }
    }

    /// A piece of the answer is there for the peer.
    pub(super) fn offers(&mut self) {
        let mut state = self.activity.state();
        state.offered = Instant::now();
        if std::mem::take(&mut self.working) {
            state.working -= 1;
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.answered = true;
        state.open -= 1;
        state.working -= usize::from(self.working);
        state.quiet_since = Instant::now();
        state.heard = None;
    }
}

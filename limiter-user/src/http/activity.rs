//! What happens on a connection, and whether the peer keeps it waiting for too long.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the first request of somebody who has not proven to be anybody.
    pub(crate) first: Duration,
    /// For the first request that is answered as it was meant, whoever it is, from the moment that the connection was
    /// accepted: all of the request, and until then there is no waiting for another.
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
        begun: Duration::from_secs(7),
        headers: Duration::from_secs(5),
        idle: Duration::from_secs(30),
        stalled: Duration::from_secs(6),
        life: Duration::from_secs(3600),
    };
}

/// Whether a connection may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Good,
    /// It has lived long enough.
    Old,
    /// Nothing is under way, for too long, or the peer has lost its right to more.
    Ending,
    /// The peer keeps something waiting that is under way.
    Overdue,
}

/// Shared by the connection, its requests and whoever may end it.
#[derive(Debug)]
pub(crate) struct Activity {
    patience: Patience,
    accepted: Instant,
    /// The first known caller who has made a request.
    proven: OnceLock<Arc<str>>,
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
    /// The last end of an answer.
    idle_since: Instant,
    /// The same, or the last byte that was written: in HTTP/2 it may be of a ping, or of the answer to one.
    quiet_since: Instant,
    /// The first byte that came since the last answer.
    heard: Option<Instant>,
    /// The last request was refused, and may not have been there as a whole.
    cut_short: bool,
    /// The last piece of an answer that was made.
    offered: Instant,
    /// Since when the peer takes nothing of what is to be written.
    blocked: Option<Instant>,
    /// The peer has sent a request too slowly: it is given no other.
    tiresome: bool,
    /// A request was done.
    useful: bool,
}

impl Activity {
    pub(crate) fn new(patience: Patience) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            begun: now,
            answered: false,
            open: 0,
            working: 0,
            idle_since: now,
            quiet_since: now,
            heard: None,
            cut_short: false,
            offered: now,
            blocked: None,
            tiresome: false,
            useful: false,
        };
        Arc::new(Self {
            patience,
            accepted: now,
            proven: OnceLock::new(),
            out: Notify::new(),
            state: Mutex::new(state),
        })
    }

    /// Of a peer who needs not prove anything.
    pub(crate) fn local() -> Arc<Self> {
        let activity = Self::new(Patience::LOCAL);
        activity.prove(String::new);
        activity
    }

    /// From now on requests are waited for.
    pub(crate) fn begin(&self) {
        let now = Instant::now();
        let mut state = self.state();
        (state.begun, state.idle_since, state.quiet_since) = (now, now, now);
    }

    /// The peer is somebody, of this name.
    pub(crate) fn prove(&self, name: impl FnOnce() -> String) {
        self.proven.get_or_init(|| Arc::from(name()));
    }

    /// Who the peer is, if it is somebody.
    pub(crate) fn proven(&self) -> Option<&Arc<str>> {
        self.proven.get()
    }

    /// The last thing that happened.
    pub(crate) fn quiet_since(&self) -> Instant {
        self.state().quiet_since
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

    /// The peer takes what is written.
    pub(super) fn wrote(&self) {
        let mut state = self.state();
        (state.quiet_since, state.blocked) = (Instant::now(), None);
    }

    /// The peer has taken all that was written.
    pub(super) fn flushed(&self) {
        self.state().blocked = None;
    }

    /// The peer takes nothing for now.
    pub(super) fn blocks(&self) {
        self.state().blocked.get_or_insert_with(Instant::now);
    }

    /// A request is answered with this status; `body` says whether it had one.
    pub(super) fn answers(&self, status: StatusCode, body: bool) {
        let mut state = self.state();
        state.cut_short = body && !status.is_success();
        state.useful |= status.is_success();
        state.tiresome |= status == StatusCode::REQUEST_TIMEOUT;
    }

    /// Whether the peer may be in the middle of a request that is not waited for.
    pub(super) fn is_cut_short(&self) -> bool {
        let state = self.state();
        state.cut_short || state.heard.is_some()
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
        let nobody = self.proven().is_none() && waited(state.begun, patience.first);
        let overdue = if state.open > 0 {
            state.working == 0 && (nobody || waited(state.offered, patience.stalled))
        } else {
            nobody || state.tiresome || state.heard.is_some_and(|heard| waited(heard, patience.headers))
        };
        // In HTTP/1.1 an answer has ended when all of it is in the buffer.
        let deaf = state.blocked.is_some_and(|since| waited(since, patience.stalled));
        let idle = waited(state.idle_since, patience.idle);
        let useless = !state.useful && waited(self.accepted, patience.begun);
        if overdue || deaf {
            Standing::Overdue
        } else if state.tiresome || state.open == 0 && (idle || useless) {
            Standing::Ending
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
        let now = Instant::now();
        (state.idle_since, state.quiet_since) = (now, now);
        state.heard = None;
    }
}

//! What happens at the doors of the API, in numbers for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::doors::Refused;

/// Counts up, but for `open`.
#[derive(Debug, Default)]
pub struct Traffic {
    open: AtomicU64,
    connections: [AtomicU64; Connection::ALL.len()],
    requests: [AtomicU64; Outcome::ALL.len()],
}

/// How a connection over TCP began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// TLS was agreed on.
    Served,
    /// The handshake failed or took too long.
    NoHandshake,
    /// It made room before anybody known had made a request.
    TurnedOut,
    /// No place was free.
    Full,
    /// The peer has as many as one may have.
    PeerFull,
    /// The peer came too often.
    TooOften,
}

/// How a request over TCP was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx and 3xx.
    Done,
    /// 4xx.
    Refused,
    /// 401: nobody knows who it is.
    Unauthenticated,
    /// 429 and 503: too much at a time.
    Shed,
    /// Other 5xx.
    Failed,
}

impl Connection {
    pub const ALL: [Self; 6] =
        [Self::Served, Self::NoHandshake, Self::TurnedOut, Self::Full, Self::PeerFull, Self::TooOften];

    /// Of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::NoHandshake => "no_handshake",
            Self::TurnedOut => "turned_out",
            Self::Full => "full",
            Self::PeerFull => "peer_full",
            Self::TooOften => "too_often",
        }
    }
}

impl From<Refused> for Connection {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::PeerFull => Self::PeerFull,
            Refused::TooOften => Self::TooOften,
        }
    }
}

impl Outcome {
    pub const ALL: [Self; 5] = [Self::Done, Self::Refused, Self::Unauthenticated, Self::Shed, Self::Failed];

    /// Of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unauthenticated => "unauthenticated",
            Self::Shed => "shed",
            Self::Failed => "failed",
        }
    }

    pub(super) fn of(status: u16) -> Self {
        match status {
            ..400 => Self::Done,
            401 => Self::Unauthenticated,
            429 | 503 => Self::Shed,
            402..500 | 400 => Self::Refused,
            500.. => Self::Failed,
        }
    }
}

impl Traffic {
    pub(super) fn connection(&self, what: Connection) {
        self.connections[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request(&self, what: Outcome) {
        self.requests[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_open(&self, open: usize) {
        self.open.store(open as u64, Ordering::Relaxed);
    }

    /// Connections at the moment.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn connections(&self, what: Connection) -> u64 {
        self.connections[what as usize].load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn requests(&self, what: Outcome) -> u64 {
        self.requests[what as usize].load(Ordering::Relaxed)
    }
}

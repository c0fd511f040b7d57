//! What became of the frames of a hook, in numbers for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A policy counted it.
    Counted,
    /// No policy is for its category.
    Unknown,
    /// A guard refused it, or blocks could not be made.
    Refused,
    /// It is no report.
    Invalid,
}

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Counted, Self::Unknown, Self::Refused, Self::Invalid];

    /// Of metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
        }
    }
}

/// Counts up.
#[derive(Debug)]
pub struct Counts {
    /// Of the hook.
    pub name: Arc<str>,
    frames: [AtomicU64; Outcome::ALL.len()],
}

impl Counts {
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        Self { name, frames: Default::default() }
    }

    pub(super) fn add(&self, outcome: Outcome, frames: u64) {
        self.frames[outcome as usize].fetch_add(frames, Ordering::Relaxed);
    }

    #[must_use]
    pub fn frames(&self, outcome: Outcome) -> u64 {
        self.frames[outcome as usize].load(Ordering::Relaxed)
    }
}

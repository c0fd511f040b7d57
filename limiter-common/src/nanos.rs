//! Monotonic time as a number.

/// Nanoseconds since boot (`CLOCK_MONOTONIC`). While the machine sleeps, no time passes.
///
/// Zero and [`Nanos::NEVER`] are ordinary points in time here; [`crate::abi::Entry`] gives them meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The end of time: a deadline that does not pass.
    pub const NEVER: Self = Self(u64::MAX);

    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Where the time comes from when a verdict needs it.
///
/// Most verdicts need none, and in the kernel reading the clock costs more than the rest of the verdict, so the
/// policy asks only when it must.
pub trait Clock {
    fn now(&self) -> Nanos;

    /// A moment that has come already, at most `error` nanoseconds ago. The kernel's coarse clock tells it faster.
    #[inline(always)]
    fn within(&self, error: u64) -> Nanos {
        let _ = error;
        self.now()
    }
}

/// A moment is a clock that stands still: tests and `explain` use this.
impl Clock for Nanos {
    #[inline(always)]
    fn now(&self) -> Nanos {
        *self
    }
}

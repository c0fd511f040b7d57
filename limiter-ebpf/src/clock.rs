//! The kernel's clocks.

use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use limiter_common::{Clock, Nanos};

use crate::globals;

/// Nanoseconds since boot; read only if the verdict asks. Not kept, since hardly any frame asks twice.
pub(crate) struct KernelClock;

impl Clock for KernelClock {
    #[inline(always)]
    fn now(&self) -> Nanos {
        match globals::fixed_now() {
            0 => Nanos(precise()),
            fixed => Nanos(fixed),
        }
    }

    /// The coarse clock if its ticks are not longer than `error`: it costs a half to a third.
    #[inline(always)]
    fn within(&self, error: u64) -> Nanos {
        match (globals::fixed_now(), globals::tick()) {
            (0, tick) if tick != 0 && tick <= error => Nanos(coarse()),
            _ => self.now(),
        }
    }
}

/// `CLOCK_MONOTONIC`.
#[inline(always)]
fn precise() -> u64 {
    // SAFETY: has no requirements.
    unsafe { bpf_ktime_get_ns() }
}

/// `CLOCK_MONOTONIC` at the last tick.
#[inline(always)]
pub(crate) fn coarse() -> u64 {
    // SAFETY: has no requirements.
    unsafe { bpf_ktime_get_coarse_ns() }
}

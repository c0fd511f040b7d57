//! The kernel's clock.

use core::cell::Cell;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use limiter_common::{Clock, Nanos};

use crate::globals;

/// Nanoseconds since boot; read at most once per frame, and only if the verdict asks.
pub(crate) struct KernelClock(Cell<u64>);

impl KernelClock {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self(Cell::new(0))
    }
}

impl Clock for KernelClock {
    #[inline(always)]
    fn now(&self) -> Nanos {
        if self.0.get() == 0 {
            self.0.set(match globals::fixed_now() {
                0 => since_boot(),
                fixed => fixed,
            });
        }
        Nanos(self.0.get())
    }
}

/// Nanoseconds since boot, suspend included.
#[inline(always)]
pub(crate) fn since_boot() -> u64 {
    // SAFETY: has no requirements.
    unsafe { bpf_ktime_get_boot_ns() }
}

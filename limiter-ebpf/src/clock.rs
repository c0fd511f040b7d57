//! The kernel's clock.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use limiter_common::{Clock, Nanos};

use crate::globals;

/// Nanoseconds since boot; read only if the verdict asks. Not kept, since hardly any frame asks twice.
pub(crate) struct KernelClock;

impl Clock for KernelClock {
    #[inline(always)]
    fn now(&self) -> Nanos {
        match globals::fixed_now() {
            0 => Nanos(since_boot()),
            fixed => Nanos(fixed),
        }
    }
}

/// Nanoseconds since boot, suspend included.
#[inline(always)]
pub(crate) fn since_boot() -> u64 {
    // SAFETY: has no requirements.
    unsafe { bpf_ktime_get_boot_ns() }
}

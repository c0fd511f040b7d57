//! What the programs that are compared with limiter do alike: counting their verdicts, and deadlines.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;

/// Packets of each verdict, on each CPU: passed, dropped.
pub type Verdicts = PerCpuArray<u64, 2>;

/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// Counts the verdict, and returns it as XDP's.
#[inline(always)]
pub fn finish(verdicts: &Verdicts, drop: bool) -> u32 {
    if let Some(count) = verdicts.get_ptr_mut(u32::from(drop)) {
        // SAFETY: this CPU's own value; the program cannot be interrupted by itself.
        unsafe { *count += 1 };
    }
    if drop { XDP_DROP } else { XDP_PASS }
}

/// Whether a source that is blocked until `deadline` is blocked now. The clock is read only if it matters, and then the
/// cheap one.
#[inline(always)]
pub fn blocks(deadline: u64) -> bool {
    // SAFETY: has no requirements.
    deadline == NEVER || deadline > unsafe { bpf_ktime_get_coarse_ns() }
}

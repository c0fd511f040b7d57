//! Counts every frame, and logs a few of those that were dropped.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use limiter_common::abi::{HITS, counter_index};
use limiter_common::{Nanos, Reason, hits};

use crate::{clock, globals, maps};

/// Lines that each CPU may log per second; what is above is only counted, as everything is.
const LINES_PER_SECOND: u32 = 10;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The lines that one CPU has logged in one second since boot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LogBudget {
    second: u64,
    lines: u32,
    reserved: u32,
}

/// Counts a frame. Returns how many frames this CPU has counted so.
#[inline(always)]
pub(crate) fn count(reason: Reason, bytes: usize) -> u64 {
    let index = counter_index(globals::slot(), reason.index());
    // There is a counter for every slot and reason; the lookup cannot fail.
    if let Some(count) = maps::COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own value; the program cannot be interrupted by itself.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += bytes as u64;
            return (*count).packets;
        }
    }
    0
}

/// Records one in some blocked frames; `count` is how many there were on this CPU.
#[inline(always)]
pub(crate) fn sample(reason: Reason, count: u64, [high, low]: [u64; 2]) {
    if reason == Reason::Blocked && count.is_multiple_of(hits::SAMPLE) {
        record(u64::from_be(high), u64::from_be(low));
    }
}

/// A function of its own, since it is seldom needed.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn record(high: u64, low: u64) -> u32 {
    if let Some(set) = maps::HITS.get(hits::set_of(high, low, HITS.entries, globals::secret())) {
        hits::record(set, high, low, Nanos(clock::coarse()));
    }
    0
}

/// Logs the reason, the interface's slot and the source, if the settings and the budget allow.
#[inline(always)]
pub(crate) fn log_sample(ctx: &XdpContext, reason: Reason, source: [u64; 2]) {
    if globals::log_drops() && within_budget() {
        log(ctx, u32::from(reason.index()), source[0], source[1]);
    }
}

/// A format of its own, which the daemon turns into words: it knows the labels and the interfaces.
#[inline(never)]
fn log(ctx: &XdpContext, reason: u32, high: u64, low: u64) {
    debug!(ctx, "drop {} {} {:x} {:x}", reason, globals::slot(), u64::from_be(high), u64::from_be(low));
}

#[inline(always)]
fn within_budget() -> bool {
    let Some(budget) = maps::LOG_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    let second = clock::coarse() / NANOS_PER_SECOND;
    // SAFETY: this CPU's own value, as in `count`.
    unsafe {
        if (*budget).second != second {
            (*budget).second = second;
            (*budget).lines = 0;
        }
        (*budget).lines += 1;
        (*budget).lines <= LINES_PER_SECOND
    }
}

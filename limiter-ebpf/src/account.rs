//! Counts every frame, and logs a few of those that were dropped.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use limiter_common::abi::{HITS, counter_index};
use limiter_common::{Address, Nanos, Reason, hits, parse};

use crate::frame::XdpFrame;
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

/// Whether more is to be done with a frame that was dropped; `count` is how many there were for this reason on this CPU.
#[inline(always)]
pub(crate) fn is_noted(reason: Reason, count: u64) -> bool {
    globals::log_drops() || (reason == Reason::Blocked && count.is_multiple_of(hits::SAMPLE))
}

/// Records a source that is blocked, one in [`hits::SAMPLE`], and logs the reason, the interface's slot and the source, if
/// the settings and the budget allow.
///
/// A function of its own that reads the source once more: few frames need it, and the others are not to carry it along.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note(ctx: *mut xdp_md, reason: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let [high, low] = match parse::network(&XdpFrame::linear(&ctx)).map(|(packet, _)| packet.source) {
        Ok(Address::V4(v4)) => [0, 0xffff << 32 | u64::from(u32::from_be_bytes(v4))],
        Ok(Address::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])) => {
            [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
        }
        // Dropped for something in front of the addresses.
        Err(_) => [0, 0],
    };
    if reason == u32::from(Reason::Blocked.index())
        && let Some(set) = maps::HITS.get(hits::set_of(high, low, HITS.entries, globals::secret()))
    {
        hits::record(set, high, low, Nanos(clock::coarse()));
    }
    if globals::log_drops() && within_budget() {
        log(&ctx, reason, high, low);
    }
    0
}

/// A format of its own, which the daemon turns into words: it knows the labels and the interfaces.
#[inline(never)]
fn log(ctx: &XdpContext, reason: u32, high: u64, low: u64) {
    debug!(ctx, "drop {} {} {:x} {:x}", reason, globals::slot(), high, low);
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

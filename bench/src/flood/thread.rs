//! Threads that have a CPU to themselves, whatever else the machine does.

use std::io;

use anyhow::{Context as _, Result};

/// Which of the threads of a flood; the higher ones run first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Rank {
    /// Sends or receives all the time.
    Worker = 1,
    /// Looks at the clock and at counters, and sleeps in between.
    Observer = 2,
}

/// Keeps thread number `thread` (0: the calling one) on `cpu`, and the ordinary threads of the machine off it while it
/// works. The kernel still gives those 5 % of the time if it goes on for a second.
pub(super) fn give_cpu(thread: u32, cpu: usize, rank: Rank) -> Result<()> {
    let thread = libc::pid_t::try_from(thread).context("a thread's number")?;
    // SAFETY: a set of CPUs is plain data, and zeros are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` came from a set of the same size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid, and its size is right.
    if unsafe { libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot put a thread on CPU {cpu}"));
    }
    let priority = libc::sched_param { sched_priority: rank as libc::c_int };
    // What the thread starts shall be ordinary again.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `priority` is valid.
    if unsafe { libc::sched_setscheduler(thread, policy, &raw const priority) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot raise a thread's priority");
    }
    Ok(())
}

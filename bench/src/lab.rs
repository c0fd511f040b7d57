//! What floods and lists are tried on: hosts, with the daemon that was built together with this program, and the time of
//! the machine.

use std::io;

use anyhow::{Context as _, Result};
use limiter_tests::Lab;

/// Two network namespaces and a directory. `LIMITER_BIN_DIR` says where another daemon is.
pub(crate) fn make(purpose: &str) -> Result<Lab> {
    if std::env::var_os("LIMITER_BIN_DIR").is_some() {
        return Lab::new(purpose);
    }
    let binaries = std::env::current_exe().context("where is this program?")?;
    let binaries = binaries.parent().context("this program is in no directory")?;
    Lab::with_binaries(purpose, binaries.to_owned())
}

/// Runs `body`, and every process that it starts, before what else the machine does, so that all contestants have the
/// CPUs to themselves. Threads of this process that it starts likewise.
pub(crate) fn before_others<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    /// The best there is without real-time priority.
    const FIRST: libc::c_int = -20;
    // SAFETY: no pointers. On Linux it concerns the calling thread.
    let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    set_priority(FIRST)?;
    let outcome = body();
    set_priority(before)?;
    outcome
}

fn set_priority(priority: libc::c_int) -> Result<()> {
    // SAFETY: no pointers. On Linux it concerns the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, priority) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot set the priority of this program");
    }
    Ok(())
}

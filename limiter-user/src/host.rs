//! What this machine says of itself: its clocks, and the addresses without which nobody reaches it.

use std::time::SystemTime;

use limiter_common::Nanos;

use crate::enforcer::Now;

/// Reads both clocks.
#[must_use]
pub fn now() -> Now {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Now { boot: Nanos::from_secs(seconds).saturating_add(Nanos(nanos)), wall: SystemTime::now() }
}

/// Identifies the boot that [`Now::boot`] counts from.
///
/// # Errors
///
/// If `/proc` is not mounted.
pub fn boot_id() -> anyhow::Result<[u8; 16]> {
    use anyhow::Context;

    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).with_context(|| format!("{PATH} holds no identifier"))?;
    Ok(id.to_be_bytes())
}

//! Waiting for something to become so: with a deadline, and a message that says what was waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often is looked. Short enough not to blur what tests measure.
const EVERY: Duration = Duration::from_millis(5);

/// Looks until `probe` returns something, and returns it with the time it took.
///
/// # Errors
///
/// If that did not happen within `limit`, or `probe` failed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok((found, start.elapsed()));
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain until {what}");
        }
        std::thread::sleep(EVERY);
    }
}

/// Looks until `probe` says yes.
///
/// # Errors
///
/// As [`until`].
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<Duration> {
    Ok(until(what, limit, || Ok(probe()?.then_some(())))?.1)
}

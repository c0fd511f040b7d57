//! How much of something is done: as much as every run has time for, or all of it.

/// `short`, or `long` if the environment variable `LIMITER_LONG` is set.
pub fn effort(short: usize, long: usize) -> usize {
    if std::env::var_os("LIMITER_LONG").is_some() { long } else { short }
}

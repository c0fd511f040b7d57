//! Memory that was needed for a moment.

/// Gives freed memory back to the system, which the allocator would keep for later: worth its milliseconds after
/// something that took many times what stays.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, may be called at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

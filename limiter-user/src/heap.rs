//! Memory that was needed for a moment.

/// Makes the allocator give large blocks back as soon as they are freed. Left alone it learns from the first large one to
/// keep the next, and after a long list keeps more than all claims take. Blocks that come again and again stay below this.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers, and may be called at any time. What it refuses, it leaves as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 << 20);
    }
}

/// Gives freed memory back to the system, which the allocator would keep for later: worth its milliseconds after
/// something that took many times what stays.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number, may be called at any time, and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

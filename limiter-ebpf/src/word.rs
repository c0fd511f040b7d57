//! Compare-and-swap on map values.

use core::cell::UnsafeCell;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use limiter_common::slots::Word;

/// A word that all CPUs share.
#[repr(transparent)]
pub(crate) struct KernelWord(UnsafeCell<u64>);

// SAFETY: accessed by single loads and by compare-and-swap only.
unsafe impl Sync for KernelWord {}

impl Word for KernelWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: valid and aligned, being a reference. Volatile, so that it is one load of 64 bits.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above; only used for words of one CPU.
        unsafe { self.0.get().write_volatile(value) };
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        // Sequentially consistent: LLVM miscompiles relaxed read-modify-writes whose result is used (issue 217074).
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: valid and aligned, being a reference.
        let (found, _) = unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.0.get(), current, new) };
        found
    }
}

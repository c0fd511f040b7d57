//! Read-only globals that are set before a program is loaded, so that the verifier knows them and removes what is
//! unused.

use core::mem::MaybeUninit;

/// A number that is set at loading.
#[repr(transparent)]
pub struct Constant(MaybeUninit<u64>);

impl Constant {
    /// `value` unless the loader sets another.
    pub const fn new(value: u64) -> Self {
        Self(MaybeUninit::new(value))
    }

    /// What the loader set.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // SAFETY: initialised, and never written after loading. Volatile, or it would be folded to the initial value.
        unsafe { self.0.as_ptr().read_volatile() }
    }
}

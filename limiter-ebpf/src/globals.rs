//! Read-only globals, set before the program is loaded, so that the verifier knows them and removes what is unused.

use core::mem::MaybeUninit;
use core::ptr::from_ref;

use limiter_common::abi::{Limits, Settings};

/// Keeps the compiler from believing the initial value.
#[repr(transparent)]
struct Global<T>(MaybeUninit<T>);

#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global(MaybeUninit::new(Settings {
    secret: [0; 2],
    fixed_now: 0,
    tick: 0,
    sets: 0,
    buckets_v4: 0,
    buckets_v6: 0,
    slot: 0,
    limited: 0,
    super_frames: 0,
    log_drops: 0,
    cpu_bits: 0,
    listed_v4: 0,
    reserved: 0,
}));

#[unsafe(no_mangle)]
static LIMITS: Global<Limits> = Global(MaybeUninit::new(Limits::NONE));

/// Reads one field; the whole structure would be copied to the stack.
macro_rules! setting {
    ($field:ident) => {{
        // SAFETY: initialised, and never written after loading. Volatile, or it would be folded to the initial value.
        unsafe { (&raw const (*SETTINGS.0.as_ptr()).$field).read_volatile() }
    }};
}

#[inline(always)]
pub(crate) fn secret() -> [u64; 2] {
    [secret_word(0), secret_word(1)]
}

/// One word of it, 0 or 1.
#[inline(always)]
pub(crate) fn secret_word(which: usize) -> u64 {
    // SAFETY: as in `setting!`; by word, since a volatile read of an array is a copy by bytes.
    unsafe { (&raw const (*SETTINGS.0.as_ptr()).secret).cast::<u64>().add(which & 1).read_volatile() }
}

#[inline(always)]
pub(crate) fn fixed_now() -> u64 {
    setting!(fixed_now)
}

#[inline(always)]
pub(crate) fn tick() -> u64 {
    setting!(tick)
}

#[inline(always)]
pub(crate) fn cpu_bits() -> u32 {
    setting!(cpu_bits)
}

#[inline(always)]
pub(crate) fn sets() -> u32 {
    setting!(sets)
}

#[inline(always)]
pub(crate) fn buckets_v4() -> u32 {
    setting!(buckets_v4)
}

#[inline(always)]
pub(crate) fn buckets_v6() -> u32 {
    setting!(buckets_v6)
}

#[inline(always)]
pub(crate) fn listed_v4() -> bool {
    setting!(listed_v4) != 0
}

#[inline(always)]
pub(crate) fn slot() -> u32 {
    setting!(slot)
}

#[inline(always)]
pub(crate) fn super_frames() -> bool {
    setting!(super_frames) != 0
}

#[inline(always)]
pub(crate) fn log_drops() -> bool {
    setting!(log_drops) != 0
}

/// The limits; `None` if nothing is limited.
#[inline(always)]
pub(crate) fn limits() -> Option<&'static Limits> {
    if setting!(limited) == 0 { None } else { Some(all_limits()) }
}

/// The same where it is known that something is limited.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "copies the pointer, and does not follow it")]
pub(crate) fn all_limits() -> &'static Limits {
    let mut limits = from_ref(&LIMITS);
    // SAFETY: changes nothing; hides which global it is, so that its initial value is not believed.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) limits, options(pure, nomem, nostack, preserves_flags));
    }
    // SAFETY: still the address of `LIMITS`, which is initialised.
    unsafe {
        core::hint::assert_unchecked(!limits.is_null());
        (*limits).0.assume_init_ref()
    }
}

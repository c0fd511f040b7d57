//! An array map as shared memory: the daemon writes it by plain stores, and the programs see them at once.

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use limiter_common::abi::Lengths;
use limiter_common::hits;
use limiter_common::lists::{v4, v6};
use rustix::mm::{MapFlags, ProtFlags};

use super::bpf::MapInfo;

/// What consists of atomic words and nothing else, so that others may write it at any time.
///
/// # Safety
///
/// Any bits are a value, and the alignment is at most that of a page.
pub(super) unsafe trait Words {}

// SAFETY: it is one.
unsafe impl Words for AtomicU64 {}
// SAFETY: an array of them.
unsafe impl Words for v4::Bucket<AtomicU64> {}
// SAFETY: an array of structures of four of them, without padding.
unsafe impl Words for v6::Bucket<AtomicU64> {}
// SAFETY: likewise, and arrays of them.
unsafe impl Words for Lengths<AtomicU64> {}
// SAFETY: an array of structures of four of them, without padding.
unsafe impl Words for hits::Set<AtomicU64> {}

/// The values of an array that was made with `BPF_F_MMAPABLE`. The memory stays when the map is closed elsewhere, and
/// the map stays as long as this does.
#[derive(Debug)]
pub(super) struct Mapped {
    memory: NonNull<c_void>,
    /// Bytes that are mapped: whole pages.
    mapped: usize,
    /// Bytes that are values.
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone as far as this process is concerned, is not tied to a thread, and is
// only reached as atomics.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps all of `map`, which `info` describes.
    ///
    /// # Errors
    ///
    /// If it is not a mmapable array, or there is no address space left.
    pub(super) fn new(map: BorrowedFd<'_>, info: &MapInfo) -> io::Result<Self> {
        // The kernel keeps each value at a multiple of 8 bytes (`array_map_alloc`).
        let value = usize::try_from(info.value_size).map_err(io::Error::other)?.next_multiple_of(8);
        let count = usize::try_from(info.max_entries).map_err(io::Error::other)?;
        let bytes = value.checked_mul(count).ok_or(io::ErrorKind::InvalidInput)?;
        let mapped = bytes.next_multiple_of(rustix::param::page_size());
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let memory = unsafe { rustix::mm::mmap(std::ptr::null_mut(), mapped, access, flags, map, 0) }?;
        let memory = NonNull::new(memory).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { memory, mapped, bytes })
    }

    /// All of it, word by word.
    pub(super) fn words(&self) -> &[AtomicU64] {
        self.values()
    }

    /// All of it, as values of this type.
    pub(super) fn values<T: Words>(&self) -> &[T] {
        // SAFETY: so much of it is mapped as long as `self` lives, at the start of a page and so aligned. Programs and
        // other processes change it at any time, which `Words` allows.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }
}

/// Asks for the cache line of `word`, to be written soon, and does not wait for it.
#[inline]
pub(super) fn ask_for(word: &AtomicU64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, for any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(word.load(std::sync::atomic::Ordering::Relaxed));
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and nobody has a reference to it any more. It cannot fail for what is mapped.
        let _ = unsafe { rustix::mm::munmap(self.memory.as_ptr(), self.mapped) };
    }
}

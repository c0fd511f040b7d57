//! The one place with packet pointers.

use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use limiter_common::Frame;

/// A frame in the driver's buffers. `FRAGMENTED` ones continue behind `data_end` in buffers without pointers.
pub(crate) struct XdpFrame<'a, const FRAGMENTED: bool> {
    ctx: &'a XdpContext,
    data: *const u8,
    data_end: *const u8,
    len: usize,
}

impl<'a> XdpFrame<'a, false> {
    /// The frame, if it has one buffer; else its first buffer.
    #[inline(always)]
    pub(crate) fn linear(ctx: &'a XdpContext) -> Self {
        let (data, data_end): (*const u8, *const u8);
        // Loads of `xdp_md::data` and `data_end`, which are 32 bits wide on paper and pointers in truth. The compiler
        // must not know the width: it would do arithmetic in halves, which pointers do not allow.
        //
        // SAFETY: two loads from the context that the kernel passed in.
        unsafe {
            core::arch::asm!(
                "{data} = *(u32 *)({ctx} + 0)",
                "{data_end} = *(u32 *)({ctx} + 4)",
                ctx = in(reg) ctx.ctx,
                data = out(reg) data,
                data_end = out(reg) data_end,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        Self { ctx, data, data_end, len: data_end.addr() - data.addr() }
    }
}

impl<'a> XdpFrame<'a, true> {
    /// The frame, in however many buffers.
    #[inline(always)]
    pub(crate) fn fragmented(ctx: &'a XdpContext) -> Self {
        let XdpFrame { ctx, data, data_end, len: first } = XdpFrame::linear(ctx);
        // SAFETY: `ctx` is the context that the kernel passed in.
        let len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
        Self { ctx, data, data_end, len: usize::try_from(len).unwrap_or(first) }
    }

    /// Whether there is more than the first buffer.
    #[inline(always)]
    pub(crate) fn is_fragmented(ctx: &'a XdpContext) -> bool {
        let frame = Self::fragmented(ctx);
        frame.len != frame.data_end.addr() - frame.data.addr()
    }
}

impl<const FRAGMENTED: bool> Frame for XdpFrame<'_, FRAGMENTED> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let start = pointer_at(self.data, at);
        if start.wrapping_add(N) <= self.data_end {
            // SAFETY: the N bytes lie before `data_end`, which the verifier checks again.
            Some(unsafe { load(start) })
        } else if FRAGMENTED {
            self.read_across(at)
        } else {
            None
        }
    }

    #[inline(always)]
    fn field<const HEADER: usize, const N: usize>(&self, at: usize, offset: usize) -> Option<[u8; N]> {
        let start = pointer_at(self.data, at);
        if offset + N > HEADER {
            None
        } else if start.wrapping_add(HEADER) <= self.data_end {
            // SAFETY: the N bytes lie in the header, which lies before `data_end`.
            Some(unsafe { load(start.add(offset)) })
        } else if FRAGMENTED {
            let header: [u8; HEADER] = self.read_across(at)?;
            header.get(offset..)?.first_chunk().copied()
        } else {
            None
        }
    }

    /// Through the stack: the verifier knows what was stored, but not what a part of it is that is loaded alone.
    #[inline(always)]
    fn forget(&self, offset: usize) -> usize {
        let mut slot = 0u64;
        let slot = &raw mut slot;
        // SAFETY: eight bytes of which two are read. Volatile, or the compiler would see through it.
        let part = unsafe {
            slot.write_volatile((offset as u64) << 16);
            slot.cast::<u16>().add(1).read_volatile()
        };
        // So that there is a bound that the verifier accepts.
        usize::from(part) & Self::FARTHEST
    }
}

impl<const FRAGMENTED: bool> XdpFrame<'_, FRAGMENTED> {
    /// Bytes that are not all in the first buffer.
    #[inline(always)]
    fn read_across<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // Zeros, not uninitialised: for values that do not matter LLVM takes any register, also one with a pointer, and
        // the verifier does not let half a pointer be stored.
        let mut bytes = [0; N];
        let (at, len) = (u32::try_from(at).ok()?, u32::try_from(N).ok()?);
        // SAFETY: `bytes` has room for N bytes; the helper checks `at` against the frame.
        let status = unsafe { bpf_xdp_load_bytes(self.ctx.ctx, at, bytes.as_mut_ptr().cast(), len) };
        (status == 0).then_some(bytes)
    }
}

/// `data + at`, in one register.
///
/// The verifier accepts a load only through the very pointer whose bounds were compared. Left alone, LLVM computes a
/// second one for the load whenever the offset is variable.
#[inline(always)]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "computes with the pointer, and does not follow it")]
fn pointer_at(data: *const u8, at: usize) -> *const u8 {
    if core::intrinsics::is_val_statically_known(at) {
        return data.wrapping_add(at);
    }
    let mut pointer = data;
    // SAFETY: an addition. (An empty template would do, but gives two lines of debug information to one instruction,
    // which the kernel refuses.)
    unsafe {
        core::arch::asm!(
            "{0} += {1}",
            inout(reg) pointer,
            in(reg) at,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    pointer
}

/// `N` bytes in words as wide as possible. LLVM would load a byte array byte by byte, since it does not know that the
/// kernel allows loads of any alignment from packets.
///
/// # Safety
///
/// `N` bytes from `start` on can be read.
#[inline(always)]
unsafe fn load<const N: usize>(start: *const u8) -> [u8; N] {
    let mut bytes = [0; N];
    let mut done = 0;
    // Constant bounds: unrolled, and each word goes to where its bytes are used.
    while done + 8 <= N {
        // SAFETY: within the N bytes; alignment as above.
        let word = unsafe { start.add(done).cast::<u64>().read() };
        put(&mut bytes, done, word.to_ne_bytes());
        done += 8;
    }
    if done + 4 <= N {
        // SAFETY: as above.
        let word = unsafe { start.add(done).cast::<u32>().read() };
        put(&mut bytes, done, word.to_ne_bytes());
        done += 4;
    }
    if done + 2 <= N {
        // SAFETY: as above.
        let word = unsafe { start.add(done).cast::<u16>().read() };
        put(&mut bytes, done, word.to_ne_bytes());
        done += 2;
    }
    if done < N {
        // SAFETY: as above.
        bytes[done] = unsafe { start.add(done).read() };
    }
    bytes
}

#[inline(always)]
fn put<const N: usize, const M: usize>(bytes: &mut [u8; N], at: usize, word: [u8; M]) {
    let mut i = 0;
    while i < M {
        bytes[at + i] = word[i];
        i += 1;
    }
}

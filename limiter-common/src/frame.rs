//! Bounded reads of the bytes of a frame: the only way packet bytes are read.

/// A received frame, from its first Ethernet byte on.
///
/// There are two implementations: byte slices here, and the packet pointers of the kernel in `limiter-ebpf`.
pub trait Frame {
    /// The largest offset that is ever asked for, and then some: link headers, the IPv6 header and eight extension
    /// headers of 2 KiB take less.
    const FARTHEST: usize = 0x7fff;

    /// Bytes in the whole frame, fragments of a multi-buffer frame included.
    fn len(&self) -> usize;

    /// The `N` bytes at offset `at`, or `None` if the frame ends before them.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// The `N` bytes at `offset` in a header of `HEADER` bytes at `at`, or `None` if the frame ends before the header does.
    ///
    /// To read fields of a header one by one takes a single check of bounds in the kernel, and no more than the fields.
    #[inline(always)]
    fn field<const HEADER: usize, const N: usize>(&self, at: usize, offset: usize) -> Option<[u8; N]> {
        let header: [u8; HEADER] = self.read(at)?;
        header.get(offset..)?.first_chunk().copied()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives back `offset`, which is at most [`Self::FARTHEST`].
    ///
    /// The verifier of the kernel follows every path with the offsets it leads to, so that all that comes behind a
    /// header would be checked once for each way there (each stack of tags, each chain of extension headers). The
    /// kernel's frame makes it forget where the offset came from.
    #[inline(always)]
    fn forget(&self, offset: usize) -> usize {
        offset
    }
}

impl Frame for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let bytes = self.get(at..at.checked_add(N)?)?;
        bytes.try_into().ok()
    }
}

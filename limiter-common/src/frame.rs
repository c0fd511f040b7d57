//! Bounded reads of the bytes of a frame: the only way packet bytes are read.

/// A received frame, from its first Ethernet byte on.
///
/// There are two implementations: byte slices here, and the packet pointers of the kernel in `limiter-ebpf`.
pub trait Frame {
    /// Bytes in the whole frame, fragments of a multi-buffer frame included.
    fn len(&self) -> usize;

    /// The `N` bytes at offset `at`, or `None` if the frame ends before them.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    fn is_empty(&self) -> bool {
        self.len() == 0
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

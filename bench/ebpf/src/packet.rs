//! The source of a packet, read as most XDP programs do it: Ethernet, then IPv4 or IPv6, with a check of bounds before
//! each. Nothing else is looked at, which is less than limiter does.

use aya_ebpf::programs::XdpContext;

const ETHERNET: usize = 14;
/// Where the addresses are in the IP headers, and how long those are.
const IPV4_SOURCE: usize = ETHERNET + 12;
const IPV4_END: usize = ETHERNET + 20;
const IPV6_SOURCE: usize = ETHERNET + 8;
const IPV6_END: usize = ETHERNET + 40;
/// EtherTypes, as they are read from a frame on a little-endian machine.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// A pointer to the source address of a packet.
#[derive(Clone, Copy)]
pub enum Source {
    V4(*mut u32),
    /// The upper 64 bits; the lower ones are behind them.
    V6(*mut u64),
}

/// Where the source of a packet is; `None` if it is not IP.
#[inline(always)]
pub fn source(ctx: &XdpContext) -> Option<Source> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + IPV4_END > end {
        return None;
    }
    let frame = start as *mut u8;
    // SAFETY: the 34 bytes from `start` on are within the frame, as the verifier checks again.
    match unsafe { frame.add(12).cast::<u16>().read_unaligned() } {
        IPV4 => Some(Source::V4(frame.wrapping_add(IPV4_SOURCE).cast())),
        IPV6 if start + IPV6_END <= end => Some(Source::V6(frame.wrapping_add(IPV6_SOURCE).cast())),
        _ => None,
    }
}

//! What the policy may know about a frame, as plain values.

use core::num::NonZeroU32;

use crate::address::Address;

/// The facts that are known as soon as the IP header is found: enough to judge the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    /// Bytes in the whole frame, link header included: what a bit rate is charged with.
    pub frame_len: usize,
    /// IPv6 neighbour discovery with hop limit 255: it can only come from the link (RFC 4861 section 7.1).
    pub neighbour: bool,
}

/// A port. Never zero in memory, so that `Option<Port>` is one number, all of which has a value: where there is no port,
/// the compiler may leave what it likes in an `Option<u16>`, and the verifier objects to some of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(NonZeroU32);

impl Port {
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(NonZeroU32::MIN.saturating_add((port as u32) << 1))
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the reverse of what `new` does")]
    pub const fn get(self) -> u16 {
        (self.0.get() >> 1) as u16
    }
}

/// The facts behind the IP header, read only when the source did not settle the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// IP protocol number of what the packet carries, behind all extension headers.
    pub protocol: u8,
    /// Destination port; `None` for protocols without ports and for fragments that do not hold the header.
    pub port: Option<Port>,
    /// "Fragmentation needed" or "packet too big": path MTU discovery (RFC 1191, RFC 8201) breaks without them.
    pub path_mtu: bool,
}

impl Transport {
    /// A payload whose header is not looked at.
    #[inline(always)]
    pub const fn opaque(protocol: u8) -> Self {
        Self { protocol, port: None, path_mtu: false }
    }
}

/// The place of a fragment in its datagram; the first one carries the transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented, or an atomic fragment (RFC 6946).
    Whole,
    First,
    Later,
}

//! What the policy may know about a frame, as plain values.

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

/// The facts behind the IP header, read only when the source did not settle the matter: in one number, so that it stays
/// in a register on its way through the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport(u32);

const PROTOCOL_AT: u32 = 16;
const HAS_PORT: u32 = 1 << 24;
const PATH_MTU: u32 = 1 << 25;

impl Transport {
    /// A payload whose header is not looked at, or has no ports.
    #[inline(always)]
    pub const fn opaque(protocol: u8) -> Self {
        Self((protocol as u32) << PROTOCOL_AT)
    }

    /// A payload for this destination port.
    #[inline(always)]
    pub const fn with_port(protocol: u8, port: u16) -> Self {
        Self(Self::opaque(protocol).0 | HAS_PORT | port as u32)
    }

    /// "Fragmentation needed" or "packet too big": path MTU discovery (RFC 1191, RFC 8201) breaks without them.
    #[inline(always)]
    pub const fn path_mtu(protocol: u8) -> Self {
        Self(Self::opaque(protocol).0 | PATH_MTU)
    }

    /// IP protocol number of what the packet carries, behind all extension headers.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "eight bits of it")]
    pub const fn protocol(self) -> u8 {
        (self.0 >> PROTOCOL_AT) as u8
    }

    /// Destination port; `None` for protocols without ports and for fragments that do not hold the header.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits of it")]
    pub fn port(self) -> Option<u16> {
        (self.0 & HAS_PORT != 0).then_some(self.0 as u16)
    }

    #[inline(always)]
    pub const fn is_path_mtu(self) -> bool {
        self.0 & PATH_MTU != 0
    }

    /// As one number, for functions that take nothing else.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
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

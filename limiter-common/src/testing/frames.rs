//! Frames out of headers. A case names only what is odd about it:
//!
//! ```
//! use limiter_common::frame;
//! use limiter_common::testing::frames::{Ipv4, Udp, Vlan, default};
//!
//! let frame = frame![Vlan { id: 0, ..default() }, Ipv4 { ttl: 1, ..default() }, Udp::default()];
//! ```
//!
//! Lengths, checksums and the numbers by which one header names the next are right unless a field overrides them.
//! The Ethernet header may be left out if nothing about it is odd. Any header may stand behind any other.

use std::any::Any;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

mod ip;
mod link;
mod upper;

pub use ip::{Extension, Ipv4, Ipv6};
pub use link::{Arp, Ethernet, Llc, Mpls, Pppoe, Snap, Vlan};
pub use upper::{Bytes, Gre, Icmp, Icmpv6, Sctp, Tcp, Udp};

/// Protocol numbers that cases name (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const L2TP: u8 = 115;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// EtherTypes that cases name.
pub mod ether_type {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const BRIDGED: u16 = 0x6558;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const MPLS: u16 = 0x8847;
    pub const MPLS_UPSTREAM: u16 = 0x8848;
    pub const PPPOE_DISCOVERY: u16 = 0x8863;
    pub const PPPOE_SESSION: u16 = 0x8864;
    pub const VLAN_SERVICE: u16 = 0x88a8;
}

/// The sender that cases use when they do not care: on no list.
pub const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0, 0, 0, 7);
/// The receiver that cases use when they do not care.
pub const DESTINATION_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const DESTINATION_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x1, 0, 0, 0, 0, 1);

/// The default of whatever is wanted, short enough for `..default()`.
#[must_use]
pub fn default<T: Default>() -> T {
    T::default()
}

/// A header that can be put in front of what is already written.
pub trait Header: fmt::Debug + Any {
    /// The bytes of this header and of everything behind it.
    fn write(&self, inner: &Written) -> Written;

    /// The addresses that checksums behind this header cover, if it is an IP header.
    fn endpoints(&self) -> Option<(IpAddr, IpAddr)> {
        None
    }
}

/// A finished rear part of a frame, and how the header in front of it may name it.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub bytes: Vec<u8>,
    /// As an EtherType, or as an 802.3 length.
    pub ether_type: Option<u16>,
    /// As an IP protocol.
    pub protocol: Option<u8>,
    /// Set while writing: the addresses of the closest IP header in front.
    endpoints: Option<(IpAddr, IpAddr)>,
}

impl Written {
    /// `header` in front of these bytes.
    fn behind(&self, header: &[u8]) -> Vec<u8> {
        [header, &self.bytes].concat()
    }
}

/// Any header, for lists of them.
#[derive(Debug, Clone)]
pub struct Layer(Arc<dyn Header>);

impl<H: Header> From<H> for Layer {
    fn from(header: H) -> Self {
        Self(Arc::new(header))
    }
}

impl Layer {
    /// Whether this is a header of type `H`.
    #[must_use]
    pub fn is<H: Header>(&self) -> bool {
        let header: &dyn Any = &*self.0;
        header.is::<H>()
    }
}

/// The frame made of these headers, front to back, without padding. An Ethernet header is put in front if there is
/// none.
#[must_use]
pub fn frame(layers: &[Layer]) -> Vec<u8> {
    if layers.first().is_some_and(Layer::is::<Ethernet>) {
        stack(layers)
    } else {
        let framed: Vec<Layer> =
            std::iter::once(Ethernet::default().into()).chain(layers.iter().cloned()).collect();
        stack(&framed)
    }
}

/// The bytes of these headers, without an Ethernet header in front: what an error message quotes, or a datagram.
#[must_use]
pub fn stack(layers: &[Layer]) -> Vec<u8> {
    write(layers, None).bytes
}

fn write(layers: &[Layer], endpoints: Option<(IpAddr, IpAddr)>) -> Written {
    let Some((first, rest)) = layers.split_first() else {
        return Written::default();
    };
    let mut inner = write(rest, first.0.endpoints().or(endpoints));
    inner.endpoints = endpoints;
    first.0.write(&inner)
}

/// [`frame()`] of headers of different types.
#[macro_export]
macro_rules! frame {
    ($($layer:expr),* $(,)?) => {
        $crate::testing::frames::frame(&[$($crate::testing::frames::Layer::from($layer)),*])
    };
}

/// [`stack()`] of headers of different types.
#[macro_export]
macro_rules! stack {
    ($($layer:expr),* $(,)?) => {
        $crate::testing::frames::stack(&[$($crate::testing::frames::Layer::from($layer)),*])
    };
}

/// `frame` with zeros behind it up to the shortest length that Ethernet carries, 60 bytes without the checksum.
#[must_use]
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The datagram `payload` in fragments of at most `size` bytes (a multiple of 8) behind `ip`, each as a frame behind
/// `link`. The checksum inside `payload` is the caller's: write it whole with [`stack()`] first.
#[must_use]
pub fn ipv4_fragments(link: &[Layer], ip: &Ipv4, protocol: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    pieces(payload, size)
        .map(|(offset, more, piece)| {
            let ip =
                Ipv4 { fragment_offset: offset, more_fragments: more, dont_fragment: false, ..ip.clone() };
            frame(&with(link, &[ip.into(), Bytes::of(protocol, piece).into()]))
        })
        .collect()
}

/// Like [`ipv4_fragments`]. `ip` and what else stands in front of the fragment header come with `link`.
#[must_use]
pub fn ipv6_fragments(link: &[Layer], ip: &Ipv6, protocol: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    pieces(payload, size)
        .map(|(offset, more, piece)| {
            let fragment = Extension::fragment(offset, more, 0x1234_5678);
            frame(&with(link, &[ip.clone().into(), fragment.into(), Bytes::of(protocol, piece).into()]))
        })
        .collect()
}

fn pieces(payload: &[u8], size: usize) -> impl Iterator<Item = (u16, bool, &[u8])> {
    assert!(size > 0 && size.is_multiple_of(8), "fragments are cut at multiples of 8 bytes");
    let count = payload.len().div_ceil(size);
    payload.chunks(size).enumerate().map(move |(i, piece)| (length(i * size / 8), i + 1 < count, piece))
}

fn with(front: &[Layer], back: &[Layer]) -> Vec<Layer> {
    front.iter().chain(back).cloned().collect()
}

/// A length as the 16 bits of a header field.
fn length(len: usize) -> u16 {
    u16::try_from(len).expect("a length beyond 64 KiB has to be overridden")
}

/// The Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded to 16 bits")
}

/// The checksum of a transport segment, with the pseudo-header of its IP version; 0 behind no IP header.
fn transport_checksum(endpoints: Option<(IpAddr, IpAddr)>, protocol: u8, segment: &[u8]) -> u16 {
    let len = u32::try_from(segment.len()).expect("segments are short").to_be_bytes();
    match endpoints {
        Some((IpAddr::V4(source), IpAddr::V4(destination))) => {
            checksum(&[&source.octets(), &destination.octets(), &[0, protocol], &len, segment])
        }
        Some((IpAddr::V6(source), IpAddr::V6(destination))) => {
            checksum(&[&source.octets(), &destination.octets(), &len, &[0, 0, 0, protocol], segment])
        }
        Some(_) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checksum is right if the sum with it is 0.
    #[test]
    fn checksums_are_right() {
        let odd: &[u8] = b"odd";
        let v4 = frame![Ipv4::default(), Udp::default(), Bytes::from(odd)];
        assert_eq!(checksum(&[&v4[14..34]]), 0);
        assert_eq!(checksum(&[&v4[26..34], &[0, 17, 0, 11], &v4[34..]]), 0);
        let v6 = frame![Ipv6::default(), Extension::hop_by_hop(), Tcp::default(), Bytes::from(odd)];
        assert_eq!(checksum(&[&v6[22..54], &[0, 0, 0, 23, 0, 0, 0, 6], &v6[62..]]), 0);
        let ping = frame![Ipv4::default(), Icmp::default()];
        assert_eq!(checksum(&[&ping[34..]]), 0);
        let ping = frame![Ipv6::default(), Icmpv6::default()];
        assert_eq!(checksum(&[&ping[22..54], &[0, 0, 0, 8, 0, 0, 0, 58], &ping[54..]]), 0);
    }

    #[test]
    fn a_whole_frame_byte_by_byte() {
        let ip = Ipv4 { id: 0x1c46, source: [192, 168, 0, 1].into(), ..default() };
        let udp = Udp { source: 68, destination: 67, checksum: Some(0xabcd), ..default() };
        let bytes = frame![Vlan { id: 0x123, priority: 5, ..default() }, ip, udp, Bytes::from(&b"hi"[..])];
        let expected: &[u8] = &[
            0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x02, 0x81, 0x00, // Ethernet
            0xa1, 0x23, 0x08, 0x00, // VLAN
            0x45, 0, 0, 30, 0x1c, 0x46, 0x40, 0, 64, 17, 0x22, 0xc2, 192, 168, 0, 1, 203, 0, 113,
            1, // IPv4
            0, 68, 0, 67, 0, 10, 0xab, 0xcd, b'h', b'i', // UDP
        ];
        // The checksum was worked out by hand: ~(4500+001e+1c46+4000+4011+c0a8+0001+cb00+7101).
        let sum: u32 = [0x4500, 0x1e, 0x1c46, 0x4000, 0x4011, 0xc0a8, 1, 0xcb00, 0x7101].iter().sum();
        assert_eq!(
            u16::from_be_bytes([bytes[28], bytes[29]]),
            !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
        );
        assert_eq!(bytes[..28], expected[..28]);
        assert_eq!(bytes[30..], expected[30..]);
    }

    #[test]
    fn sctp_checksum_is_crc32c() {
        // The check value of CRC-32C (RFC 3720 appendix B.4 uses the same polynomial).
        assert_eq!(upper::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn fragments_add_up_to_the_datagram() {
        let datagram = stack![Udp::default(), Bytes::from(vec![7; 100])];
        let frames = ipv4_fragments(&[], &Ipv4::default(), protocol::UDP, &datagram, 24);
        assert_eq!(frames.len(), 5);
        let joined: Vec<u8> = frames.iter().flat_map(|frame| frame[34..].to_vec()).collect();
        assert_eq!(joined, datagram);
        assert_eq!(frames[1][20..22], [0x20, 3]);
        assert_eq!(frames[4][20..22], [0, 12]);
    }
}

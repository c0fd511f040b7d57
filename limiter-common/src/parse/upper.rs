//! What IP carries: fragments, and the headers that have ports or matter to the network itself.

use network_types::ip::IpProto;

use super::Lengths;
use crate::frame::Frame;
use crate::packet::{Fragment, Transport};
use crate::reason::Reason;

pub(super) const TCP: u8 = IpProto::Tcp as u8;
pub(super) const UDP: u8 = IpProto::Udp as u8;
pub(super) const SCTP: u8 = IpProto::Sctp as u8;
pub(super) const ICMP: u8 = IpProto::Icmp as u8;
pub(super) const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;

pub(super) const ICMP_HEADER: usize = 8;
pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;
const SCTP_HEADER: usize = 12;
/// Offset of the destination port, and of the fields that tell a length.
pub(super) const PORT_AT: usize = 2;
pub(super) const TCP_OFFSET_AT: usize = 12;
pub(super) const UDP_LENGTH_AT: usize = 4;

const ICMP_UNREACHABLE: u8 = 3;
const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
const ICMPV6_PACKET_TOO_BIG: u8 = 2;
const ICMPV6_NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// The largest datagram that fragments may add up to.
const MAX_DATAGRAM: usize = 65_535;

/// The bytes behind the IP header and its extensions, within the IP length.
#[derive(Clone, Copy)]
pub(super) struct Payload {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) fragment: Fragment,
}

/// Judges a fragment by its place: `offset` and `len` in bytes of the payload.
#[inline(always)]
pub(super) fn fragment(protocol: u8, offset: usize, more: bool, len: usize) -> Result<Fragment, Reason> {
    if offset == 0 && !more {
        return Ok(Fragment::Whole);
    }
    if len == 0 || (more && !len.is_multiple_of(8)) || offset + len > MAX_DATAGRAM {
        return Err(Reason::BadFragment);
    }
    match (offset, protocol) {
        (0, TCP) if len < TCP_HEADER => Err(Reason::TinyFragment),
        (0, _) => Ok(Fragment::First),
        // Overwrites the flags of the first fragment's TCP header (RFC 1858 section 4).
        (8, TCP) => Err(Reason::TinyFragment),
        _ => Ok(Fragment::Later),
    }
}

/// Whether it is one of those that nearly all traffic is.
#[inline(always)]
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// The ports of TCP, UDP and SCTP; every other protocol is opaque.
#[inline(always)]
pub(super) fn ports<F: Frame + ?Sized>(
    frame: &F,
    payload: Payload,
    protocol: u8,
    lengths: Lengths,
) -> Result<Transport, Reason> {
    let port = match protocol {
        TCP => tcp(frame, payload),
        UDP => udp(frame, payload, lengths),
        SCTP => sctp(frame, payload),
        _ => return Ok(Transport::opaque(protocol)),
    };
    match port {
        Some(port) => Ok(Transport::with_port(protocol, port)),
        None => Err(Reason::TransportHeader),
    }
}

#[inline(always)]
fn tcp<F: Frame + ?Sized>(frame: &F, payload: Payload) -> Option<u16> {
    let [_, _, high, low, _, _, _, _, _, _, _, _, offset, _, _, _]: [u8; 16] = frame.read(payload.at)?;
    let header_len = usize::from(offset >> 4) * 4;
    // The options of a fragmented segment may reach into the next fragment.
    let fits = header_len <= payload.len || payload.fragment == Fragment::First;
    (payload.len >= TCP_HEADER && header_len >= TCP_HEADER && fits).then(|| u16::from_be_bytes([high, low]))
}

#[inline(always)]
fn udp<F: Frame + ?Sized>(frame: &F, payload: Payload, lengths: Lengths) -> Option<u16> {
    let [_, _, high, low, len0, len1, _, _]: [u8; UDP_HEADER] = frame.read(payload.at)?;
    let len = usize::from(u16::from_be_bytes([len0, len1]));
    let honest = len >= UDP_HEADER && (len <= payload.len || payload.fragment == Fragment::First);
    let unset = len == 0 && lengths.super_frames;
    (payload.len >= UDP_HEADER && (honest || unset)).then(|| u16::from_be_bytes([high, low]))
}

#[inline(always)]
fn sctp<F: Frame + ?Sized>(frame: &F, payload: Payload) -> Option<u16> {
    let [_, _, high, low]: [u8; 4] = frame.read(payload.at)?;
    (payload.len >= SCTP_HEADER).then(|| u16::from_be_bytes([high, low]))
}

#[inline(always)]
pub(super) fn icmp<F: Frame + ?Sized>(frame: &F, payload: Payload) -> Result<Transport, Reason> {
    let [kind, code] = icmp_kind(frame, payload)?;
    let path_mtu = kind == ICMP_UNREACHABLE && code == ICMP_FRAGMENTATION_NEEDED;
    Ok(if path_mtu { Transport::path_mtu(ICMP) } else { Transport::opaque(ICMP) })
}

#[inline(always)]
pub(super) fn icmpv6<F: Frame + ?Sized>(
    frame: &F,
    payload: Payload,
    fragment_header: bool,
) -> Result<Transport, Reason> {
    let [kind, _] = icmp_kind(frame, payload)?;
    // RFC 6980 section 5: neighbour discovery with a fragment header, even an atomic one, is to be ignored.
    if fragment_header && ICMPV6_NEIGHBOUR_DISCOVERY.contains(&kind) {
        return Err(Reason::TinyFragment);
    }
    Ok(if kind == ICMPV6_PACKET_TOO_BIG { Transport::path_mtu(ICMPV6) } else { Transport::opaque(ICMPV6) })
}

#[inline(always)]
fn icmp_kind<F: Frame + ?Sized>(frame: &F, payload: Payload) -> Result<[u8; 2], Reason> {
    if payload.len < ICMP_HEADER {
        return Err(Reason::TransportHeader);
    }
    frame.read(payload.at).ok_or(Reason::TransportHeader)
}

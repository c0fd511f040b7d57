//! From the Ethernet header to the IP header: VLAN tags, LLC/SNAP, PPPoE sessions and MPLS labels.

use network_types::eth::EtherType;

use super::{MAX_MPLS_LABELS, MAX_VLAN_TAGS, ipv4, ipv6, upper};
use crate::address::Address;
use crate::frame::Frame;
use crate::packet::{Packet, Transport};
use crate::reason::Reason;

/// Offset of the EtherType, behind the two MAC addresses.
const ETHER_TYPE_AT: usize = 12;
/// Below this the field is an 802.3 length and an LLC header follows (IEEE 802.3 clause 3.2.6).
const MIN_ETHER_TYPE: u16 = 0x0600;

const IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
const IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);
const VLAN: u16 = u16::from_be(EtherType::Ieee8021q as u16);
const VLAN_SERVICE: u16 = u16::from_be(EtherType::Ieee8021ad as u16);
const VLAN_QINQ_1: u16 = u16::from_be(EtherType::Ieee8021QinQ1 as u16);
const VLAN_QINQ_2: u16 = u16::from_be(EtherType::Ieee8021QinQ2 as u16);
const VLAN_QINQ_3: u16 = u16::from_be(EtherType::Ieee8021QinQ3 as u16);
const MPLS: u16 = 0x8847;
/// RFC 5332: the label stack of a multicast frame, or one with an upstream-assigned label.
const MPLS_UPSTREAM: u16 = 0x8848;
const PPPOE_SESSION: u16 = 0x8864;

const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
const PPP_MPLS: u16 = 0x0281;
const PPP_MPLS_MULTICAST: u16 = 0x0283;

/// Where the IP header starts, and which version the link header announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    V4 { at: usize },
    V6 { at: usize },
}

/// Where the IP header starts if the frame has no tags, as nearly all have none.
pub const PLAIN: usize = ETHER_TYPE_AT + 2;

/// Bytes of such a frame up to the end of the shortest IPv4 header.
const PLAIN_HEADERS: usize = PLAIN + ipv4::MIN_HEADER;

/// First byte of an IPv4 header without options.
const NO_OPTIONS: u8 = 0x45;

/// The source, if [`find_network`] finds IPv4 at [`PLAIN`], and a header that can be judged; else `None`.
#[inline(always)]
pub fn find_plain_ipv4<F: Frame + ?Sized>(frame: &F) -> Option<u32> {
    // One bound for all, and the type compared as it lies there, which takes fewer instructions than what it replaces.
    let ether_type = frame.field::<PLAIN_HEADERS, 2>(0, ETHER_TYPE_AT)?;
    let [version] = frame.field::<PLAIN_HEADERS, 1>(0, PLAIN)?;
    let source = frame.field::<PLAIN_HEADERS, 4>(0, PLAIN + ipv4::SOURCE_AT)?;
    let plain = u16::from_ne_bytes(ether_type) == IPV4.to_be() && version & 0xf0 == 0x40;
    plain.then(|| u32::from_be_bytes(source))
}

/// The packet of a frame for which [`find_plain_ipv4`] finds a source, and what it carries, if it is whole, behind a header
/// without options, and neither ICMP nor SCTP, as most are. `None` says nothing.
///
/// What [`super::network`] and [`super::transport`] find, in a third of the instructions.
#[inline(always)]
pub fn find_plain_transport<F: Frame + ?Sized>(frame: &F) -> Option<(Packet, Transport)> {
    // Behind the IPv4 header, the ports of both and what is looked at of TCP.
    const HEADERS: usize = PLAIN_HEADERS + 16;
    let [version] = frame.field::<HEADERS, 1>(0, PLAIN)?;
    let total_len = number(frame.field::<HEADERS, 2>(0, PLAIN + ipv4::LENGTH_AT)?);
    let fragment = number(frame.field::<HEADERS, 2>(0, PLAIN + ipv4::FRAGMENT_AT)?);
    let [protocol] = frame.field::<HEADERS, 1>(0, PLAIN + ipv4::PROTOCOL_AT)?;
    let source = frame.field::<HEADERS, 4>(0, PLAIN + ipv4::SOURCE_AT)?;
    let destination = frame.field::<HEADERS, 4>(0, PLAIN + ipv4::DESTINATION_AT)?;
    let port = || frame.field::<HEADERS, 2>(0, PLAIN_HEADERS + upper::PORT_AT).map(u16::from_be_bytes);
    let (least, len, transport) = match protocol {
        upper::TCP => {
            let [offset] = frame.field::<HEADERS, 1>(0, PLAIN_HEADERS + upper::TCP_OFFSET_AT)?;
            (upper::TCP_HEADER, usize::from(offset >> 4) * 4, Transport::with_port(protocol, port()?))
        }
        upper::UDP => {
            let len = frame.field::<HEADERS, 2>(0, PLAIN_HEADERS + upper::UDP_LENGTH_AT)?;
            (upper::UDP_HEADER, number(len), Transport::with_port(protocol, port()?))
        }
        upper::SCTP | upper::ICMP => return None,
        _ => (0, 0, Transport::opaque(protocol)),
    };
    let fits = len >= least && ipv4::MIN_HEADER + len <= total_len && PLAIN + total_len <= frame.len();
    if !fits || version != NO_OPTIONS || fragment & usize::from(ipv4::MORE_FRAGMENTS | ipv4::OFFSET) != 0 {
        return None;
    }
    let packet = Packet {
        source: Address::V4(source),
        destination: Address::V4(destination),
        frame_len: frame.len(),
        neighbour: false,
    };
    Some((packet, transport))
}

#[inline(always)]
fn number(bytes: [u8; 2]) -> usize {
    usize::from(u16::from_be_bytes(bytes))
}

/// Whether [`find_network`] finds IPv6 at [`PLAIN`].
#[inline(always)]
pub fn is_plain_ipv6<F: Frame + ?Sized>(frame: &F) -> bool {
    frame.read(ETHER_TYPE_AT).map(u16::from_be_bytes) == Some(IPV6)
}

/// Longer than the first buffer of any frame that fills several of them one after the other: drivers give it more, so that
/// Ethernet's usual frames fit.
const SURELY_FULL: usize = 1280;

/// Whether a frame has no other buffer than this first one, as far as that can be told without asking the kernel; `false`
/// says nothing.
///
/// There are more for two reasons. The first buffer was full: then it is no shorter than `SURELY_FULL`. Or the card or
/// the kernel keeps headers apart: then the packet goes on behind the first buffer, by its own account. What is missed is
/// what trails a packet that ends with its headers, where headers are kept apart: nobody reads it, so no verdict changes,
/// but its bytes are neither counted nor charged to a limit of bits.
///
/// `plain_ipv4` is whether [`find_plain_ipv4`] finds a source that is not 0.0.0.0, which whoever asks needs to know anyway.
#[inline(always)]
pub fn is_one_buffer<F: Frame + ?Sized>(first: &F, plain_ipv4: bool) -> bool {
    let behind = if plain_ipv4 {
        let len = first.field::<PLAIN_HEADERS, 2>(0, PLAIN + ipv4::LENGTH_AT);
        len.map(number).filter(|len| *len >= ipv4::MIN_HEADER)
    } else if is_plain_ipv6(first) {
        // 0 if the length is told elsewhere, or not at all.
        let len = first.read(PLAIN + ipv6::LENGTH_AT).map(number);
        len.filter(|len| *len > 0).map(|len| len + ipv6::HEADER)
    } else {
        None
    };
    first.len() < SURELY_FULL && behind.is_some_and(|len| PLAIN + len <= first.len())
}

/// Finds the IP header.
///
/// # Errors
///
/// The reason the walk ended: [`Reason::NotIp`] passes, all others drop.
#[inline(always)]
pub fn find_network<F: Frame + ?Sized>(frame: &F) -> Result<Network, Reason> {
    let (mut ether_type, mut at) = strip_tags(frame)?;
    if ether_type == PPPOE_SESSION {
        (ether_type, at) = strip_pppoe(frame, at)?;
    }
    match ether_type {
        IPV4 => Ok(Network::V4 { at }),
        IPV6 => Ok(Network::V6 { at }),
        MPLS | MPLS_UPSTREAM => strip_labels(frame, at),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn is_vlan(ether_type: u16) -> bool {
    matches!(ether_type, VLAN | VLAN_SERVICE | VLAN_QINQ_1 | VLAN_QINQ_2 | VLAN_QINQ_3)
}

/// The EtherType behind all VLAN tags, and the offset behind it. One LLC/SNAP header may stand before, between or
/// behind the tags.
#[inline(always)]
fn strip_tags<F: Frame + ?Sized>(frame: &F) -> Result<(u16, usize), Reason> {
    let mut ether_type = u16::from_be_bytes(frame.read(ETHER_TYPE_AT).ok_or(Reason::ShortLink)?);
    let mut at = ETHER_TYPE_AT + 2;
    let mut tags = 0;
    let mut snap = false;
    for _ in 0..MAX_VLAN_TAGS + 1 {
        if is_vlan(ether_type) {
            if tags == MAX_VLAN_TAGS {
                return Err(Reason::VlanTooDeep);
            }
            let [_, _, high, low] = frame.read(at).ok_or(Reason::ShortLink)?;
            ether_type = u16::from_be_bytes([high, low]);
            at += 4;
            tags += 1;
        } else if ether_type < MIN_ETHER_TYPE && !snap {
            // Encapsulated Ethernet (RFC 1042, or the 802.1H bridge tunnel); other LLC is not IP.
            let Some([0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, high, low]) = frame.read(at) else {
                return Err(Reason::NotIp);
            };
            ether_type = u16::from_be_bytes([high, low]);
            at += 8;
            snap = true;
        } else {
            break;
        }
    }
    if is_vlan(ether_type) { Err(Reason::VlanTooDeep) } else { Ok((ether_type, at)) }
}

/// PPPoE session header (RFC 2516 section 4) and PPP protocol number, as the EtherType that means the same.
#[inline(always)]
fn strip_pppoe<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<(u16, usize), Reason> {
    let protocol_at = at + 6;
    let [first] = frame.read(protocol_at).ok_or(Reason::ShortLink)?;
    // An odd first byte is a compressed, one-byte protocol (RFC 1661 section 6.5); Linux takes it.
    let (protocol, at) = if first & 1 == 1 {
        (u16::from(first), protocol_at + 1)
    } else {
        let bytes = frame.read(protocol_at).ok_or(Reason::ShortLink)?;
        (u16::from_be_bytes(bytes), protocol_at + 2)
    };
    match protocol {
        PPP_IPV4 => Ok((IPV4, at)),
        PPP_IPV6 => Ok((IPV6, at)),
        PPP_MPLS | PPP_MPLS_MULTICAST => Ok((MPLS, at)),
        _ => Err(Reason::NotIp),
    }
}

/// MPLS label stack (RFC 3032); what follows is told by its first nibble, since labels do not say (RFC 4928).
#[inline(always)]
fn strip_labels<F: Frame + ?Sized>(frame: &F, start: usize) -> Result<Network, Reason> {
    let mut at = start;
    for _ in 0..MAX_MPLS_LABELS {
        let [_, _, bottom, _] = frame.read(at).ok_or(Reason::ShortLink)?;
        at += 4;
        if bottom & 1 == 1 {
            let [first] = frame.read(at).ok_or(Reason::ShortLink)?;
            return match first >> 4 {
                4 => Ok(Network::V4 { at }),
                6 => Ok(Network::V6 { at }),
                _ => Err(Reason::NotIp),
            };
        }
    }
    Err(Reason::MplsTooDeep)
}

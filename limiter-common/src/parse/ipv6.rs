//! The IPv6 header and its extension headers (RFC 8200).

use super::{Lengths, MAX_EXTENSION_HEADERS, upper};
use crate::address::Address;
use crate::frame::Frame;
use crate::packet::{Fragment, Packet, Transport};
use crate::reason::Reason;

pub(super) const HEADER: usize = 40;
pub(super) const LENGTH_AT: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Only a neighbour can send this hop limit; a router would have counted it down.
const LINK_HOP_LIMIT: u8 = 255;
/// Router and neighbour solicitation and advertisement, redirect.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;

/// The parts of the header that are judged after the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the header in the frame.
    at: usize,
    /// Payload length in bytes, unchecked.
    payload_len: usize,
    next_header: u8,
}

#[inline(always)]
pub(crate) fn addresses<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<(Packet, Header), Reason> {
    let [version, _, _, _, len0, len1, next_header, hop_limit] =
        frame.read(at).ok_or(Reason::ShortNetwork)?;
    let source: [u8; 16] = frame.read(at + 8).ok_or(Reason::ShortNetwork)?;
    let destination: [u8; 16] = frame.read(at + 24).ok_or(Reason::ShortNetwork)?;
    if version >> 4 != 6 {
        return Err(Reason::IpVersion);
    }
    // A dual-stack socket takes a mapped source for the IPv4 address, past the IPv4 lists; no sender may use one.
    if u128::from_be_bytes(source) >> 32 == 0xffff {
        return Err(Reason::ImpossibleSource);
    }
    let payload_len = usize::from(u16::from_be_bytes([len0, len1]));
    let neighbour = next_header == upper::ICMPV6
        && hop_limit == LINK_HOP_LIMIT
        && payload_len >= upper::ICMP_HEADER
        && payload_len <= frame.len().saturating_sub(at + HEADER)
        && matches!(frame.read(at + HEADER), Some([kind, 0]) if NEIGHBOUR_DISCOVERY.contains(&kind));
    let packet = Packet {
        source: Address::V6(source),
        destination: Address::V6(destination),
        frame_len: frame.len(),
        neighbour,
    };
    Ok((packet, Header { at, payload_len, next_header }))
}

/// Bytes behind the fixed header.
#[inline(always)]
fn payload_len<F: Frame + ?Sized>(frame: &F, header: &Header, lengths: Lengths) -> Result<usize, Reason> {
    // The header lies within the frame: it was read.
    let available = frame.len().wrapping_sub(header.at + HEADER);
    match header.payload_len {
        0 if lengths.super_frames => Ok(available),
        // Zero announces a jumbogram (RFC 2675), which no Ethernet carries; only "nothing follows" is honest.
        0 if header.next_header != NO_NEXT => Err(Reason::IpLength),
        len if len > available => Err(Reason::IpLength),
        len => Ok(len),
    }
}

/// Whether there are no extension headers but ports, as most packets have it.
#[inline(always)]
pub fn is_direct<F: Frame + ?Sized>(frame: &F, at: usize) -> bool {
    frame.read(at + 6).is_some_and(|[next_header]| upper::has_ports(next_header))
}

/// [`transport`] for packets that are [direct](is_direct).
#[inline(always)]
pub(crate) fn direct_transport<F: Frame + ?Sized>(
    frame: &F,
    header: &Header,
    lengths: Lengths,
) -> Result<Transport, Reason> {
    let (at, len) = (header.at + HEADER, payload_len(frame, header, lengths)?);
    let payload = upper::Payload { at, len, fragment: Fragment::Whole };
    upper::ports(frame, payload, header.next_header, lengths)
}

#[inline(always)]
pub(crate) fn transport<F: Frame + ?Sized>(
    frame: &F,
    header: &Header,
    lengths: Lengths,
) -> Result<Transport, Reason> {
    let mut at = header.at + HEADER;
    let end = at + payload_len(frame, header, lengths)?;
    let mut next_header = header.next_header;
    let mut fragment = Fragment::Whole;
    let mut fragment_header = false;
    let mut headers = 0;
    // What the chain ends with is looked at behind the loop: once, and not once for each length of chain.
    loop {
        let len = match next_header {
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING | MOBILITY | HIP | SHIM6 | AUTHENTICATION => {
                let [following, len, kind, _] = frame.read(at).ok_or(Reason::ChainTruncated)?;
                // RFC 4302 section 2.2 counts AH in 4-byte words less 2; all others count 8-byte words less 1.
                let len = if next_header == AUTHENTICATION {
                    (usize::from(len) + 2) * 4
                } else {
                    (usize::from(len) + 1) * 8
                };
                // A header that runs past the packet may have its type from the padding: that is no type.
                if next_header == ROUTING && kind == 0 && at + len <= end {
                    return Err(Reason::RoutingHeader);
                }
                next_header = following;
                len
            }
            FRAGMENT => {
                if fragment_header {
                    return Err(Reason::BadFragment);
                }
                fragment_header = true;
                let [following, _, high, low, ..]: [u8; 8] = frame.read(at).ok_or(Reason::ChainTruncated)?;
                let Some(rest) = end.checked_sub(at + 8) else {
                    return Err(Reason::ChainTruncated);
                };
                let field = u16::from_be_bytes([high, low]);
                fragment = upper::fragment(following, usize::from(field & 0xfff8), field & 1 == 1, rest)?;
                if fragment == Fragment::Later {
                    return Ok(Transport::opaque(following));
                }
                next_header = following;
                8
            }
            _ => break,
        };
        at = frame.forget(at + len);
        if at > end {
            return Err(Reason::ChainTruncated);
        }
        headers += 1;
        if headers > MAX_EXTENSION_HEADERS {
            return Err(Reason::ChainTooLong);
        }
    }
    let payload = upper::Payload { at, len: end - at, fragment };
    match next_header {
        NO_NEXT => Ok(Transport::opaque(NO_NEXT)),
        upper::ICMPV6 => upper::icmpv6(frame, payload, fragment_header),
        protocol => upper::ports(frame, payload, protocol, lengths),
    }
}

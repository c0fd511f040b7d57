//! The IPv4 header (RFC 791).

use super::{Lengths, upper};
use crate::address::Address;
use crate::frame::Frame;
use crate::packet::{Fragment, Packet, Transport};
use crate::reason::Reason;

pub(super) const MIN_HEADER: usize = 20;
pub(super) const LENGTH_AT: usize = 2;
pub(super) const SOURCE_AT: usize = 12;
pub(super) const DESTINATION_AT: usize = 16;
pub(super) const FRAGMENT_AT: usize = 6;
pub(super) const PROTOCOL_AT: usize = 9;
pub(super) const MORE_FRAGMENTS: u16 = 0x2000;
pub(super) const OFFSET: u16 = 0x1fff;

/// The parts of the header that are judged after the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the header in the frame.
    at: usize,
    /// Header length in bytes, unchecked.
    header_len: usize,
    /// Total length in bytes, unchecked.
    total_len: usize,
    /// Flags and fragment offset, as in the header.
    fragment: u16,
    protocol: u8,
}

/// Bytes at an offset in the fixed header.
#[inline(always)]
fn field<F: Frame + ?Sized, const N: usize>(frame: &F, at: usize, offset: usize) -> Result<[u8; N], Reason> {
    frame.field::<MIN_HEADER, N>(at, offset).ok_or(Reason::ShortNetwork)
}

#[inline(always)]
pub(crate) fn addresses<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<(Packet, Header), Reason> {
    let [version] = field(frame, at, 0)?;
    let (len, fragment): ([u8; 2], [u8; 2]) = (field(frame, at, LENGTH_AT)?, field(frame, at, FRAGMENT_AT)?);
    let [protocol] = field(frame, at, PROTOCOL_AT)?;
    let (source, destination): ([u8; 4], [u8; 4]) =
        (field(frame, at, SOURCE_AT)?, field(frame, at, DESTINATION_AT)?);
    if version >> 4 != 4 {
        return Err(Reason::IpVersion);
    }
    let packet = Packet {
        source: Address::V4(source),
        destination: Address::V4(destination),
        frame_len: frame.len(),
        neighbour: false,
    };
    let header = Header {
        at,
        header_len: usize::from(version & 0x0f) * 4,
        total_len: usize::from(u16::from_be_bytes(len)),
        fragment: u16::from_be_bytes(fragment),
        protocol,
    };
    Ok((packet, header))
}

#[inline(always)]
pub(crate) fn transport<F: Frame + ?Sized>(
    frame: &F,
    header: &Header,
    lengths: Lengths,
) -> Result<Transport, Reason> {
    // The header lies within the frame: it was read.
    let available = frame.len().wrapping_sub(header.at);
    let total_len = if header.total_len == 0 && lengths.super_frames { available } else { header.total_len };
    if header.header_len < MIN_HEADER || header.header_len > total_len || total_len > available {
        return Err(Reason::IpLength);
    }
    let payload_len = total_len - header.header_len;
    let offset = usize::from(header.fragment & OFFSET) * 8;
    let more = header.fragment & MORE_FRAGMENTS != 0;
    let fragment = upper::fragment(header.protocol, offset, more, payload_len)?;
    let payload = upper::Payload { at: header.at + header.header_len, len: payload_len, fragment };
    match (fragment, header.protocol) {
        (Fragment::Later, protocol) => Ok(Transport::opaque(protocol)),
        (_, upper::ICMP) => upper::icmp(frame, payload),
        (_, protocol) => upper::ports(frame, payload, protocol, lengths),
    }
}

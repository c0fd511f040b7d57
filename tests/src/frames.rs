//! Frames as a sender outside would make them, addressed to the protected host, and all the ways to wrap them.

use std::net::IpAddr;

use crate::lab::{HOST, OUTSIDE};
use crate::veth::Mac;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Where the EtherType is.
const TYPE_AT: usize = 12;
/// Where the IP header starts in an unwrapped frame.
const IP_AT: usize = 14;

/// Which port is discarded, see [`crate::witness`].
pub const DISCARD: u16 = 9;

/// A UDP datagram to the discard port of the protected host, in a frame of `len` bytes.
pub fn udp(source: IpAddr, len: usize) -> Vec<u8> {
    udp_to(source, DISCARD, len)
}

/// A UDP datagram to `port` of the protected host, in a frame of `len` bytes or as few as possible.
pub fn udp_to(source: IpAddr, port: u16, len: usize) -> Vec<u8> {
    let headers = if source.is_ipv4() { IP_AT + 20 } else { IP_AT + 40 };
    let payload = len.saturating_sub(headers).max(8);
    let mut datagram = Vec::with_capacity(payload);
    datagram.extend_from_slice(&40_000_u16.to_be_bytes());
    datagram.extend_from_slice(&port.to_be_bytes());
    datagram.extend_from_slice(&length(payload).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.resize(payload, 0);
    ip(source, 17, &datagram)
}

/// A packet of whatever `protocol` to the protected host.
pub fn ip(source: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(IP_AT + 40 + payload.len());
    frame.extend_from_slice(&HOST.mac);
    frame.extend_from_slice(&OUTSIDE.mac);
    match source {
        IpAddr::V4(source) => {
            frame.extend_from_slice(&IPV4);
            frame.extend_from_slice(&[0x45, 0]);
            frame.extend_from_slice(&length(20 + payload.len()).to_be_bytes());
            frame.extend_from_slice(&[0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&HOST.v4.octets());
            frame.extend_from_slice(payload);
            checksum(&mut frame);
        }
        IpAddr::V6(source) => {
            frame.extend_from_slice(&IPV6);
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&length(payload.len()).to_be_bytes());
            frame.extend_from_slice(&[protocol, 64]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&HOST.v6.octets());
            frame.extend_from_slice(payload);
        }
    }
    frame
}

/// The same frame from another hardware address.
pub fn sent_by(mut frame: Vec<u8>, sender: Mac) -> Vec<u8> {
    frame[6..12].copy_from_slice(&sender);
    frame
}

/// Overwrites the source address of an unwrapped frame; the family must be that of the frame.
pub fn set_source(frame: &mut [u8], source: IpAddr) {
    match source {
        IpAddr::V4(source) => {
            frame[IP_AT + 12..IP_AT + 16].copy_from_slice(&source.octets());
            checksum(frame);
        }
        IpAddr::V6(source) => frame[IP_AT + 8..IP_AT + 24].copy_from_slice(&source.octets()),
    }
}

/// Tags the frame: `tags` are EtherType and tag control information, outermost first.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, control) in tags {
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&control.to_be_bytes());
    }
    wrapped(frame, &bytes)
}

/// `count` priority tags, which Linux strips without a VLAN device.
pub fn priority_tagged(frame: &[u8], count: usize) -> Vec<u8> {
    tagged(frame, &vec![(0x8100, 0x2000); count])
}

/// In 802.3 with LLC and SNAP headers (RFC 1042).
pub fn snap(frame: &[u8]) -> Vec<u8> {
    let mut header = length(frame.len() - TYPE_AT + 6).to_be_bytes().to_vec();
    header.extend_from_slice(&[0xaa, 0xaa, 0x03, 0, 0, 0]);
    wrapped(frame, &header)
}

/// In a PPPoE session (RFC 2516).
pub fn pppoe(frame: &[u8]) -> Vec<u8> {
    let packet = &frame[IP_AT..];
    let protocol: u16 = if frame[TYPE_AT..IP_AT] == IPV4 { 0x0021 } else { 0x0057 };
    let mut header = vec![0x88, 0x64, 0x11, 0, 0, 1];
    header.extend_from_slice(&length(packet.len() + 2).to_be_bytes());
    header.extend_from_slice(&protocol.to_be_bytes());
    [&frame[..TYPE_AT], &header, packet].concat()
}

/// Behind `labels` MPLS labels (RFC 3032).
pub fn mpls(frame: &[u8], labels: usize) -> Vec<u8> {
    let mut header = vec![0x88, 0x47];
    for left in (0..labels).rev() {
        header.extend_from_slice(&[0, 0x01, u8::from(left == 0), 64]);
    }
    [&frame[..TYPE_AT], &header, &frame[IP_AT..]].concat()
}

/// Cut into fragments of at most `payload` bytes, a multiple of 8.
pub fn fragments(frame: &[u8], payload: usize) -> Vec<Vec<u8>> {
    let v4 = frame[TYPE_AT..IP_AT] == IPV4;
    let body_at = if v4 { IP_AT + 20 } else { IP_AT + 40 };
    let body = &frame[body_at..];
    let count = body.len().div_ceil(payload);
    body.chunks(payload)
        .enumerate()
        .map(|(number, part)| {
            let offset = length(number * payload);
            let more = number + 1 < count;
            let mut fragment = frame[..body_at].to_vec();
            if v4 {
                fragment.extend_from_slice(part);
                let field = (offset / 8) | (u16::from(more) << 13);
                fragment[IP_AT + 6..IP_AT + 8].copy_from_slice(&field.to_be_bytes());
                let total = length(20 + part.len());
                fragment[IP_AT + 2..IP_AT + 4].copy_from_slice(&total.to_be_bytes());
                checksum(&mut fragment);
            } else {
                let field = offset | u16::from(more);
                fragment.extend_from_slice(&[frame[IP_AT + 6], 0]);
                fragment.extend_from_slice(&field.to_be_bytes());
                fragment.extend_from_slice(&[0, 0, 0, 7]);
                fragment.extend_from_slice(part);
                fragment[IP_AT + 6] = 44;
                let total = length(8 + part.len());
                fragment[IP_AT + 4..IP_AT + 6].copy_from_slice(&total.to_be_bytes());
            }
            fragment
        })
        .collect()
}

/// With IPv6 extension headers of these numbers, each 8 bytes (the authentication header 16) and without meaning.
pub fn extended(frame: &[u8], headers: &[u8]) -> Vec<u8> {
    let mut chain = Vec::new();
    let mut following = headers.iter().copied().skip(1).chain([frame[IP_AT + 6]]);
    for header in headers {
        let next = following.next().unwrap_or(59);
        match header {
            51 => chain.extend_from_slice(&[next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
            // An atomic fragment.
            44 => chain.extend_from_slice(&[next, 0, 0, 0, 0, 0, 0, 9]),
            // A segment routing header without segments left is routing type 4.
            43 => chain.extend_from_slice(&[next, 0, 4, 0, 0, 0, 0, 0]),
            // PadN over the rest.
            _ => chain.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    let mut extended = [&frame[..IP_AT + 40], &chain, &frame[IP_AT + 40..]].concat();
    if let Some(first) = headers.first() {
        extended[IP_AT + 6] = *first;
    }
    let total = length(extended.len() - IP_AT - 40);
    extended[IP_AT + 4..IP_AT + 6].copy_from_slice(&total.to_be_bytes());
    extended
}

/// With `words` of IPv4 options, all "no operation".
pub fn with_options(frame: &[u8], words: u8) -> Vec<u8> {
    let options = vec![1; usize::from(words) * 4];
    let mut frame = [&frame[..IP_AT + 20], &options, &frame[IP_AT + 20..]].concat();
    frame[IP_AT] = 0x45 + words;
    let total = length(frame.len() - IP_AT);
    frame[IP_AT + 2..IP_AT + 4].copy_from_slice(&total.to_be_bytes());
    checksum(&mut frame);
    frame
}

/// Inserts `bytes` in front of the EtherType.
fn wrapped(frame: &[u8], bytes: &[u8]) -> Vec<u8> {
    [&frame[..TYPE_AT], bytes, &frame[TYPE_AT..]].concat()
}

/// Makes the IPv4 header checksum right.
pub fn checksum(frame: &mut [u8]) {
    let len = usize::from(frame[IP_AT] & 0x0f) * 4;
    let Some(header) = frame.get_mut(IP_AT..IP_AT + len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let words = header.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    // One's complement: what overflows is added again.
    let sum = words.fold(0_u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    });
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
}

/// Lengths in headers have 16 bits.
fn length(len: usize) -> u16 {
    u16::try_from(len).expect("frames here are far shorter than 64 KiB")
}

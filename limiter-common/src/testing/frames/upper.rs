//! What IP carries.

use super::{Header, Written, ether_type, length, protocol, transport_checksum};

/// The TCP header (RFC 9293).
#[derive(Debug, Clone)]
pub struct Tcp {
    pub source: u16,
    pub destination: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    /// In words of 4 bytes; by default the true one.
    pub data_offset: Option<u8>,
    pub flags: u8,
    pub window: u16,
    /// By default the true one.
    pub checksum: Option<u16>,
    pub urgent: u16,
    /// Filled up with zeros to a multiple of 4 bytes.
    pub options: Vec<u8>,
}

impl Tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            source: 40_000,
            destination: 80,
            sequence: 1,
            acknowledgment: 0,
            data_offset: None,
            flags: Self::SYN,
            window: 65_535,
            checksum: None,
            urgent: 0,
            options: Vec::new(),
        }
    }
}

impl Header for Tcp {
    fn write(&self, inner: &Written) -> Written {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let words = u8::try_from(5 + options.len() / 4).expect("options have at most 40 bytes");
        let header = [
            &self.source.to_be_bytes()[..],
            &self.destination.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.acknowledgment.to_be_bytes(),
            &[self.data_offset.unwrap_or(words) << 4, self.flags],
            &self.window.to_be_bytes(),
            &[0, 0],
            &self.urgent.to_be_bytes(),
            &options,
        ]
        .concat();
        checked(&header, inner, protocol::TCP, 16, self.checksum)
    }
}

/// The UDP header.
#[derive(Debug, Clone)]
pub struct Udp {
    pub source: u16,
    pub destination: u16,
    /// By default the true one.
    pub length: Option<u16>,
    /// By default the true one.
    pub checksum: Option<u16>,
}

impl Default for Udp {
    fn default() -> Self {
        Self { source: 40_000, destination: 9, length: None, checksum: None }
    }
}

impl Header for Udp {
    fn write(&self, inner: &Written) -> Written {
        let len = self.length.unwrap_or_else(|| length(8 + inner.bytes.len()));
        let header = [self.source, self.destination, len, 0].map(u16::to_be_bytes).concat();
        let mut written = checked(&header, inner, protocol::UDP, 6, self.checksum);
        // A true checksum of zero is sent as its complement, since zero means none (RFC 768).
        if self.checksum.is_none() && written.bytes[6..8] == [0, 0] {
            written.bytes[6..8].copy_from_slice(&[0xff, 0xff]);
        }
        written
    }
}

/// An ICMP message (RFC 792); an echo request by default.
#[derive(Debug, Clone)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub rest: [u8; 4],
    /// By default the true one.
    pub checksum: Option<u16>,
}

impl Default for Icmp {
    fn default() -> Self {
        Self { kind: 8, code: 0, rest: [0, 1, 0, 1], checksum: None }
    }
}

impl Header for Icmp {
    fn write(&self, inner: &Written) -> Written {
        let header = [&[self.kind, self.code, 0, 0], &self.rest[..]].concat();
        let bytes = inner.behind(&header);
        let sum = self.checksum.unwrap_or_else(|| super::checksum(&[&bytes]));
        finished(bytes, protocol::ICMP, 2, sum)
    }
}

/// An ICMPv6 message (RFC 4443); an echo request by default. The body of neighbour discovery follows as [`Bytes`].
#[derive(Debug, Clone)]
pub struct Icmpv6 {
    pub kind: u8,
    pub code: u8,
    pub rest: [u8; 4],
    /// By default the true one.
    pub checksum: Option<u16>,
}

impl Default for Icmpv6 {
    fn default() -> Self {
        Self { kind: 128, code: 0, rest: [0, 1, 0, 1], checksum: None }
    }
}

impl Header for Icmpv6 {
    fn write(&self, inner: &Written) -> Written {
        let header = [&[self.kind, self.code, 0, 0], &self.rest[..]].concat();
        checked(&header, inner, protocol::ICMPV6, 2, self.checksum)
    }
}

/// The common header of SCTP (RFC 9260); chunks follow as [`Bytes`].
#[derive(Debug, Clone)]
pub struct Sctp {
    pub source: u16,
    pub destination: u16,
    pub tag: u32,
    /// By default the true one.
    pub checksum: Option<u32>,
}

impl Default for Sctp {
    fn default() -> Self {
        Self { source: 40_000, destination: 9899, tag: 1, checksum: None }
    }
}

impl Header for Sctp {
    fn write(&self, inner: &Written) -> Written {
        let ports = [self.source, self.destination].map(u16::to_be_bytes).concat();
        let mut bytes = inner.behind(&[&ports, &self.tag.to_be_bytes()[..], &[0; 4]].concat());
        let sum = self.checksum.unwrap_or_else(|| crc32c(&bytes));
        // The one little-endian field on the wire (RFC 9260 appendix A).
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        Written { bytes, protocol: Some(protocol::SCTP), ..Written::default() }
    }
}

/// A GRE header (RFC 2784).
#[derive(Debug, Clone, Default)]
pub struct Gre {
    /// Flags and version.
    pub flags: u16,
    /// By default what follows.
    pub ether_type: Option<u16>,
    /// What the flags announce: checksum, key, sequence number.
    pub optional: Vec<u8>,
}

impl Header for Gre {
    fn write(&self, inner: &Written) -> Written {
        let ether_type = self.ether_type.or(inner.ether_type).unwrap_or(ether_type::IPV4);
        let header = [&self.flags.to_be_bytes(), &ether_type.to_be_bytes(), &self.optional[..]].concat();
        Written { bytes: inner.behind(&header), protocol: Some(protocol::GRE), ..Written::default() }
    }
}

/// Bytes as they are: a payload, or a header that has no type here.
#[derive(Debug, Clone, Default)]
pub struct Bytes {
    /// The IP protocol that they claim to be.
    pub protocol: Option<u8>,
    /// The EtherType that they claim to be.
    pub ether_type: Option<u16>,
    pub bytes: Vec<u8>,
}

impl Bytes {
    /// Bytes that an IP header announces as `protocol`.
    #[must_use]
    pub fn of(protocol: u8, bytes: impl Into<Vec<u8>>) -> Self {
        Self { protocol: Some(protocol), ether_type: None, bytes: bytes.into() }
    }

    /// Bytes that a link header announces as `ether_type`.
    #[must_use]
    pub fn link(ether_type: u16, bytes: impl Into<Vec<u8>>) -> Self {
        Self { protocol: None, ether_type: Some(ether_type), bytes: bytes.into() }
    }
}

impl<T: Into<Vec<u8>>> From<T> for Bytes {
    fn from(bytes: T) -> Self {
        Self { protocol: None, ether_type: None, bytes: bytes.into() }
    }
}

impl Header for Bytes {
    fn write(&self, inner: &Written) -> Written {
        Written {
            bytes: inner.behind(&self.bytes),
            protocol: self.protocol,
            ether_type: self.ether_type,
            ..Written::default()
        }
    }
}

/// `header` and what is behind it, with the checksum of the pseudo-header and all of it at offset `at`.
fn checked(header: &[u8], inner: &Written, protocol: u8, at: usize, overridden: Option<u16>) -> Written {
    let bytes = inner.behind(header);
    let sum = overridden.unwrap_or_else(|| transport_checksum(inner.endpoints, protocol, &bytes));
    finished(bytes, protocol, at, sum)
}

fn finished(mut bytes: Vec<u8>, protocol: u8, at: usize, sum: u16) -> Written {
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Written { bytes, protocol: Some(protocol), ..Written::default() }
}

/// CRC-32C (RFC 9260 appendix A), bit by bit.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

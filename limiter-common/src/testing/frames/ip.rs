//! IPv4, IPv6 and the extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    DESTINATION_V4, DESTINATION_V6, Header, SOURCE_V4, SOURCE_V6, Written, checksum, ether_type, length,
    protocol,
};

/// The IPv4 header.
#[derive(Debug, Clone)]
pub struct Ipv4 {
    pub version: u8,
    /// In words of 4 bytes; by default the true one.
    pub header_len: Option<u8>,
    pub service: u8,
    /// By default the header and everything behind it.
    pub total_len: Option<u16>,
    pub id: u16,
    /// The flag that must be 0.
    pub reserved: bool,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// In units of 8 bytes.
    pub fragment_offset: u16,
    pub ttl: u8,
    /// By default what follows; 255 if that has no number.
    pub protocol: Option<u8>,
    /// By default the true one.
    pub checksum: Option<u16>,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// Filled up with zeros to a multiple of 4 bytes.
    pub options: Vec<u8>,
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self {
            version: 4,
            header_len: None,
            service: 0,
            total_len: None,
            id: 1,
            reserved: false,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: None,
            checksum: None,
            source: SOURCE_V4,
            destination: DESTINATION_V4,
            options: Vec::new(),
        }
    }
}

impl Header for Ipv4 {
    fn write(&self, inner: &Written) -> Written {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let words = u8::try_from(5 + options.len() / 4).expect("options have at most 40 bytes");
        let header_len = self.header_len.unwrap_or(words);
        let total_len = self.total_len.unwrap_or_else(|| length(20 + options.len() + inner.bytes.len()));
        let fragment = u16::from(self.reserved) << 15
            | u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment_offset;
        let protocol = self.protocol.or(inner.protocol).unwrap_or(255);
        let mut header = [
            &[self.version << 4 | header_len & 0xf, self.service][..],
            &total_len.to_be_bytes(),
            &self.id.to_be_bytes(),
            &fragment.to_be_bytes(),
            &[self.ttl, protocol, 0, 0],
            &self.source.octets(),
            &self.destination.octets(),
            &options,
        ]
        .concat();
        let sum = self.checksum.unwrap_or_else(|| checksum(&[&header]));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        Written {
            bytes: inner.behind(&header),
            ether_type: Some(ether_type::IPV4),
            protocol: Some(protocol::IPIP),
            ..Written::default()
        }
    }

    fn endpoints(&self) -> Option<(IpAddr, IpAddr)> {
        Some((self.source.into(), self.destination.into()))
    }
}

/// The IPv6 header.
#[derive(Debug, Clone)]
pub struct Ipv6 {
    pub version: u8,
    pub traffic_class: u8,
    pub flow_label: u32,
    /// By default everything behind the header.
    pub payload_len: Option<u16>,
    /// By default what follows; 59, no next header, if that has no number.
    pub next_header: Option<u8>,
    pub hop_limit: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self {
            version: 6,
            traffic_class: 0,
            flow_label: 0,
            payload_len: None,
            next_header: None,
            hop_limit: 64,
            source: SOURCE_V6,
            destination: DESTINATION_V6,
        }
    }
}

impl Header for Ipv6 {
    fn write(&self, inner: &Written) -> Written {
        let first =
            u32::from(self.version) << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        let payload_len = self.payload_len.unwrap_or_else(|| length(inner.bytes.len()));
        let next_header = self.next_header.or(inner.protocol).unwrap_or(protocol::NO_NEXT);
        let header = [
            &first.to_be_bytes()[..],
            &payload_len.to_be_bytes(),
            &[next_header, self.hop_limit],
            &self.source.octets(),
            &self.destination.octets(),
        ]
        .concat();
        Written {
            bytes: inner.behind(&header),
            ether_type: Some(ether_type::IPV6),
            protocol: Some(protocol::IPV6),
            ..Written::default()
        }
    }

    fn endpoints(&self) -> Option<(IpAddr, IpAddr)> {
        Some((self.source.into(), self.destination.into()))
    }
}

/// An IPv6 extension header of any kind: next header, a length byte, and a body. AH may follow IPv4 too.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The protocol number that announces this header.
    pub kind: u8,
    /// By default what follows; 59 if that has no number.
    pub next_header: Option<u8>,
    /// The length byte; by default the true length in the header's own unit, 0 in a fragment header.
    pub len: Option<u8>,
    /// The bytes behind the first two.
    pub body: Vec<u8>,
}

impl Extension {
    /// A header of `kind` with `body`.
    #[must_use]
    pub fn new(kind: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { kind, next_header: None, len: None, body: body.into() }
    }

    /// Six bytes of padding (a PadN option).
    #[must_use]
    pub fn hop_by_hop() -> Self {
        Self::new(protocol::HOP_BY_HOP, [1, 4, 0, 0, 0, 0])
    }

    /// Six bytes of padding.
    #[must_use]
    pub fn destination_options() -> Self {
        Self::new(protocol::DESTINATION_OPTIONS, [1, 4, 0, 0, 0, 0])
    }

    /// A routing header of `kind` with no segments left and no addresses.
    #[must_use]
    pub fn routing(kind: u8) -> Self {
        Self::new(protocol::ROUTING, [kind, 0, 0, 0, 0, 0])
    }

    /// An authentication header with 12 bytes of integrity check: 24 bytes, where the common rule reads 40.
    #[must_use]
    pub fn authentication() -> Self {
        let mut body = vec![0; 22];
        body[2..10].copy_from_slice(&[0, 0, 1, 0, 0, 0, 0, 1]);
        Self::new(protocol::AUTHENTICATION, body)
    }

    /// A fragment header; `offset` in units of 8 bytes.
    #[must_use]
    pub fn fragment(offset: u16, more: bool, id: u32) -> Self {
        let field = offset << 3 | u16::from(more);
        Self::new(protocol::FRAGMENT, [&field.to_be_bytes()[..], &id.to_be_bytes()].concat())
    }

    /// A harmless header of this kind, for chains.
    #[must_use]
    pub fn harmless(kind: u8) -> Self {
        match kind {
            protocol::AUTHENTICATION => Self::authentication(),
            protocol::FRAGMENT => Self::fragment(0, false, 1),
            protocol::ROUTING => Self::routing(3),
            _ => Self::new(kind, [1, 4, 0, 0, 0, 0]),
        }
    }
}

impl Header for Extension {
    fn write(&self, inner: &Written) -> Written {
        let next_header = self.next_header.or(inner.protocol).unwrap_or(protocol::NO_NEXT);
        let size = self.body.len() + 2;
        let len = self.len.unwrap_or_else(|| match self.kind {
            protocol::FRAGMENT => 0,
            protocol::AUTHENTICATION => words_behind(size, 4, 2),
            _ => words_behind(size, 8, 1),
        });
        let header = [&[next_header, len], &self.body[..]].concat();
        Written { bytes: inner.behind(&header), protocol: Some(self.kind), ..Written::default() }
    }
}

/// The size in words, of which the first few do not count.
fn words_behind(size: usize, word: usize, uncounted: usize) -> u8 {
    u8::try_from((size / word).saturating_sub(uncounted)).expect("an extension header has at most 2 KiB")
}

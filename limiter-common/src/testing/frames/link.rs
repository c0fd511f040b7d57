//! Ethernet and what may stand between it and IP.

use std::net::Ipv4Addr;

use super::{DESTINATION_V4, Header, SOURCE_V4, Written, ether_type, length};

/// The Ethernet header.
#[derive(Debug, Clone)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    /// By default what follows; 0 if that has no number.
    pub ether_type: Option<u16>,
}

impl Default for Ethernet {
    fn default() -> Self {
        Self { destination: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2], ether_type: None }
    }
}

impl Header for Ethernet {
    fn write(&self, inner: &Written) -> Written {
        let ether_type = self.ether_type.or(inner.ether_type).unwrap_or(0);
        let header = [&self.destination[..], &self.source, &ether_type.to_be_bytes()].concat();
        Written { bytes: inner.behind(&header), ether_type: Some(ether_type::BRIDGED), ..Written::default() }
    }
}

/// An IEEE 802.1Q tag.
#[derive(Debug, Clone)]
pub struct Vlan {
    /// The EtherType that announces this tag.
    pub tag_protocol: u16,
    /// 0 is a priority tag.
    pub id: u16,
    pub priority: u8,
    /// By default what follows.
    pub ether_type: Option<u16>,
}

impl Default for Vlan {
    fn default() -> Self {
        Self { tag_protocol: ether_type::VLAN, id: 100, priority: 0, ether_type: None }
    }
}

impl Header for Vlan {
    fn write(&self, inner: &Written) -> Written {
        let control = u16::from(self.priority) << 13 | self.id;
        let ether_type = self.ether_type.or(inner.ether_type).unwrap_or(0);
        let header = [control.to_be_bytes(), ether_type.to_be_bytes()].concat();
        Written { bytes: inner.behind(&header), ether_type: Some(self.tag_protocol), ..Written::default() }
    }
}

/// An IEEE 802.2 header; the field in front of it is a length.
#[derive(Debug, Clone)]
pub struct Llc {
    pub destination: u8,
    pub source: u8,
    pub control: u8,
    /// By default the true one.
    pub length: Option<u16>,
}

/// Spanning tree.
impl Default for Llc {
    fn default() -> Self {
        Self { destination: 0x42, source: 0x42, control: 3, length: None }
    }
}

impl Header for Llc {
    fn write(&self, inner: &Written) -> Written {
        let bytes = inner.behind(&[self.destination, self.source, self.control]);
        let len = self.length.unwrap_or_else(|| length(bytes.len()));
        Written { bytes, ether_type: Some(len), ..Written::default() }
    }
}

/// LLC and SNAP: an EtherType inside 802.3 (RFC 1042).
#[derive(Debug, Clone, Default)]
pub struct Snap {
    pub organisation: [u8; 3],
    /// By default what follows.
    pub ether_type: Option<u16>,
    /// By default the true one.
    pub length: Option<u16>,
}

impl Header for Snap {
    fn write(&self, inner: &Written) -> Written {
        let ether_type = self.ether_type.or(inner.ether_type).unwrap_or(0);
        let header = [&[0xaa, 0xaa, 3], &self.organisation[..], &ether_type.to_be_bytes()].concat();
        let bytes = inner.behind(&header);
        let len = self.length.unwrap_or_else(|| length(bytes.len()));
        Written { bytes, ether_type: Some(len), ..Written::default() }
    }
}

/// A PPPoE session header with the PPP protocol (RFC 2516).
#[derive(Debug, Clone, Default)]
pub struct Pppoe {
    pub session: u16,
    /// By default the true one, PPP protocol included.
    pub length: Option<u16>,
    /// By default the PPP number of what follows.
    pub protocol: Option<u16>,
    /// Writes the protocol in one byte (RFC 1661 section 6.5).
    pub compressed: bool,
}

impl Header for Pppoe {
    fn write(&self, inner: &Written) -> Written {
        let protocol = self.protocol.unwrap_or(match inner.ether_type {
            Some(ether_type::IPV4) => 0x0021,
            Some(ether_type::IPV6) => 0x0057,
            Some(ether_type::MPLS) => 0x0281,
            Some(ether_type::MPLS_UPSTREAM) => 0x0283,
            Some(_) | None => 0,
        });
        let [high, low] = protocol.to_be_bytes();
        let protocol = if self.compressed { vec![low] } else { vec![high, low] };
        let len = self.length.unwrap_or_else(|| length(protocol.len() + inner.bytes.len()));
        let header = [&[0x11, 0], &self.session.to_be_bytes()[..], &len.to_be_bytes(), &protocol].concat();
        let ether_type = Some(ether_type::PPPOE_SESSION);
        Written { bytes: inner.behind(&header), ether_type, ..Written::default() }
    }
}

/// One label of an MPLS stack (RFC 3032).
#[derive(Debug, Clone)]
pub struct Mpls {
    pub label: u32,
    pub ttl: u8,
    /// By default whether no label follows.
    pub bottom: Option<bool>,
    /// [`ether_type::MPLS`] or [`ether_type::MPLS_UPSTREAM`].
    pub ether_type: u16,
}

impl Default for Mpls {
    fn default() -> Self {
        Self { label: 16, ttl: 64, bottom: None, ether_type: ether_type::MPLS }
    }
}

impl Header for Mpls {
    fn write(&self, inner: &Written) -> Written {
        let labels_follow = matches!(inner.ether_type, Some(ether_type::MPLS | ether_type::MPLS_UPSTREAM));
        let bottom = self.bottom.unwrap_or(!labels_follow);
        let entry = self.label << 12 | u32::from(bottom) << 8 | u32::from(self.ttl);
        let bytes = inner.behind(&entry.to_be_bytes());
        Written { bytes, ether_type: Some(self.ether_type), protocol: Some(137), ..Written::default() }
    }
}

/// An ARP message for IPv4 over Ethernet (RFC 826).
#[derive(Debug, Clone)]
pub struct Arp {
    /// 1 asks, 2 answers.
    pub operation: u16,
    pub sender: ([u8; 6], Ipv4Addr),
    pub target: ([u8; 6], Ipv4Addr),
}

impl Default for Arp {
    fn default() -> Self {
        Self { operation: 1, sender: ([2, 0, 0, 0, 0, 2], SOURCE_V4), target: ([0; 6], DESTINATION_V4) }
    }
}

impl Header for Arp {
    fn write(&self, inner: &Written) -> Written {
        let message = [
            &[0, 1, 8, 0, 6, 4][..],
            &self.operation.to_be_bytes(),
            &self.sender.0,
            &self.sender.1.octets(),
            &self.target.0,
            &self.target.1.octets(),
        ]
        .concat();
        Written { bytes: inner.behind(&message), ether_type: Some(ether_type::ARP), ..Written::default() }
    }
}

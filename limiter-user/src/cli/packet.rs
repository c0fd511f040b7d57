//! `PROTO/PORT` on the command line: what kind of packet `explain` is asked about.

use std::fmt;
use std::str::FromStr;

/// An IP protocol and, if it has ports, a destination port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketKind {
    pub protocol: u8,
    pub port: Option<u16>,
}

/// Protocols that have a name here, and whether they have ports (IANA "Assigned Internet Protocol Numbers").
const PROTOCOLS: [(&str, u8, bool); 8] = [
    ("icmp", 1, false),
    ("tcp", 6, true),
    ("udp", 17, true),
    ("gre", 47, false),
    ("esp", 50, false),
    ("icmpv6", 58, false),
    ("sctp", 132, true),
    ("udplite", 136, false),
];

/// Why a text is not a [`PacketKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidPacketKind {
    Protocol,
    Port,
    NoPorts,
}

impl fmt::Display for InvalidPacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => {
                "the protocol is not tcp, udp, sctp, icmp, icmpv6, gre, esp, udplite or 0 to 255"
            }
            Self::Port => "the port is not a number from 0 to 65535",
            Self::NoPorts => "only tcp, udp and sctp have ports that limiter reads",
        })
    }
}

impl std::error::Error for InvalidPacketKind {}

impl FromStr for PacketKind {
    type Err = InvalidPacketKind;

    fn from_str(text: &str) -> Result<Self, InvalidPacketKind> {
        let (name, port) = match text.split_once('/') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let protocol = match PROTOCOLS.iter().find(|known| known.0.eq_ignore_ascii_case(name)) {
            Some(known) => known.1,
            None => name.parse().or(Err(InvalidPacketKind::Protocol))?,
        };
        let port = port.map(|port| port.parse().or(Err(InvalidPacketKind::Port))).transpose()?;
        let has_ports = PROTOCOLS.iter().any(|known| known.1 == protocol && known.2);
        if port.is_some() && !has_ports {
            Err(InvalidPacketKind::NoPorts)
        } else {
            Ok(Self { protocol, port })
        }
    }
}

/// `udp/53`, `icmp`, `89`.
impl fmt::Display for PacketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|known| known.1 == self.protocol) {
            Some(known) => f.write_str(known.0)?,
            None => write!(f, "{}", self.protocol)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, "/{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let kind = |protocol, port| Ok(PacketKind { protocol, port });
        for (text, expected) in [
            ("udp/53", kind(17, Some(53))),
            ("TCP", kind(6, None)),
            ("17/53", kind(17, Some(53))),
            ("89", kind(89, None)),
            ("icmpv6", kind(58, None)),
            ("icmp/8", Err(InvalidPacketKind::NoPorts)),
            ("udp/", Err(InvalidPacketKind::Port)),
            ("udp/65536", Err(InvalidPacketKind::Port)),
            ("256", Err(InvalidPacketKind::Protocol)),
            ("", Err(InvalidPacketKind::Protocol)),
        ] {
            assert_eq!(text.parse::<PacketKind>(), expected, "{text:?}");
        }
        assert_eq!(PacketKind { protocol: 17, port: Some(53) }.to_string(), "udp/53");
        assert_eq!(PacketKind { protocol: 89, port: None }.to_string(), "89");
    }
}

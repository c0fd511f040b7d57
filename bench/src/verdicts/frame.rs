//! The packets: the shortest of their kind, to a host in a network for documentation. The source comes later.

use std::net::{Ipv4Addr, Ipv6Addr};

use limiter_common::frame;
use limiter_common::testing::frames::{Bytes, Ipv4, Ipv6, Udp, default};

/// Without its checksum of 4 bytes, the shortest frame that Ethernet takes.
const SHORTEST: usize = 60;

/// A UDP datagram over IPv4 or IPv6.
pub(super) fn udp(family: Family) -> Vec<u8> {
    let payload = |headers: usize| Bytes::from(vec![0; SHORTEST.saturating_sub(14 + headers + 8)]);
    match family {
        Family::V4 => {
            let destination = Ipv4Addr::new(192, 0, 2, 1);
            frame![Ipv4 { destination, ..default() }, Udp::default(), payload(20)]
        }
        Family::V6 => {
            let destination = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            frame![Ipv6 { destination, ..default() }, Udp::default(), payload(40)]
        }
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

//! The few sets of lists and limits that the vectors are judged with.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{NOW, UNIT};
use crate::abi::{Entry, Limits, MAX_SERVICES, POLICY_ALL, POLICY_PATH_MTU, POLICY_SERVICES, Service};
use crate::gcra::Quota;
use crate::slots::Policy;
use crate::testing::frames::protocol;
use crate::testing::tables::{Installed, MemoryTables};
use crate::{Nanos, Prefix};

/// Sources that [`TableSet::Listed`] and [`TableSet::SuperFrames`] block, alone and within a prefix.
pub const BLOCKED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
pub const BLOCKED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x66);
pub const BLOCKED_IN_PREFIX_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 7);
pub const BLOCKED_IN_PREFIX_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc1d, 1, 2, 3, 4, 5);
/// A neighbour, a gateway say, that is listed too.
pub const BLOCKED_NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbad);
/// Sources on the allow list.
pub const ALLOWED_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
pub const ALLOWED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1);

/// Ports of [`TableSet::Limited`] that admit one packet a second, so that the second packet at one moment tells
/// whether the rule saw the port.
pub const ONE_PER_SECOND: u16 = 8081;
/// A UDP port with a bit rate: 8 kbit/s with a burst of 100 bytes.
pub const SLOW_PORT: u16 = 9000;
/// The protocol that is limited to one packet a second whatever the port.
pub const ONE_PER_SECOND_PROTOCOL: u8 = protocol::GRE;
/// Packets that each source may send at once in [`TableSet::Limited`], and a second.
pub const BURST: usize = 20;
/// Path MTU messages that each source may send at once.
pub const PATH_MTU_BURST: usize = 3;

/// What the tables hold. One loaded program and one filling of the maps serves all vectors of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableSet {
    /// Nothing at all.
    Empty,
    /// Lists of every kind, no limits.
    Listed,
    /// The same lists, on an interface in generic mode.
    SuperFrames,
    /// Everything is blocked, but for one allowed prefix in each family.
    BlockAll,
    /// Everything is allowed, and one prefix in each family is blocked as well.
    AllowAll,
    /// A few blocked sources, and limits.
    Limited,
}

impl TableSet {
    pub const ALL: &[Self] =
        &[Self::Empty, Self::Listed, Self::SuperFrames, Self::BlockAll, Self::AllowAll, Self::Limited];

    /// What was listed, in no order: hosts and prefixes, each with its own deadlines only. [`TableSet::installed`] is
    /// what the maps hold.
    #[must_use]
    pub fn lists(self) -> Vec<(Prefix, Entry)> {
        match self {
            Self::Empty => Vec::new(),
            Self::Listed | Self::SuperFrames => listed(),
            Self::BlockAll => {
                vec![block("0.0.0.0/0"), block("::/0"), allow("10.0.0.0/8"), allow("2001:db8::/32")]
            }
            Self::AllowAll => vec![
                allow("0.0.0.0/0"),
                allow("::/0"),
                block("10.0.0.0/8"),
                block("2001:db8::/32"),
                block("192.0.2.66"),
            ],
            Self::Limited => vec![
                block("192.0.2.66"),
                block("198.18.0.0/15"),
                block("2001:db8:bad::66"),
                block("2001:db8:c1d::/48"),
                allow("10.1.2.3"),
            ],
        }
    }

    /// The contents of the list maps.
    #[must_use]
    pub fn installed(self) -> Installed {
        Installed::from_lists(&self.lists())
    }

    /// The limits; [`Limits::NONE`] if the set has none.
    #[must_use]
    pub fn limits(self) -> Limits {
        match self {
            Self::Empty | Self::Listed | Self::SuperFrames | Self::BlockAll | Self::AllowAll => Limits::NONE,
            Self::Limited => limited(),
        }
    }

    /// See [`crate::parse::Lengths::super_frames`].
    #[must_use]
    pub const fn super_frames(self) -> bool {
        matches!(self, Self::SuperFrames)
    }

    /// These tables in memory, with fresh rate state.
    #[must_use]
    pub fn in_memory(self) -> MemoryTables {
        MemoryTables::new(&self.lists(), self.limits(), self.super_frames())
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn block(text: &str) -> (Prefix, Entry) {
    block_until(text, Nanos::NEVER)
}

fn block_until(text: &str, until: Nanos) -> (Prefix, Entry) {
    (prefix(text), Entry { block_until: until.0, allow_until: 0 })
}

fn allow(text: &str) -> (Prefix, Entry) {
    allow_until(text, Nanos::NEVER)
}

fn allow_until(text: &str, until: Nanos) -> (Prefix, Entry) {
    (prefix(text), Entry { block_until: 0, allow_until: until.0 })
}

/// The moments around [`NOW`]: just past, just reached, just ahead.
pub(super) const fn around_now() -> [Nanos; 3] {
    [Nanos(NOW.0 - UNIT), NOW, Nanos(NOW.0 + UNIT)]
}

fn listed() -> Vec<(Prefix, Entry)> {
    let mut lists = vec![
        block("192.0.2.66"),
        block("2001:db8:bad::66"),
        block("fe80::bad"),
        block("198.18.0.0/15"),
        block("2001:db8:c1d::/48"),
        // Lengths that end within a byte, and the longest that is no host.
        block("192.0.2.128/31"),
        block("172.32.64.0/19"),
        block("2001:db8:a000::/35"),
        block("2001:db8:7:fff8::/61"),
        block("2001:db8:7::fffe/127"),
        // Sources that are impossible besides.
        block("127.6.6.6"),
        block("240.6.6.6"),
        // Feeds list these; they must not make a mapped or embedded source special.
        block("169.254.6.6"),
        // Narrow allow in wide block, and the other way round.
        block("10.0.0.0/8"),
        allow("10.1.2.3"),
        allow("10.9.0.0/16"),
        allow("172.16.0.0/12"),
        block("172.16.5.5"),
        block("172.16.6.0/24"),
        block("2001:db9::/32"),
        allow("2001:db9::1"),
        allow("2001:db9:9::/48"),
        allow("2001:dba::/32"),
        block("2001:dba::5"),
        block("2001:dba:6::/48"),
        // Both of the same.
        block("192.88.99.0/24"),
        allow("192.88.99.0/24"),
        block("192.88.98.1"),
        allow("192.88.98.1"),
        block("2001:dbb::/32"),
        allow("2001:dbb::/32"),
        // Expired narrow entries in a live wide one.
        block("192.31.196.0/24"),
        block_until("192.31.196.9", Nanos(NOW.0 - UNIT)),
        block_until("192.31.196.64/26", Nanos(NOW.0 - UNIT)),
        allow_until("192.31.196.128/26", Nanos(NOW.0 - UNIT)),
        block("2001:dbc::/32"),
        block_until("2001:dbc::9", Nanos(NOW.0 - UNIT)),
        block_until("2001:dbc:1::/48", Nanos(NOW.0 - UNIT)),
        // Live narrow entries in an expired wide one.
        block_until("192.175.48.0/24", Nanos(NOW.0 - UNIT)),
        block("192.175.48.7"),
        block("192.175.48.128/25"),
        block_until("2001:dbd::/32", Nanos(NOW.0 - UNIT)),
        block("2001:dbd::7"),
        block("2001:dbd:1::/48"),
        // An expired narrow allow in a wide block that has an end.
        block_until("192.175.49.0/24", Nanos(NOW.0 + UNIT)),
        allow_until("192.175.49.7", NOW),
        // Three deep, the middle one expired.
        allow("192.175.50.64/27"),
        block_until("192.175.50.0/25", NOW),
        block("192.175.50.0/24"),
    ];
    for (i, until) in around_now().into_iter().enumerate() {
        lists.push(block_until(&format!("192.52.193.{i}"), until));
        lists.push(block_until(&format!("192.52.194.{}/28", i * 16), until));
        lists.push(allow_until(&format!("10.2.0.{i}"), until));
        lists.push(allow_until(&format!("10.3.{i}.0/24"), until));
        lists.push(block_until(&format!("2001:dbe::{i}"), until));
        lists.push(block_until(&format!("2001:dbe:{}::/48", i + 1), until));
    }
    lists
}

fn limited() -> Limits {
    let packets = |rate, burst, id| Policy {
        packets: Quota::packets(rate, burst).expect("rates of the test are valid"),
        id,
        ..Policy::UNLIMITED
    };
    let one = |id| packets(1, 1, id);
    let bits = Policy {
        bits: Quota::bits(8_000, 100).expect("rates of the test are valid"),
        id: 40,
        ..Policy::UNLIMITED
    };
    let mut services = vec![
        (Service::new(protocol::TCP, Some(ONE_PER_SECOND)), one(10)),
        (Service::new(protocol::UDP, Some(ONE_PER_SECOND)), one(11)),
        (Service::new(protocol::SCTP, Some(ONE_PER_SECOND)), one(12)),
        // Port 0 is a port like any other.
        (Service::new(protocol::UDP, Some(0)), one(13)),
        (Service::new(protocol::TCP, Some(0)), one(14)),
        (Service::new(protocol::UDP, Some(u16::MAX)), one(15)),
        (Service::new(ONE_PER_SECOND_PROTOCOL, None), one(20)),
        (Service::new(protocol::SCTP, None), packets(2, 2, 21)),
        (Service::new(255, None), one(22)),
        (Service::new(protocol::HOP_BY_HOP, None), one(23)),
        (Service::new(protocol::UDP, Some(SLOW_PORT)), bits),
        // Rules that others must not be mistaken for.
        (Service::new(protocol::UDP, Some(53)), packets(200, 400, 30)),
        (Service::new(protocol::TCP, Some(443)), packets(200, 400, 31)),
    ];
    services.sort_by_key(|(service, _)| *service);

    let mut limits = Limits::NONE;
    let burst = u64::try_from(BURST).expect("small");
    limits.policies[POLICY_ALL] = packets(burst, burst, 1);
    limits.policies[POLICY_PATH_MTU] = packets(1, u64::try_from(PATH_MTU_BURST).expect("small"), 2);
    for (i, (service, policy)) in services.iter().enumerate() {
        assert!(i < MAX_SERVICES);
        limits.services[i] = *service;
        limits.policies[POLICY_SERVICES + i] = *policy;
    }
    limits.service_count = u32::try_from(services.len()).expect("small");
    limits
}

//! P100 to P106: which list wins, how far a prefix reaches, and when an entry ends.

use super::{Sequence, TableSet, Vector};
use crate::Reason::{self, Allowed, Blocked, ImpossibleSource, NotIp, Passed, TransportHeader};
use crate::frame;
use crate::testing::frames::{Arp, Bytes, Ipv4, Ipv6, Udp, default, protocol};
use std::net::IpAddr;

pub(super) fn vectors() -> Vec<Vector> {
    [precedence(), everything(), shadows(), reach(), moments(), allowed_sources()].concat()
}

/// A packet from `source`.
fn packet(source: &str) -> Vec<u8> {
    match source.parse().expect("written as an address") {
        IpAddr::V4(source) => frame![Ipv4 { source, ..default() }, Udp::default()],
        IpAddr::V6(source) => frame![Ipv6 { source, ..default() }, Udp::default()],
    }
}

fn on(tables: TableSet, name: impl Into<String>, source: &str, expected: Reason) -> Vector {
    Vector { name: name.into(), tables, frame: packet(source), expected }
}

fn listed(name: impl Into<String>, source: &str, expected: Reason) -> Vector {
    on(TableSet::Listed, name, source, expected)
}

fn precedence() -> Vec<Vector> {
    vec![
        listed("p100_host_allowed_in_blocked_prefix", "10.1.2.3", Allowed),
        listed("p100_neighbour_of_allowed_host", "10.1.2.4", Blocked),
        listed("p100_prefix_allowed_in_blocked_prefix", "10.9.255.1", Allowed),
        listed("p100_host_blocked_in_allowed_prefix", "172.16.5.5", Allowed),
        listed("p100_prefix_blocked_in_allowed_prefix", "172.16.6.1", Allowed),
        listed("p100_prefix_blocked_and_allowed", "192.88.99.1", Allowed),
        listed("p100_host_blocked_and_allowed", "192.88.98.1", Allowed),
        listed("p100_ipv6_host_allowed_in_blocked_prefix", "2001:db9::1", Allowed),
        listed("p100_ipv6_neighbour_of_allowed_host", "2001:db9::2", Blocked),
        listed("p100_ipv6_prefix_allowed_in_blocked_prefix", "2001:db9:9::1", Allowed),
        listed("p100_ipv6_host_blocked_in_allowed_prefix", "2001:dba::5", Allowed),
        listed("p100_ipv6_prefix_blocked_in_allowed_prefix", "2001:dba:6::1", Allowed),
        listed("p100_ipv6_prefix_blocked_and_allowed", "2001:dbb::1", Allowed),
        listed("p100_unlisted", "198.51.100.7", Passed),
        listed("p100_ipv6_unlisted", "2001:db8:7::7", Passed),
        listed("p105_listed_by_a_host_and_a_prefix", "198.18.7.7", Blocked),
    ]
}

fn everything() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (source, all_blocked, all_allowed, empty) in [
        ("198.51.100.7", Blocked, Allowed, Passed),
        ("10.255.0.1", Allowed, Allowed, Passed),
        ("192.0.2.66", Blocked, Allowed, Passed),
        ("2001:db8::1", Allowed, Allowed, Passed),
        ("2001:dba::1", Blocked, Allowed, Passed),
        ("fe80::1", Blocked, Allowed, Passed),
        // Of the reserved sources the lists speak first.
        ("255.255.255.255", Blocked, Allowed, ImpossibleSource),
        ("::ffff:10.0.0.1", ImpossibleSource, ImpossibleSource, ImpossibleSource),
    ] {
        let file = source.replace([':', '.'], "_");
        vectors.extend([
            on(TableSet::BlockAll, format!("p100_all_blocked_{file}"), source, all_blocked),
            on(TableSet::AllowAll, format!("p100_all_allowed_{file}"), source, all_allowed),
            on(TableSet::Empty, format!("p100_nothing_listed_{file}"), source, empty),
        ]);
    }
    vectors.push(Vector {
        name: "p100_all_blocked_arp".into(),
        tables: TableSet::BlockAll,
        frame: frame![Arp::default()],
        expected: NotIp,
    });
    vectors
}

fn shadows() -> Vec<Vector> {
    vec![
        listed("p101_expired_host_in_live_prefix", "192.31.196.9", Blocked),
        listed("p101_expired_prefix_in_live_prefix", "192.31.196.70", Blocked),
        listed("p101_expired_allowed_prefix_in_live_blocked", "192.31.196.130", Blocked),
        listed("p101_live_prefix_alone", "192.31.196.10", Blocked),
        listed("p101_live_host_in_expired_prefix", "192.175.48.7", Blocked),
        listed("p101_live_prefix_in_expired_prefix", "192.175.48.200", Blocked),
        listed("p101_expired_prefix_alone", "192.175.48.8", Passed),
        listed("p101_expired_allowed_host_in_ending_block", "192.175.49.7", Blocked),
        listed("p101_three_deep_middle_expired_innermost_allowed", "192.175.50.65", Allowed),
        listed("p101_three_deep_middle_expired_outermost_blocked", "192.175.50.1", Blocked),
        listed("p101_ipv6_expired_host_in_live_prefix", "2001:dbc::9", Blocked),
        listed("p101_ipv6_expired_prefix_in_live_prefix", "2001:dbc:1::1", Blocked),
        listed("p101_ipv6_live_host_in_expired_prefix", "2001:dbd::7", Blocked),
        listed("p101_ipv6_live_prefix_in_expired_prefix", "2001:dbd:1::1", Blocked),
        listed("p101_ipv6_expired_prefix_alone", "2001:dbd::8", Passed),
    ]
}

/// The first and last address of a prefix, and those beside it.
fn reach() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (prefix, before, first, last, behind) in [
        ("15", "198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
        ("31", "192.0.2.127", "192.0.2.128", "192.0.2.129", "192.0.2.130"),
        ("19", "172.32.63.255", "172.32.64.0", "172.32.95.255", "172.32.96.0"),
        ("host", "192.0.2.65", "192.0.2.66", "192.0.2.66", "192.0.2.67"),
        (
            "ipv6_48",
            "2001:db8:c1c:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:c1d::",
            "2001:db8:c1d:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:c1e::",
        ),
        (
            "ipv6_35",
            "2001:db8:9fff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:a000::",
            "2001:db8:bfff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:c000::",
        ),
        (
            "ipv6_61",
            "2001:db8:7:fff7:ffff:ffff:ffff:ffff",
            "2001:db8:7:fff8::",
            "2001:db8:7:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:8::",
        ),
        ("ipv6_127", "2001:db8:7::fffd", "2001:db8:7::fffe", "2001:db8:7::ffff", "2001:db8:7::1:0"),
        ("ipv6_host", "2001:db8:bad::65", "2001:db8:bad::66", "2001:db8:bad::66", "2001:db8:bad::67"),
    ] {
        vectors.extend([
            listed(format!("p103_{prefix}_before"), before, Passed),
            listed(format!("p103_{prefix}_first"), first, Blocked),
            listed(format!("p103_{prefix}_last"), last, Blocked),
            listed(format!("p103_{prefix}_behind"), behind, Passed),
        ]);
    }
    vectors
}

/// An entry is in force up to its deadline, and not at it.
fn moments() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for (i, (name, live)) in [("1_ns_ago", false), ("now", false), ("in_1_ns", true)].into_iter().enumerate()
    {
        let blocked = if live { Blocked } else { Passed };
        let allowed = if live { Allowed } else { Blocked };
        vectors.extend([
            listed(format!("p106_host_until_{name}"), &format!("192.52.193.{i}"), blocked),
            listed(format!("p106_prefix_until_{name}"), &format!("192.52.194.{}", i * 16 + 1), blocked),
            listed(format!("p106_allowed_host_until_{name}"), &format!("10.2.0.{i}"), allowed),
            listed(format!("p106_allowed_prefix_until_{name}"), &format!("10.3.{i}.1"), allowed),
            listed(format!("p106_ipv6_host_until_{name}"), &format!("2001:dbe::{i}"), blocked),
            listed(format!("p106_ipv6_prefix_until_{name}"), &format!("2001:dbe:{}::1", i + 1), blocked),
        ]);
    }
    vectors
}

/// To be allowed is no licence for broken packets, but for everything that the policy would ask besides.
fn allowed_sources() -> Vec<Vector> {
    let ip = || Ipv4 { source: super::ALLOWED_V4, ..default() };
    let case =
        |name: &str, frame, expected| Vector { name: name.into(), tables: TableSet::Listed, frame, expected };
    vec![
        case("p100_allowed_udp_cut", frame![ip(), Bytes::of(protocol::UDP, [0; 7])], TransportHeader),
        case(
            "p100_allowed_ihl_4",
            frame![Ipv4 { header_len: Some(4), ..ip() }, Udp::default()],
            Reason::IpLength,
        ),
        case(
            "p100_allowed_to_itself",
            frame![Ipv4 { destination: super::ALLOWED_V4, ..ip() }, Udp::default()],
            Allowed,
        ),
        case("p100_allowed_opaque", frame![ip(), Bytes::of(253, [])], Allowed),
    ]
}

/// A blocked source is blocked before any limit is asked, and an allowed one is asked for none.
pub(super) fn before_limits() -> Vec<Sequence> {
    let many = |name: &str, source: &str, expected| {
        super::limits::sequence(name, vec![(packet(source), expected); super::BURST * 3])
    };
    vec![
        many("p102_limited_and_blocked_host", "192.0.2.66", Blocked),
        many("p102_limited_and_blocked_prefix", "198.18.7.7", Blocked),
        many("p102_ipv6_limited_and_blocked_host", "2001:db8:bad::66", Blocked),
        many("p102_ipv6_limited_and_blocked_prefix", "2001:db8:c1d::7", Blocked),
        many("p100_allowed_is_not_limited", "10.1.2.3", Allowed),
    ]
}

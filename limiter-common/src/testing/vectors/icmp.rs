//! P60 to P64: errors and path MTU discovery. Floods are in `limits`.

use super::{BLOCKED_IN_PREFIX_V4, BLOCKED_IN_PREFIX_V6, Vector, listed};
use crate::Reason::{self, Blocked, IpLength, Passed, TransportHeader};
use crate::frame;
use crate::stack;
use crate::testing::frames::{
    Bytes, DESTINATION_V4, Extension, Icmp, Icmpv6, Ipv4, Ipv6, Tcp, Udp, default, protocol,
};

pub(super) fn vectors() -> Vec<Vector> {
    [path_mtu(), quotes(), short()].concat()
}

/// "Fragmentation needed" for a segment that this host sent.
pub(super) fn fragmentation_needed(ip: Ipv4, mtu: u16) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let quoted = stack![Ipv4 { source: DESTINATION_V4, ..default() }, Udp::default()];
    frame![ip, Icmp { kind: 3, code: 4, rest: [0, 0, high, low], ..default() }, Bytes::from(quoted)]
}

/// "Packet too big" for a segment that this host sent.
pub(super) fn packet_too_big(ip: Ipv6, mtu: u32) -> Vec<u8> {
    let quoted = stack![Ipv6::default(), Tcp::default()];
    frame![ip, Icmpv6 { kind: 2, rest: mtu.to_be_bytes(), ..default() }, Bytes::from(quoted)]
}

fn path_mtu() -> Vec<Vector> {
    let v4 = |source| Ipv4 { source, ..default() };
    let v6 = |source| Ipv6 { source, ..default() };
    vec![
        listed("p60_fragmentation_needed", fragmentation_needed(default(), 1400), Passed),
        listed("p60_packet_too_big", packet_too_big(default(), 1400), Passed),
        listed(
            "p61_fragmentation_needed_blocked",
            fragmentation_needed(v4(BLOCKED_IN_PREFIX_V4), 1400),
            Blocked,
        ),
        listed("p61_packet_too_big_blocked", packet_too_big(v6(BLOCKED_IN_PREFIX_V6), 1400), Blocked),
        listed("p62_fragmentation_needed_mtu_551", fragmentation_needed(default(), 551), Passed),
        listed("p62_fragmentation_needed_mtu_0", fragmentation_needed(default(), 0), Passed),
        listed("p62_packet_too_big_mtu_1279", packet_too_big(default(), 1279), Passed),
        listed("p62_packet_too_big_mtu_0", packet_too_big(default(), 0), Passed),
    ]
}

/// What an error quotes is the error's payload, whatever it looks like.
fn quotes() -> Vec<Vector> {
    let cut = stack![Ipv4::default(), Tcp::default()][..9].to_vec();
    let v4: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("cut_header", cut),
        ("ihl_4", stack![Ipv4 { header_len: Some(4), ..default() }, Udp::default()]),
        ("ihl_15", stack![Ipv4 { header_len: Some(15), ..default() }, Udp::default()]),
        ("fragment", stack![Ipv4 { fragment_offset: 9, ..default() }, Bytes::of(17, [0; 8])]),
        ("error", stack![Ipv4::default(), Icmp { kind: 3, ..default() }, Ipv4::default()]),
        ("blocked", stack![Ipv4 { source: super::BLOCKED_V4, ..default() }, Udp::default()]),
    ];
    let v6: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("cut_header", vec![0x60; 39]),
        ("chain", stack![Ipv6::default(), Extension::hop_by_hop(), Extension::routing(0), Tcp::default()]),
        ("cut_chain", stack![Ipv6::default(), Bytes::of(protocol::ROUTING, [6, 255, 0])]),
        ("fragment", stack![Ipv6::default(), Extension::fragment(9, true, 1), Bytes::of(17, [0; 8])]),
        ("error", stack![Ipv6::default(), Icmpv6 { kind: 1, ..default() }, Ipv6::default()]),
        ("blocked", stack![Ipv6 { source: super::BLOCKED_V6, ..default() }, Udp::default()]),
    ];
    let error4 =
        |quoted| frame![Ipv4::default(), Icmp { kind: 3, code: 3, ..default() }, Bytes::from(quoted)];
    let error6 =
        |quoted| frame![Ipv6::default(), Icmpv6 { kind: 1, code: 4, ..default() }, Bytes::from(quoted)];
    let mut vectors = Vec::new();
    for (name, quoted) in v4 {
        vectors.push(listed(format!("p63_ipv4_error_quotes_{name}"), error4(quoted), Passed));
    }
    for (name, quoted) in v6 {
        vectors.push(listed(format!("p63_ipv6_error_quotes_{name}"), error6(quoted), Passed));
    }
    vectors
}

fn short() -> Vec<Vector> {
    let case = |name: String, frame, expected: Reason| listed(name, frame, expected);
    let mut vectors = Vec::new();
    for len in 0..8_usize {
        let bytes = vec![0; len];
        let v4 = frame![Ipv4::default(), Bytes::of(protocol::ICMP, bytes.clone())];
        let v6 = frame![Ipv6::default(), Bytes::of(protocol::ICMPV6, bytes)];
        vectors.push(case(format!("p63_icmp_of_{len}_bytes"), v4, TransportHeader));
        // An IPv6 packet without payload says so by "no next header".
        let expected = if len == 0 { IpLength } else { TransportHeader };
        vectors.push(case(format!("p63_icmpv6_of_{len}_bytes"), v6, expected));
    }
    vectors
}

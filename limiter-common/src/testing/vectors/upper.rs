//! P70 to P78: transport headers, and addresses that cannot be.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{BLOCKED_V4, BLOCKED_V6, Vector, listed, super_frames};
use crate::Reason::{
    self, Blocked, ImpossibleDestination, ImpossibleSource, IpLength, Land, Neighbour, Passed,
    TransportHeader,
};
use crate::frame;
use crate::testing::frames::{
    Bytes, DESTINATION_V4, DESTINATION_V6, Extension, Icmpv6, Ipv4, Ipv6, Layer, Sctp, Tcp, Udp, default,
    frame, protocol,
};

pub(super) fn vectors() -> Vec<Vector> {
    [tcp(), udp(), sctp(), missing(), impossible(), unspecified(), special_purpose()].concat()
}

/// `segment` in both families, and from a blocked source.
fn both(name: &str, segment: &[Layer], expected: Reason) -> Vec<Vector> {
    let behind = |ip: Layer| frame(&[&[ip], segment].concat());
    vec![
        listed(format!("{name}_ipv4"), behind(Ipv4::default().into()), expected),
        listed(format!("{name}_ipv6"), behind(Ipv6::default().into()), expected),
        listed(
            format!("{name}_ipv4_blocked"),
            behind(Ipv4 { source: BLOCKED_V4, ..default() }.into()),
            Blocked,
        ),
        listed(
            format!("{name}_ipv6_blocked"),
            behind(Ipv6 { source: BLOCKED_V6, ..default() }.into()),
            Blocked,
        ),
    ]
}

fn tcp() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for words in 0..5 {
        let segment = Tcp { data_offset: Some(words), ..default() };
        let name = format!("p70_data_offset_{words}");
        vectors.extend(both(&name, &[segment.into(), Bytes::from([0; 40]).into()], TransportHeader));
    }
    for words in 6..=15 {
        let segment = Tcp { data_offset: Some(words), ..default() };
        let name = format!("p70_data_offset_{words}_past_the_packet");
        vectors.extend(both(&name, &[segment.into()], TransportHeader));
        let segment = Tcp { options: vec![1; (usize::from(words) - 5) * 4], ..default() };
        vectors.extend(both(&format!("p70_data_offset_{words}"), &[segment.into()], Passed));
    }
    for len in 1..20_usize {
        let cut = Bytes::of(protocol::TCP, vec![0x50; len]);
        vectors.extend(both(&format!("p70_tcp_of_{len}_bytes"), &[cut.into()], TransportHeader));
    }
    for (name, flags) in [
        ("null", 0),
        ("xmas", Tcp::FIN | Tcp::PSH | Tcp::URG),
        ("syn_fin", Tcp::SYN | Tcp::FIN),
        ("syn_rst", Tcp::SYN | Tcp::RST),
        ("all", 0xff),
    ] {
        vectors.extend(both(&format!("p71_{name}"), &[Tcp { flags, ..default() }.into()], Passed));
    }
    vectors.extend(both("p71_syn_with_data", &[Tcp::default().into(), Bytes::from([1; 64]).into()], Passed));
    vectors
}

fn udp() -> Vec<Vector> {
    // 8 bytes of header and 8 of payload.
    let segment = |length| -> [Layer; 2] {
        [Udp { length: Some(length), ..default() }.into(), Bytes::from([0; 8]).into()]
    };
    let mut vectors = Vec::new();
    for length in 0..8 {
        vectors.extend(both(&format!("p72_length_{length}"), &segment(length), TransportHeader));
    }
    for length in [17, 18, 65_535] {
        vectors.extend(both(&format!("p72_length_{length}"), &segment(length), TransportHeader));
    }
    for length in [8, 15, 16] {
        vectors.extend(both(&format!("p72_length_{length}"), &segment(length), Passed));
    }
    for len in 1..8_usize {
        let cut = Bytes::of(protocol::UDP, vec![0x50; len]);
        vectors.extend(both(&format!("p72_udp_of_{len}_bytes"), &[cut.into()], TransportHeader));
    }
    vectors.extend(both("p72_no_checksum", &[Udp { checksum: Some(0), ..default() }.into()], Passed));
    let [header, payload] = segment(0);
    vectors.push(super_frames("p72_super_frame_length_0", frame![Ipv4::default(), header, payload], Passed));
    vectors
}

fn sctp() -> Vec<Vector> {
    let mut vectors = both("p70_sctp", &[Sctp::default().into()], Passed);
    for len in 1..12_usize {
        let cut = Bytes::of(protocol::SCTP, vec![0x50; len]);
        vectors.extend(both(&format!("p70_sctp_of_{len}_bytes"), &[cut.into()], TransportHeader));
    }
    vectors
}

/// Nothing behind the IP header. IPv6 has another way to say so, and a length of 0 means something else there.
fn missing() -> Vec<Vector> {
    [("tcp", protocol::TCP), ("udp", protocol::UDP), ("sctp", protocol::SCTP)]
        .into_iter()
        .flat_map(|(name, number)| {
            let nothing = || Bytes::of(number, []);
            let behind = frame![Ipv6::default(), Extension::destination_options(), nothing()];
            [
                listed(format!("p70_no_{name}_ipv4"), frame![Ipv4::default(), nothing()], TransportHeader),
                listed(format!("p70_no_{name}_ipv6"), frame![Ipv6::default(), nothing()], IpLength),
                listed(format!("p70_no_{name}_behind_options"), behind, TransportHeader),
            ]
        })
        .collect()
}

fn v4(name: &str, source: [u8; 4], destination: impl Into<Ipv4Addr>, expected: Reason) -> Vector {
    let ip = Ipv4 { source: source.into(), destination: destination.into(), ..default() };
    listed(name, frame![ip, Udp::default()], expected)
}

fn v6(name: &str, source: &str, destination: Ipv6Addr, expected: Reason) -> Vector {
    let source = source.parse().expect("written as an address");
    listed(name, frame![Ipv6 { source, destination, ..default() }, Udp::default()], expected)
}

fn impossible() -> Vec<Vector> {
    let us = DESTINATION_V4;
    let us6 = DESTINATION_V6;
    vec![
        v4("p74_land", us.octets(), us, Land),
        v4("p74_land_blocked", BLOCKED_V4.octets(), BLOCKED_V4, Blocked),
        v6("p74_land_ipv6", &us6.to_string(), us6, Land),
        v6("p74_land_ipv6_blocked", &BLOCKED_V6.to_string(), BLOCKED_V6, Blocked),
        v4("p75_loopback", [127, 0, 0, 1], us, ImpossibleSource),
        v4("p75_loopback_last", [127, 255, 255, 255], us, ImpossibleSource),
        v4("p75_loopback_blocked", [127, 6, 6, 6], us, Blocked),
        v4("p75_multicast_first", [224, 0, 0, 0], us, ImpossibleSource),
        v4("p75_multicast_last", [239, 255, 255, 255], us, ImpossibleSource),
        v4("p75_reserved_first", [240, 0, 0, 0], us, ImpossibleSource),
        v4("p75_reserved_last", [255, 255, 255, 254], us, ImpossibleSource),
        v4("p75_reserved_blocked", [240, 6, 6, 6], us, Blocked),
        v4("p75_broadcast", [255, 255, 255, 255], us, ImpossibleSource),
        v4("p75_below_loopback", [126, 255, 255, 255], us, Passed),
        v4("p75_above_loopback", [128, 0, 0, 0], us, Passed),
        v4("p75_below_multicast", [223, 255, 255, 255], us, Passed),
        v6("p75_loopback_ipv6", "::1", us6, ImpossibleSource),
        v6("p75_multicast_ipv6", "ff02::1", us6, ImpossibleSource),
        v6("p75_multicast_ipv6_last", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", us6, ImpossibleSource),
        v6("p75_below_multicast_ipv6", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", us6, Passed),
        v6("p75_next_to_loopback_ipv6", "::2", us6, Passed),
        v4("p78_to_loopback", [198, 51, 100, 7], [127, 0, 0, 1], ImpossibleDestination),
        v4("p78_to_loopback_last", [198, 51, 100, 7], [127, 255, 255, 255], ImpossibleDestination),
        v4("p78_to_loopback_blocked", BLOCKED_V4.octets(), [127, 0, 0, 1], Blocked),
        v4("p78_to_loopback_from_nowhere", [0, 0, 0, 1], [127, 0, 0, 1], ImpossibleSource),
        v6("p78_to_loopback_ipv6", "2001:db8:7::7", Ipv6Addr::LOCALHOST, ImpossibleDestination),
        v4("p78_to_broadcast", [198, 51, 100, 7], [255; 4], Passed),
        v4("p78_to_multicast", [198, 51, 100, 7], [224, 0, 0, 251], Passed),
        v6("p78_to_multicast_ipv6", "2001:db8:7::7", MULTICAST, Passed),
    ]
}

const MULTICAST: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x1);

/// "No address yet" is an honest source for those who are about to get one.
fn unspecified() -> Vec<Vector> {
    let discover = |destination: [u8; 4]| Ipv4 {
        source: Ipv4Addr::UNSPECIFIED,
        destination: destination.into(),
        ..default()
    };
    let dhcp = || Udp { source: 68, destination: 67, ..default() };
    let six =
        |hop_limit| Ipv6 { source: Ipv6Addr::UNSPECIFIED, destination: MULTICAST, hop_limit, ..default() };
    let alert = Extension::new(protocol::HOP_BY_HOP, [5, 2, 0, 0, 1, 0]);
    let options = Bytes::from([0; 240]);
    vec![
        listed("p76_dhcp", frame![discover([255; 4]), dhcp(), options], Passed),
        listed(
            "p76_group_query",
            frame![discover([224, 0, 0, 1]), Bytes::of(2, [0x11, 0, 0, 0, 0, 0, 0, 0])],
            Passed,
        ),
        listed("p76_nowhere_to_unicast", frame![discover([203, 0, 113, 1]), dhcp()], ImpossibleSource),
        listed("p76_nowhere_to_nowhere", frame![discover([0; 4]), dhcp()], Passed),
        listed(
            "p76_duplicate_address_detection",
            frame![six(255), Icmpv6 { kind: 135, ..default() }, Bytes::from([0; 16])],
            Neighbour,
        ),
        listed(
            "p76_listener_report",
            frame![six(1), alert, Icmpv6 { kind: 143, ..default() }, Bytes::from([0; 20])],
            Passed,
        ),
        listed("p76_unspecified_udp", frame![six(64), Udp::default()], Passed),
    ]
}

fn special_purpose() -> Vec<Vector> {
    let us = DESTINATION_V4;
    vec![
        v4("p77_cloud_metadata", [169, 254, 169, 254], us, Passed),
        v4("p77_link_local_blocked", [169, 254, 6, 6], us, Blocked),
        v4("p77_private_10", [11, 0, 0, 1], us, Passed),
        v4("p77_private_192", [192, 168, 1, 1], us, Passed),
        v4("p77_carrier_nat", [100, 64, 0, 1], us, Passed),
        v6("p77_unique_local", "fd00::1", DESTINATION_V6, Passed),
    ]
}

//! P20 to P27: the IPv4 header.

use super::{BLOCKED_V4, Vector, listed, super_frames};
use crate::Reason::{Blocked, IpLength, IpVersion, Passed, ShortNetwork, TransportHeader};
use crate::frame;
use crate::testing::frames::{Bytes, Ethernet, Ipv4, Ipv6, Tcp, Udp, default, ether_type, padded, protocol};

pub(super) fn vectors() -> Vec<Vector> {
    [protocols(), header_len(), version(), total_len(), padding(), harmless()].concat()
}

/// A good header, but for the given fields, from the unlisted source and from the blocked one.
fn pair(name: &str, ip: &Ipv4, packet: impl Fn(Ipv4) -> Vec<u8>, expected: crate::Reason) -> [Vector; 2] {
    [
        listed(name, packet(ip.clone()), expected),
        listed(format!("{name}_blocked"), packet(Ipv4 { source: BLOCKED_V4, ..ip.clone() }), Blocked),
    ]
}

fn protocols() -> Vec<Vector> {
    let from = |number: u8, payload: Vec<u8>| {
        frame![Ipv4 { source: BLOCKED_V4, ..default() }, Bytes::of(number, payload)]
    };
    (0..=u8::MAX)
        .flat_map(|number| {
            [
                listed(format!("p20_protocol_{number}_blocked"), from(number, vec![0x45; 32]), Blocked),
                listed(format!("p20_protocol_{number}_empty_blocked"), from(number, Vec::new()), Blocked),
            ]
        })
        .collect()
}

fn header_len() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let udp = |ip: Ipv4| frame![ip, Udp::default(), Bytes::from([0; 64])];
    for words in 6..=15 {
        let options = vec![1; (words - 5) * 4];
        vectors.extend(pair(&format!("p21_ihl_{words}"), &Ipv4 { options, ..default() }, udp, Passed));
    }
    for (name, option) in [
        ("record_route", vec![7, 7, 4, 0, 0, 0, 0]),
        ("timestamp", vec![68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("router_alert", vec![148, 4, 0, 0]),
        ("loose_source_route", vec![131, 7, 4, 10, 0, 0, 1]),
        ("strict_source_route", vec![137, 7, 4, 10, 0, 0, 1]),
        ("garbage", vec![0xff; 40]),
        ("option_of_length_0", vec![7, 0, 0, 0]),
        ("option_past_the_header", vec![7, 255, 4, 0]),
    ] {
        let ip = Ipv4 { options: option, ..default() };
        vectors.extend(pair(&format!("p21_{name}"), &ip, udp, Passed));
    }
    for words in 0..=4 {
        let ip = Ipv4 { header_len: Some(words), ..default() };
        vectors.extend(pair(&format!("p22_ihl_{words}"), &ip, udp, IpLength));
    }
    let bare = |ip: Ipv4| frame![ip, Udp::default()];
    for words in 8..=15 {
        let ip = Ipv4 { header_len: Some(words), ..default() };
        vectors.extend(pair(&format!("p23_ihl_{words}_past_the_frame"), &ip, bare, IpLength));
    }
    // The header ends with the packet: nothing is left for UDP.
    let ip = Ipv4 { header_len: Some(7), ..default() };
    vectors.extend(pair("p23_ihl_to_the_end", &ip, bare, TransportHeader));
    vectors
}

fn version() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for version in (0..=15).filter(|version| *version != 4) {
        let ip = Ipv4 { version, source: BLOCKED_V4, ..default() };
        let packet = frame![ip, Udp::default(), Bytes::from([0; 32])];
        vectors.push(listed(format!("p23_version_{version}_as_ipv4_blocked"), packet, IpVersion));
    }
    for version in (0..=15).filter(|version| *version != 6) {
        let ip = Ipv6 { version, source: super::BLOCKED_V6, ..default() };
        let packet = frame![ip, Udp::default()];
        vectors.push(listed(format!("p23_version_{version}_as_ipv6_blocked"), packet, IpVersion));
    }
    let crossed = |number| Ethernet { ether_type: Some(number), ..default() };
    let four = Ipv4 { source: BLOCKED_V4, ..default() };
    let six = Ipv6 { source: super::BLOCKED_V6, ..default() };
    vectors.extend([
        listed(
            "p23_ipv4_announced_as_ipv6_blocked",
            frame![crossed(ether_type::IPV6), four.clone(), Udp::default(), Bytes::from([0; 32])],
            IpVersion,
        ),
        listed(
            "p23_short_ipv4_announced_as_ipv6_blocked",
            frame![crossed(ether_type::IPV6), four, Udp::default()],
            ShortNetwork,
        ),
        listed(
            "p23_ipv6_announced_as_ipv4_blocked",
            frame![crossed(ether_type::IPV4), six, Udp::default()],
            IpVersion,
        ),
    ]);
    vectors
}

fn total_len() -> Vec<Vector> {
    // 20 bytes of IP, 8 of UDP, 32 of payload.
    let packet = |ip: Ipv4| frame![ip, Udp::default(), Bytes::from([0; 32])];
    let with = |total_len| Ipv4 { total_len: Some(total_len), ..default() };
    let mut vectors = Vec::new();
    vectors.extend(pair("p24_total_len_1", &with(1), packet, IpLength));
    vectors.extend(pair("p24_total_len_19", &with(19), packet, IpLength));
    vectors.extend(pair("p24_total_len_61", &with(61), packet, IpLength));
    vectors.extend(pair("p24_total_len_65535", &with(65_535), packet, IpLength));
    vectors.extend(pair("p24_total_len_60", &with(60), packet, Passed));
    let options = Ipv4 { options: vec![1; 4], ..with(23) };
    vectors.extend(pair("p24_total_len_within_options", &options, packet, IpLength));
    vectors.extend(pair("p25_total_len_0", &with(0), packet, IpLength));
    vectors.extend([
        super_frames("p25_super_frame", packet(with(0)), Passed),
        super_frames("p25_super_frame_blocked", packet(Ipv4 { source: BLOCKED_V4, ..with(0) }), Blocked),
        super_frames("p25_super_frame_total_len_19", packet(with(19)), IpLength),
        super_frames("p25_super_frame_total_len_61", packet(with(61)), IpLength),
        super_frames("p25_super_frame_ihl_4", packet(Ipv4 { header_len: Some(4), ..with(0) }), IpLength),
        super_frames(
            "p25_super_frame_no_transport_header",
            frame![Ipv4 { protocol: Some(protocol::TCP), ..with(0) }, Bytes::from([0; 19])],
            TransportHeader,
        ),
    ]);
    vectors
}

fn padding() -> Vec<Vector> {
    let tcp = || frame![Ipv4::default(), Tcp { flags: Tcp::ACK, ..default() }];
    // The UDP header is in the frame, but not in the packet.
    let behind = Ipv4 { total_len: Some(20), ..default() };
    let half = Ipv4 { total_len: Some(24), ..default() };
    vec![
        listed("p26_padded", padded(tcp()), Passed),
        listed("p26_padding_is_no_udp_header", padded(frame![behind, Udp::default()]), TransportHeader),
        listed("p26_padding_completes_no_udp_header", padded(frame![half, Udp::default()]), TransportHeader),
        listed("p26_long_trailer", [tcp(), vec![0xff; 1400]].concat(), Passed),
    ]
}

fn harmless() -> Vec<Vector> {
    let packet = |ip: Ipv4| frame![ip, Udp::default()];
    let mut vectors = Vec::new();
    for (name, ip) in [
        ("p27_bad_checksum", Ipv4 { checksum: Some(0xdead), ..default() }),
        ("p27_ttl_0", Ipv4 { ttl: 0, ..default() }),
        ("p27_reserved_flag", Ipv4 { reserved: true, ..default() }),
        ("p27_all_of_service", Ipv4 { service: 0xff, ..default() }),
    ] {
        vectors.extend(pair(name, &ip, packet, Passed));
    }
    vectors
}

//! P40 to P55: IPv6, its extension headers and neighbour discovery. Chains up to depth 3 are in `generated`.

use std::net::Ipv6Addr;

use super::{BLOCKED_NEIGHBOUR, BLOCKED_V6, Vector, listed, super_frames};
use crate::Reason::{
    self, BadFragment, Blocked, ChainTooLong, ChainTruncated, ImpossibleSource, IpLength, Neighbour, Passed,
    RoutingHeader, TinyFragment, TransportHeader,
};
use crate::frame;
use crate::stack;
use crate::testing::frames::{
    Bytes, Extension, Icmpv6, Ipv4, Ipv6, Layer, Tcp, Udp, Vlan, default, frame, padded, protocol, stack,
};

pub(super) fn vectors() -> Vec<Vector> {
    [
        next_headers(),
        long_chains(),
        special_headers(),
        fragments(),
        payload_len(),
        embedded(),
        neighbours(),
        fragmented_neighbours(),
        listeners(),
    ]
    .concat()
}

fn blocked() -> Ipv6 {
    Ipv6 { source: BLOCKED_V6, ..default() }
}

/// `behind` after an IPv6 header from the unlisted source and from the blocked one.
fn pair(name: &str, behind: &[Layer], expected: Reason) -> [Vector; 2] {
    let packet = |ip: Ipv6| frame(&[&[ip.into()], behind].concat());
    [
        listed(name, packet(Ipv6::default()), expected),
        listed(format!("{name}_blocked"), packet(blocked()), Blocked),
    ]
}

fn next_headers() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for number in 0..=u8::MAX {
        let from = |payload: Vec<u8>| frame![blocked(), Bytes::of(number, payload)];
        vectors.push(listed(format!("p40_next_header_{number}_blocked"), from(vec![0x45; 32]), Blocked));
        vectors.push(listed(format!("p40_next_header_{number}_empty_blocked"), from(Vec::new()), Blocked));
    }
    for kind in [0, 2, 3, 4] {
        let header = Extension::routing(kind);
        let frame = frame![blocked(), header, Tcp::default()];
        vectors.push(listed(format!("p40_routing_{kind}_blocked"), frame, Blocked));
    }
    vectors
}

fn long_chains() -> Vec<Vector> {
    let chain = |headers: usize| -> Vec<Layer> {
        [vec![Extension::destination_options().into(); headers], vec![Udp::default().into()]].concat()
    };
    let mut vectors = Vec::new();
    vectors.extend(pair("p42_8_headers", &chain(8), Passed));
    vectors.extend(pair("p42_9_headers", &chain(9), ChainTooLong));
    vectors.extend(pair("p42_50_headers", &chain(50), ChainTooLong));
    let ends = |headers| [chain(headers)[..headers].to_vec(), vec![Bytes::of(59, []).into()]].concat();
    vectors.extend(pair("p42_8_headers_and_nothing", &ends(8), Passed));
    vectors.extend(pair("p42_9_headers_and_nothing", &ends(9), ChainTooLong));
    for kind in [
        protocol::HOP_BY_HOP,
        protocol::ROUTING,
        protocol::AUTHENTICATION,
        protocol::DESTINATION_OPTIONS,
        protocol::MOBILITY,
        protocol::HIP,
        protocol::SHIM6,
    ] {
        let long = Extension { len: Some(255), ..Extension::harmless(kind) };
        let past = [long.into(), Udp::default().into()];
        vectors.extend(pair(&format!("p42_header_{kind}_past_the_packet"), &past, ChainTruncated));
        let cut = Bytes::of(kind, [17, 0, 3]);
        vectors.extend(pair(&format!("p42_header_{kind}_cut"), &[cut.into()], ChainTruncated));
        let nothing = Bytes::of(kind, []);
        vectors.extend(pair(&format!("p42_header_{kind}_missing"), &[nothing.clone().into()], IpLength));
        let behind = [Extension::destination_options().into(), nothing.into()];
        vectors.extend(pair(&format!("p42_header_{kind}_missing_behind_options"), &behind, ChainTruncated));
        // The same with bytes behind the packet that would complete the header.
        let ip = Ipv6 { payload_len: Some(3), ..default() };
        let completed = frame![ip, Bytes::of(kind, [17, 0, 0, 0, 0, 0, 0, 0]), Udp::default()];
        vectors.push(listed(format!("p42_header_{kind}_completed_by_padding"), completed, ChainTruncated));
        // As long as a header gets.
        let size = if kind == protocol::AUTHENTICATION { 257 * 4 } else { 256 * 8 };
        let mut body = vec![0; size - 2];
        body[0] = if kind == protocol::ROUTING { 3 } else { 1 };
        let longest = [Extension::new(kind, body).into(), Udp::default().into()];
        vectors.extend(pair(&format!("p42_header_{kind}_longest"), &longest, Passed));
    }
    let cut = Bytes::of(protocol::FRAGMENT, [17, 0, 0, 0, 0, 0, 0]);
    vectors.extend(pair("p42_fragment_header_cut", &[cut.into()], ChainTruncated));
    let ip = Ipv6 { payload_len: Some(7), ..default() };
    let completed = frame![ip, Extension::fragment(0, false, 1), Udp::default()];
    vectors.push(listed("p42_fragment_header_completed_by_padding", completed, ChainTruncated));
    // An AH length that the rule of the other headers would take for 40 bytes.
    let authenticated = [Extension::authentication().into(), Tcp::default().into()];
    vectors.extend(pair("p41_authentication_header", &authenticated, Passed));
    // The shortest AH has no integrity check value, and no room for all fixed fields: 8 bytes.
    let short = Extension { len: Some(0), ..Extension::new(protocol::AUTHENTICATION, [0; 6]) };
    vectors.extend(pair(
        "p41_authentication_header_of_8_bytes",
        &[short.into(), Udp::default().into()],
        Passed,
    ));
    vectors
}

fn special_headers() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let udp = || Layer::from(Udp::default());
    vectors.extend(pair("p43_nothing", &[Bytes::of(protocol::NO_NEXT, []).into()], Passed));
    vectors.extend(pair("p43_nothing_but_bytes", &[Bytes::of(protocol::NO_NEXT, [1; 64]).into()], Passed));
    vectors.extend(pair("p43_nothing_behind_options", &[Extension::hop_by_hop().into()], Passed));
    vectors.extend(pair("p44_routing_0", &[Extension::routing(0).into(), udp()], RoutingHeader));
    let with_address =
        Extension::new(protocol::ROUTING, [&[0, 1, 0, 0, 0, 0], &DETOUR.octets()[..]].concat());
    vectors.extend(pair("p44_routing_0_with_address", &[with_address.into(), udp()], RoutingHeader));
    let hidden = [Extension::destination_options().into(), Extension::routing(0).into(), udp()];
    vectors.extend(pair("p44_routing_0_behind_options", &hidden, RoutingHeader));
    for kind in [1, 2, 3, 4, 253] {
        let routed = [Extension::routing(kind).into(), udp()];
        vectors.extend(pair(&format!("p44_routing_{kind}"), &routed, Passed));
    }
    let encrypted = Bytes::of(protocol::ESP, [0; 40]);
    vectors.extend(pair("p40_encrypted", &[encrypted.into()], Passed));
    let late = [Extension::destination_options().into(), Extension::hop_by_hop().into(), udp()];
    // A host refuses it; a filter that stops there would not see the ports.
    vectors.extend(pair("p41_hop_by_hop_not_first", &late, Passed));
    vectors
}

const DETOUR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1);

fn fragments() -> Vec<Vector> {
    let mut vectors = Vec::new();
    let atomic = || Layer::from(Extension::fragment(0, false, 7));
    let first = || Layer::from(Extension::fragment(0, true, 7));
    let bytes = |number, len| Layer::from(Bytes::of(number, vec![0x50; len]));
    vectors.extend(pair("p45_atomic_udp", &[atomic(), Udp::default().into()], Passed));
    vectors.extend(pair("p45_atomic_tcp", &[atomic(), Tcp::default().into()], Passed));
    vectors.extend(pair("p45_atomic_echo", &[atomic(), Icmpv6::default().into()], Passed));
    vectors.extend(pair("p45_atomic_tcp_cut", &[atomic(), bytes(protocol::TCP, 16)], TransportHeader));
    vectors.extend(pair("p45_atomic_empty_opaque", &[atomic(), bytes(253, 0)], Passed));

    let long = || Layer::from(Udp { length: Some(1000), ..default() });
    vectors.extend(pair("p46_first_udp", &[first(), long()], Passed));
    vectors.extend(pair("p46_first_tcp_16_bytes", &[first(), bytes(protocol::TCP, 16)], TinyFragment));
    vectors.extend(pair("p46_first_tcp_24_bytes", &[first(), bytes(protocol::TCP, 24)], Passed));
    let options = || Layer::from(Extension::destination_options());
    let nothing = |number| Layer::from(Bytes::of(number, []));
    vectors.extend(pair(
        "p46_first_without_tcp",
        &[first(), options(), nothing(protocol::TCP)],
        TransportHeader,
    ));
    vectors.extend(pair(
        "p46_first_without_udp",
        &[first(), options(), nothing(protocol::UDP)],
        TransportHeader,
    ));
    vectors.extend(pair(
        "p46_first_tcp_behind_options_cut",
        &[first(), options(), bytes(protocol::TCP, 16)],
        TransportHeader,
    ));
    let half = Extension { len: Some(1), ..Extension::destination_options() };
    vectors.extend(pair("p46_first_options_cut", &[first(), half.into()], ChainTruncated));
    let unfinished = [first(), options(), nothing(protocol::DESTINATION_OPTIONS)];
    vectors.extend(pair("p46_first_chain_cut", &unfinished, ChainTruncated));

    for (upper, number) in [("tcp", protocol::TCP), ("udp", protocol::UDP), ("opaque", 253)] {
        let place = |offset, more| Layer::from(Extension::fragment(offset, more, 7));
        vectors.extend(pair(&format!("p47_middle_{upper}"), &[place(10, true), bytes(number, 64)], Passed));
        vectors.extend(pair(&format!("p47_last_{upper}"), &[place(20, false), bytes(number, 3)], Passed));
        vectors.extend(pair(
            &format!("p47_last_{upper}_behind_options"),
            &[Extension::hop_by_hop().into(), place(20, false), bytes(number, 3)],
            Passed,
        ));
    }
    let place = |offset, more, len| [Extension::fragment(offset, more, 7).into(), bytes(protocol::UDP, len)];
    vectors.extend(pair("p37_ipv6_ends_at_65535", &place(8191, false, 7), Passed));
    vectors.extend(pair("p37_ipv6_ends_at_65536", &place(8191, false, 8), BadFragment));
    vectors.extend(pair("p37_ipv6_more_and_odd", &place(4, true, 9), BadFragment));
    vectors.extend(pair("p37_ipv6_more_and_empty", &place(4, true, 0), BadFragment));
    vectors.extend(pair("p37_ipv6_last_and_empty", &place(4, false, 0), BadFragment));
    let tcp_1 = [Extension::fragment(1, false, 7).into(), bytes(protocol::TCP, 16)];
    vectors.extend(pair("p35_ipv6_tcp_offset_1", &tcp_1, TinyFragment));

    vectors.extend(pair("p48_atomic_in_atomic", &[atomic(), atomic(), Udp::default().into()], BadFragment));
    vectors.extend(pair("p48_first_in_first", &[first(), first(), long()], BadFragment));
    vectors.extend(pair(
        "p48_behind_options",
        &[atomic(), options(), atomic(), Udp::default().into()],
        BadFragment,
    ));
    vectors
}

fn payload_len() -> Vec<Vector> {
    let with = |payload_len, ip: Ipv6| Ipv6 { payload_len: Some(payload_len), ..ip };
    let packet = |ip: Ipv6| frame![ip, Udp::default(), Bytes::from([0; 16])];
    let mut vectors = Vec::new();
    for (name, len, expected) in [
        ("p49_payload_len_0", 0, IpLength),
        ("p49_payload_len_1_too_long", 25, IpLength),
        ("p49_payload_len_65535", 65_535, IpLength),
        ("p49_payload_len_exact", 24, Passed),
        ("p49_payload_len_shorter_than_udp", 7, TransportHeader),
    ] {
        vectors.push(listed(name, packet(with(len, default())), expected));
        vectors.push(listed(format!("{name}_blocked"), packet(with(len, blocked())), Blocked));
    }
    vectors.extend([
        listed("p49_payload_len_0_and_no_next_header", frame![Ipv6::default()], Passed),
        listed("p49_padded", padded(frame![Ipv6::default(), Bytes::of(253, [1])]), Passed),
        listed(
            "p49_padding_is_no_udp_header",
            frame![with(8, default()), Extension::hop_by_hop(), Udp::default()],
            TransportHeader,
        ),
    ]);
    let jumbo = |ip: Ipv6| {
        let option = Extension::new(protocol::HOP_BY_HOP, [0xc2, 4, 0, 1, 0x11, 0x70]);
        frame![with(0, ip), option, Tcp::default(), Bytes::from([0; 1000])]
    };
    let plain = |ip: Ipv6| frame![with(0, ip), Tcp::default(), Bytes::from([0; 1000])];
    vectors.extend([
        listed("p50_jumbogram", jumbo(default()), IpLength),
        listed("p50_jumbogram_blocked", jumbo(blocked()), Blocked),
        super_frames("p50_super_frame_jumbo_option", jumbo(default()), Passed),
        super_frames("p50_super_frame_jumbo_option_blocked", jumbo(blocked()), Blocked),
        super_frames("p50_super_frame", plain(default()), Passed),
        super_frames("p50_super_frame_blocked", plain(blocked()), Blocked),
        super_frames(
            "p50_super_frame_udp_length_0",
            frame![with(0, default()), Udp { length: Some(0), ..default() }, Bytes::from([0; 1000])],
            Passed,
        ),
        super_frames("p50_super_frame_payload_len_too_long", packet(with(25, default())), IpLength),
        super_frames(
            "p50_super_frame_chain_cut",
            frame![with(0, default()), Bytes::of(protocol::HOP_BY_HOP, [6, 1, 0, 0, 0, 0, 0, 0])],
            ChainTruncated,
        ),
    ]);
    vectors
}

fn embedded() -> Vec<Vector> {
    let from = |name: &str, source: &str, expected| {
        let source = source.parse().expect("written as an address");
        listed(name, frame![Ipv6 { source, ..default() }, Udp::default()], expected)
    };
    vec![
        from("p51_mapped_blocked", "::ffff:192.0.2.66", ImpossibleSource),
        from("p51_mapped_allowed", "::ffff:10.1.2.3", ImpossibleSource),
        from("p51_mapped_unlisted", "::ffff:198.51.100.7", ImpossibleSource),
        from("p51_mapped_0", "::ffff:0.0.0.0", ImpossibleSource),
        // Compatible addresses are history and mean no IPv4 peer.
        from("p51_compatible", "::192.0.2.66", Passed),
        from("p51_nearly_mapped", "::fffe:192.0.2.66", Passed),
        from("p51_translated", "::ffff:0:192.0.2.66", Passed),
        from("p52_6to4", "2002:c000:242::1", Passed),
        from("p52_nat64", "64:ff9b::192.0.2.66", Passed),
        from("p52_teredo", "2001:0:c000:242::1", Passed),
        from("p52_isatap", "2001:db8:7::5efe:192.0.2.66", Passed),
        listed(
            "p51_mapped_neighbour_discovery",
            frame![
                Ipv6 { source: BLOCKED_MAPPED, hop_limit: 255, ..default() },
                Icmpv6 { kind: 135, ..default() },
                Bytes::from([0; 16])
            ],
            ImpossibleSource,
        ),
    ]
}

const BLOCKED_MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0242);

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn neighbours() -> Vec<Vector> {
    let message = |ip: Ipv6, kind: u8, code: u8| {
        frame![Ipv6 { hop_limit: 255, ..ip }, Icmpv6 { kind, code, ..default() }, Bytes::from([0; 32])]
    };
    let from = |source| Ipv6 { source, ..default() };
    let mut vectors = Vec::new();
    for (name, kind) in [
        ("router_solicitation", 133),
        ("router_advertisement", 134),
        ("neighbour_solicitation", 135),
        ("neighbour_advertisement", 136),
        ("redirect", 137),
    ] {
        vectors.extend([
            listed(format!("p53_{name}"), message(from(LINK_LOCAL), kind, 0), Neighbour),
            listed(
                format!("p53_{name}_listed_gateway"),
                message(from(BLOCKED_NEIGHBOUR), kind, 0),
                Neighbour,
            ),
            listed(format!("p53_{name}_listed_global"), message(blocked(), kind, 0), Neighbour),
            // From afar it is an ordinary packet, and a listed source is a listed source.
            listed(
                format!("p53_{name}_hop_limit_254_blocked"),
                frame![
                    Ipv6 { hop_limit: 254, ..blocked() },
                    Icmpv6 { kind, ..default() },
                    Bytes::from([0; 32])
                ],
                Blocked,
            ),
            listed(
                format!("p53_{name}_hop_limit_254"),
                frame![
                    Ipv6 { hop_limit: 254, ..default() },
                    Icmpv6 { kind, ..default() },
                    Bytes::from([0; 32])
                ],
                Passed,
            ),
            listed(format!("p53_{name}_code_1_blocked"), message(blocked(), kind, 1), Blocked),
            listed(
                format!("p53_{name}_behind_options_blocked"),
                frame![
                    Ipv6 { hop_limit: 255, ..blocked() },
                    Extension::hop_by_hop(),
                    Icmpv6 { kind, ..default() },
                    Bytes::from([0; 32])
                ],
                Blocked,
            ),
        ]);
    }
    let hop = |ip: Ipv6| Ipv6 { hop_limit: 255, ..ip };
    let solicitation = || Icmpv6 { kind: 135, ..default() };
    for kind in [1, 2, 128, 129, 130, 132, 138, 143] {
        vectors.push(listed(format!("p53_type_{kind}_blocked"), message(blocked(), kind, 0), Blocked));
    }
    vectors.extend([
        listed("p53_shortest_blocked", frame![hop(blocked()), solicitation()], Neighbour),
        listed(
            "p53_with_priority_tag_blocked",
            frame![Vlan { id: 0, ..default() }, hop(blocked()), solicitation()],
            Neighbour,
        ),
        listed(
            "p53_too_short_blocked",
            frame![Ipv6 { payload_len: Some(7), ..hop(blocked()) }, solicitation()],
            Blocked,
        ),
        listed(
            "p53_too_short",
            frame![Ipv6 { payload_len: Some(7), ..hop(default()) }, solicitation()],
            TransportHeader,
        ),
        listed(
            "p53_longer_than_the_frame_blocked",
            frame![Ipv6 { payload_len: Some(9), ..hop(blocked()) }, solicitation()],
            Blocked,
        ),
        listed(
            "p53_type_number_in_udp_blocked",
            frame![hop(blocked()), Udp { source: 135 << 8, ..default() }],
            Blocked,
        ),
        listed(
            "p53_in_ipv4_blocked",
            frame![
                Ipv4 { source: super::BLOCKED_V4, ttl: 255, protocol: Some(protocol::ICMPV6), ..default() },
                solicitation()
            ],
            Blocked,
        ),
        listed(
            "p53_payload_len_0_blocked",
            frame![Ipv6 { payload_len: Some(0), ..hop(blocked()) }, solicitation()],
            Blocked,
        ),
    ]);
    vectors
}

fn fragmented_neighbours() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for kind in 133..=137 {
        for (name, more) in [("atomic", false), ("first", true)] {
            let packet = |ip: Ipv6| {
                let body = stack![Icmpv6 { kind, ..default() }, Bytes::from([0; 16])];
                let fragment = Extension::fragment(0, more, 7);
                frame![Ipv6 { hop_limit: 255, ..ip }, fragment, Bytes::of(protocol::ICMPV6, body)]
            };
            vectors.push(listed(format!("p54_{name}_type_{kind}"), packet(default()), TinyFragment));
            vectors.push(listed(format!("p54_{name}_type_{kind}_blocked"), packet(blocked()), Blocked));
        }
    }
    let hidden = [
        Ipv6 { hop_limit: 255, ..default() }.into(),
        Extension::fragment(0, false, 7).into(),
        Extension::destination_options().into(),
        Icmpv6 { kind: 135, ..default() }.into(),
    ];
    vectors.push(listed("p54_atomic_behind_options", frame(&hidden), TinyFragment));
    vectors
}

fn listeners() -> Vec<Vector> {
    let packet = |source, kind| {
        let alert = Extension::new(protocol::HOP_BY_HOP, [5, 2, 0, 0, 1, 0]);
        let report = stack(&[Icmpv6 { kind, ..default() }.into(), Bytes::from([0; 20]).into()]);
        frame![Ipv6 { hop_limit: 1, source, ..default() }, alert, Bytes::of(protocol::ICMPV6, report)]
    };
    vec![
        listed("p55_listener_query", packet(LINK_LOCAL, 130), Passed),
        listed("p55_listener_report", packet(LINK_LOCAL, 131), Passed),
        listed("p55_listener_report_version_2", packet(LINK_LOCAL, 143), Passed),
        listed("p55_listener_report_unspecified", packet(Ipv6Addr::UNSPECIFIED, 143), Passed),
        listed("p55_listener_report_blocked", packet(BLOCKED_NEIGHBOUR, 143), Blocked),
    ]
}

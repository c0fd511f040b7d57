//! The cases that take more than one frame: which limit a packet is held to, and when the limit lets go.
//!
//! A port that admits one packet a second tells by the second packet at the same moment whether the port was read.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    BURST, NOW, ONE_PER_SECOND, ONE_PER_SECOND_PROTOCOL, PATH_MTU_BURST, SLOW_PORT, Sequence, Step, TableSet,
    generated, icmp, lists,
};
use crate::Reason::{self, BitRate, PacketRate, Passed};
use crate::frame;
use crate::stack;
use crate::testing::frames::{
    Bytes, Extension, Icmp, Icmpv6, Ipv4, Ipv6, Layer, Sctp, Tcp, Udp, Vlan, default, frame, protocol,
};
use crate::{Nanos, testing::frames::padded};

pub(super) fn sequences() -> Vec<Sequence> {
    let mut sources = Sources(0);
    [
        lists::before_limits(),
        ports_v4(&mut sources),
        fragments_v4(&mut sources),
        ports_v6(&mut sources),
        path_mtu(&mut sources),
        services(&mut sources),
        rates(&mut sources),
    ]
    .concat()
}

/// Hands out sources that no other sequence has, in either family, each in a network of its own.
struct Sources(u16);

impl Sources {
    fn next(&mut self) -> [u8; 2] {
        self.0 += 1;
        self.0.to_be_bytes()
    }

    fn v4(&mut self) -> Ipv4 {
        let [high, low] = self.next();
        Ipv4 { source: Ipv4Addr::new(100, 64 + high, low, 7), ..default() }
    }

    fn v6(&mut self) -> Ipv6 {
        let [high, low] = self.next();
        let network = u16::from_be_bytes([high, low]);
        Ipv6 { source: Ipv6Addr::new(0x2001, 0xdb8, 0x5000, network, 0, 0, 0, 7), ..default() }
    }
}

/// Frames at [`NOW`] and their verdicts.
pub(super) fn sequence(name: impl Into<String>, steps: Vec<(Vec<u8>, Reason)>) -> Sequence {
    timed(name, steps.into_iter().map(|(frame, expected)| (frame, Nanos(0), expected)).collect())
}

/// Frames, when they come after [`NOW`], and their verdicts.
fn timed(name: impl Into<String>, steps: Vec<(Vec<u8>, Nanos, Reason)>) -> Sequence {
    let steps = steps
        .into_iter()
        .map(|(frame, after, expected)| Step { frame, now: NOW.saturating_add(after), expected })
        .collect();
    Sequence { name: name.into(), tables: TableSet::Limited, steps }
}

/// The same frame twice: the rule for one packet a second sees it.
fn seen(name: impl Into<String>, frame: Vec<u8>) -> Sequence {
    sequence(name, vec![(frame.clone(), Passed), (frame, PacketRate)])
}

/// The same frame twice: no rule but the one for all packets sees it.
fn unseen(name: impl Into<String>, frame: Vec<u8>) -> Sequence {
    sequence(name, vec![(frame.clone(), Passed), (frame, Passed)])
}

fn udp() -> Udp {
    Udp { destination: ONE_PER_SECOND, ..default() }
}

fn tcp() -> Tcp {
    Tcp { destination: ONE_PER_SECOND, ..default() }
}

fn sctp() -> Sctp {
    Sctp { destination: ONE_PER_SECOND, ..default() }
}

fn ports_v4(sources: &mut Sources) -> Vec<Sequence> {
    let mut sequences = vec![
        seen("p21_port_udp", frame![sources.v4(), udp()]),
        seen("p21_port_tcp", frame![sources.v4(), tcp()]),
        seen("p21_port_sctp", frame![sources.v4(), sctp()]),
        unseen("p21_another_port_udp", frame![sources.v4(), Udp::default()]),
        unseen("p21_source_port", frame![sources.v4(), Udp { source: ONE_PER_SECOND, ..default() }]),
        unseen("p21_port_of_another_protocol", frame![sources.v4(), Bytes::of(33, stack![udp()])]),
        seen("p07_port_behind_priority_tag", frame![Vlan { id: 0, ..default() }, sources.v4(), udp()]),
        seen("p26_port_in_padded_frame", padded(frame![sources.v4(), udp()])),
    ];
    for words in 6..=15 {
        let ip = Ipv4 { options: vec![1; (words - 5) * 4], ..sources.v4() };
        sequences.push(seen(format!("p21_port_behind_ihl_{words}"), frame![ip, udp()]));
    }
    // At offset 20 stands a port that is not one.
    let decoy = Ipv4 { options: stack![udp()], ..sources.v4() };
    sequences.push(unseen("p21_options_are_not_ports", frame![decoy, Udp::default()]));
    sequences
}

fn fragments_v4(sources: &mut Sources) -> Vec<Sequence> {
    let piece = |ip: Ipv4, offset, more, number, bytes: Vec<u8>| {
        let ip = Ipv4 { fragment_offset: offset, more_fragments: more, dont_fragment: false, ..ip };
        frame![ip, Bytes::of(number, bytes)]
    };
    let udp_bytes = || stack![Udp { length: Some(1000), ..udp() }, Bytes::from([0; 24])];
    let tcp_bytes = || stack![tcp(), Bytes::from([0; 28])];
    let mut sequences = vec![
        seen("p31_first_fragment_udp", piece(sources.v4(), 0, true, protocol::UDP, udp_bytes())),
        seen("p31_first_fragment_tcp", piece(sources.v4(), 0, true, protocol::TCP, tcp_bytes())),
    ];
    for (place, offset, more) in [("middle", 10, true), ("last", 20, false)] {
        sequences.extend([
            unseen(
                format!("p32_{place}_udp_looks_like_port"),
                piece(sources.v4(), offset, more, protocol::UDP, udp_bytes()),
            ),
            unseen(
                format!("p32_{place}_tcp_looks_like_port"),
                piece(sources.v4(), offset, more, protocol::TCP, tcp_bytes()),
            ),
        ]);
    }
    // A rule for the protocol whatever the port holds for all fragments of it.
    let number = ONE_PER_SECOND_PROTOCOL;
    sequences.push(seen("p32_protocol_rule_last", piece(sources.v4(), 20, false, number, vec![0; 16])));
    let later = piece(sources.v4(), 20, false, protocol::UDP, udp_bytes());
    sequences.push(sequence("p33_later_fragments_are_limited", up_to_burst(&later)));
    sequences
}

/// As many of `frame` as the limit for all packets admits at once, and one more.
fn up_to_burst(frame: &[u8]) -> Vec<(Vec<u8>, Reason)> {
    (0..=BURST).map(|i| (frame.to_vec(), if i < BURST { Passed } else { PacketRate })).collect()
}

fn ports_v6(sources: &mut Sources) -> Vec<Sequence> {
    let mut sequences = vec![
        seen("p41_port_udp", frame![sources.v6(), udp()]),
        seen("p41_port_tcp", frame![sources.v6(), tcp()]),
        seen("p41_port_sctp", frame![sources.v6(), sctp()]),
        unseen("p41_another_port", frame![sources.v6(), Udp::default()]),
    ];
    let upper: [Layer; 3] = [udp().into(), tcp().into(), sctp().into()];
    for (i, chain) in generated::chains().into_iter().filter(|chain| chain.fragments <= 1).enumerate() {
        let layers = [&[sources.v6().into()], &chain.headers[..], &[upper[i % upper.len()].clone()]].concat();
        sequences.push(seen(format!("p41_port_behind{}", chain.name), frame(&layers)));
    }
    let eight = vec![Extension::destination_options().into(); 8];
    let layers = [vec![sources.v6().into()], eight, vec![udp().into()]].concat();
    sequences.push(seen("p42_port_behind_8_headers", frame(&layers)));

    let long = || Layer::from(Udp { length: Some(1000), ..udp() });
    let piece = |ip: Ipv6, offset, more| {
        frame(&[ip.into(), Extension::fragment(offset, more, 7).into(), long(), Bytes::from([0; 24]).into()])
    };
    sequences.extend([
        seen("p45_port_in_atomic_fragment", frame![sources.v6(), Extension::fragment(0, false, 7), udp()]),
        seen("p46_port_in_first_fragment", piece(sources.v6(), 0, true)),
        unseen("p47_middle_looks_like_port", piece(sources.v6(), 10, true)),
        unseen("p47_last_looks_like_port", piece(sources.v6(), 20, false)),
    ]);
    let later = piece(sources.v6(), 20, false);
    sequences.push(sequence("p47_later_fragments_are_limited", up_to_burst(&later)));
    // Option bytes that spell a UDP header.
    let decoy =
        Extension::new(protocol::DESTINATION_OPTIONS, [&[1, 12][..], &stack![udp()], &[0; 4]].concat());
    sequences.push(unseen("p41_options_are_not_ports", frame![sources.v6(), decoy, Udp::default()]));
    sequences
}

fn path_mtu(sources: &mut Sources) -> Vec<Sequence> {
    let mut sequences = Vec::new();
    let mut both = |name: &str, flood: Vec<u8>, needed: Vec<u8>| {
        // The flood uses up all that there is for ordinary packets; the budget beside it is whole.
        let mut steps = up_to_burst(&flood);
        steps.extend(vec![(needed.clone(), Passed); PATH_MTU_BURST]);
        steps.push((needed.clone(), PacketRate));
        sequences.push(sequence(format!("p60_path_mtu_during_{name}"), steps));
    };
    let ip = sources.v4();
    both("flood", frame![ip.clone(), Udp::default()], icmp::fragmentation_needed(ip, 1400));
    let ip = sources.v4();
    both("echo_flood", frame![ip.clone(), Icmp::default()], icmp::fragmentation_needed(ip, 1400));
    let ip = sources.v4();
    let unreachable = frame![ip.clone(), Icmp { kind: 3, code: 1, ..default() }, Bytes::from([0x45; 28])];
    both("flood_of_unreachables", unreachable, icmp::fragmentation_needed(ip, 1400));
    let ip = sources.v4();
    let exceeded = frame![ip.clone(), Icmp { kind: 11, ..default() }, Bytes::from([0x45; 28])];
    both("flood_of_time_exceeded", exceeded, icmp::fragmentation_needed(ip, 1400));
    let ip = sources.v6();
    both("ipv6_flood", frame![ip.clone(), Udp::default()], icmp::packet_too_big(ip, 1400));
    let ip = sources.v6();
    both("ipv6_echo_flood", frame![ip.clone(), Icmpv6::default()], icmp::packet_too_big(ip, 1400));
    let ip = sources.v6();
    let unreachable = frame![ip.clone(), Icmpv6 { kind: 1, ..default() }, Bytes::from([0x60; 48])];
    both("ipv6_flood_of_unreachables", unreachable, icmp::packet_too_big(ip, 1400));
    let ip = sources.v6();
    let behind = frame![
        ip.clone(),
        Extension::destination_options(),
        Icmpv6 { kind: 2, rest: 1400_u32.to_be_bytes(), ..default() }
    ];
    both("ipv6_flood_behind_options", frame![ip, Udp::default()], behind);

    // And the other way round: a flood of path MTU messages leaves the rest alone.
    let ip = sources.v4();
    let needed = icmp::fragmentation_needed(ip.clone(), 1400);
    let mut steps = vec![(needed.clone(), Passed); PATH_MTU_BURST];
    steps.extend(vec![(needed, PacketRate); BURST]);
    steps.extend(up_to_burst(&frame![ip, Udp::default()]));
    sequences.push(sequence("p64_flood_of_path_mtu_messages", steps));

    // Neighbour discovery is held to no limit.
    let ip = Ipv6 { hop_limit: 255, ..sources.v6() };
    let solicitation = frame![ip.clone(), Icmpv6 { kind: 135, ..default() }, Bytes::from([0; 16])];
    let mut steps = up_to_burst(&frame![ip, Udp::default()]);
    steps.extend(vec![(solicitation, Reason::Neighbour); BURST + 1]);
    sequences.push(sequence("p53_neighbour_discovery_during_flood", steps));
    sequences
}

fn services(sources: &mut Sources) -> Vec<Sequence> {
    let to = |ip: Ipv4, destination| frame![ip, Udp { destination, ..default() }];
    let ip = sources.v4();
    let two_ports = sequence(
        "p73_ports_have_limits_of_their_own",
        vec![
            (to(ip.clone(), ONE_PER_SECOND), Passed),
            (to(ip.clone(), ONE_PER_SECOND), PacketRate),
            (to(ip.clone(), 0), Passed),
            (to(ip.clone(), 0), PacketRate),
            (to(ip.clone(), 9), Passed),
            (to(ip.clone(), u16::MAX), Passed),
            (to(ip, u16::MAX), PacketRate),
        ],
    );
    let ip = sources.v4();
    let port_then_protocol = sequence(
        "p73_port_rule_before_protocol_rule",
        vec![
            (frame![ip.clone(), sctp()], Passed),
            (frame![ip.clone(), sctp()], PacketRate),
            (frame![ip.clone(), Sctp::default()], Passed),
            (frame![ip.clone(), Sctp { destination: 0, ..default() }], Passed),
            (frame![ip, Sctp::default()], PacketRate),
        ],
    );
    let ip = sources.v4();
    // What one service refuses does not use up what all packets share.
    let mut steps = vec![(to(ip.clone(), ONE_PER_SECOND), Passed)];
    steps.extend(vec![(to(ip.clone(), ONE_PER_SECOND), PacketRate); BURST]);
    steps.extend(vec![(to(ip.clone(), 9), Passed); BURST - 1]);
    steps.push((to(ip, 9), PacketRate));
    let refused = sequence("p73_refused_packets_cost_nothing", steps);

    vec![
        seen("p73_port_0_udp", to(sources.v4(), 0)),
        seen("p73_port_0_tcp", frame![sources.v4(), Tcp { destination: 0, ..default() }]),
        unseen("p73_port_0_is_not_any_port", to(sources.v4(), 1)),
        unseen("p73_port_0_of_another_protocol", frame![sources.v4(), Sctp { destination: 0, ..default() }]),
        seen("p73_protocol_rule", frame![sources.v4(), Bytes::of(ONE_PER_SECOND_PROTOCOL, [0; 8])]),
        seen("p73_protocol_255", frame![sources.v4(), Bytes::of(255, [0; 8])]),
        seen("p73_protocol_0", frame![sources.v4(), Bytes::of(0, [0; 8])]),
        seen("p73_protocol_rule_ipv6", frame![sources.v6(), Bytes::of(ONE_PER_SECOND_PROTOCOL, [0; 8])]),
        two_ports,
        port_then_protocol,
        refused,
    ]
}

fn rates(sources: &mut Sources) -> Vec<Sequence> {
    const SECOND: Nanos = Nanos::from_secs(1);
    let early = Nanos(SECOND.0 - 1);
    let one = |ip: &Ipv4| frame![ip.clone(), udp()];
    let ip = sources.v4();
    let to_the_nanosecond = timed(
        "p106_limit_lets_go_to_the_nanosecond",
        vec![
            (one(&ip), Nanos(0), Passed),
            (one(&ip), Nanos(0), PacketRate),
            (one(&ip), early, PacketRate),
            (one(&ip), SECOND, Passed),
            (one(&ip), SECOND, PacketRate),
        ],
    );
    let ip = sources.v4();
    let backwards = timed(
        "p106_time_going_backwards",
        vec![(one(&ip), SECOND, Passed), (one(&ip), Nanos(0), PacketRate), (one(&ip), SECOND, PacketRate)],
    );
    let [mine, other] = [sources.v4(), sources.v4()];
    let neighbour = Ipv4 { source: Ipv4Addr::from_bits(mine.source.to_bits() + 1), ..mine.clone() };
    let apart = sequence(
        "p107_sources_are_apart",
        vec![
            (one(&mine), Passed),
            (one(&mine), PacketRate),
            (one(&neighbour), Passed),
            (one(&other), Passed),
            (one(&neighbour), PacketRate),
        ],
    );
    let six = sources.v6();
    let [a, b, c, d, ..] = six.source.segments();
    let cousin = Ipv6 { source: Ipv6Addr::new(a, b, c, d, 9, 9, 9, 9), ..six.clone() };
    let together = sequence(
        "p107_one_ipv6_network_is_one_source",
        vec![
            (frame![six, udp()], Passed),
            (frame![cousin.clone(), udp()], PacketRate),
            (
                frame![Ipv6 { source: Ipv6Addr::new(a, b, c, d ^ 0x8000, 9, 9, 9, 9), ..cousin }, udp()],
                Passed,
            ),
        ],
    );
    let ip = sources.v4();
    let slow = |bytes: usize| {
        let header = Udp { destination: SLOW_PORT, ..default() };
        frame![ip.clone(), header, Bytes::from(vec![0; bytes])]
    };
    // 8 kbit/s are 1 ms for each byte; 100 bytes may be ahead of time. The first frame has 142 bytes.
    let by_bits = timed(
        "p107_bits",
        vec![
            (slow(100), Nanos(0), Passed),
            (slow(0), Nanos(0), BitRate),
            (slow(0), Nanos(41_999_999), BitRate),
            (slow(0), Nanos(42_000_000), Passed),
            (slow(0), Nanos(42_000_000), BitRate),
        ],
    );
    let ip = sources.v4();
    let all = sequence("p107_limit_of_all_packets", up_to_burst(&frame![ip, Udp::default()]));
    vec![to_the_nanosecond, backwards, apart, together, by_bits, all]
}

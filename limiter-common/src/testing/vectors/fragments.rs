//! P30 to P38: IPv4 fragments, each judged alone.

use super::{BLOCKED_V4, Vector, listed};
use crate::Reason::{BadFragment, Blocked, Passed, TinyFragment, TransportHeader};
use crate::frame;
use crate::testing::frames::{Bytes, Ipv4, Tcp, Udp, default, protocol, stack};
use crate::{Reason, stack};

pub(super) fn vectors() -> Vec<Vector> {
    [places(), tiny(), impossible(), overlapping()].concat()
}

/// A fragment at `offset` (units of 8 bytes) with these bytes.
fn fragment(protocol: u8, offset: u16, more: bool, payload: impl Into<Vec<u8>>) -> Vec<u8> {
    fragment_of(Ipv4::default(), protocol, offset, more, payload)
}

fn fragment_of(ip: Ipv4, protocol: u8, offset: u16, more: bool, payload: impl Into<Vec<u8>>) -> Vec<u8> {
    let ip = Ipv4 { fragment_offset: offset, more_fragments: more, dont_fragment: false, ..ip };
    frame![ip, Bytes::of(protocol, payload)]
}

fn places() -> Vec<Vector> {
    let blocked = || Ipv4 { source: BLOCKED_V4, ..default() };
    let mut vectors = Vec::new();
    for (name, offset, more) in [("first", 0, true), ("middle", 10, true), ("last", 20, false)] {
        for (upper, number) in [("tcp", protocol::TCP), ("udp", protocol::UDP), ("opaque", 253)] {
            let header = match number {
                protocol::TCP => stack![Tcp::default(), Bytes::from([0; 44])],
                _ => stack![Udp { length: Some(500), ..default() }, Bytes::from([0; 56])],
            };
            vectors.extend([
                listed(
                    format!("p30_{name}_{upper}_blocked"),
                    fragment_of(blocked(), number, offset, more, header.clone()),
                    Blocked,
                ),
                listed(format!("p30_{name}_{upper}"), fragment(number, offset, more, header), Passed),
            ]);
        }
    }
    vectors
}

fn tiny() -> Vec<Vector> {
    let tcp = stack![Tcp::default(), Bytes::from([0; 20])];
    let options = stack![Tcp { options: vec![1; 20], ..default() }];
    let udp = stack![Udp { length: Some(500), ..default() }, Bytes::from([0; 16])];
    let mut vectors = vec![
        listed("p34_first_tcp_8_bytes", fragment(protocol::TCP, 0, true, &tcp[..8]), TinyFragment),
        listed("p34_first_tcp_16_bytes", fragment(protocol::TCP, 0, true, &tcp[..16]), TinyFragment),
        listed("p34_first_tcp_24_bytes", fragment(protocol::TCP, 0, true, &tcp[..24]), Passed),
        // The options may go on in the next fragment; ports and flags are here.
        listed("p34_first_tcp_options_cut", fragment(protocol::TCP, 0, true, &options[..24]), Passed),
        listed("p34_first_udp_8_bytes", fragment(protocol::UDP, 0, true, &udp[..8]), Passed),
        listed("p34_first_udp_24_bytes", fragment(protocol::UDP, 0, true, &udp[..24]), Passed),
        listed("p34_first_icmp_24_bytes", fragment(protocol::ICMP, 0, true, [8; 24]), Passed),
        listed("p34_first_sctp_8_bytes", fragment(protocol::SCTP, 0, true, [8; 8]), TransportHeader),
        listed("p34_first_opaque_8_bytes", fragment(253, 0, true, [8; 8]), Passed),
        listed("p35_tcp_offset_1", fragment(protocol::TCP, 1, false, &tcp[8..]), TinyFragment),
        listed("p35_tcp_offset_1_more", fragment(protocol::TCP, 1, true, &tcp[8..24]), TinyFragment),
        listed("p35_tcp_offset_2", fragment(protocol::TCP, 2, false, &tcp[16..]), Passed),
        listed("p35_udp_offset_1", fragment(protocol::UDP, 1, false, &udp[8..]), Passed),
    ];
    for len in 1..=7 {
        let last = fragment(protocol::ICMP, 185, false, vec![0; len]);
        vectors.push(listed(format!("p36_last_icmp_{len}_bytes"), last, Passed));
    }
    vectors
}

fn impossible() -> Vec<Vector> {
    // 8191 * 8 = 65528: seven more bytes are the last that fit.
    let mut vectors = vec![
        listed("p37_ends_at_65535", fragment(protocol::UDP, 8191, false, [0; 7]), Passed),
        listed("p37_ends_at_65536", fragment(protocol::UDP, 8191, false, [0; 8]), BadFragment),
        listed("p37_ends_far_behind", fragment(protocol::UDP, 8191, true, [0; 1400]), BadFragment),
        listed("p37_more_and_empty", fragment(protocol::UDP, 4, true, []), BadFragment),
        listed("p37_first_and_empty", fragment(protocol::UDP, 0, true, []), BadFragment),
        listed("p37_last_and_empty", fragment(protocol::UDP, 4, false, []), BadFragment),
    ];
    for len in 1..=7_usize {
        let odd = fragment(protocol::UDP, 4, true, vec![0; 16 + len]);
        vectors.push(listed(format!("p37_more_and_{len}_odd_bytes"), odd, BadFragment));
    }
    // Its own length says that nothing is missing.
    let mut whole = [0; 17];
    whole[..6].copy_from_slice(&[0x9c, 0x40, 0, 9, 0, 17]);
    vectors.push(listed("p37_first_more_and_odd", fragment(protocol::UDP, 0, true, whole), BadFragment));
    let blocked = Ipv4 { source: BLOCKED_V4, ..default() };
    let odd = fragment_of(blocked, protocol::UDP, 4, true, [0; 9]);
    vectors.push(listed("p37_more_and_odd_blocked", odd, Blocked));
    vectors
}

/// Nothing is remembered of other fragments, so order and overlap do not change a verdict.
fn overlapping() -> Vec<Vector> {
    let datagram = stack(&[Udp::default().into(), Bytes::from([0; 56]).into()]);
    let piece = |offset: u16, more, bytes: &[u8]| fragment(protocol::UDP, offset, more, bytes);
    let cases: [(&str, Vec<u8>, Reason); 4] = [
        ("p38_first", piece(0, true, &datagram[..32]), Passed),
        ("p38_overlaps_first", piece(3, true, &datagram[24..40]), Passed),
        ("p38_inside_first", piece(2, true, &datagram[16..24]), Passed),
        ("p38_last", piece(4, false, &datagram[32..]), Passed),
    ];
    cases.into_iter().map(|(name, frame, expected)| listed(name, frame, expected)).collect()
}

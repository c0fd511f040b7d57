//! Properties of parsing and of the verdict.

use std::net::IpAddr;

use super::Input;
use crate::abi::{Entry, Limits};
use crate::lists::Listed;
use crate::parse::{self, Header, Lengths};
use crate::slots::Charge;
use crate::testing::frames::{DESTINATION_V4, DESTINATION_V6, SOURCE_V4, SOURCE_V6};
use crate::testing::framings::framings;
use crate::{Action, Address, Nanos, Packet, Reason, Tables, Transport, judge};

/// Tables that say the same of every source, and limit nothing.
struct Same {
    entry: Entry,
    super_frames: bool,
}

impl Tables for Same {
    fn listed(&self, _: &Address) -> Listed {
        Listed::from_entry(self.entry)
    }

    fn lengths(&self) -> Lengths {
        Lengths { super_frames: self.super_frames }
    }

    fn limits(&self) -> Option<&Limits> {
        None
    }

    fn charge(&self, _: &Address, _: usize, _: u32, _: Nanos) -> Option<Charge> {
        None
    }
}

const FOREVER: u64 = u64::MAX;
/// A moment that deadlines in their unit can have.
const NOW: Nanos = Nanos(5 << 28);

fn verdict(frame: &[u8], block_until: u64, allow_until: u64, super_frames: bool) -> Reason {
    judge(frame, &Same { entry: Entry { block_until, allow_until }, super_frames }, &NOW)
}

/// Every frame is walked to an end, in both ways to read lengths.
pub fn parse_is_total(frame: &[u8]) {
    if let Ok((packet, header)) = parse::network(frame) {
        assert_eq!(packet.frame_len, frame.len());
        for super_frames in [false, true] {
            let Ok(transport) = parse::transport(frame, &header, Lengths { super_frames }) else {
                continue;
            };
            assert!(transport.port().is_none() || !transport.is_path_mtu(), "{transport:?}");
        }
    }
}

/// What is known of frames without tags by a few comparisons is what the walk through all headers finds.
pub fn plain_frames_need_no_walk(frame: &[u8]) {
    let (found, plain) = (parse::find_network(frame), parse::PLAIN);
    if let Some(source) = parse::find_plain_ipv4(frame) {
        assert_eq!(found, Ok(parse::Network::V4 { at: plain }));
        let walked = parse::network(frame).map(|(packet, _)| packet.source);
        assert_eq!(walked, Ok(Address::V4(source.to_be_bytes())));
    }
    if let (Some(_), Some((packet, transport))) =
        (parse::find_plain_ipv4(frame), parse::find_plain_transport(frame))
    {
        let (walked, header) = parse::network(frame).expect("it is found otherwise");
        assert_eq!(packet, walked);
        for super_frames in [false, true] {
            assert_eq!(parse::transport(frame, &header, Lengths { super_frames }), Ok(transport));
        }
    }
    assert_eq!(parse::is_plain_ipv6(frame), found == Ok(parse::Network::V6 { at: plain }));
}

/// What trails a packet that is taken for one of a single buffer does not matter.
pub fn a_packet_in_one_buffer_needs_no_other(frame: &[u8]) {
    for first in (0..frame.len()).filter_map(|len| frame.get(..len)).filter(|first| {
        parse::is_one_buffer(*first, parse::find_plain_ipv4(*first).is_some_and(|source| source != 0))
    }) {
        for super_frames in [false, true] {
            assert_eq!(
                verdict(first, 0, 0, super_frames),
                verdict(frame, 0, 0, super_frames),
                "{}",
                first.len()
            );
        }
    }
}

/// What was found of a whole packet.
fn found(frame: &[u8]) -> Result<(Packet, Header, Result<Transport, Reason>), Reason> {
    let (packet, header) = parse::network(frame)?;
    Ok((packet, header, parse::transport(frame, &header, Lengths::default())))
}

/// Bytes behind the IP length are padding: they never change what is found of a packet that was whole without them.
pub fn appended_bytes_change_nothing(frame: &[u8]) {
    let Ok((packet, header, transport)) = found(frame) else {
        return;
    };
    if transport == Err(Reason::IpLength) {
        return;
    }
    for tail in [&[0][..], &[0xff; 70], &[6; 9], frame] {
        let longer = [frame, tail].concat();
        let Ok((packet_then, header_then, transport_then)) = found(&longer) else {
            panic!("with {tail:02x?} behind it, the packet is not found any more");
        };
        let packet = Packet { frame_len: longer.len(), ..packet };
        assert_eq!((packet_then, header_then), (packet, header), "with {tail:02x?} behind it");
        assert_eq!(transport_then, transport, "with {tail:02x?} behind it");
    }
}

/// If everything is blocked, no IP packet passes but neighbour discovery; what passes as something else is nothing
/// that a host would take for IP.
pub fn blocked_source_never_passes(frame: &[u8]) {
    for super_frames in [false, true] {
        let reason = verdict(frame, FOREVER, 0, super_frames);
        if reason == Reason::NotIp {
            assert_eq!(delivered(frame), None, "a host takes this for IP: {frame:02x?}");
        } else if reason == Reason::Neighbour {
            assert!(is_neighbour_discovery(frame), "{frame:02x?}");
        } else {
            assert_eq!(reason.action(), Action::Drop, "{reason:?}: {frame:02x?}");
        }
    }
}

/// Behind the source address of a blocked packet may stand anything.
pub fn blocked_source_whatever_follows(data: &[u8]) {
    let mut input = Input(data);
    let all = framings((SOURCE_V4, DESTINATION_V4), (SOURCE_V6, DESTINATION_V6));
    let framing = &all[usize::from(input.byte()) % all.len()];
    let whole = framing.frame(&[]);
    // Up to the source address; from the version on, all else is up to the input.
    let head = (0..whole.len())
        .find(|len| framing.truncated(*len) == Reason::Blocked)
        .expect("every framing is long enough for its source");
    let mut frame = whole[..head].to_vec();
    // Lengths, fragment fields, protocol and hop limit stand before the source and must not matter either.
    let ip_at = head - if is_v4(&frame, head) { 20 } else { 40 };
    for offset in [1, 2, 3, 4, 5, 6, 7] {
        frame[ip_at + offset] = input.byte();
    }
    if is_v4(&frame, head) {
        frame[ip_at] = 0x40 | input.byte() & 0x0f;
        frame[ip_at + 9] = input.byte();
    }
    frame.extend(input.rest());
    let reason = verdict(&frame, FOREVER, 0, false);
    let neighbour = reason == Reason::Neighbour && is_neighbour_discovery(&frame);
    assert!(reason == Reason::Blocked || neighbour, "{} became {reason:?}: {frame:02x?}", framing.name);
}

fn is_v4(frame: &[u8], head: usize) -> bool {
    head >= 20 && frame[head - 8..head - 4] == SOURCE_V4.octets()
}

/// Each verdict is made of the lists and the form of the packet in one fixed way.
pub fn lists_come_first(frame: &[u8]) {
    for super_frames in [false, true] {
        let unlisted = verdict(frame, 0, 0, super_frames);
        let blocked = verdict(frame, FOREVER, 0, super_frames);
        let allowed = verdict(frame, 0, FOREVER, super_frames);
        let both = verdict(frame, FOREVER, FOREVER, super_frames);
        let expired = verdict(frame, NOW.0, NOW.0, super_frames);
        assert_eq!(both, allowed, "allow wins over block");
        assert_eq!(expired, unlisted, "an entry whose time has come says nothing");
        let lengths = Lengths { super_frames };
        let (expect_blocked, expect_allowed) = match parse::network(frame) {
            Err(reason) => (reason, reason),
            Ok((packet, _)) if packet.neighbour => (Reason::Neighbour, Reason::Neighbour),
            Ok((_, header)) => match parse::transport(frame, &header, lengths) {
                Ok(_) => (Reason::Blocked, Reason::Allowed),
                Err(reason) => (Reason::Blocked, reason),
            },
        };
        assert_eq!(blocked, expect_blocked);
        assert_eq!(allowed, expect_allowed);
        if allowed != Reason::Allowed {
            assert_eq!(unlisted, allowed, "no list changes the form of a packet");
        }
        let only_if_listed = [Reason::Blocked, Reason::Allowed, Reason::PacketRate, Reason::BitRate];
        assert!(!only_if_listed.contains(&unlisted), "{unlisted:?} with empty tables");
    }
}

/// The source under which a host might receive the frame: what Linux unwraps with the devices for it configured.
/// Written apart from the parser, after the receive functions of the kernel, and without its bounds.
fn delivered(frame: &[u8]) -> Option<IpAddr> {
    ethernet(u16_at(frame, 12)?, frame.get(14..)?)
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Option<IpAddr> {
    match ether_type {
        0x0800 => ipv4(payload),
        0x86dd => ipv6(payload),
        // skb_vlan_untag: any number of tags.
        0x8100 | 0x88a8 => ethernet(u16_at(payload, 2)?, payload.get(4..)?),
        // pppoe_rcv, ppp_input: the protocol in two bytes or in one.
        0x8864 => {
            let ppp = payload.get(6..)?;
            match ppp {
                [0x00, 0x21, rest @ ..] | [0x21, rest @ ..] => ipv4(rest),
                [0x00, 0x57, rest @ ..] | [0x57, rest @ ..] => ipv6(rest),
                [0x02, 0x81 | 0x83, rest @ ..] => labels(rest),
                _ => None,
            }
        }
        0x8847 | 0x8848 => labels(payload),
        _ => None,
    }
}

fn labels(payload: &[u8]) -> Option<IpAddr> {
    match payload {
        [_, _, stack, _, rest @ ..] if stack & 1 == 0 => labels(rest),
        [_, _, _, _, rest @ ..] => ipv4(rest).or_else(|| ipv6(rest)),
        _ => None,
    }
}

/// ip_rcv_core.
fn ipv4(packet: &[u8]) -> Option<IpAddr> {
    let total = usize::from(u16_at(packet, 2)?);
    let header = usize::from(packet[0] & 15) * 4;
    let good = packet[0] >> 4 == 4 && header >= 20 && header <= total && total <= packet.len();
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    good.then(|| IpAddr::from(source))
}

/// ip6_rcv_core.
fn ipv6(packet: &[u8]) -> Option<IpAddr> {
    let payload = packet.get(40..)?;
    let len = usize::from(u16_at(packet, 4)?);
    let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    (packet[0] >> 4 == 6 && len <= payload.len()).then(|| IpAddr::from(source))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Whether some IPv6 packet in the frame is complete neighbour discovery from the link.
fn is_neighbour_discovery(frame: &[u8]) -> bool {
    (14..frame.len()).any(|at| {
        let packet = &frame[at..];
        ipv6(packet).is_some()
            && packet[6] == 58
            && packet[7] == 255
            && matches!(packet[40..], [133..=137, 0, _, _, _, _, _, _, ..])
    })
}

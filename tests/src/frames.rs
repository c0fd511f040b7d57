//! What senders outside send to the protected host: datagrams of any source, and everything they can be wrapped in.

use std::net::IpAddr;

use limiter_common::testing::frames::{
    Bytes, Ethernet, Extension, Icmp, Icmpv6, Ipv4, Ipv6, Layer, Mpls, Pppoe, Snap, Tcp, Udp, Vlan, checksum,
    default, ether_type, frame, ipv4_fragments, ipv6_fragments, protocol, stack,
};

use crate::lab::{HOST, OUTSIDE};
use crate::veth::Mac;

/// Where the IP header of an unwrapped frame starts.
const IP_AT: usize = 14;

/// The port that the [witness](crate::witness) takes datagrams off.
pub const DISCARD: u16 = 9;

/// A UDP datagram to the discard port of the protected host, in a frame of `len` bytes.
pub fn udp(source: IpAddr, len: usize) -> Vec<u8> {
    udp_to(source, DISCARD, len)
}

/// A UDP datagram to `port` of the protected host, in a frame of `len` bytes or as few as possible.
pub fn udp_to(source: IpAddr, port: u16, len: usize) -> Vec<u8> {
    let headers = if source.is_ipv4() { IP_AT + 20 + 8 } else { IP_AT + 40 + 8 };
    let payload = vec![0; len.saturating_sub(headers)];
    framed(&[], &[ip(source), Udp { destination: port, ..default() }.into(), Bytes::from(payload).into()])
}

/// A UDP datagram that sockets take: its checksum is right.
pub fn udp_with(source: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    framed(&[], &[ip(source), Udp { destination: port, ..default() }.into(), Bytes::from(payload).into()])
}

/// The same frame from another hardware address.
pub fn sent_by(mut frame: Vec<u8>, sender: Mac) -> Vec<u8> {
    frame[6..12].copy_from_slice(&sender);
    frame
}

/// Overwrites the source address of an unwrapped frame, which must be of the same family. The checksum of what IP
/// carries is not corrected: the witness does not look at it.
pub fn set_source(frame: &mut [u8], source: IpAddr) {
    match source {
        IpAddr::V4(source) => {
            frame[IP_AT + 12..IP_AT + 16].copy_from_slice(&source.octets());
            correct(frame, IP_AT);
        }
        IpAddr::V6(source) => frame[IP_AT + 8..IP_AT + 24].copy_from_slice(&source.octets()),
    }
}

/// Makes the checksum of the IPv4 header at `at` right, if there is one.
pub fn correct(frame: &mut [u8], at: usize) {
    let len = frame.get(at).map_or(0, |first| usize::from(first & 0x0f) * 4);
    let Some(header) = frame.get_mut(at..at + len).filter(|header| header.len() >= 20) else { return };
    header[10..12].fill(0);
    let sum = checksum(&[&*header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// One way to send a datagram.
#[derive(Debug, Clone)]
pub struct Framing {
    pub name: String,
    /// Linux takes it for an IP packet of its source without further devices, so the witness counts it if it gets
    /// through. Others need a VLAN device, a PPPoE session, a bridge, or a routing table for labels.
    pub delivered: bool,
    pub frames: Vec<Vec<u8>>,
}

/// A datagram of `source` in every framing.
pub fn framings(source: IpAddr) -> Vec<Framing> {
    let mut all = Vec::new();
    let mut add = |name: String, delivered, frames| all.push(Framing { name, delivered, frames });
    let datagram = [ip(source), Udp::default().into(), Bytes::from(vec![0; 64]).into()];
    let priority = || Layer::from(Vlan { id: 0, priority: 1, ..default() });

    add("plain".into(), true, vec![framed(&[], &datagram)]);
    for tags in 1..=4 {
        let link: Vec<Layer> = (0..tags).map(|_| priority()).collect();
        add(format!("{tags} priority tags"), true, vec![framed(&link, &datagram)]);
    }
    let service = Layer::from(Vlan { tag_protocol: ether_type::VLAN_SERVICE, ..default() });
    for (name, link) in [
        ("a VLAN tag", vec![Vlan::default().into()]),
        ("a service tag and a VLAN tag", vec![service, Vlan::default().into()]),
        ("SNAP", vec![Snap::default().into()]),
        ("a priority tag and SNAP", vec![priority(), Snap::default().into()]),
        ("PPPoE", vec![Pppoe::default().into()]),
        ("a priority tag and PPPoE", vec![priority(), Pppoe::default().into()]),
    ] {
        add(name.into(), false, vec![framed(&link, &datagram)]);
    }
    for labels in 1..=4 {
        let link: Vec<Layer> = (0..labels).map(|_| Mpls::default().into()).collect();
        add(format!("{labels} MPLS labels"), false, vec![framed(&link, &datagram)]);
    }

    let payload = stack(&datagram[1..]);
    match source {
        IpAddr::V4(source) => {
            let ip = Ipv4 { source, destination: HOST.v4, ..default() };
            add("fragments".into(), true, ipv4_fragments(&ethernet(), &ip, protocol::UDP, &payload, 24));
            // No operation, record route with room for one address, router alert.
            for options in [vec![1; 40], vec![7, 7, 4, 0, 0, 0, 0, 0], vec![0x94, 4, 0, 0]] {
                let name = format!("options {}", options[0]);
                let ip = Ipv4 { options, ..ip.clone() };
                add(name, true, vec![framed(&[], &[ip.into(), datagram[1].clone(), datagram[2].clone()])]);
            }
        }
        IpAddr::V6(source) => {
            let ip = Ipv6 { source, destination: HOST.v6, ..default() };
            add("fragments".into(), true, ipv6_fragments(&ethernet(), &ip, protocol::UDP, &payload, 24));
            let chains: &[&[u8]] = &[
                &[protocol::HOP_BY_HOP],
                &[protocol::DESTINATION_OPTIONS],
                &[protocol::ROUTING],
                &[protocol::FRAGMENT],
                &[protocol::AUTHENTICATION],
                &[protocol::MOBILITY],
                &[protocol::HOP_BY_HOP, protocol::DESTINATION_OPTIONS, protocol::ROUTING, protocol::FRAGMENT],
                &[protocol::DESTINATION_OPTIONS; 8],
                &[protocol::DESTINATION_OPTIONS; 20],
            ];
            for chain in chains {
                let headers = chain.iter().map(|kind| Layer::from(Extension::harmless(*kind)));
                let ip: Layer = ip.clone().into();
                let layers: Vec<_> =
                    std::iter::once(ip).chain(headers).chain(datagram[1..].iter().cloned()).collect();
                add(format!("extension headers {chain:?}"), true, vec![framed(&[], &layers)]);
            }
        }
    }
    let tcp = Tcp::default().into();
    add("TCP".into(), true, vec![framed(&[], &[ip(source), tcp])]);
    let ping = if source.is_ipv4() { Icmp::default().into() } else { Icmpv6::default().into() };
    add("ping".into(), true, vec![framed(&[], &[ip(source), ping])]);
    for number in [protocol::IPIP, protocol::GRE, protocol::ESP, protocol::L2TP, protocol::SCTP, 253, 255] {
        let body = Bytes::of(number, vec![0; 40]).into();
        add(format!("protocol {number}"), true, vec![framed(&[], &[ip(source), body])]);
    }
    all
}

/// The IP header of a packet from `source` to the protected host.
pub fn ip(source: IpAddr) -> Layer {
    match source {
        IpAddr::V4(source) => Ipv4 { source, destination: HOST.v4, ..default() }.into(),
        IpAddr::V6(source) => Ipv6 { source, destination: HOST.v6, ..default() }.into(),
    }
}

/// A frame to the protected host: `link` is what stands between the Ethernet header and IP.
pub fn framed(link: &[Layer], packet: &[Layer]) -> Vec<u8> {
    frame(&[&ethernet()[..], link, packet].concat())
}

fn ethernet() -> [Layer; 1] {
    [Ethernet { destination: HOST.mac, source: OUTSIDE.mac, ether_type: None }.into()]
}

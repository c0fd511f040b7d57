//! The ways to wrap a packet that a filter has to see through: the base of truncations and of random mutations.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::frames::{
    Bytes, Extension, Icmp, Icmpv6, Ipv4, Ipv6, Layer, Mpls, Pppoe, Sctp, Snap, Tcp, Udp, Vlan, default,
    ether_type, frame, protocol, stack,
};
use crate::Reason;

/// One way to wrap a packet, without its Ethernet header.
#[derive(Debug, Clone)]
pub struct Framing {
    pub name: &'static str,
    /// What stands between Ethernet and IP.
    pub link: Vec<Layer>,
    /// The IP header and everything behind it.
    pub packet: Vec<Layer>,
    /// Shortest IP header that holds the source: 20 or 40 bytes.
    ip_header: usize,
}

impl Framing {
    /// The frame behind `ethernet` layers; none for the default Ethernet header.
    #[must_use]
    pub fn frame(&self, ethernet: &[Layer]) -> Vec<u8> {
        let layers: Vec<Layer> = ethernet.iter().chain(&self.link).chain(&self.packet).cloned().collect();
        frame(&layers)
    }

    /// The verdict on the first `len` bytes of the frame, if the source is blocked.
    #[must_use]
    pub fn truncated(&self, len: usize) -> Reason {
        const ETHERNET: usize = 14;
        let ip_at = ETHERNET + stack(&self.link).len();
        let mut at = ETHERNET;
        for layer in &self.link {
            let end = at + stack(std::slice::from_ref(layer)).len();
            // LLC that does not spell SNAP any more is not IP, and no host takes it for IP.
            if layer.is::<Snap>() && (at..end).contains(&len) {
                return Reason::NotIp;
            }
            // The version behind an MPLS label tells what the packet is.
            if layer.is::<Mpls>() && len == ip_at {
                return Reason::ShortLink;
            }
            at = end;
        }
        match len {
            len if len < ip_at => Reason::ShortLink,
            len if len < ip_at + self.ip_header => Reason::ShortNetwork,
            _ => Reason::Blocked,
        }
    }
}

/// All framings of packets from these sources to these destinations.
#[must_use]
pub fn framings(v4: (Ipv4Addr, Ipv4Addr), v6: (Ipv6Addr, Ipv6Addr)) -> Vec<Framing> {
    let four = || Ipv4 { source: v4.0, destination: v4.1, ..default() };
    let six = || Ipv6 { source: v6.0, destination: v6.1, ..default() };
    let mut all = Vec::new();
    all.extend(on_links("ipv4", 20, &[four().into(), Udp::default().into()]));
    all.extend(on_links("ipv6", 40, &[six().into(), Udp::default().into()]));

    let mut packet = |name, ip_header, packet: Vec<Layer>| {
        all.push(Framing { name, link: Vec::new(), packet, ip_header });
    };
    packet("ipv4_tcp", 20, vec![four().into(), Tcp::default().into()]);
    packet("ipv4_icmp", 20, vec![four().into(), Icmp::default().into()]);
    packet("ipv4_sctp", 20, vec![four().into(), Sctp::default().into()]);
    packet("ipv4_opaque", 20, vec![four().into(), Bytes::of(253, [0; 16]).into()]);
    packet("ipv4_options", 20, vec![Ipv4 { options: vec![1; 12], ..four() }.into(), Udp::default().into()]);
    packet(
        "ipv4_authenticated",
        20,
        vec![four().into(), Extension::authentication().into(), Udp::default().into()],
    );
    packet(
        "ipv4_first_fragment",
        20,
        vec![
            Ipv4 { more_fragments: true, dont_fragment: false, ..four() }.into(),
            Udp { length: Some(1000), ..default() }.into(),
            Bytes::from([0; 16]).into(),
        ],
    );
    packet(
        "ipv4_last_fragment",
        20,
        vec![
            Ipv4 { fragment_offset: 3, dont_fragment: false, ..four() }.into(),
            Bytes::of(protocol::UDP, [0; 16]).into(),
        ],
    );
    packet("ipv4_in_ipv4", 20, vec![four().into(), Ipv4::default().into(), Udp::default().into()]);
    packet("ipv6_in_ipv4", 20, vec![four().into(), Ipv6::default().into(), Udp::default().into()]);
    packet("ipv6_tcp", 40, vec![six().into(), Tcp::default().into()]);
    packet("ipv6_icmp", 40, vec![six().into(), Icmpv6::default().into()]);
    packet("ipv6_opaque", 40, vec![six().into(), Bytes::of(253, [0; 16]).into()]);
    packet(
        "ipv6_chain",
        40,
        vec![
            six().into(),
            Extension::hop_by_hop().into(),
            Extension::routing(3).into(),
            Extension::authentication().into(),
            Extension::destination_options().into(),
            Udp::default().into(),
        ],
    );
    packet(
        "ipv6_first_fragment",
        40,
        vec![
            six().into(),
            Extension::fragment(0, true, 1).into(),
            Udp { length: Some(1000), ..default() }.into(),
            Bytes::from([0; 16]).into(),
        ],
    );
    packet(
        "ipv6_last_fragment",
        40,
        vec![six().into(), Extension::fragment(3, false, 1).into(), Bytes::of(protocol::UDP, [0; 16]).into()],
    );
    packet("ipv4_in_ipv6", 40, vec![six().into(), Ipv4::default().into(), Udp::default().into()]);
    all
}

/// `packet` behind every kind of link header. The names are told apart by the family that they start with.
fn on_links(family: &str, ip_header: usize, packet: &[Layer]) -> Vec<Framing> {
    let priority = || Vlan { id: 0, ..default() };
    let service = || Vlan { tag_protocol: ether_type::VLAN_SERVICE, id: 7, ..default() };
    let upstream = Mpls { ether_type: ether_type::MPLS_UPSTREAM, ..default() };
    let bridge_tunnel = Snap { organisation: [0, 0, 0xf8], ..default() };
    let links: Vec<(&'static str, &'static str, Vec<Layer>)> = vec![
        ("ipv4", "ipv6", vec![]),
        ("ipv4_priority_tag", "ipv6_priority_tag", vec![priority().into()]),
        ("ipv4_two_priority_tags", "ipv6_two_priority_tags", vec![priority().into(), priority().into()]),
        ("ipv4_vlan", "ipv6_vlan", vec![Vlan::default().into()]),
        ("ipv4_qinq", "ipv6_qinq", vec![service().into(), Vlan::default().into()]),
        ("ipv4_four_tags", "ipv6_four_tags", vec![Vlan::default().into(); 4]),
        ("ipv4_snap", "ipv6_snap", vec![Snap::default().into()]),
        ("ipv4_bridge_tunnel", "ipv6_bridge_tunnel", vec![bridge_tunnel.into()]),
        ("ipv4_tag_and_snap", "ipv6_tag_and_snap", vec![priority().into(), Snap::default().into()]),
        ("ipv4_snap_and_tag", "ipv6_snap_and_tag", vec![Snap::default().into(), priority().into()]),
        ("ipv4_pppoe", "ipv6_pppoe", vec![Pppoe::default().into()]),
        (
            "ipv4_pppoe_compressed",
            "ipv6_pppoe_compressed",
            vec![Pppoe { compressed: true, ..default() }.into()],
        ),
        ("ipv4_tag_and_pppoe", "ipv6_tag_and_pppoe", vec![Vlan::default().into(), Pppoe::default().into()]),
        ("ipv4_mpls", "ipv6_mpls", vec![Mpls::default().into()]),
        ("ipv4_mpls_upstream", "ipv6_mpls_upstream", vec![upstream.into()]),
        ("ipv4_four_labels", "ipv6_four_labels", vec![Mpls::default().into(); 4]),
        ("ipv4_pppoe_and_mpls", "ipv6_pppoe_and_mpls", vec![Pppoe::default().into(), Mpls::default().into()]),
    ];
    links
        .into_iter()
        .map(|(v4, v6, link)| Framing {
            name: if family == "ipv4" { v4 } else { v6 },
            link,
            packet: packet.to_vec(),
            ip_header,
        })
        .collect()
}

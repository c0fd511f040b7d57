//! P01 to P15: what stands in front of IP.

use super::{BLOCKED_V4, BLOCKED_V6, Vector, listed};
use crate::Reason::{self, Blocked, MplsTooDeep, NotIp, Passed, ShortLink, ShortNetwork, VlanTooDeep};
use crate::frame;
use crate::testing::frames::{
    Arp, Bytes, DESTINATION_V4, Ethernet, Ipv4, Ipv6, Layer, Llc, Mpls, Pppoe, Snap, Tcp, Udp, Vlan, default,
    ether_type, frame, protocol,
};

pub(super) fn vectors() -> Vec<Vector> {
    [short(), logical_link(), not_ip(), vlan(), mpls(), pppoe()].concat()
}

/// A packet of each family from a blocked source.
fn blocked() -> [(&'static str, [Layer; 2]); 2] {
    [
        ("ipv4", [Ipv4 { source: BLOCKED_V4, ..default() }.into(), Udp::default().into()]),
        ("ipv6", [Ipv6 { source: BLOCKED_V6, ..default() }.into(), Tcp::default().into()]),
    ]
}

/// Both packets behind `link`.
fn both(name: &str, link: &[Layer], expected: Reason) -> Vec<Vector> {
    blocked()
        .into_iter()
        .map(|(family, packet)| {
            listed(format!("{name}_{family}_blocked"), frame(&[link, &packet].concat()), expected)
        })
        .collect()
}

fn priority() -> Layer {
    Vlan { id: 0, ..default() }.into()
}

fn tagged(tag_protocol: u16) -> Layer {
    Vlan { tag_protocol, id: 100, ..default() }.into()
}

fn short() -> Vec<Vector> {
    let whole = frame![Ipv4::default(), Udp::default()];
    let mut vectors: Vec<Vector> =
        (0..14).map(|len| listed(format!("p01_{len}_bytes"), whole[..len].to_vec(), ShortLink)).collect();
    for (name, ether_type) in [("ipv4", ether_type::IPV4), ("ipv6", ether_type::IPV6)] {
        let header = Ethernet { ether_type: Some(ether_type), ..default() };
        vectors.push(listed(format!("p02_ethernet_header_alone_{name}"), frame![header], ShortNetwork));
    }
    vectors
}

fn logical_link() -> Vec<Vector> {
    let spanning_tree = frame![Llc::default(), Bytes::from([0; 35])];
    let routing = Llc { destination: 0xfe, source: 0xfe, ..default() };
    let longest = Llc { length: Some(0x05ff), ..default() };
    let shortest = Llc { length: Some(0), ..default() };
    let mut vectors = vec![
        listed("p03_spanning_tree", spanning_tree, NotIp),
        listed("p03_is_is", frame![routing, Bytes::from([0; 40])], NotIp),
        listed("p03_length_0x05ff", frame![longest, Bytes::from([0; 40])], NotIp),
        listed("p03_length_0", frame![shortest, Bytes::from([0; 40])], NotIp),
        listed("p03_llc_cut", frame![Ethernet { ether_type: Some(3), ..default() }], NotIp),
    ];
    let snap = |organisation, length| Layer::from(Snap { organisation, length, ..default() });
    let bridge_tunnel = [0, 0, 0xf8];
    vectors.extend(both("p04_snap", &[snap([0; 3], None)], Blocked));
    vectors.extend(both("p04_snap_length_0", &[snap([0; 3], Some(0))], Blocked));
    vectors.extend(both("p04_snap_length_too_long", &[snap([0; 3], Some(1500))], Blocked));
    vectors.extend(both("p04_snap_bridge_tunnel", &[snap(bridge_tunnel, None)], Blocked));
    // The first number that is an EtherType; what follows only looks like SNAP.
    vectors.extend(both("p04_ether_type_0x0600_then_snap", &[snap([0; 3], Some(0x0600))], NotIp));
    vectors.extend(both("p04_snap_length_0x05ff", &[snap([0; 3], Some(0x05ff))], Blocked));
    // Another organisation's numbers are not EtherTypes.
    vectors.extend(both("p04_snap_private", &[snap([0, 0, 0x0c], None)], NotIp));
    // Nobody unwraps a second one.
    vectors.extend(both("p04_snap_in_snap", &[snap([0; 3], None), snap([0; 3], None)], NotIp));
    let other = frame![Snap { ether_type: Some(0x809b), ..default() }, Bytes::from([0; 40])];
    vectors.push(listed("p04_snap_appletalk", other, NotIp));
    let clean = frame![Snap::default(), Ipv4::default(), Udp::default()];
    vectors.push(listed("p04_snap_ipv4", clean, Passed));
    vectors
}

fn not_ip() -> Vec<Vector> {
    let mut vectors: Vec<Vector> = [
        ("length_limit", 0x0600),
        ("wake_on_lan", 0x0842),
        ("reverse_arp", 0x8035),
        ("lacp", 0x8809),
        ("pppoe_discovery", ether_type::PPPOE_DISCOVERY),
        ("eapol", 0x888e),
        ("local_experiment", 0x88b5),
        ("lldp", 0x88cc),
        ("macsec", 0x88e5),
        ("precision_time", 0x88f7),
        ("loopback", 0x9000),
        ("bytes_of_ipv4_swapped", 0x0008),
        ("bytes_of_ipv6_swapped", 0xdd86),
        ("unknown", 0xffff),
    ]
    .into_iter()
    .map(|(name, number)| {
        let case = if number == 0x88e5 { "p15" } else { "p05" };
        listed(format!("{case}_{name}"), frame![Bytes::link(number, [0x45; 46])], NotIp)
    })
    .collect();

    let sender = |address| ([2, 0, 0, 0, 0, 2], address);
    let gratuitous = Arp { sender: sender(BLOCKED_V4), target: ([0xff; 6], BLOCKED_V4), ..default() };
    let own = Arp { sender: sender(DESTINATION_V4), ..default() };
    let whole = frame![Arp { operation: 2, sender: sender(BLOCKED_V4), ..default() }];
    vectors.extend([
        listed("p06_arp_request", frame![Arp::default()], NotIp),
        listed("p06_arp_request_blocked", frame![Arp { sender: sender(BLOCKED_V4), ..default() }], NotIp),
        listed("p06_arp_reply_blocked", whole.clone(), NotIp),
        listed("p06_arp_gratuitous_blocked", frame![gratuitous], NotIp),
        listed("p06_arp_own_address", frame![own], NotIp),
        listed("p06_arp_truncated", whole[..20].to_vec(), NotIp),
        listed("p06_arp_header_alone", whole[..14].to_vec(), NotIp),
        listed("p06_arp_with_priority_tag", frame![Vlan { id: 0, ..default() }, Arp::default()], NotIp),
    ]);
    vectors
}

fn vlan() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for tags in 1..=4 {
        vectors.extend(both(&format!("p07_{tags}_priority_tags"), &vec![priority(); tags], Blocked));
        vectors.extend(both(&format!("p08_{tags}_tags"), &vec![tagged(ether_type::VLAN); tags], Blocked));
    }
    let urgent = Vlan { id: 0, priority: 7, ..default() };
    vectors.extend(both("p07_priority_7", &[urgent.into()], Blocked));
    let clean = frame![priority(), Ipv4::default(), Udp::default()];
    vectors.push(listed("p07_priority_tag", clean, Passed));

    let qinq = [tagged(ether_type::VLAN_SERVICE), tagged(ether_type::VLAN)];
    vectors.extend(both("p08_qinq", &qinq, Blocked));
    for number in [ether_type::VLAN_SERVICE, 0x9100, 0x9200, 0x9300] {
        vectors.extend(both(&format!("p08_tag_protocol_{number:04x}"), &[tagged(number)], Blocked));
    }
    let clean = frame![Vlan::default(), Ipv4::default(), Udp::default()];
    vectors.push(listed("p08_tag", clean, Passed));

    // Linux strips any number of priority tags and delivers the packet, so depth cannot buy a pass, for anybody.
    for tags in 5..=20 {
        vectors.extend(both(&format!("p09_{tags}_tags"), &vec![priority(); tags], VlanTooDeep));
    }
    let clean: Vec<Layer> =
        [vec![priority(); 5], vec![Ipv4::default().into(), Udp::default().into()]].concat();
    vectors.push(listed("p09_5_tags", frame(&clean), VlanTooDeep));
    let arp: Vec<Layer> = [vec![priority(); 5], vec![Arp::default().into()]].concat();
    vectors.push(listed("p09_5_tags_arp", frame(&arp), VlanTooDeep));

    let whole = frame![Vlan::default(), Vlan::default(), Ipv4 { source: BLOCKED_V4, ..default() }];
    for len in 14..22 {
        vectors.push(listed(format!("p10_tag_cut_at_{len}"), whole[..len].to_vec(), ShortLink));
    }

    let snap = || Layer::from(Snap::default());
    vectors.extend(both("p11_priority_tag_then_snap", &[priority(), snap()], Blocked));
    vectors.extend(both("p11_snap_then_priority_tag", &[snap(), priority()], Blocked));
    vectors.extend(both("p11_snap_between_tags", &[priority(), snap(), priority()], Blocked));
    vectors.extend(both("p11_4_tags_then_snap", &[vec![priority(); 4], vec![snap()]].concat(), Blocked));
    vectors.extend(both("p11_snap_then_4_tags", &[vec![snap()], vec![priority(); 4]].concat(), Blocked));
    vectors.extend(both("p11_snap_then_5_tags", &[vec![snap()], vec![priority(); 5]].concat(), VlanTooDeep));
    vectors.extend(both(
        "p11_4_tags_snap_tag",
        &[vec![priority(); 4], vec![snap(), priority()]].concat(),
        VlanTooDeep,
    ));
    vectors
}

fn mpls() -> Vec<Vector> {
    let label = || Layer::from(Mpls::default());
    let mut vectors = Vec::new();
    for labels in 1..=4 {
        vectors.extend(both(&format!("p13_{labels}_labels"), &vec![label(); labels], Blocked));
    }
    for labels in 5..=50 {
        vectors.extend(both(&format!("p13_{labels}_labels"), &vec![label(); labels], MplsTooDeep));
    }
    let upstream = Mpls { ether_type: ether_type::MPLS_UPSTREAM, ..default() };
    vectors.extend(both("p13_upstream_label", &[upstream.into()], Blocked));
    vectors.extend(both("p13_tag_then_label", &[Vlan::default().into(), label()], Blocked));
    let endless = Layer::from(Mpls { bottom: Some(false), ..default() });
    vectors.extend(both("p13_no_bottom_4_labels", &vec![endless.clone(); 4], MplsTooDeep));
    let pseudowire = Bytes::from([0; 50]);
    let whole = frame![Mpls::default(), Mpls::default(), Ipv4 { source: BLOCKED_V4, ..default() }];
    vectors.extend([
        listed("p13_label", frame![Mpls::default(), Ipv4::default(), Udp::default()], Passed),
        listed("p13_pseudowire", frame![Mpls::default(), pseudowire.clone()], NotIp),
        listed(
            "p13_pseudowire_5_labels",
            frame(&[vec![label(); 5], vec![pseudowire.into()]].concat()),
            MplsTooDeep,
        ),
        listed("p13_no_bottom_then_end", frame![endless.clone(), endless], ShortLink),
        listed("p13_label_cut", whole[..17].to_vec(), ShortLink),
        listed("p13_second_label_cut", whole[..20].to_vec(), ShortLink),
        listed("p13_nothing_behind_labels", whole[..22].to_vec(), ShortLink),
    ]);
    vectors
}

fn pppoe() -> Vec<Vector> {
    let mut vectors = both("p14_pppoe", &[Pppoe::default().into()], Blocked);
    vectors.extend(both("p14_compressed", &[Pppoe { compressed: true, ..default() }.into()], Blocked));
    vectors.extend(both("p14_length_0", &[Pppoe { length: Some(0), ..default() }.into()], Blocked));
    vectors.extend(both("p14_priority_tag", &[priority(), Pppoe::default().into()], Blocked));
    vectors.extend(both("p14_then_label", &[Pppoe::default().into(), Mpls::default().into()], Blocked));
    let upstream = Mpls { ether_type: ether_type::MPLS_UPSTREAM, ..default() };
    vectors.extend(both("p14_then_upstream_label", &[Pppoe::default().into(), upstream.into()], Blocked));
    for (name, number) in [("link_control", 0xc021), ("ip_control", 0x8021), ("ipv6_control", 0x8057)] {
        let control = Pppoe { protocol: Some(number), ..default() };
        vectors.push(listed(format!("p14_{name}"), frame![control, Bytes::from([1, 1, 0, 4])], NotIp));
    }
    let wrong = Pppoe { protocol: Some(0x0057), ..default() };
    let whole = frame![Pppoe::default(), Ipv4 { source: BLOCKED_V4, ..default() }, Udp::default()];
    vectors.extend([
        listed("p14_clean", frame![Pppoe::default(), Ipv4::default(), Udp::default()], Passed),
        listed(
            "p14_ipv4_announced_as_ipv6_blocked",
            frame![wrong, Ipv4 { source: BLOCKED_V4, ..default() }, Bytes::of(protocol::UDP, [0; 40])],
            Reason::IpVersion,
        ),
        listed("p14_no_protocol", whole[..20].to_vec(), ShortLink),
        listed("p14_half_a_protocol", whole[..21].to_vec(), ShortLink),
        listed("p14_header_cut", whole[..17].to_vec(), ShortLink),
    ]);
    vectors
}

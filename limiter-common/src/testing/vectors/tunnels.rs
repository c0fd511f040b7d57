//! P80 to P82: tunnels are opaque: the outer source decides.

use super::{BLOCKED_V4, BLOCKED_V6, Vector, listed};
use crate::Reason::{Blocked, Passed};
use crate::frame;
use crate::testing::frames::{
    Bytes, Ethernet, Gre, Ipv4, Ipv6, Layer, Mpls, Tcp, Udp, default, ether_type, frame, protocol,
};

pub(super) fn vectors() -> Vec<Vector> {
    [through(), nested(), past_the_end()].concat()
}

/// A tunnel header, and whether it carries Ethernet.
fn tunnels() -> Vec<(&'static str, Vec<Layer>)> {
    let udp = |destination| Layer::from(Udp { destination, ..default() });
    let key = Gre { flags: 0x2000, optional: vec![0, 0, 0, 7], ..default() };
    let all = Gre { flags: 0xb000, optional: vec![0; 12], ..default() };
    let pptp = Gre { flags: 0x3001, ether_type: Some(0x880b), optional: vec![0, 64, 0, 7, 0, 0, 0, 1] };
    let geneve = vec![2, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 0x80, 1, 0, 0, 0, 0];
    vec![
        ("ip", vec![]),
        ("gre", vec![Gre::default().into()]),
        ("gre_key", vec![key.into()]),
        ("gre_all_fields", vec![all.into()]),
        ("gre_pptp", vec![pptp.into()]),
        ("gre_bridged", vec![Gre::default().into(), Ethernet::default().into()]),
        ("mpls", vec![Mpls::default().into()]),
        ("vxlan", vec![udp(4789), Bytes::from([8, 0, 0, 0, 0, 0, 7, 0]).into(), Ethernet::default().into()]),
        ("geneve", vec![udp(6081), Bytes::from(geneve).into(), Ethernet::default().into()]),
        ("gue", vec![udp(6080), Bytes::from([0, 4, 0, 0]).into()]),
        ("l2tp", vec![Bytes::of(protocol::L2TP, [0, 0, 0, 7]).into()]),
        ("wireguard", vec![udp(51820), Bytes::from([4, 0, 0, 0, 1, 0, 0, 0]).into()]),
    ]
}

fn through() -> Vec<Vector> {
    let clean: [(&str, Layer); 2] = [("ipv4", Ipv4::default().into()), ("ipv6", Ipv6::default().into())];
    let listed_sources: [(&str, Layer); 2] = [
        ("ipv4", Ipv4 { source: BLOCKED_V4, ..default() }.into()),
        ("ipv6", Ipv6 { source: BLOCKED_V6, ..default() }.into()),
    ];
    let mut vectors = Vec::new();
    for (name, tunnel) in tunnels() {
        for ((outer_name, clean_outer), (_, blocked_outer)) in clean.iter().zip(&listed_sources) {
            for ((inner_name, clean_inner), (_, blocked_inner)) in clean.iter().zip(&listed_sources) {
                let packet = |outer: &Layer, inner: &Layer| {
                    let inner = [inner.clone(), Tcp::default().into()];
                    frame(&[std::slice::from_ref(outer), &tunnel[..], &inner].concat())
                };
                vectors.push(listed(
                    format!("p80_{inner_name}_through_{name}_in_{outer_name}_outer_blocked"),
                    packet(blocked_outer, clean_inner),
                    Blocked,
                ));
                vectors.push(listed(
                    format!("p81_{inner_name}_through_{name}_in_{outer_name}_inner_blocked"),
                    packet(clean_outer, blocked_inner),
                    Passed,
                ));
            }
        }
    }
    vectors
}

fn nested() -> Vec<Vector> {
    let deep = |depth: usize, outer: Ipv4| {
        let inner = vec![Ipv4::default().into(); depth];
        frame(&[vec![outer.into()], inner, vec![Udp::default().into()]].concat())
    };
    let blocked = || Ipv4 { source: BLOCKED_V4, ..default() };
    let three = frame![
        Ipv4::default(),
        Gre::default(),
        Ipv6::default(),
        Udp { destination: 4789, ..default() },
        Bytes::from([8, 0, 0, 0, 0, 0, 7, 0]),
        Ethernet::default(),
        Ipv4 { source: BLOCKED_V4, ..default() },
        Udp::default()
    ];
    vec![
        listed("p82_3_tunnels", three, Passed),
        listed("p82_3_ip_in_ip", deep(3, default()), Passed),
        listed("p82_3_ip_in_ip_blocked", deep(3, blocked()), Blocked),
        // 1.5 KiB of nothing but headers is 70 of them; 100 need a large frame.
        listed("p82_70_ip_in_ip", deep(70, default()), Passed),
        listed("p82_100_ip_in_ip", deep(100, default()), Passed),
        listed("p82_100_ip_in_ip_blocked", deep(100, blocked()), Blocked),
    ]
}

fn past_the_end() -> Vec<Vector> {
    let gre = Gre { flags: 0xb000, ether_type: Some(ether_type::IPV4), optional: vec![0; 3] };
    let geneve = Bytes::from([0x3f, 0, 8, 0, 0, 0, 7, 0]);
    let outer = || Ipv4 { source: BLOCKED_V4, ..default() };
    let six_tunnel = || Udp { destination: 6081, ..default() };
    vec![
        listed("p82_gre_cut", frame![Ipv4::default(), gre.clone()], Passed),
        listed("p82_gre_cut_blocked", frame![outer(), gre], Blocked),
        listed("p82_gre_missing", frame![Ipv4::default(), Bytes::of(protocol::GRE, [])], Passed),
        listed(
            "p82_geneve_options_past_the_end",
            frame![Ipv4::default(), six_tunnel(), geneve.clone()],
            Passed,
        ),
        listed("p82_geneve_options_past_the_end_blocked", frame![outer(), six_tunnel(), geneve], Blocked),
    ]
}

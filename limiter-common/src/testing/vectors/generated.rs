//! Cases by the hundred: every extension header chain up to depth 3, and every truncation of every framing.

use super::{BLOCKED_IN_PREFIX_V4, BLOCKED_IN_PREFIX_V6, BLOCKED_V4, BLOCKED_V6, Vector, listed};
use crate::Reason::{BadFragment, Blocked, Passed};
use crate::testing::frames::{
    DESTINATION_V4, DESTINATION_V6, Extension, Icmpv6, Ipv6, Layer, Sctp, Tcp, Udp, default, frame, protocol,
};
use crate::testing::framings::framings;

pub(super) fn vectors() -> Vec<Vector> {
    [chain_vectors(), framed(), truncated()].concat()
}

/// The extension headers that are walked over.
const KINDS: [(&str, u8); 8] = [
    ("hbh", protocol::HOP_BY_HOP),
    ("dst", protocol::DESTINATION_OPTIONS),
    ("rt", protocol::ROUTING),
    ("frag", protocol::FRAGMENT),
    ("ah", protocol::AUTHENTICATION),
    ("mh", protocol::MOBILITY),
    ("hip", protocol::HIP),
    ("shim", protocol::SHIM6),
];

/// An ordered chain of extension headers.
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) headers: Vec<Layer>,
    /// How many of them are fragment headers; more than one is nonsense.
    pub(super) fragments: usize,
}

/// All ordered chains of one to three headers, with repetition.
pub(super) fn chains() -> Vec<Chain> {
    let mut chains = Vec::new();
    let mut longest = vec![Chain { name: String::new(), headers: Vec::new(), fragments: 0 }];
    for _ in 0..3 {
        longest = longest
            .iter()
            .flat_map(|chain| {
                KINDS.map(|(name, kind)| Chain {
                    name: format!("{}_{name}", chain.name),
                    headers: [&chain.headers[..], &[Extension::harmless(kind).into()]].concat(),
                    fragments: chain.fragments + usize::from(kind == protocol::FRAGMENT),
                })
            })
            .collect();
        chains.extend(longest.iter().map(|chain| Chain {
            name: chain.name.clone(),
            headers: chain.headers.clone(),
            fragments: chain.fragments,
        }));
    }
    chains
}

fn chain_vectors() -> Vec<Vector> {
    let upper: [Layer; 4] =
        [Udp::default().into(), Tcp::default().into(), Icmpv6::default().into(), Sctp::default().into()];
    let mut vectors = Vec::new();
    for (i, chain) in chains().into_iter().enumerate() {
        let packet = |source| {
            let ip = Ipv6 { source, ..default() }.into();
            frame(&[&[ip], &chain.headers[..], &[upper[i % upper.len()].clone()]].concat())
        };
        let expected = if chain.fragments > 1 { BadFragment } else { Passed };
        vectors.push(listed(format!("p41_chain{}", chain.name), packet(Ipv6::default().source), expected));
        vectors.push(listed(format!("p40_chain{}_blocked", chain.name), packet(BLOCKED_V6), Blocked));
    }
    vectors
}

/// Every framing whole, from a listed host and from a listed prefix.
fn framed() -> Vec<Vector> {
    let hosts = framings((BLOCKED_V4, DESTINATION_V4), (BLOCKED_V6, DESTINATION_V6));
    let networks = framings((BLOCKED_IN_PREFIX_V4, DESTINATION_V4), (BLOCKED_IN_PREFIX_V6, DESTINATION_V6));
    let whole = |kind, framing: &super::super::framings::Framing| {
        listed(format!("framing_{}_{kind}_blocked", framing.name), framing.frame(&[]), Blocked)
    };
    let hosts = hosts.iter().map(|framing| whole("host", framing));
    hosts.chain(networks.iter().map(|framing| whole("prefix", framing))).collect()
}

fn truncated() -> Vec<Vector> {
    framings((BLOCKED_V4, DESTINATION_V4), (BLOCKED_V6, DESTINATION_V6))
        .into_iter()
        .flat_map(|framing| {
            let whole = framing.frame(&[]);
            // What is shorter than the Ethernet header is P01.
            (14..whole.len())
                .map(|len| {
                    let name = format!("truncated_{}_at_{len}_blocked", framing.name);
                    listed(name, whole[..len].to_vec(), framing.truncated(len))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

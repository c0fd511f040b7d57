//! What would happen to a packet: the policy of the kernel, run on what the enforcer knows.

use std::cell::RefCell;

use limiter_common::abi::{Entry, Limits};
use limiter_common::lists::Listed;
use limiter_common::parse::Lengths;
use limiter_common::slots::Charge;
use limiter_common::{Address, Nanos, Packet, Reason, Tables, Transport, decide};

use super::{Error, Lookup, Question};
use crate::config::{Config, Interface};
use crate::control::protocol::{AppliedLimit, Explanation};

/// Bytes of the packet that is asked about.
const FRAME: usize = 64;
/// IANA: "reserved". Stands for a protocol that was not said, since no rule for it makes sense.
const NO_PROTOCOL: u8 = 255;

pub(super) fn explain(
    question: &Question,
    address: Address,
    lookup: Lookup,
    config: &Config,
) -> Result<Explanation, Error> {
    let asked =
        |interface: &&Interface| question.interface.as_ref().is_none_or(|name| *name == interface.name);
    let interfaces: Vec<&Interface> = config.interfaces.iter().filter(asked).collect();
    if interfaces.is_empty()
        && let Some(name) = &question.interface
    {
        let detail = format!("there is no interface {name} in the configuration");
        return Err(Error::Invalid { detail, items: Vec::new() });
    }
    let protocol = question.protocol.unwrap_or(NO_PROTOCOL);
    let transport = match question.port {
        Some(port) => Transport::with_port(protocol, port),
        None => Transport::opaque(protocol),
    };
    let judged = |limits: Option<&Limits>| judge(address, transport, lookup.entry, limits, lookup.now.boot);

    // Rates cannot be foreseen, so all limits conform and the verdict is the same on every interface.
    let (reason, _) = judged(None);
    let mut applied = Vec::new();
    for interface in interfaces {
        let (_, charged) = judged(interface.limited.then_some(&interface.limits));
        for rule in interface.rules.iter().filter(|rule| charged.contains(&rule.id)) {
            applied.extend(rule.limits.iter().map(|limit| AppliedLimit {
                interface: interface.name.clone(),
                rule: rule.name.clone(),
                limit: limit.clone(),
            }));
        }
    }
    Ok(Explanation {
        address: address.to_string(),
        protocol: question.protocol,
        port: question.port,
        action: reason.action().label().to_owned(),
        reason: reason.label().to_owned(),
        text: reason.text().to_owned(),
        claims: lookup.claims,
        offences: lookup.offences,
        limits: applied,
    })
}

/// The verdict on a packet from `source`, and the policies it is held to.
fn judge(
    source: Address,
    transport: Transport,
    entry: Entry,
    limits: Option<&Limits>,
    now: Nanos,
) -> (Reason, Vec<u32>) {
    // Any address that is on the wire and not the source will do (RFC 5737, RFC 3849).
    let destination = match source {
        Address::V4(source) => Address::V4([192, 0, 2, if source == [192, 0, 2, 1] { 2 } else { 1 }]),
        Address::V6([.., last]) => {
            Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, if last == 1 { 2 } else { 1 }])
        }
    };
    let view = View { entry, limits, charged: RefCell::default() };
    let packet = Packet { source, destination, frame_len: FRAME, neighbour: false };
    let reason = decide(&packet, || Ok(transport), &view, &now);
    (reason, view.charged.into_inner())
}

/// The tables as far as one packet asks them. Every charge conforms, and is written down.
struct View<'a> {
    entry: Entry,
    limits: Option<&'a Limits>,
    charged: RefCell<Vec<u32>>,
}

impl Tables for View<'_> {
    fn listed(&self, _: &Address) -> Listed {
        Listed::from_entry(self.entry)
    }

    fn lengths(&self) -> Lengths {
        Lengths::default()
    }

    fn limits(&self) -> Option<&Limits> {
        self.limits
    }

    fn charge(&self, _: &Address, policy: usize, _: u32, _: Nanos) -> Option<Charge> {
        self.charged.borrow_mut().push(self.limits?.policies.get(policy)?.id);
        Some(Charge::Conforms)
    }
}

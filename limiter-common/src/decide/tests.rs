use super::*;
use crate::abi::{Entry, Limits, POLICY_SERVICES, Service};
use crate::gcra::Quota;
use crate::lists::Listed;
use crate::parse::Lengths;

/// Tables that answer the same whatever is asked.
struct Fixed {
    entry: Entry,
    limits: Option<Box<Limits>>,
    charge: Option<Charge>,
}

impl Tables for Fixed {
    fn listed(&self, _: &Address) -> Listed {
        Listed::from_entry(self.entry)
    }

    fn lengths(&self) -> Lengths {
        Lengths::default()
    }

    fn limits(&self) -> Option<&Limits> {
        self.limits.as_deref()
    }

    fn charge(&self, _: &Address, policy: usize, _: u32, _: Nanos) -> Option<Charge> {
        let policy = self.limits.as_ref().unwrap().policies[policy];
        assert!(policy != Policy::UNLIMITED, "what is not limited is not charged");
        self.charge
    }
}

const UNLISTED: Fixed = Fixed { entry: Entry::NONE, limits: None, charge: None };
const BLOCK: Entry = Entry { block_until: u64::MAX, allow_until: 0 };
const ALLOW: Entry = Entry { block_until: 0, allow_until: u64::MAX };

fn packet() -> Packet {
    Packet {
        source: Address::V4([198, 51, 100, 7]),
        destination: Address::V4([203, 0, 113, 1]),
        frame_len: 60,
        neighbour: false,
    }
}

fn udp() -> Result<Transport, Reason> {
    Ok(Transport::with_port(17, 53))
}

/// Reading it costs more than the rest of the verdict in the kernel.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Nanos {
        panic!("this verdict needs no time");
    }
}

#[test]
fn the_clock_is_read_only_if_the_verdict_needs_it() {
    assert_eq!(decide(&packet(), udp, &UNLISTED, &NoClock), Reason::Passed);
    let broken = || Err(Reason::IpLength);
    assert_eq!(decide(&packet(), broken, &UNLISTED, &NoClock), Reason::IpLength);
    let neighbour = Packet { neighbour: true, ..packet() };
    let blocked = Fixed { entry: BLOCK, ..UNLISTED };
    assert_eq!(decide(&neighbour, udp, &blocked, &NoClock), Reason::Neighbour);
}

#[test]
fn a_blocked_source_is_not_looked_into() {
    let blocked = Fixed { entry: BLOCK, ..UNLISTED };
    let unread = || panic!("the source settles it");
    assert_eq!(decide(&packet(), unread, &blocked, &Nanos(1)), Reason::Blocked);
}

#[test]
fn an_allowed_source_is_not_charged() {
    let allowed = Fixed {
        entry: ALLOW,
        limits: Some(limited(Quota::packets(1, 1))),
        charge: Some(Charge::OverPackets),
    };
    assert_eq!(decide(&packet(), udp, &allowed, &Nanos(1)), Reason::Allowed);
}

/// One policy for all packets.
fn limited(quota: Option<Quota>) -> Box<Limits> {
    let mut limits = Box::new(Limits::NONE);
    limits.policies[POLICY_ALL] = Policy { packets: quota.unwrap(), ..Policy::UNLIMITED };
    limits
}

#[test]
fn every_outcome_of_a_charge() {
    for (charge, expected) in [
        (Some(Charge::Conforms), Reason::Passed),
        (Some(Charge::OverPackets), Reason::PacketRate),
        (Some(Charge::OverBits), Reason::BitRate),
        // State that cannot be reached is no reason to drop.
        (None, Reason::Internal),
    ] {
        let tables = Fixed { limits: Some(limited(Quota::packets(1, 1))), charge, ..UNLISTED };
        assert_eq!(decide(&packet(), udp, &tables, &Nanos(1)), expected, "{charge:?}");
        let mut bits = Box::new(Limits::NONE);
        bits.policies[POLICY_ALL] = Policy { bits: Quota::bits(1_000, 1).unwrap(), ..Policy::UNLIMITED };
        let tables = Fixed { limits: Some(bits), charge, ..UNLISTED };
        assert_eq!(decide(&packet(), udp, &tables, &Nanos(1)), expected, "{charge:?} for bits");
    }
    assert_eq!(Reason::Internal.action(), crate::Action::Pass);
}

/// A limit for path MTU messages or for a service does not make the others limited.
#[test]
fn policies_without_limit_pass() {
    let mut limits = Box::new(Limits::NONE);
    let one = Policy { packets: Quota::packets(1, 1).unwrap(), ..Policy::UNLIMITED };
    limits.policies[POLICY_PATH_MTU] = one;
    limits.policies[POLICY_SERVICES] = one;
    limits.services[0] = Service::new(6, Some(80));
    limits.service_count = 1;
    let tables = Fixed { limits: Some(limits), charge: Some(Charge::OverPackets), ..UNLISTED };
    assert_eq!(decide(&packet(), udp, &tables, &Nanos(1)), Reason::Passed);
    let http = || Ok(Transport::with_port(6, 80));
    assert_eq!(decide(&packet(), http, &tables, &Nanos(1)), Reason::PacketRate);
    let path_mtu = || Ok(Transport::path_mtu(1));
    assert_eq!(decide(&packet(), path_mtu, &tables, &Nanos(1)), Reason::PacketRate);
}

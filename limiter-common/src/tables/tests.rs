use super::*;
use crate::abi::{MAX_SERVICES, POLICY_SERVICES};

/// Limits for these services, each with a policy that is told by its id.
fn limits(services: &[Service]) -> Box<Limits> {
    let mut limits = Box::new(Limits::NONE);
    for (i, service) in services.iter().enumerate() {
        limits.services[i] = *service;
        limits.policies[POLICY_SERVICES + i].id = u32::try_from(i).unwrap() + 1;
    }
    limits.service_count = u32::try_from(services.len()).unwrap();
    limits
}

fn found(limits: &Limits, protocol: u8, port: Option<u16>) -> Option<u32> {
    let transport = match port {
        Some(port) => Transport::with_port(protocol, port),
        None => Transport::opaque(protocol),
    };
    limits.service(&transport).map(|policy| policy.id)
}

/// Each of any number of services is found, and nothing between them.
#[test]
fn every_service_is_found() {
    for count in 0..=MAX_SERVICES {
        let ports: Vec<u16> = (1..=count).map(|i| u16::try_from(i).unwrap() * 10).collect();
        let services: Vec<Service> = ports.iter().map(|port| Service::new(17, Some(*port))).collect();
        let limits = limits(&services);
        for port in 0..=640 {
            let expected = ports.iter().position(|one| *one == port).map(|i| u32::try_from(i).unwrap() + 1);
            assert_eq!(found(&limits, 17, Some(port)), expected, "port {port} of {count} services");
            assert_eq!(found(&limits, 6, Some(port)), None);
        }
        assert_eq!(found(&limits, 17, None), None);
    }
}

#[test]
fn the_port_before_the_protocol() {
    let limits = limits(&[Service::new(6, None), Service::new(6, Some(0)), Service::new(6, Some(80))]);
    for (protocol, port, expected) in [
        (6, Some(80), Some(3)),
        (6, Some(81), Some(1)),
        (6, Some(0), Some(2)),
        (6, None, Some(1)),
        (17, Some(80), None),
        (17, None, None),
        (255, Some(u16::MAX), None),
    ] {
        assert_eq!(found(&limits, protocol, port), expected, "{protocol}/{port:?}");
    }
}

use super::*;
use crate::Address;
use crate::testing::tables::{CPUS, MemoryRates};

const NOW: Nanos = Nanos(1_000_000_000_000);
const MICRO: u64 = 1_000;

fn v4(text: &str) -> Address {
    text.parse().unwrap()
}

/// One limit of packets that sources share.
fn shared(at: usize, rate: u64, burst: u64) -> Policy {
    let mut policy = Policy { id: 1, shares: 1, ..Policy::UNLIMITED };
    let batch = u32::from(at == SERVICE);
    policy.shared[at] = Bound { quota: Quota::packets(rate, burst).unwrap(), batch, ..Bound::UNLIMITED };
    policy
}

fn charge(rates: &MemoryRates, source: &str, policy: &Policy, now: Nanos) -> Charge {
    rates.charge(&v4(source), policy, 60, now).unwrap()
}

#[test]
fn a_network_has_one_bucket_and_others_have_theirs() {
    let rates = MemoryRates::new(1, 1, 1);
    let policy = shared(PREFIX, 1, 2);
    for (source, expected) in [
        ("192.0.2.1", Charge::Conforms),
        ("192.0.2.2", Charge::Conforms),
        ("192.0.2.3", Charge::OverPackets),
        ("192.0.3.1", Charge::Conforms),
        ("2001:db8:7:1::1", Charge::Conforms),
        ("2001:db8:7:2::1", Charge::Conforms),
        ("2001:db8:7:3::1", Charge::OverPackets),
        ("2001:db8:8::1", Charge::Conforms),
    ] {
        assert_eq!(charge(&rates, source, &policy, NOW), expected, "{source}");
    }
}

#[test]
fn everybody_has_one_bucket() {
    let rates = MemoryRates::new(1, 1, 1);
    let policy = shared(SERVICE, 1, 3);
    for (source, expected) in [
        ("192.0.2.1", Charge::Conforms),
        ("198.51.100.1", Charge::Conforms),
        ("2001:db8::1", Charge::Conforms),
        ("2001:db9::1", Charge::OverPackets),
    ] {
        assert_eq!(charge(&rates, source, &policy, NOW), expected, "{source}");
    }
    let other = Policy { id: 2, ..policy };
    assert_eq!(charge(&rates, "192.0.2.1", &other, NOW), Charge::Conforms, "another rule has its own");
}

/// What one limit refuses is charged to none of the others.
#[test]
fn all_limits_or_none() {
    let own = Quota::packets(1, 2).unwrap();
    let rates = MemoryRates::new(4, 1, 1);
    let policy = Policy { packets: own, ..shared(SERVICE, 1, 5) };
    for (source, expected) in [
        ("192.0.2.1", [Charge::Conforms, Charge::Conforms, Charge::OverPackets]),
        ("192.0.2.2", [Charge::Conforms, Charge::Conforms, Charge::OverPackets]),
        ("192.0.2.3", [Charge::Conforms, Charge::OverPackets, Charge::OverPackets]),
    ] {
        let got = [(); 3].map(|()| charge(&rates, source, &policy, NOW));
        assert_eq!(got, expected, "{source}");
    }
    // The source that the service had no more for has one left of its own.
    let alone = Policy { packets: own, id: 1, ..Policy::UNLIMITED };
    assert_eq!(charge(&rates, "192.0.2.3", &alone, NOW), Charge::Conforms);
    assert_eq!(charge(&rates, "192.0.2.3", &alone, NOW), Charge::OverPackets);
}

/// A CPU that takes a batch asks the bucket no more until it is used up.
#[test]
fn a_batch_is_taken_at_once() {
    // 200 packets are half a percent, and a fourth of that is for each CPU.
    let (rates, policy) = (MemoryRates::new(1, 1, 1), shared(SERVICE, 1_000_000, 40_001));
    let tat = || Word::load(&rates.set(0).unwrap().slots[0].tat);
    for batch in 1..=3 {
        for packet in 0..50 {
            assert_eq!(charge(&rates, "192.0.2.1", &policy, NOW), Charge::Conforms);
            assert_eq!(tat(), NOW.0 + batch * 50 * MICRO, "packet {packet} of batch {batch}");
        }
    }
}

/// All CPUs at once, at twice the limit: nothing too much, and half a percent of the burst too little at most. A CPU that
/// has hardly any packets takes nothing from the others.
#[test]
fn cpus_share_fairly_enough() {
    const STEPS: u64 = 400_000;
    for lone in [false, true] {
        let (mut rates, policy) = (MemoryRates::new(1, 1, 1), shared(SERVICE, 1_000_000, 40_000));
        let mut admitted = 0;
        for step in 0..STEPS {
            // Two packets for each microsecond that one may be sent in.
            let now = Nanos(NOW.0 + step * MICRO / 2);
            let turn = usize::try_from(step).unwrap();
            rates.cpu = if lone && turn % 1_000 != 0 { 0 } else { turn % CPUS };
            admitted += u64::from(charge(&rates, "192.0.2.1", &policy, now) == Charge::Conforms);
        }
        let most = 40_000 + STEPS / 2;
        assert!(admitted <= most, "{admitted} of {most}");
        assert!(admitted >= most - most / 200 - 200, "{admitted} of {most}");
    }
}

/// What a CPU has taken and not used is gone when its time has come.
#[test]
fn batches_expire() {
    let (mut rates, policy) = (MemoryRates::new(1, 1, 1), shared(SERVICE, 1_000_000, 40_001));
    for cpu in 0..CPUS {
        rates.cpu = cpu;
        assert_eq!(charge(&rates, "192.0.2.1", &policy, NOW), Charge::Conforms);
    }
    let later = NOW.saturating_add(Nanos::from_secs(1));
    let mut admitted = 0;
    for cpu in 0..CPUS {
        rates.cpu = cpu;
        while charge(&rates, "192.0.2.1", &policy, later) == Charge::Conforms {
            admitted += 1;
        }
    }
    assert!((39_900..=40_001).contains(&admitted), "{admitted}");
}

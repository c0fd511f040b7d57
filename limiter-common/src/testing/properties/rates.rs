//! Properties of the rate maths and of the slot table.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Input;
use crate::gcra::{Quota, Step};
use crate::slots::{Bound, Charge, PREFIX, Policy, SERVICE, Share, WAYS};
use crate::testing::tables::{CPUS, MemoryRates};
use crate::{Address, Nanos};

const SECOND: u128 = 1_000_000_000;
/// Packets looked at; every window between two of them is checked.
const MAX_ARRIVALS: usize = 200;
/// Runs of packets of one source.
const MAX_RUNS: usize = 60;

/// A packet that was admitted.
#[derive(Debug, Clone, Copy)]
struct Admitted {
    now: u64,
    bytes: u32,
}

/// Runs arrivals from the input against `quota`: mostly forwards, sometimes at once, now and then back in time.
fn admitted(input: &mut Input<'_>, quota: &Quota, step_bits: u32) -> Vec<Admitted> {
    let mut tat = Nanos(0);
    let mut now = 1 << 60;
    let mut admitted = Vec::new();
    for _ in 0..MAX_ARRIVALS {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        let by = input.magnitude(step_bits);
        now = match kind % 8 {
            0..=2 => now,
            3..=6 => now + by,
            _ => now - by,
        };
        let bytes = 60 + u32::try_from(input.magnitude(16)).expect("16 bits");
        if let Step::Admit(next) = quota.step(tat, quota.cost(bytes), Nanos(now)) {
            assert!(next >= tat, "the TAT never goes back");
            tat = next;
            admitted.push(Admitted { now, bytes });
        }
    }
    admitted
}

/// Calls `check` with the packets of every window, in the order of their arrival, and its length.
fn windows(admitted: &[Admitted], mut check: impl FnMut(&[Admitted], u64)) {
    for first in admitted {
        for last in admitted {
            let Some(length) = last.now.checked_sub(first.now) else {
                continue;
            };
            let within: Vec<Admitted> =
                admitted.iter().filter(|one| (first.now..=last.now).contains(&one.now)).copied().collect();
            check(&within, length);
        }
    }
}

/// No window of any length admits more packets than the burst and the rate for that length, whatever the clock does.
pub fn never_more_than_burst_and_rate(data: &[u8]) {
    let mut input = Input(data);
    let rate = input.magnitude(24).min(Quota::MAX_PACKETS_PER_SECOND);
    let burst = input.magnitude(10);
    let quota = Quota::packets(rate, burst).expect("within the bounds");
    let admitted = admitted(&mut input, &quota, 34);
    if let Some(first) = admitted.first() {
        // The first burst is there at once.
        let at_once = admitted.iter().take_while(|one| one.now == first.now).count();
        assert!(at_once as u64 <= burst);
    }
    windows(&admitted, |within, length| {
        let most = u128::from(burst) + u128::from(length) * u128::from(rate) / SECOND;
        let count = within.len() as u128;
        assert!(count <= most, "{count} packets in {length} ns at {rate}/s, burst {burst}: {within:?}");
    });
}

/// The same for bytes; the last frame is admitted whole.
pub fn never_more_bytes_than_burst_and_rate(data: &[u8]) {
    let mut input = Input(data);
    let rate = (Quota::MIN_BITS_PER_SECOND - 1 + input.magnitude(40)).min(Quota::MAX_BITS_PER_SECOND);
    let burst = input.magnitude(24);
    let quota = Quota::bits(rate, burst).expect("within the bounds");
    let admitted = admitted(&mut input, &quota, 40);
    windows(&admitted, |within, length| {
        let Some((_, before)) = within.split_last() else {
            return;
        };
        let bytes: u128 = before.iter().map(|one| u128::from(one.bytes)).sum();
        let most = u128::from(burst) + u128::from(length) * u128::from(rate) / (8 * SECOND);
        assert!(bytes <= most, "{bytes} bytes in {length} ns at {rate} bit/s, burst {burst}: {within:?}");
    });
}

fn policy(input: &mut Input<'_>) -> Policy {
    let kind = input.byte() % 3;
    let packets = Quota::packets(input.magnitude(16), input.magnitude(4)).expect("within the bounds");
    let bits = Quota::bits(1_000 + input.magnitude(30), input.magnitude(14)).expect("within the bounds");
    let packets = if kind == 1 { Quota::UNLIMITED } else { packets };
    let bits = if kind == 0 { Quota::UNLIMITED } else { bits };
    Policy { packets, bits, id: 1, ..Policy::UNLIMITED }
}

/// The one set of the model: the slots of the sources, of which a policy with two limits takes two.
#[derive(Debug, Default)]
struct OneSet {
    owners: Vec<((u8, bool), Nanos)>,
    /// The shared cells of packets and of bits.
    shared: [Nanos; 2],
}

impl OneSet {
    /// The TAT of a bucket; a full one has none.
    fn tat(&mut self, owner: (u8, bool), now: Nanos) -> &mut Nanos {
        self.owners.retain(|(_, tat)| *tat > now);
        match self.owners.iter().position(|(other, _)| *other == owner) {
            Some(i) => &mut self.owners[i].1,
            None if self.owners.len() < WAYS => {
                self.owners.push((owner, Nanos::default()));
                &mut self.owners.last_mut().expect("just pushed").1
            }
            None => &mut self.shared[usize::from(owner.1)],
        }
    }

    /// Charges both limits, or neither.
    fn charge(&mut self, source: u8, policy: &Policy, bytes: u32, now: Nanos) -> Charge {
        let limits = [(&policy.bits, true), (&policy.packets, false)];
        let limits = limits.into_iter().filter(|(quota, _)| !quota.is_unlimited());
        for (quota, is_bits) in limits.clone() {
            if quota.step(*self.tat((source, is_bits), now), quota.cost(bytes), now) == Step::Refuse {
                return if is_bits { Charge::OverBits } else { Charge::OverPackets };
            }
        }
        // Packets first, so that both agree on who gets the last slot.
        for (quota, is_bits) in limits.rev() {
            let tat = self.tat((source, is_bits), now);
            match quota.step(*tat, quota.cost(bytes), now) {
                Step::Admit(next) => *tat = next,
                Step::Refuse if is_bits => return Charge::OverBits,
                Step::Refuse => return Charge::OverPackets,
            }
        }
        Charge::Conforms
    }
}

/// However many sources share a set, each one that has a slot is judged as if it were alone for as long as its bucket
/// is not full again; who finds no slot is judged by the shared cell.
pub fn full_set_keeps_live_owners(data: &[u8]) {
    let mut input = Input(data);
    let policy = policy(&mut input);
    let rates = MemoryRates::new(1, 1, 2);
    let policy = Policy { bit_cells: Share { at: 1, count: 1 }, ..policy };
    let mut model = OneSet::default();
    let mut now = Nanos(1 << 40);
    for _ in 0..MAX_ARRIVALS {
        if input.is_empty() {
            break;
        }
        if input.byte() & 3 == 0 {
            now = Nanos(now.0 + input.magnitude(32));
        }
        let source = input.byte() % 24;
        let bytes = 60 + u32::from(input.u16() % 1500);
        let address = Address::V4([10, 0, 0, source]);
        let got = rates.charge(&address, &policy, bytes, now).expect("all indices are there");
        let expected = model.charge(source, &policy, bytes, now);
        assert_eq!(got, expected, "source {source} at {now:?} of {model:?}");
    }
}

/// Whatever the sources of one gate do together, none of them gets more than its burst and half a percent of that, and
/// its rate; and none is refused what it would get alone.
pub fn a_gate_gives_no_more_and_takes_nothing(data: &[u8]) {
    const SOURCES: u8 = 4;
    let mut input = Input(data);
    let is_bits = input.byte() & 1 == 1;
    let rate = 1 + input.magnitude(10);
    // Small bursts, so that there is more than the first of them to look at.
    let burst = 150 + u64::from(input.u16() % 700);
    let policy = if is_bits {
        let bits = Quota::bits(rate * 1_000, burst * 1_600).expect("within the bounds");
        Policy { bits, id: 1, ..Policy::UNLIMITED }
    } else {
        let packets = Quota::packets(rate, burst).expect("within the bounds");
        Policy { packets, id: 1, ..Policy::UNLIMITED }
    };
    let quota = if is_bits { policy.bits } else { policy.packets };
    let unit = quota.cost(800);
    // Within the 200 ns that the kernel's half a percent leaves.
    let tolerance = 200 * quota.slack() + 199;
    let full = tolerance + quota.cost(4_000);
    let rates = MemoryRates::new(1, 1, 1);
    // The TAT that each would have alone, for as long as it conforms, and again when its bucket is full.
    let mut alone = [Some(Nanos(0)); SOURCES as usize];
    let mut admitted = [const { Vec::new() }; SOURCES as usize];
    let mut now = Nanos(1 << 40);
    for _ in 0..MAX_RUNS {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        // Rests for a part of a packet, of some packets, or for about the time that a gate or a burst is worth.
        let by = u64::from(input.byte());
        now.0 += match kind >> 2 & 7 {
            0..=2 => 0,
            3 => unit * by / 256,
            4 => unit * (by % 8),
            5 => quota.slack() * by / 64,
            6 => tolerance + quota.slack() * by / 64,
            _ => unit * (by % 8) + 1,
        };
        let source = kind & 3;
        let count = match kind >> 5 {
            0..=3 => 1,
            4 | 5 => u64::from(input.byte() % 8),
            _ => burst * 9 / 8,
        };
        let address = Address::V4([10, 0, 0, source]);
        let source = usize::from(source);
        for _ in 0..count {
            let bytes = if is_bits { 60 + u32::from(input.byte()) * 12 } else { 60 };
            let got = rates.charge(&address, &policy, bytes, now).expect("all indices are there");
            let rested = admitted[source].last().is_none_or(|(last, _)| last + full <= now.0);
            let tat = if rested { Nanos(0) } else { alone[source].unwrap_or(Nanos::NEVER) };
            let cost = quota.cost(bytes);
            let step = quota.step(tat, cost, now);
            alone[source] = if let Step::Admit(next) = step { Some(next) } else { None };
            if alone[source].is_some() {
                assert_eq!(got, Charge::Conforms, "source {source} at {now:?} would conform alone");
            }
            if got == Charge::Conforms {
                admitted[source].push((now.0, cost));
            }
        }
    }
    for admitted in admitted {
        no_window_takes_more(&admitted, tolerance + quota.slack(), &quota);
    }
}

/// What all CPUs take out of one bucket together is no more than its burst and rate, however large what each of them
/// takes at once; and the limit of a network holds for all its sources.
pub fn sources_that_share_get_no_more(data: &[u8]) {
    let mut input = Input(data);
    let is_bits = input.byte() & 1 == 1;
    let at = if input.byte() & 1 == 1 { PREFIX } else { SERVICE } + usize::from(is_bits);
    let rate = 1 + input.magnitude(10);
    let burst = 1 + u64::from(input.u16() % 5_000);
    let quota = if is_bits { Quota::bits(rate * 1_000, burst * 1_000) } else { Quota::packets(rate, burst) };
    let quota = quota.expect("within the bounds");
    let mut policy = Policy { id: 1, shares: 1, ..Policy::UNLIMITED };
    policy.shared[at] = Bound { quota, batch: u32::from(at >= SERVICE), ..Bound::UNLIMITED };
    let mut rates = MemoryRates::new(1, 1, 1);
    let (mut now, mut admitted) = (Nanos(1 << 40), Vec::new());
    for _ in 0..MAX_RUNS {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        let by = u64::from(input.byte());
        now.0 += match kind & 3 {
            0 => 0,
            1 => quota.cost(800) * by / 16,
            2 => quota.slack() * by / 64,
            _ => 200 * quota.slack() * by / 200,
        };
        rates.cpu = usize::from(kind >> 2) % CPUS;
        let count = if kind >> 5 == 0 { burst * 9 / 8 } else { u64::from(input.byte() % 32) };
        for _ in 0..count {
            let bytes = if is_bits { 60 + u32::from(input.byte()) * 12 } else { 60 };
            let source = Address::V4([10, 0, 0, input.byte()]);
            match rates.charge(&source, &policy, bytes, now).expect("all indices are there") {
                Charge::Conforms => admitted.push((now.0, quota.cost(bytes))),
                Charge::OverPackets => assert!(!is_bits),
                Charge::OverBits => assert!(is_bits),
            }
        }
    }
    // One frame may reach beyond the burst, as ever; but other CPUs may still have some of what is within.
    let unequal = quota.cost(u32::from(u8::MAX) * 12 + 60) - quota.cost(60);
    no_window_takes_more(&admitted, 200 * quota.slack() + 199 + unequal, &quota);
}

/// Checks every window from one packet to another, of those admitted at these moments for these costs: the time that all
/// but the last one took up, against its length and what may be `ahead`.
fn no_window_takes_more(admitted: &[(u64, u64)], ahead: u64, quota: &Quota) {
    let (mut took, mut earliest) = (0, i128::MIN);
    for (now, cost) in admitted {
        earliest = earliest.max(i128::from(*now) - took);
        let over = took + earliest - i128::from(*now);
        assert!(over <= i128::from(ahead), "{over} ns ahead of {ahead}; {quota:?}");
        took += i128::from(*cost);
    }
}

/// Threads that charge one source at the same moments admit no more than one thread would.
pub fn threads_share_one_bucket(data: &[u8]) {
    const THREADS: u64 = 4;
    const CHARGES: u64 = 64;
    let mut input = Input(data);
    let rate = 1_000 + input.magnitude(20);
    let burst = input.magnitude(6);
    let step = input.magnitude(16);
    let policy = Policy {
        packets: Quota::packets(rate, burst).expect("within the bounds"),
        id: 1,
        ..Policy::UNLIMITED
    };
    let source = Address::V4(input.bytes());
    let rates = MemoryRates::new(1, 1, 1);
    let start: u64 = 1 << 40;
    let admitted = AtomicU64::new(0);
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                for i in 0..CHARGES {
                    let charge = rates.charge(&source, &policy, 60, Nanos(start + i * step));
                    if charge == Some(Charge::Conforms) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let length = u128::from((CHARGES - 1) * step);
    let most = u128::from(burst) + length * u128::from(rate) / SECOND;
    let admitted = u128::from(admitted.into_inner());
    assert!(admitted <= most, "{admitted} of {most} packets in {length} ns at {rate}/s, burst {burst}");
    // A refused packet is worth a retry only if the bucket was empty: someone got the burst.
    assert!(admitted >= u128::from(burst.min(CHARGES)), "{admitted} of a burst of {burst}");
}

//! Properties of the rate maths and of the slot table.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Input;
use crate::gcra::{Quota, Step};
use crate::slots::{self, Cell, Charge, Key, Policy, Set, WAYS};
use crate::{Address, Nanos};

const SECOND: u128 = 1_000_000_000;
/// Packets looked at; every window between two of them is checked.
const MAX_ARRIVALS: usize = 200;

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
        if let Step::Admit(next) = quota.step(tat, bytes, Nanos(now)) {
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

/// A source and its bucket, as a plain model knows them.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    packets: Nanos,
    bits: Nanos,
}

impl Bucket {
    fn is_live(self, now: Nanos) -> bool {
        self.packets > now || self.bits > now
    }

    /// Charges both limits, or neither.
    fn charge(&mut self, policy: &Policy, bytes: u32, now: Nanos) -> Charge {
        let limits = |quota: &Quota, tat| match (quota.is_unlimited(), quota.step(tat, bytes, now)) {
            (true, _) => Some(tat),
            (false, Step::Admit(next)) => Some(next),
            (false, Step::Refuse) => None,
        };
        match (limits(&policy.bits, self.bits), limits(&policy.packets, self.packets)) {
            (None, _) => Charge::OverBits,
            (_, None) => Charge::OverPackets,
            (Some(bits), Some(packets)) => {
                *self = Self { packets, bits };
                Charge::Conforms
            }
        }
    }
}

fn policy(input: &mut Input<'_>) -> Policy {
    let kind = input.byte() % 3;
    let packets = Quota::packets(input.magnitude(16), input.magnitude(4)).expect("within the bounds");
    let bits = Quota::bits(1_000 + input.magnitude(30), input.magnitude(14)).expect("within the bounds");
    let packets = if kind == 1 { Quota::UNLIMITED } else { packets };
    let bits = if kind == 0 { Quota::UNLIMITED } else { bits };
    Policy { packets, bits, id: 1, cells_at: 0 }
}

/// However many sources share a set, each one that has a slot is judged as if it were alone for as long as its bucket
/// is not full again; who finds no slot is judged by the shared cell.
pub fn full_set_keeps_live_owners(data: &[u8]) {
    let mut input = Input(data);
    let policy = policy(&mut input);
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::<AtomicU64>::default());
    let mut owners: Vec<(u8, Bucket)> = Vec::new();
    let mut shared = Bucket::default();
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
        let key = Key::new(&Address::V4([10, 0, 0, source]), policy.id, [1, 2]);
        let got = slots::charge(&set, &cell, &key, &policy, bytes, now);

        // Full buckets say nothing, so the model forgets them.
        owners.retain(|(_, bucket)| bucket.is_live(now));
        let bucket = match owners.iter().position(|(owner, _)| *owner == source) {
            Some(i) => &mut owners[i].1,
            None if owners.len() < WAYS => {
                owners.push((source, Bucket::default()));
                &mut owners.last_mut().expect("just pushed").1
            }
            None => &mut shared,
        };
        let expected = bucket.charge(&policy, bytes, now);
        assert_eq!(got, expected, "source {source} at {now:?} of {owners:?}");
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
    let key = Key::new(&Address::V4(input.bytes()), policy.id, [input.u64(), 2]);
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::<AtomicU64>::default());
    let start: u64 = 1 << 40;
    let admitted = AtomicU64::new(0);
    let barrier = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                for i in 0..CHARGES {
                    let charge = slots::charge(&set, &cell, &key, &policy, 60, Nanos(start + i * step));
                    if charge == Charge::Conforms {
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

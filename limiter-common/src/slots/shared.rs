//! Limits that sources share: one bucket for a network, or one for all that a rule is for.
//!
//! A bucket that all CPUs charge with every packet would be one cache line that all of them wait for. So a CPU takes a
//! stretch of the bucket's time for many packets at once, and its packets take up that stretch one after the other. Since
//! no two stretches overlap, and what lies in the past of a stretch is lost, no more is admitted than by the bucket
//! itself. What may be lost is what a CPU has taken and does not need: at most half a percent of the burst for all CPUs
//! together, until it is due, which takes as long as the burst.

use super::{ATTEMPTS, Act, BITS, Charge, Policy, Rates, Share, Word, mix, seat};
use crate::gcra::{Quota, Step};
use crate::nanos::Nanos;

/// A limit that sources share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Bound {
    pub quota: Quota,
    /// As of a source's own limit.
    pub cells: Share,
    /// One more than the index of the CPUs' [`Batch`]es if there is one bucket for everybody, 0 if each network has its
    /// own.
    pub batch: u32,
    pub reserved: u32,
}

impl Bound {
    pub const UNLIMITED: Self = Self { quota: Quota::UNLIMITED, cells: Share::NONE, batch: 0, reserved: 0 };
}

/// What a CPU has taken of a bucket and not used up.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Batch<W> {
    owner: W,
    /// Start and end of the stretch of time, in nanoseconds.
    next: W,
    end: W,
}

/// Index in [`Policy::shared`] of the limits of a network and of all, each for packets; for bits it is one more.
pub const PREFIX: usize = 0;
pub const SERVICE: usize = 2;

/// Not what a hash of a network is made of.
const EVERYBODY: u64 = 1 << 40;

/// Asks or charges all limits that a source of this network shares, until one refuses. `None` if the state cannot be
/// reached.
#[inline(always)]
pub fn step_shared<R: Rates>(
    rates: &R,
    network: u64,
    policy: &Policy,
    act: Act,
    bytes: u32,
    now: Nanos,
) -> Option<Charge> {
    for (index, bound) in policy.shared.iter().enumerate() {
        let is_bits = index % 2 == 1;
        if bound.quota.is_unlimited()
            || step_bound(rates, network, policy.id, bound, is_bits, act, bytes, now)?
        {
            continue;
        }
        return Some(if is_bits { Charge::OverBits } else { Charge::OverPackets });
    }
    Some(Charge::Conforms)
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a part of its only caller")]
fn step_bound<R: Rates>(
    rates: &R,
    network: u64,
    id: u32,
    bound: &Bound,
    is_bits: bool,
    act: Act,
    bytes: u32,
    now: Nanos,
) -> Option<bool> {
    let quota = &bound.quota;
    let cost = quota.cost(bytes);
    let bucket = if bound.batch == 0 { network } else { mix(EVERYBODY | u64::from(id), rates.secret()) };
    // As an IPv6 source's: 61 bits of a keyed hash.
    let key = bucket >> 2 | 1;
    let owner = if is_bits { key | BITS } else { key };
    // Taken at once, and what is left of that which was taken before.
    let (mut size, mut left) = (cost, 0);
    let batch = match bound.batch.checked_sub(1) {
        Some(index) => Some(rates.batch(index)?),
        None => None,
    };
    if let Some(batch) = batch {
        if batch.owner.load() == owner {
            let next = batch.next.load().max(now.0);
            let end = batch.end.load();
            if next.saturating_add(cost) <= end {
                if act == Act::Charge {
                    batch.next.store(next + cost);
                }
                return Some(true);
            }
            left = end.saturating_sub(next);
        }
        size = cost.max(quota.slack() >> rates.cpu_bits());
    }
    let Some(tat) = seat(rates, key, owner, bound.cells.index(bucket), act, now)? else {
        return Some(true);
    };
    for _ in 0..ATTEMPTS {
        let current = tat.load();
        let Step::Admit(end) = quota.step_ahead(Nanos(current), cost, size, now) else {
            return Some(false);
        };
        if act == Act::Ask {
            return Some(true);
        }
        if tat.compare_exchange(current, end.0) == current {
            if let Some(batch) = batch {
                batch.owner.store(owner);
                // This packet begins with what was left, which was too little for it.
                batch.next.store(end.0 - size + (cost - left));
                batch.end.store(end.0);
            }
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests;

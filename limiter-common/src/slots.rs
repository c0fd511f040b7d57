//! Where the TATs live: a set-associative table that a spoofed flood can neither grow nor use to push out others.
//!
//! A bucket whose TAT has passed is a full bucket, which is what a source without a bucket has too; so such a slot is
//! reused without losing anything, and how many slots are busy depends on the rate of the flood, not on how many
//! sources it pretends to have. A key hashes, under a secret, to one set of [`WAYS`] slots. If all of them are busy,
//! the packet is charged to a shared [`Cell`] of its network instead: a live slot is never taken from its owner.
//!
//! A slot is claimed by one compare-and-swap of its key. Two CPUs with packets of one source agree on one slot. Two
//! sources that reach for the same slot in the same moment do not harm each other much: the one that comes first may
//! find its new slot charged already and lose that packet, and a former owner that was just sending starts with a full
//! bucket elsewhere. It takes a stranger in the same set at that very moment, and the secret hash allows no aiming.

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::Address;
use crate::gcra::{Quota, Step};
use crate::hash::{low_bits, mix};
use crate::nanos::Nanos;

/// Slots in a set.
pub const WAYS: usize = 8;
/// Bits of an IPv6 source that count: a host has a whole /64 to choose addresses from.
pub const IPV6_SOURCE_BITS: u8 = 64;
/// How often a lost race for a TAT is run again. Each loss means that another packet of the same source was admitted
/// meanwhile; after this many the packet counts as over the limit, so races never admit too much.
const ATTEMPTS: usize = 8;

/// A 64-bit word shared by CPUs. The kernel implements it by intrinsics, since BPF has no stable compare-and-swap.
pub trait Word {
    /// Not moved before an earlier load by the compiler. A CPU that moves it can give a source one packet too many.
    fn load(&self) -> u64;

    /// Sequentially consistent; returns what was there, which is `current` exactly if the swap was made.
    fn compare_exchange(&self, current: u64, new: u64) -> u64;
}

#[cfg(target_has_atomic = "64")]
impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Acquire)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        match AtomicU64::compare_exchange(self, current, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(previous) | Err(previous) => previous,
        }
    }
}

/// The TATs of one bucket: packets and bits are limited side by side and must both agree.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Cell<W> {
    pub packets: W,
    pub bits: W,
}

/// [`WAYS`] slots. Keys come first, in a cache line of their own.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Set<W> {
    /// The owner of each slot, 0 if it never had one.
    keys: [W; WAYS],
    packets: [W; WAYS],
    bits: [W; WAYS],
}

impl<W> Set<W> {
    /// The TATs of one slot.
    #[inline(always)]
    fn slot(&self, way: usize) -> Option<(&W, &W)> {
        Some((self.packets.get(way)?, self.bits.get(way)?))
    }
}

/// What one source may do: both limits, either of which may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Policy {
    pub packets: Quota,
    pub bits: Quota,
    /// Identifies the rule and its figures, so that state outlives a reload exactly if the rule did. 31 bits.
    pub id: u32,
    /// Index of the first of its shared cells, of which [`crate::abi::Limits::cells`] are its own: a slow policy's
    /// times must not be taken for a fast one's.
    pub cells_at: u32,
}

impl Policy {
    pub const UNLIMITED: Self =
        Self { packets: Quota::UNLIMITED, bits: Quota::UNLIMITED, id: 0, cells_at: 0 };
}

/// The outcome of charging one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    Conforms,
    OverPackets,
    OverBits,
}

/// A source under a policy, and where the table keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Never 0.
    owner: u64,
    set: u64,
    cell: u64,
}

impl Key {
    /// The key of `source` under the policy `id`, hashed with `secret` so that nobody outside can aim at a set.
    #[inline(always)]
    pub fn new(source: &Address, id: u32, secret: [u64; 2]) -> Self {
        match source {
            Address::V4(bytes) => {
                let address = u64::from(u32::from_be_bytes(*bytes));
                // Exact: the address and the policy are the key. The top bit tells it from IPv6 and from 0.
                let owner = 1 << 63 | u64::from(id & 0x7fff_ffff) << 32 | address;
                let network = owner & !0xff;
                Self { owner, set: mix(owner, secret), cell: mix(!network, secret) }
            }
            Address::V6([a, b, c, d, e, f, g, h, ..]) => {
                let prefix = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                let hash = mix(mix(prefix, secret) ^ u64::from(id), secret);
                let network = prefix >> 16;
                let cell = mix(mix(!network, secret) ^ u64::from(id), secret);
                // 62 bits of keyed hash stand for the 64 bits of prefix: a collision is one in 2^62 per pair.
                Self { owner: hash >> 1 | 1, set: mix(hash, secret), cell }
            }
        }
    }

    /// Index of the set, for a table of `count` sets, a power of two.
    #[inline(always)]
    pub const fn set(&self, count: u32) -> u32 {
        low_bits(self.set, count)
    }

    /// Index of the shared cell under `policy`, which has `count` cells, a power of two.
    #[inline(always)]
    pub const fn cell(&self, policy: &Policy, count: u32) -> u32 {
        policy.cells_at.wrapping_add(low_bits(self.cell, count))
    }
}

/// Charges a packet of `bytes` to the slot of `key` in `set`, or to `shared` if the set has no room.
#[inline(always)]
pub fn charge<W: Word>(
    set: &Set<W>,
    shared: &Cell<W>,
    key: &Key,
    policy: &Policy,
    bytes: u32,
    now: Nanos,
) -> Charge {
    // One place that charges, wherever the TATs are: it is by far the largest part, and is inlined.
    let (packets, bits) = match seat(set, key, now) {
        Some((packets, bits)) => (packets, bits),
        None => (&shared.packets, &shared.bits),
    };
    take(packets, bits, policy, bytes, now)
}

/// The slot of `key` in `set`, claimed if it has none; `None` if all are busy.
#[inline(always)]
fn seat<'a, W: Word>(set: &'a Set<W>, key: &Key, now: Nanos) -> Option<(&'a W, &'a W)> {
    let mut free = None;
    for way in 0..WAYS {
        let owner = set.keys[way].load();
        if owner == key.owner {
            return set.slot(way);
        }
        if free.is_some() {
            continue;
        }
        if set.packets[way].load() <= now.0 && set.bits[way].load() <= now.0 {
            free = Some((way, owner));
        } else if set.keys[way].load() == key.owner {
            // Another CPU has claimed and charged it since the key was read: without this look, one source on two
            // CPUs could get two slots.
            return set.slot(way);
        }
    }
    let (way, former) = free?;
    let found = set.keys.get(way)?.compare_exchange(former, key.owner);
    if found == former || found == key.owner { set.slot(way) } else { None }
}

/// Takes a packet from both buckets, or from neither.
#[inline(always)]
fn take<W: Word>(packets: &W, bits: &W, policy: &Policy, bytes: u32, now: Nanos) -> Charge {
    // Both are asked before one is charged, so that what one refuses does not use up the other.
    if !policy.bits.is_unlimited() && policy.bits.step(Nanos(bits.load()), bytes, now) == Step::Refuse {
        return Charge::OverBits;
    }
    if !policy.packets.is_unlimited() && !advance(packets, &policy.packets, bytes, now) {
        return Charge::OverPackets;
    }
    if !policy.bits.is_unlimited() && !advance(bits, &policy.bits, bytes, now) {
        return Charge::OverBits;
    }
    Charge::Conforms
}

#[inline(always)]
fn advance<W: Word>(tat: &W, quota: &Quota, bytes: u32, now: Nanos) -> bool {
    let mut current = tat.load();
    for _ in 0..ATTEMPTS {
        let Step::Admit(next) = quota.step(Nanos(current), bytes, now) else {
            return false;
        };
        let found = tat.compare_exchange(current, next.0);
        if found == current {
            return true;
        }
        current = found;
    }
    false
}

#[cfg(test)]
pub(crate) mod tests;

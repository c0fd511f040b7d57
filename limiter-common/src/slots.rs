//! Where the TATs live: a set-associative table that a spoofed flood can neither grow nor use to push out others, and
//! a small table of gates that keeps it away from most packets.
//!
//! A bucket whose TAT has passed is a full bucket, which is what a source without a bucket has too; so such a slot is
//! reused without losing anything, and how many slots are busy depends on the rate of the flood, not on how many
//! sources it pretends to have. A key hashes, under a secret, to one set of [`WAYS`] slots. If all of them are busy,
//! the packet is charged to a shared cell of its network instead: a live slot is never taken from its owner.
//!
//! A slot is claimed by one compare-and-swap of its key. Two CPUs with packets of one source agree on one slot. Two
//! sources that reach for the same slot in the same moment do not harm each other much: the one that comes first may
//! find its new slot charged already and lose that packet, and a former owner that was just sending starts with a full
//! bucket elsewhere. It takes a stranger in the same set at that very moment, and the secret hash allows no aiming.
//!
//! # Gates
//!
//! A gate is one TAT that many sources share. While all of them together keep to the rate of one, and to a burst of
//! less than half a percent of its own, each of them does, and its packets are charged to the gate alone. What the gate
//! refuses is for the slot to decide, so sharing a gate costs nobody a packet. Why a source does not get the gate's rate
//! on top of its slot's:
//!
//! Let a packet cost at most `largest` at the gate, let the gate's tolerance be `slack - largest`, and let every charge
//! of a slot, before it is made, raise the gate's TAT to the slot's new one plus `slack`, unless it is there already. A
//! packet at the gate takes up the stretch of time from the gate's TAT less the tolerance (or now less the tolerance,
//! if that is later) as long as its cost. Packets at a slot take up the stretch from now to the slot's TAT, and let us
//! shift that by `largest`. Then no two stretches of a source overlap: when a slot starts to be charged, the packets that
//! the source has had at the gate reach no further than `largest` from then; and the next one at the gate begins where
//! the shifted stretch ends, or later, which is what the raise is for. In a window of length t all stretches begin after
//! its start less the tolerance, and end at most the slot's tolerance, a cost and `largest` behind its end. So the
//! source gets what the slot alone would give it, and `slack`, half a percent of its burst, once. What strangers do at
//! the gate only moves its TAT further on, and a packet from the gate to a slot.

mod shared;

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::Address;
use crate::gcra::{Quota, Step};
use crate::hash::{low_bits, mix};
use crate::nanos::Nanos;

pub use shared::{Batch, Bound, PREFIX, SERVICE, step_shared};

/// Slots in a set.
pub const WAYS: usize = 8;
/// Bits of an IPv6 source that count: a host has a whole /64 to choose addresses from.
pub const IPV6_SOURCE_BITS: u8 = 64;
/// How often a lost race for a TAT is run again. Each loss means that another packet of the same source was admitted
/// meanwhile; after this many the packet counts as over the limit, so races never admit too much.
const ATTEMPTS: usize = 8;
/// The same at a gate, where a loser still has its slot.
const ATTEMPTS_AT_GATE: usize = 2;

/// A 64-bit word shared by CPUs. The kernel implements it by intrinsics, since BPF has no stable compare-and-swap.
pub trait Word {
    /// Not moved before an earlier load by the compiler. A CPU that moves it can give a source one packet too many.
    fn load(&self) -> u64;

    /// For words that no other CPU touches.
    fn store(&self, value: u64);

    /// Sequentially consistent; returns what was there, which is `current` exactly if the swap was made.
    fn compare_exchange(&self, current: u64, new: u64) -> u64;
}

#[cfg(target_has_atomic = "64")]
impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        AtomicU64::load(self, Ordering::Acquire)
    }

    fn store(&self, value: u64) {
        AtomicU64::store(self, value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        match AtomicU64::compare_exchange(self, current, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(previous) | Err(previous) => previous,
        }
    }
}

/// A bucket and whose it is.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot<W> {
    /// 0 if it never had an owner.
    owner: W,
    tat: W,
}

/// [`WAYS`] slots in two cache lines, which CPUs fetch together. Owner and TAT lie side by side and slots are taken from
/// the front, so that a source which has one is mostly found in the first line.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Set<W> {
    slots: [Slot<W>; WAYS],
}

/// The state of all sources.
pub trait Rates {
    type Word: Word;

    /// Keys all hashes.
    fn secret(&self) -> [u64; 2];
    /// A power of two.
    fn sets(&self) -> u32;
    fn set(&self, index: u32) -> Option<&Set<Self::Word>>;
    /// The TAT of a gate.
    fn gate(&self, index: u32) -> Option<&Self::Word>;
    /// The TAT of those who find no slot.
    fn cell(&self, index: u32) -> Option<&Self::Word>;
    /// What this CPU has taken of a bucket that all CPUs share.
    fn batch(&self, index: u32) -> Option<&Batch<Self::Word>>;
    /// Logarithm of the number of CPUs, rounded up.
    fn cpu_bits(&self) -> u32;
}

/// The part of a table that belongs to one quota of one policy: a slow one's times must not be taken for a fast one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Share {
    /// Index of the first.
    pub at: u32,
    /// A power of two.
    pub count: u32,
}

impl Share {
    /// Of a quota that needs none.
    pub const NONE: Self = Self { at: 0, count: 1 };

    #[inline(always)]
    const fn index(self, hash: u64) -> u32 {
        self.at.wrapping_add(low_bits(hash, self.count))
    }
}

/// What one source may do, and what it may do together with others. Any limit may be absent. What every packet needs
/// comes first, in the space of a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Policy {
    pub packets: Quota,
    /// Parts of [`crate::abi::GATE`] and [`crate::abi::CELLS`].
    pub packet_gates: Share,
    pub packet_cells: Share,
    /// Identifies the rule and its figures, so that state outlives a reload exactly if the rule did. 30 bits.
    pub id: u32,
    /// 1 if any limit is shared.
    pub shares: u32,
    pub bits: Quota,
    pub bit_gates: Share,
    pub bit_cells: Share,
    /// The limits that it shares, at [`PREFIX`] with its network (an IPv4 /24 or an IPv6 /48), at [`SERVICE`] with
    /// everybody.
    pub shared: [Bound; 4],
}

impl Policy {
    pub const UNLIMITED: Self = Self {
        packets: Quota::UNLIMITED,
        bits: Quota::UNLIMITED,
        packet_gates: Share::NONE,
        bit_gates: Share::NONE,
        packet_cells: Share::NONE,
        bit_cells: Share::NONE,
        shared: [Bound::UNLIMITED; 4],
        id: 0,
        shares: 0,
    };

    #[inline(always)]
    pub const fn is_unlimited(&self) -> bool {
        self.packets.is_unlimited() && self.bits.is_unlimited() && self.shares == 0
    }

    /// Whether it is one limit of packets, as most are.
    #[inline(always)]
    pub const fn is_of_packets_alone(&self) -> bool {
        self.bits.is_unlimited() && self.shares == 0
    }

    /// How many nanoseconds the clock may be behind, so that no more is admitted than half a percent of the burst.
    #[inline(always)]
    pub fn clock_error(&self) -> u64 {
        let own = self.packets.slack().min(self.bits.slack());
        if self.shares == 0 {
            return own;
        }
        self.shared.iter().fold(own, |least, bound| least.min(bound.quota.slack()))
    }
}

/// The outcome of charging one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    Conforms,
    OverPackets,
    OverBits,
}

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Packets,
    Bits,
}

/// What is done to a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing is written.
    Ask,
    Charge,
}

/// A source under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Owner of the slot for packets. Never 0, and without `BITS`.
    pub owner: u64,
    /// A keyed hash of the network, which is whom a source without a slot shares with.
    pub network: u64,
}

/// Marks the owner of an IPv4 slot.
const IPV4: u64 = 1 << 63;
/// Marks the owner of a slot for bits; the same source's slot for packets is in the same set.
const BITS: u64 = 1 << 62;

impl Key {
    /// The key of `source` under the policy `id`, hashed with `secret` so that nobody outside can aim.
    #[inline(always)]
    pub fn new(source: &Address, id: u32, secret: [u64; 2]) -> Self {
        Self { owner: Self::owner(source, id, secret), network: Self::network(source, id, secret) }
    }

    #[inline(always)]
    pub fn owner(source: &Address, id: u32, secret: [u64; 2]) -> u64 {
        match source {
            // Exact: the address and the policy are the key. The top bit tells it from IPv6 and from 0.
            Address::V4(bytes) => {
                IPV4 | u64::from(id & 0x3fff_ffff) << 32 | u64::from(u32::from_be_bytes(*bytes))
            }
            // 61 bits of keyed hash stand for the 64 bits of prefix: a collision is one in 2^61 per pair.
            Address::V6(bytes) => mix(mix(prefix(bytes), secret) ^ u64::from(id), secret) >> 2 | 1,
        }
    }

    #[inline(always)]
    pub fn network(source: &Address, id: u32, secret: [u64; 2]) -> u64 {
        match source {
            Address::V4(_) => mix(!(Self::owner(source, id, secret) & !0xff), secret),
            Address::V6(bytes) => mix(mix(!(prefix(bytes) >> 16), secret) ^ u64::from(id), secret),
        }
    }
}

/// What counts of an IPv6 source.
#[inline(always)]
const fn prefix([a, b, c, d, e, f, g, h, ..]: &[u8; 16]) -> u64 {
    u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])
}

/// The bits of the hash that choose a gate; the lower ones choose the set.
#[inline(always)]
const fn at_gate(hash: u64) -> u64 {
    hash >> 32
}

/// Charges a packet to every quota of a policy, or to none. `step` does it to one of the source's own, as [`step`] would,
/// `step_shared` to all others. `None` if the state cannot be reached.
#[inline(always)]
pub fn charge(
    policy: &Policy,
    step: impl Fn(Unit, Act) -> Option<bool>,
    step_shared: impl Fn(Act) -> Option<Charge>,
) -> Option<Charge> {
    // All are asked before one is charged, so that what one refuses does not use up the others.
    if policy.shares != 0 {
        match step_shared(Act::Ask)? {
            Charge::Conforms => {}
            over @ (Charge::OverPackets | Charge::OverBits) => return Some(over),
        }
    }
    if !policy.packets.is_unlimited() && !policy.bits.is_unlimited() && !step(Unit::Bits, Act::Ask)? {
        return Some(Charge::OverBits);
    }
    if !policy.packets.is_unlimited() && !step(Unit::Packets, Act::Charge)? {
        return Some(Charge::OverPackets);
    }
    if !policy.bits.is_unlimited() && !step(Unit::Bits, Act::Charge)? {
        return Some(Charge::OverBits);
    }
    if policy.shares != 0 { step_shared(Act::Charge) } else { Some(Charge::Conforms) }
}

/// A packet of `bytes` for one quota of a source: whether it conforms; if it does, it may be charged, to the gate, else to
/// the slot, else to the shared cell. What is over the limit writes nothing. `None` if the state cannot be reached.
#[inline(always)]
pub fn step<R: Rates>(
    rates: &R,
    key: &Key,
    policy: &Policy,
    (unit, act): (Unit, Act),
    bytes: u32,
    now: Nanos,
) -> Option<bool> {
    let (quota, owner, gates, cells) = match unit {
        Unit::Packets => (&policy.packets, key.owner, policy.packet_gates, policy.packet_cells),
        Unit::Bits => (&policy.bits, key.owner | BITS, policy.bit_gates, policy.bit_cells),
    };
    let cost = quota.cost(bytes);
    let hash = mix(key.owner, rates.secret());
    let mut gate = None;
    if quota.has_gate() {
        let at = rates.gate(gates.index(at_gate(hash)))?;
        let passes = match act {
            Act::Ask => quota.step_at_gate(Nanos(at.load()), cost, now) != Step::Refuse,
            Act::Charge => pass_gate(at, quota, cost, now),
        };
        if passes {
            return Some(true);
        }
        gate = Some(at);
    }
    // One place that charges, wherever the TAT is: it is by far the largest part, and is inlined.
    let Some(tat) = seat(rates, key.owner, owner, cells.index(key.network), act, now)? else {
        return Some(true);
    };
    Some(match act {
        Act::Ask => quota.step(Nanos(tat.load()), cost, now) != Step::Refuse,
        Act::Charge => advance(tat, gate, quota, cost, now),
    })
}

/// Charges a packet that costs this much to the gate with this TAT, if that is enough. If not, the slot decides.
#[inline(always)]
fn pass_gate<W: Word>(gate: &W, quota: &Quota, cost: u64, now: Nanos) -> bool {
    for _ in 0..ATTEMPTS_AT_GATE {
        let current = gate.load();
        let Step::Admit(next) = quota.step_at_gate(Nanos(current), cost, now) else {
            return false;
        };
        if gate.compare_exchange(current, next.0) == current {
            return true;
        }
    }
    false
}

/// The TAT of the slot of `owner`, claimed if it has none, in the set of `key`; or of the cell if all slots are busy.
/// `Some(None)` if a full bucket can be claimed, but is only asked for.
#[inline(always)]
fn seat<R: Rates>(
    rates: &R,
    key: u64,
    owner: u64,
    cell: u32,
    act: Act,
    now: Nanos,
) -> Option<Option<&R::Word>> {
    let set = rates.set(low_bits(mix(key, rates.secret()), rates.sets()))?;
    match find(set, owner, now) {
        Found::Own(way) => Some(Some(&set.slots.get(way)?.tat)),
        Found::Free(..) if act == Act::Ask => Some(None),
        Found::Free(way, former) => {
            let slot = set.slots.get(way)?;
            let found = slot.owner.compare_exchange(former, owner);
            let claimed = found == former || found == owner;
            Some(Some(if claimed { &slot.tat } else { rates.cell(cell)? }))
        }
        Found::Full => Some(Some(rates.cell(cell)?)),
    }
}

/// Where a set has a slot for a source.
enum Found {
    Own(usize),
    /// One that no live source has, and its former owner.
    Free(usize, u64),
    Full,
}

#[inline(always)]
fn find<W: Word>(set: &Set<W>, wanted: u64, now: Nanos) -> Found {
    let mut free = None;
    for (way, slot) in set.slots.iter().enumerate() {
        let owner = slot.owner.load();
        if owner == wanted {
            return Found::Own(way);
        }
        if free.is_some() {
            continue;
        }
        if slot.tat.load() <= now.0 {
            free = Some((way, owner));
        } else if slot.owner.load() == wanted {
            // Another CPU has claimed and charged it since the owner was read: without this look, one source on two
            // CPUs could get two slots.
            return Found::Own(way);
        }
    }
    match free {
        Some((way, former)) => Found::Free(way, former),
        None => Found::Full,
    }
}

/// Charges a packet under a policy [of packets alone](Policy::is_of_packets_alone), if its gate or the slot that its source
/// has tells: few instructions for what most packets need. `None` if the source has no slot, if another CPU was faster, or if
/// the state cannot be reached: then nothing was charged, and [`step`] is to decide.
#[inline(always)]
pub fn step_alone<R: Rates>(rates: &R, source: &Address, policy: &Policy, now: Nanos) -> Option<bool> {
    let (quota, secret) = (&policy.packets, rates.secret());
    let owner = Key::owner(source, policy.id, secret);
    let hash = mix(owner, secret);
    // Of packets, so the bytes do not matter.
    let cost = quota.cost(0);
    let mut gate = None;
    if quota.has_gate() {
        let at = rates.gate(policy.packet_gates.index(at_gate(hash)))?;
        if pass_gate(at, quota, cost, now) {
            return Some(true);
        }
        gate = Some(at);
    }
    for slot in &rates.set(low_bits(hash, rates.sets()))?.slots {
        if slot.owner.load() == owner {
            return try_advance(&slot.tat, gate, quota, cost, now);
        }
    }
    None
}

/// Takes a packet from a bucket, and raises the gate that it came by before.
#[inline(always)]
fn advance<W: Word>(tat: &W, gate: Option<&W>, quota: &Quota, cost: u64, now: Nanos) -> bool {
    (0..ATTEMPTS).find_map(|_| try_advance(tat, gate, quota, cost, now)).unwrap_or(false)
}

/// The same, tried once; `None` if another CPU was faster.
#[inline(always)]
fn try_advance<W: Word>(tat: &W, gate: Option<&W>, quota: &Quota, cost: u64, now: Nanos) -> Option<bool> {
    let current = tat.load();
    let Step::Admit(next) = quota.step(Nanos(current), cost, now) else {
        return Some(false);
    };
    // First, so that no other CPU finds the gate open while the slot is charged. If the race for the slot is lost
    // then, the gate is a little higher than it needs to be, which costs nobody anything.
    if let Some(gate) = gate {
        let (before, least) = (gate.load(), quota.gate_above(next));
        if before < least.0 && gate.compare_exchange(before, least.0) != before {
            return None;
        }
    }
    (tat.compare_exchange(current, next.0) == current).then_some(true)
}

#[cfg(test)]
pub(crate) mod tests;

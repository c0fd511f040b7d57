//! The contract between the kernel object and the daemon: maps, their keys and values, and the program's globals.
//!
//! Keys and values have no padding and no enums; addresses are in network order, numbers in host order. What
//! changes of the pinned maps, or of what their words mean, changes [`ABI_VERSION`]: pins of another version are never adopted. The
//! globals belong to one program alone.

use crate::hits;
use crate::lists::{v4, v6};
use crate::nanos::Nanos;
use crate::slots::{Batch, Policy, Set};

/// Version of everything in this module. Pins live in a directory named after it.
pub const ABI_VERSION: u32 = 3;

/// Slots in [`COUNTERS`] per interface; more than there are reasons, so that new ones keep the map's size.
pub const REASON_SLOTS: u32 = 64;
/// Interfaces that one daemon can protect.
pub const MAX_INTERFACES: u32 = 64;
/// Policies of one interface: the one for all packets, the path MTU budget, and one per service.
pub const MAX_POLICIES: usize = 64;

/// Index in [`Limits::policies`] of the policy that every packet is charged to.
pub const POLICY_ALL: usize = 0;
/// Index of the budget for path MTU messages, which no other traffic can use up.
pub const POLICY_PATH_MTU: usize = 1;
/// Batches of one CPU: of packets and of bits for each policy.
pub const MAX_BATCHES: usize = 2 * MAX_POLICIES;
/// Index of the first policy of a service.
pub const POLICY_SERVICES: usize = 2;
/// Services of one interface.
pub const MAX_SERVICES: usize = MAX_POLICIES - POLICY_SERVICES;

/// What the lists say of an address or prefix, see [`crate::lists`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Entry {
    /// Blocked until this moment; 0 if not blocked, [`Nanos::NEVER`] for good.
    pub block_until: u64,
    /// Allowed until this moment, likewise.
    pub allow_until: u64,
}

impl Entry {
    pub const NONE: Self = Self { block_until: 0, allow_until: 0 };

    /// What two entries say together.
    #[inline(always)]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            block_until: if other.block_until > self.block_until {
                other.block_until
            } else {
                self.block_until
            },
            allow_until: if other.allow_until > self.allow_until {
                other.allow_until
            } else {
                self.allow_until
            },
        }
    }

    /// Whether the entry says nothing, at any time.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.block_until == 0 && self.allow_until == 0
    }

    #[inline(always)]
    pub const fn allows(self, now: Nanos) -> bool {
        self.allow_until > now.0
    }

    #[inline(always)]
    pub const fn blocks(self, now: Nanos) -> bool {
        self.block_until > now.0
    }
}

/// Frames and bytes counted for one reason on one interface by one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// The prefix lengths in use, as [`crate::lists`] reads them.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Lengths<W> {
    /// 0 if there are no entries of this family at all.
    pub v4_any: W,
    pub v6_any: W,
    pub v4: [W; v4::LENGTH_WORDS],
    /// Below 64.
    pub v6_short: [W; v6::LENGTH_WORDS],
    /// From 64 on.
    pub v6_long: [W; v6::LENGTH_WORDS + 1],
}

/// Name of an interface that holds a slot, padded with zeros; all zeros if the slot is free.
pub type InterfaceName = [u8; 16];

/// Where the counts of `reason` on the interface in `slot` are.
#[inline(always)]
pub const fn counter_index(slot: u32, reason: u8) -> u32 {
    slot * REASON_SLOTS + reason as u32
}

/// Which service a policy is for, as one sortable number: the protocol, and a destination port or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Service(u32);

impl Service {
    /// Sorts behind every real service.
    pub const UNUSED: Self = Self(u32::MAX);

    #[inline(always)]
    pub const fn new(protocol: u8, port: Option<u16>) -> Self {
        match port {
            Some(port) => Self((protocol as u32) << 17 | 1 << 16 | port as u32),
            None => Self((protocol as u32) << 17),
        }
    }
}

/// The limits of one interface: part of the program, so that a reload swaps them as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Limits {
    pub policies: [Policy; MAX_POLICIES],
    /// Sorted. `services[i]` is held to `policies[POLICY_SERVICES + i]`.
    pub services: [Service; MAX_SERVICES],
    pub service_count: u32,
    pub reserved: u32,
}

impl Limits {
    pub const NONE: Self = Self {
        policies: [Policy::UNLIMITED; MAX_POLICIES],
        services: [Service::UNUSED; MAX_SERVICES],
        service_count: 0,
        reserved: 0,
    };
}

/// What one loaded program is for. All zeros is a program that limits nothing and counts in slot 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Settings {
    /// Keys the hash of the slot table; the same for all programs that share it.
    pub secret: [u64; 2],
    /// If not 0, the time the program believes it is. For tests; 0 in production.
    pub fixed_now: u64,
    /// Nanoseconds that the kernel's coarse clock may be behind; 0 if it is not to be used.
    pub tick: u64,
    /// Sets in [`SLOTS`]: a power of two.
    pub sets: u32,
    /// Buckets in [`EXACT_V4`] and [`EXACT_V6`]: powers of two.
    pub buckets_v4: u32,
    pub buckets_v6: u32,
    /// The interface's slot in [`COUNTERS`] and [`INTERFACES`].
    pub slot: u32,
    /// 1 if any policy limits anything; 0 lets the verifier remove the limiter.
    pub limited: u32,
    /// 1 in generic mode, see [`crate::parse::Lengths::super_frames`].
    pub super_frames: u32,
    /// 1 if sampled drops are logged.
    pub log_drops: u32,
    /// See [`crate::slots::Rates::cpu_bits`].
    pub cpu_bits: u32,
    /// 1 if any IPv4 entry was listed when the program was loaded, as a hint: then the level is asked at once.
    pub listed_v4: u32,
    pub reserved: u32,
}

/// What kind of BPF map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapKind {
    Array,
    PerCpuArray,
}

/// One map as both sides expect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSpec {
    pub name: &'static str,
    pub kind: MapKind,
    pub key_size: u32,
    pub value_size: u32,
    /// Entries if the configuration says nothing else.
    pub entries: u32,
    /// `BPF_F_*` creation flags.
    pub flags: u32,
}

/// `BPF_F_MMAPABLE`, which also aligns the values to pages.
pub const MMAPABLE: u32 = 1 << 10;

/// See [`crate::lists::v4`].
pub const LEVEL_V4: MapSpec =
    spec("level_v4", MapKind::Array, 4, size_of::<u64>(), count(v4::LEVEL_WORDS), MMAPABLE);
pub const WIDE_V4: MapSpec =
    spec("wide_v4", MapKind::Array, 4, size_of::<u64>(), count(v4::WIDE_WORDS), MMAPABLE);
pub const EXACT_V4: MapSpec =
    spec("exact_v4", MapKind::Array, 4, size_of::<v4::Bucket<u64>>(), 1 << 12, MMAPABLE);
/// See [`crate::lists::v6`].
pub const FILTER_V6: MapSpec =
    spec("filter_v6", MapKind::Array, 4, size_of::<u64>(), count(v6::FILTER_WORDS), MMAPABLE);
pub const EXACT_V6: MapSpec =
    spec("exact_v6", MapKind::Array, 4, size_of::<v6::Bucket<u64>>(), 1 << 12, MMAPABLE);
/// One entry.
pub const LENGTHS: MapSpec = spec("lengths", MapKind::Array, 4, size_of::<Lengths<u64>>(), 1, MMAPABLE);
/// See [`crate::hits`].
pub const HITS: MapSpec = spec("hits", MapKind::Array, 4, size_of::<hits::Set<u64>>(), 1 << 12, MMAPABLE);
/// [`crate::slots::WAYS`] buckets per set.
pub const SLOTS: MapSpec = spec("slots", MapKind::Array, 4, size_of::<Set<u64>>(), 1 << 18, MMAPABLE);
/// TATs that the sources of a network share if they find no slot.
pub const CELLS: MapSpec = spec("cells", MapKind::Array, 4, size_of::<u64>(), 1 << 16, MMAPABLE);
/// TATs that keep packets away from [`SLOTS`]; few enough for a second-level cache.
pub const GATE: MapSpec = spec("gate", MapKind::Array, 4, size_of::<u64>(), 1 << 16, MMAPABLE);
pub const COUNTERS: MapSpec =
    spec("counters", MapKind::PerCpuArray, 4, size_of::<Count>(), MAX_INTERFACES * REASON_SLOTS, 0);
pub const INTERFACES: MapSpec =
    spec("interfaces", MapKind::Array, 4, size_of::<InterfaceName>(), MAX_INTERFACES, 0);
/// One entry: the secret of [`Settings`], kept so that rate state outlives a reload.
pub const SECRET: MapSpec = spec("secret", MapKind::Array, 4, size_of::<[u64; 2]>(), 1, 0);

/// All maps that are pinned and shared.
pub const MAPS: &[MapSpec] = &[
    LEVEL_V4, WIDE_V4, EXACT_V4, FILTER_V6, EXACT_V6, LENGTHS, HITS, SLOTS, CELLS, GATE, COUNTERS,
    INTERFACES, SECRET,
];

/// Names of the program's read-only globals.
pub const SETTINGS_GLOBAL: &str = "SETTINGS";
pub const LIMITS_GLOBAL: &str = "LIMITS";
/// Names of the program with and without support for multi-buffer frames.
pub const PROGRAM_FRAGS: &str = "limiter_frags";
pub const PROGRAM_LINEAR: &str = "limiter";

#[expect(clippy::cast_possible_truncation, reason = "less than a million, known at compile time")]
const fn count(words: usize) -> u32 {
    words as u32
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of a few bytes, known at compile time")]
const fn spec(
    name: &'static str,
    kind: MapKind,
    key_size: usize,
    value_size: usize,
    entries: u32,
    flags: u32,
) -> MapSpec {
    MapSpec { name, kind, key_size: key_size as u32, value_size: value_size as u32, entries, flags }
}

const _: () = {
    assert!(size_of::<Entry>() == 16);
    assert!(size_of::<Count>() == 16);
    assert!(size_of::<Set<u64>>() == 128);
    assert!(size_of::<Policy>() == 344 && size_of::<Batch<u64>>() == 24);
    assert!(size_of::<Limits>() == MAX_POLICIES * size_of::<Policy>() + MAX_SERVICES * 4 + 8);
    assert!(size_of::<Settings>() == 72);
};

#[cfg(test)]
mod tests;

//! The lookups of a verdict, in BPF maps.

use limiter_common::abi::{Limits, MAX_POLICIES};
use limiter_common::lists::Listed;
use limiter_common::parse::Lengths;
use limiter_common::slots::{
    Act, Batch, Charge, Key, Rates, Set, Unit, charge, step, step_alone, step_shared,
};
use limiter_common::{Address, Nanos, Tables, Transport};

use crate::word::KernelWord;
use crate::{globals, lists, maps};

/// The maps.
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn listed(&self, source: &Address) -> Listed {
        match source {
            Address::V4(address) => lists::v4(u32::from_be_bytes(*address)),
            Address::V6(address) => lists::v6(address),
        }
    }

    #[inline(always)]
    fn lengths(&self) -> Lengths {
        Lengths { super_frames: globals::super_frames() }
    }

    #[inline(always)]
    fn limits(&self) -> Option<&Limits> {
        globals::limits()
    }

    #[inline(always)]
    fn service(&self, limits: &Limits, transport: &Transport) -> Option<usize> {
        if limits.service_count == 0 {
            return None;
        }
        match service_index(transport.to_bits()) {
            NO_SERVICE => None,
            // Masked for the verifier, which believes no result of a global function.
            index => Some(index as usize % MAX_POLICIES),
        }
    }

    #[inline(always)]
    fn charge(&self, source: &Address, policy: usize, bytes: u32, now: Nanos) -> Option<Charge> {
        let quotas = globals::all_limits().policies.get(policy)?;
        let policy = u32::try_from(policy).ok()?;
        let alone = quotas.is_of_packets_alone();
        // Most packets need no more, and no call.
        if alone && let Some(conforms) = step_alone(&KernelRates, source, quotas, now) {
            return Some(if conforms { Charge::Conforms } else { Charge::OverPackets });
        }
        let key = Key::new(source, quotas.id, globals::secret());
        if alone {
            return match step_bucket(key.owner, key.network, policy, bytes, now.0) {
                ADMIT => Some(Charge::Conforms),
                REFUSE => Some(Charge::OverPackets),
                _ => None,
            };
        }
        let flag = |act| if act == Act::Ask { ASK } else { 0 };
        let step = |unit, act| {
            let unit = if unit == Unit::Bits { OF_BITS } else { 0 };
            match step_bucket(key.owner, key.network, policy | unit | flag(act), bytes, now.0) {
                ADMIT => Some(true),
                REFUSE => Some(false),
                _ => None,
            }
        };
        charge(quotas, step, |act| match step_buckets(key.network, policy | flag(act), bytes, now.0) {
            ADMIT => Some(Charge::Conforms),
            REFUSE => Some(Charge::OverPackets),
            REFUSE_BITS => Some(Charge::OverBits),
            _ => None,
        })
    }
}

/// Instead of an index.
const NO_SERVICE: u32 = u32::MAX;

/// Index of the policy for a service, or [`NO_SERVICE`].
///
/// A global function, which the verifier checks once: else it would follow the rest of the verdict for every outcome of
/// the search.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn service_index(transport: u32) -> u32 {
    let transport = Transport::from_bits(transport);
    let index = globals::limits().and_then(|limits| limits.service_index(&transport));
    index.and_then(|index| u32::try_from(index).ok()).unwrap_or(NO_SERVICE)
}

/// Added to the index of a policy.
const OF_BITS: u32 = 1 << 16;
const ASK: u32 = 1 << 17;

/// Outcomes of a step, as numbers.
const ADMIT: u32 = 0;
const REFUSE: u32 = 1;
const REFUSE_BITS: u32 = 2;
const UNREACHABLE: u32 = 3;

/// [`step`], for a policy's index with [`OF_BITS`] for its bits and [`ASK`] if nothing is to be charged. The one copy of
/// it, since it is large, and a packet with two limits needs it three times.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_bucket(owner: u64, network: u64, what: u32, bytes: u32, now: u64) -> u32 {
    let Some(limits) = globals::limits() else { return UNREACHABLE };
    let Some(policy) = limits.policies.get((what & 0xffff) as usize) else { return UNREACHABLE };
    let unit = if what & OF_BITS != 0 { Unit::Bits } else { Unit::Packets };
    let act = if what & ASK != 0 { Act::Ask } else { Act::Charge };
    match step(&KernelRates, &Key { owner, network }, policy, (unit, act), bytes, Nanos(now)) {
        Some(true) => ADMIT,
        Some(false) => REFUSE,
        None => UNREACHABLE,
    }
}

/// [`step_shared`], likewise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_buckets(network: u64, what: u32, bytes: u32, now: u64) -> u32 {
    let Some(limits) = globals::limits() else { return UNREACHABLE };
    let Some(policy) = limits.policies.get((what & 0xffff) as usize) else { return UNREACHABLE };
    let act = if what & ASK != 0 { Act::Ask } else { Act::Charge };
    match step_shared(&KernelRates, network, policy, act, bytes, Nanos(now)) {
        Some(Charge::Conforms) => ADMIT,
        Some(Charge::OverPackets) => REFUSE,
        Some(Charge::OverBits) => REFUSE_BITS,
        None => UNREACHABLE,
    }
}

/// The rate state in maps.
struct KernelRates;

impl Rates for KernelRates {
    type Word = KernelWord;

    #[inline(always)]
    fn secret(&self) -> [u64; 2] {
        globals::secret()
    }

    #[inline(always)]
    fn sets(&self) -> u32 {
        globals::sets()
    }

    #[inline(always)]
    fn set(&self, index: u32) -> Option<&Set<KernelWord>> {
        maps::SLOTS.get(index)
    }

    #[inline(always)]
    fn gate(&self, index: u32) -> Option<&KernelWord> {
        maps::GATE.get(index)
    }

    #[inline(always)]
    fn cell(&self, index: u32) -> Option<&KernelWord> {
        maps::CELLS.get(index)
    }

    #[inline(always)]
    fn batch(&self, index: u32) -> Option<&Batch<KernelWord>> {
        maps::BATCHES.get(index)
    }

    #[inline(always)]
    fn cpu_bits(&self) -> u32 {
        // Masked for the verifier, which takes no shift by more.
        globals::cpu_bits() & 63
    }
}

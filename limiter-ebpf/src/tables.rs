//! The lookups of a verdict, in BPF maps.

use core::cell::Cell;

use limiter_common::abi::{Entry, Limits, MAX_POLICIES};
use limiter_common::parse::Lengths;
use limiter_common::slots::{Act, Charge, Key, Rates, Set, Unit, charge, step};
use limiter_common::{Address, Nanos, Port, Tables, Transport};

use crate::word::KernelWord;
use crate::{globals, lists, maps};

/// The maps, and the source that was looked up last: for what is done with drops, so that it need not parse again.
pub(crate) struct KernelTables {
    looked_up: (Cell<u64>, Cell<u64>),
}

impl KernelTables {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { looked_up: (Cell::new(0), Cell::new(0)) }
    }

    /// The source that was looked up, as 16 bytes in network order: IPv4 as an IPv4-mapped address, `::` if the frame
    /// was dropped before.
    #[inline(always)]
    pub(crate) fn looked_up(&self) -> [u64; 2] {
        [self.looked_up.0.get(), self.looked_up.1.get()]
    }

    #[inline(always)]
    fn remember(&self, source: &Address) {
        let [high, low] = match source {
            Address::V4(v4) => [0, u64::from(0xffff_u32.to_be()) | u64::from(u32::from_ne_bytes(*v4)) << 32],
            Address::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]) => [
                u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
                u64::from_ne_bytes([*i, *j, *k, *l, *m, *n, *o, *p]),
            ],
        };
        self.looked_up.0.set(high);
        self.looked_up.1.set(low);
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn entry(&self, source: &Address) -> Entry {
        self.remember(source);
        match source {
            Address::V4(address) => lists::v4(u32::from_be_bytes(*address)).entry(),
            Address::V6(address) => lists::v6(address).entry(),
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
        let port = transport.port.map_or(NO_PORT, |port| u32::from(port.get()));
        match service_index(u32::from(transport.protocol), port) {
            NO_SERVICE => None,
            // Masked for the verifier, which believes no result of a global function.
            index => Some(index as usize % MAX_POLICIES),
        }
    }

    #[inline(always)]
    fn charge(&self, source: &Address, policy: usize, bytes: u32, now: Nanos) -> Option<Charge> {
        self.remember(source);
        let quotas = globals::limits()?.policies.get(policy)?;
        let policy = u32::try_from(policy).ok()?;
        let key = Key::new(source, quotas.id, globals::secret());
        charge(quotas, |unit, act| {
            let unit = if unit == Unit::Bits { OF_BITS } else { 0 };
            let act = if act == Act::Ask { ASK } else { 0 };
            match step_bucket(key.owner, key.network, policy | unit | act, bytes, now.0) {
                ADMIT => Some(true),
                REFUSE => Some(false),
                _ => None,
            }
        })
    }
}

/// Instead of a port.
const NO_PORT: u32 = u32::MAX;
/// Instead of an index.
const NO_SERVICE: u32 = u32::MAX;

/// Index of the policy for a service, or [`NO_SERVICE`].
///
/// A global function, which the verifier checks once: else it would follow the rest of the verdict for every outcome of
/// the search.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn service_index(protocol: u32, port: u32) -> u32 {
    // Both are masked to what they are; the verifier lets a global function be called with anything.
    let protocol = (protocol & 0xff) as u8;
    let port = (port != NO_PORT).then_some(Port::new((port & 0xffff) as u16));
    let transport = Transport { protocol, port, path_mtu: false };
    let index = globals::limits().and_then(|limits| limits.service_index(&transport));
    index.and_then(|index| u32::try_from(index).ok()).unwrap_or(NO_SERVICE)
}

/// Added to the index of a policy.
const OF_BITS: u32 = 1 << 16;
const ASK: u32 = 1 << 17;

/// Outcomes of a step, as numbers.
const ADMIT: u32 = 0;
const REFUSE: u32 = 1;
const UNREACHABLE: u32 = 2;

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
}

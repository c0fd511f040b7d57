//! The lookups of a verdict, in BPF maps.

use core::cell::Cell;
use core::ptr::from_ref;

use aya_ebpf::btf_maps::lpm_trie::Key as TrieKey;
use limiter_common::abi::{Entry, Limits, MAX_POLICIES};
use limiter_common::parse::Lengths;
use limiter_common::slots::{Act, Charge, Key, Rates, Set, Unit, charge, step};
use limiter_common::{Address, Nanos, Port, Tables, Transport};

use crate::word::KernelWord;
use crate::{globals, maps};

/// The maps, and the source that was looked up last: for the log, so that it need not parse again.
pub(crate) struct KernelTables {
    looked_up: Cell<[u64; 2]>,
}

impl KernelTables {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { looked_up: Cell::new([0; 2]) }
    }

    /// The source that was looked up, as 16 bytes in network order: IPv4 as an IPv4-mapped address, `::` if the frame
    /// was dropped before. Only kept while drops are logged.
    #[inline(always)]
    pub(crate) fn looked_up(&self) -> [u64; 2] {
        self.looked_up.get()
    }

    #[inline(always)]
    fn remember(&self, source: &Address) {
        if globals::log_drops() {
            self.looked_up.set(match source {
                Address::V4(v4) => {
                    [0, u64::from(0xffff_u32.to_be()) | u64::from(u32::from_ne_bytes(*v4)) << 32]
                }
                Address::V6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]) => [
                    u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
                    u64::from_ne_bytes([*i, *j, *k, *l, *m, *n, *o, *p]),
                ],
            });
        }
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn entry(&self, source: &Address) -> Entry {
        self.remember(source);
        // Keys are copied to words first: a helper that gets the address of a part of the packet's description would keep
        // all of it in memory, byte by byte.
        //
        // Entries are copied at once. An update at the same time leaves the old deadlines, the new ones, or one of each;
        // all were asked for a moment apart. A host's element that is deleted and at once reused for another address
        // between lookup and copy leaves that one's deadlines: the table is preallocated, and reuse waits for no reader.
        // It takes a delete and an insert within nanoseconds, and concerns the one packet.
        match source {
            Address::V4(address) => {
                let key = PrefixWords { len: 32, address: [u32::from_ne_bytes(*address)] };
                // SAFETY: nothing refers to the entry behind the copy.
                let host = unsafe { maps::ADDRESSES_V4.get(key.address_bytes()) }.copied();
                let prefix = maps::PREFIXES_V4.get(key.bytes()).map(from_words);
                host.unwrap_or(Entry::NONE).union(prefix.unwrap_or(Entry::NONE))
            }
            Address::V6(address) => {
                let key = PrefixWords { len: 128, address: words(address) };
                // SAFETY: as above.
                let host = unsafe { maps::ADDRESSES_V6.get(key.address_bytes()) }.copied();
                let prefix = maps::PREFIXES_V6.get(key.bytes()).copied();
                host.unwrap_or(Entry::NONE).union(prefix.unwrap_or(Entry::NONE))
            }
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

/// A prefix key whose address can be used as a key, too; aligned, so that it is written word by word.
#[repr(C)]
struct PrefixWords<const WORDS: usize> {
    len: u32,
    address: [u32; WORDS],
}

impl<const WORDS: usize> PrefixWords<WORDS> {
    #[inline(always)]
    fn bytes<const N: usize>(&self) -> &TrieKey<[u8; N]> {
        const { assert!(N == WORDS * 4) };
        // SAFETY: the same layout, and less alignment.
        unsafe { &*from_ref(self).cast() }
    }

    #[inline(always)]
    fn address_bytes<const N: usize>(&self) -> &[u8; N] {
        const { assert!(N == WORDS * 4) };
        // SAFETY: as many bytes, and less alignment.
        unsafe { &*from_ref(&self.address).cast() }
    }
}

#[inline(always)]
fn words([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: &[u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([*a, *b, *c, *d]),
        u32::from_ne_bytes([*e, *f, *g, *h]),
        u32::from_ne_bytes([*i, *j, *k, *l]),
        u32::from_ne_bytes([*m, *n, *o, *p]),
    ]
}

#[inline(always)]
fn from_words([block0, block1, allow0, allow1]: &maps::EntryWords) -> Entry {
    let word = |first: u32, second: u32| {
        let (low, high) = if cfg!(target_endian = "little") { (first, second) } else { (second, first) };
        u64::from(low) | u64::from(high) << 32
    };
    Entry { block_until: word(*block0, *block1), allow_until: word(*allow0, *allow1) }
}

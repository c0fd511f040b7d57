//! The lookups of a verdict, in BPF maps.

use core::cell::Cell;
use core::ptr::from_ref;

use aya_ebpf::btf_maps::lpm_trie::Key as TrieKey;
use limiter_common::abi::{Entry, Limits};
use limiter_common::parse::Lengths;
use limiter_common::slots::{Charge, Key, charge};
use limiter_common::{Address, Nanos, Tables, Transport};

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
        let port = transport.port.map_or(NO_PORT, u32::from);
        match service_index(u32::from(transport.protocol), port) {
            NO_SERVICE => None,
            index => Some(index as usize),
        }
    }

    #[inline(always)]
    fn charge(&self, source: &Address, policy: usize, bytes: u32, now: Nanos) -> Option<Charge> {
        self.remember(source);
        let policy = u32::try_from(policy).ok()?;
        let outcome = match source {
            Address::V4(address) => charge_v4(u32::from_ne_bytes(*address), policy, bytes, now.0),
            Address::V6([a, b, c, d, e, f, g, h, ..]) => {
                let prefix = u64::from_ne_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                charge_v6(prefix, policy, bytes, now.0)
            }
        };
        match outcome {
            CONFORMS => Some(Charge::Conforms),
            OVER_PACKETS => Some(Charge::OverPackets),
            OVER_BITS => Some(Charge::OverBits),
            _ => None,
        }
    }
}

/// Instead of a port.
const NO_PORT: u32 = u32::MAX;
/// Instead of an index.
const NO_SERVICE: u32 = u32::MAX;

/// Outcomes of charging, as numbers.
const CONFORMS: u32 = 0;
const OVER_PACKETS: u32 = 1;
const OVER_BITS: u32 = 2;
const UNREACHABLE: u32 = 3;

/// Index of the policy for a service, or [`NO_SERVICE`].
///
/// A global function, which the verifier checks once: else it would follow the rest of the verdict for every outcome of
/// the search.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn service_index(protocol: u32, port: u32) -> u32 {
    // Both are masked to what they are; the verifier lets a global function be called with anything.
    let protocol = (protocol & 0xff) as u8;
    let port = (port != NO_PORT).then_some((port & 0xffff) as u16);
    let transport = Transport { protocol, port, path_mtu: false };
    let index = globals::limits().and_then(|limits| limits.service_index(&transport));
    index.and_then(|index| u32::try_from(index).ok()).unwrap_or(NO_SERVICE)
}

/// Charges a source; a global function for the same reason, and since a packet may be charged more than once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn charge_v4(address: u32, policy: u32, bytes: u32, now: u64) -> u32 {
    charge_source(&Address::V4(address.to_ne_bytes()), policy, bytes, Nanos(now))
}

/// `prefix` is the /64, which is all that counts of an IPv6 source.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn charge_v6(prefix: u64, policy: u32, bytes: u32, now: u64) -> u32 {
    let [a, b, c, d, e, f, g, h] = prefix.to_ne_bytes();
    let source = Address::V6([a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]);
    charge_source(&source, policy, bytes, Nanos(now))
}

#[inline(always)]
fn charge_source(source: &Address, policy: u32, bytes: u32, now: Nanos) -> u32 {
    let Some(limits) = globals::limits() else { return UNREACHABLE };
    let Some(policy) = limits.policies.get(policy as usize) else { return UNREACHABLE };
    let key = Key::new(source, policy.id, globals::secret());
    let (Some(set), Some(shared)) =
        (maps::SLOTS.get(key.set(globals::sets())), maps::CELLS.get(key.cell(policy, limits.cells)))
    else {
        return UNREACHABLE;
    };
    match charge(set, shared, &key, policy, bytes, now) {
        Charge::Conforms => CONFORMS,
        Charge::OverPackets => OVER_PACKETS,
        Charge::OverBits => OVER_BITS,
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

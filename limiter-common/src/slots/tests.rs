use std::cell::{Cell as Shared, RefCell};
use std::mem::offset_of;
use std::rc::Rc;

use super::*;

/// The layout of what lies in maps, for the snapshot in [`crate::abi`].
pub(crate) fn layout() -> Vec<(&'static str, usize)> {
    vec![
        ("set.keys", offset_of!(Set<u64>, keys)),
        ("set.packets", offset_of!(Set<u64>, packets)),
        ("set.bits", offset_of!(Set<u64>, bits)),
        ("cell.packets", offset_of!(Cell<u64>, packets)),
        ("cell.bits", offset_of!(Cell<u64>, bits)),
        ("policy.packets", offset_of!(Policy, packets)),
        ("policy.bits", offset_of!(Policy, bits)),
        ("policy.id", offset_of!(Policy, id)),
        ("policy.cells_at", offset_of!(Policy, cells_at)),
    ]
}

const NOW: Nanos = Nanos(1_000_000_000_000);
const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

fn v4(last: u8) -> Key {
    Key::new(&Address::V4([192, 0, 2, last]), 1, SECRET)
}

/// One packet a second, and `burst` at once.
fn packets(burst: u64) -> Policy {
    Policy { packets: Quota::packets(1, burst).unwrap(), id: 1, ..Policy::UNLIMITED }
}

/// One word of the table, on which another CPU wins the first few races.
#[derive(Debug, Default)]
struct Contended {
    value: Shared<u64>,
    losses: Shared<u32>,
    /// What the winner leaves behind.
    winner: Shared<Option<u64>>,
}

impl Word for Contended {
    fn load(&self) -> u64 {
        self.value.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        if self.losses.get() > 0 {
            self.losses.set(self.losses.get() - 1);
            self.value.set(self.winner.get().unwrap_or(self.value.get() + 1));
        }
        let found = self.value.get();
        if found == current {
            self.value.set(new);
        }
        found
    }
}

#[test]
fn a_source_has_one_bucket() {
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::default());
    let charge = |key: &Key, now| charge(&set, &cell, key, &packets(2), 60, now);
    let later = NOW.saturating_add(Nanos::from_secs(1));
    for (step, key, now, expected) in [
        (0, v4(1), NOW, Charge::Conforms),
        (1, v4(1), NOW, Charge::Conforms),
        (2, v4(1), NOW, Charge::OverPackets),
        (3, v4(2), NOW, Charge::Conforms),
        (4, v4(1), later, Charge::Conforms),
        (5, v4(1), later, Charge::OverPackets),
        (6, v4(2), later, Charge::Conforms),
        (7, v4(2), later, Charge::Conforms),
    ] {
        assert_eq!(charge(&key, now), expected, "step {step}");
    }
    assert_eq!(cell.packets.into_inner(), 0, "nobody needed the shared cell");
}

#[test]
fn a_full_set_shares_a_cell_and_evicts_nobody() {
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::default());
    let charge = |last, now| charge(&set, &cell, &v4(last), &packets(1), 60, now);
    let ways = u8::try_from(WAYS).unwrap();
    for last in 0..ways {
        assert_eq!(charge(last, NOW), Charge::Conforms, "source {last} finds a slot");
    }
    // The two strangers share one bucket between them.
    assert_eq!(charge(100, NOW), Charge::Conforms);
    assert_eq!(charge(101, NOW), Charge::OverPackets);
    for last in 0..ways {
        assert_eq!(charge(last, NOW), Charge::OverPackets, "source {last} still has its slot");
    }
    // Buckets are full again from the moment that their TAT names on, not before.
    let full = NOW.saturating_add(Nanos::from_secs(1));
    assert_eq!(charge(102, Nanos(full.0 - 1)), Charge::OverPackets);
    assert_eq!(charge(102, full), Charge::Conforms);
    assert_eq!(charge(102, full), Charge::OverPackets, "it had a slot, not the cell");
    assert_eq!(charge(103, full), Charge::Conforms);
}

/// A slot is busy as long as either of its buckets is not full.
#[test]
fn a_slot_is_busy_for_bits_alone() {
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::default());
    let policy = Policy { bits: Quota::bits(1_000, 1).unwrap(), id: 1, ..Policy::UNLIMITED };
    let ways = u8::try_from(WAYS).unwrap();
    for last in 0..ways {
        assert_eq!(charge(&set, &cell, &v4(last), &policy, 60, NOW), Charge::Conforms);
    }
    assert_eq!(charge(&set, &cell, &v4(100), &policy, 60, NOW), Charge::Conforms);
    assert_ne!(cell.bits.load(Ordering::Relaxed), 0, "the ninth source went to the shared cell");
    for last in 0..ways {
        assert_eq!(charge(&set, &cell, &v4(last), &policy, 60, NOW), Charge::OverBits);
    }
}

/// What one limit refuses does not use up the other.
#[test]
fn both_limits_or_neither() {
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::default());
    let both = Policy { bits: Quota::bits(8_000, 100).unwrap(), ..packets(3) };
    let charge = |bytes| charge(&set, &cell, &v4(1), &both, bytes, NOW);
    assert_eq!(charge(60), Charge::Conforms);
    assert_eq!(charge(60), Charge::Conforms);
    // 120 bytes against a burst of 100: over, however often it is asked.
    for _ in 0..5 {
        assert_eq!(charge(60), Charge::OverBits);
    }
    let second = NOW.saturating_add(Nanos::from_secs(1)).0;
    assert_eq!(set.packets[0].load(Ordering::Relaxed), second + 1_000_000_000, "two packets are charged");
    let by_packets = Policy { bits: Quota::bits(8_000, 10_000).unwrap(), ..both };
    let (set, cell) = (Set::<AtomicU64>::default(), Cell::default());
    let charge = |bytes| super::charge(&set, &cell, &v4(1), &by_packets, bytes, NOW);
    assert_eq!([charge(60), charge(60), charge(60)], [Charge::Conforms; 3]);
    let bits = set.bits[0].load(Ordering::Relaxed);
    assert_eq!(charge(60), Charge::OverPackets);
    assert_eq!(set.bits[0].load(Ordering::Relaxed), bits, "refused packets cost no bits");
}

/// Each lost race is a packet that somebody else was admitted.
#[test]
fn a_lost_race_for_a_bucket_is_run_again() {
    for (losses, expected) in [(0, Charge::Conforms), (7, Charge::Conforms), (8, Charge::OverPackets)] {
        let (set, cell) = (Set::<Contended>::default(), Cell::default());
        let roomy = Policy { packets: Quota::packets(1_000, 1_000).unwrap(), ..packets(1) };
        set.packets[0].losses.set(losses);
        assert_eq!(charge(&set, &cell, &v4(1), &roomy, 60, NOW), expected, "{losses} losses");
    }
    // The winner took the last packet.
    let (set, cell) = (Set::<Contended>::default(), Cell::default());
    set.packets[0].losses.set(1);
    set.packets[0].winner.set(Some(NOW.0 + 1_000_000_000));
    assert_eq!(charge(&set, &cell, &v4(1), &packets(1), 60, NOW), Charge::OverPackets);
}

#[test]
fn a_lost_race_for_a_slot() {
    // To another source: this packet goes to the shared cell.
    let (set, cell) = (Set::<Contended>::default(), Cell::default());
    set.keys[0].losses.set(1);
    set.keys[0].winner.set(Some(v4(2).owner));
    assert_eq!(charge(&set, &cell, &v4(1), &packets(1), 60, NOW), Charge::Conforms);
    assert_ne!(cell.packets.load(), 0);
    assert_eq!(set.packets[0].load(), 0, "the winner's bucket is untouched");
    // To the same source on another CPU: the slot is its own.
    let (set, cell) = (Set::<Contended>::default(), Cell::default());
    set.keys[0].losses.set(1);
    set.keys[0].winner.set(Some(v4(1).owner));
    assert_eq!(charge(&set, &cell, &v4(1), &packets(1), 60, NOW), Charge::Conforms);
    assert_eq!(cell.packets.load(), 0);
    assert_ne!(set.packets[0].load(), 0);
}

/// What another CPU does, and before how many more words that this CPU touches.
struct OtherCpu {
    words: u32,
    work: Box<dyn FnOnce()>,
}

thread_local! {
    static OTHER_CPU: RefCell<Option<OtherCpu>> = const { RefCell::new(None) };
}

/// A word at which another CPU may come in between.
#[derive(Debug, Default)]
struct Watched(Shared<u64>);

impl Watched {
    fn touch() {
        let due = OTHER_CPU.with_borrow_mut(|other| match other {
            Some(OtherCpu { words: 0, .. }) => other.take(),
            Some(OtherCpu { words, .. }) => {
                *words -= 1;
                None
            }
            None => None,
        });
        if let Some(OtherCpu { work, .. }) = due {
            work();
        }
    }
}

impl Word for Watched {
    fn load(&self) -> u64 {
        Self::touch();
        self.0.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> u64 {
        Self::touch();
        let found = self.0.get();
        if found == current {
            self.0.set(new);
        }
        found
    }
}

/// Charges a packet of source 1 while another CPU charges one of `other` before the word touched as number `at`.
/// Returns the verdicts of both, and whether the other CPU came in between at all.
fn interleaved(set: &Rc<Set<Watched>>, other: u8, at: u32) -> (Charge, Option<Charge>) {
    let verdict = Rc::new(Shared::new(None));
    let work = {
        let (set, verdict) = (Rc::clone(set), Rc::clone(&verdict));
        move || {
            let cell = Cell::default();
            verdict.set(Some(charge(&set, &cell, &v4(other), &packets(1), 60, NOW)));
        }
    };
    OTHER_CPU.set(Some(OtherCpu { words: at, work: Box::new(work) }));
    let mine = charge(set, &Cell::default(), &v4(1), &packets(1), 60, NOW);
    OTHER_CPU.set(None);
    (mine, verdict.get())
}

/// Two CPUs with packets of one source never give it two buckets, wherever one comes in between the other.
#[test]
fn one_source_on_two_cpus_has_one_slot() {
    let fresh = || Rc::new(Set::<Watched>::default());
    let formerly_owned = || {
        let set = fresh();
        for (way, key) in set.keys.iter().enumerate() {
            key.0.set(v4(u8::try_from(100 + way).unwrap()).owner);
            set.packets[way].0.set(NOW.0 - 1);
        }
        set
    };
    let partly_busy = || {
        let set = formerly_owned();
        for way in [0, 1, 4] {
            set.packets[way].0.set(NOW.0 + 1);
        }
        set
    };
    for (name, set) in [
        ("fresh", &fresh as &dyn Fn() -> Rc<Set<Watched>>),
        ("formerly owned", &formerly_owned),
        ("partly busy", &partly_busy),
    ] {
        for at in 0.. {
            let set = set();
            let (mine, other) = interleaved(&set, 1, at);
            let Some(other) = other else {
                assert!(at > 10, "{name}: the other CPU never came in between");
                break;
            };
            let slots = set.keys.iter().filter(|key| key.0.get() == v4(1).owner).count();
            assert_eq!(slots, 1, "{name}, before word {at}");
            let admitted = [mine, other].iter().filter(|charge| **charge == Charge::Conforms).count();
            assert_eq!(admitted, 1, "{name}, before word {at}");
        }
    }
}

/// Two sources that want the same slot: at worst one of them loses one packet, and gets the next one through.
#[test]
fn two_sources_on_two_cpus() {
    let later = NOW.saturating_add(Nanos::from_secs(1));
    for at in 0.. {
        let set = Rc::default();
        let (mine, other) = interleaved(&set, 2, at);
        let Some(other) = other else { break };
        assert!(mine == Charge::Conforms || other == Charge::Conforms, "before word {at}");
        for source in [1, 2] {
            let next = charge(&set, &Cell::default(), &v4(source), &packets(1), 60, later);
            assert_eq!(next, Charge::Conforms, "source {source}, before word {at}");
        }
    }
}

#[test]
fn keys_tell_sources_and_policies_apart() {
    let address = |text: &str| text.parse::<Address>().unwrap();
    let key = |text: &str, id| Key::new(&address(text), id, SECRET);
    let mut keys = vec![
        key("0.0.0.0", 0),
        key("0.0.0.1", 0),
        key("0.0.0.0", 1),
        key("192.0.2.1", 1),
        key("192.0.2.2", 1),
        key("::", 0),
        key("::", 1),
        key("2001:db8::1", 1),
        key("2001:db8:0:1::1", 1),
        key("2001:db8:1::1", 1),
    ];
    assert!(keys.iter().all(|key| key.owner != 0), "0 is a slot without an owner");
    let count = keys.len();
    keys.sort_by_key(|key| key.owner);
    keys.dedup_by_key(|key| key.owner);
    assert_eq!(keys.len(), count);

    assert_eq!(key("2001:db8::1", 1), key("2001:db8::ffff:2", 1), "a /64 is one source");
    // Who does not know the secret knows neither set nor cell.
    for source in ["192.0.2.1", "2001:db8::1"] {
        for secret in [[SECRET[0], 2], [1, SECRET[1]]] {
            let other = Key::new(&address(source), 1, secret);
            assert_ne!(key(source, 1).set, other.set, "{source}");
            assert_ne!(key(source, 1).cell, other.cell, "{source}");
        }
    }
}

/// Who finds no slot shares with its network, and under its own policy.
#[test]
fn cells_belong_to_networks() {
    let cell = |text: &str, id| Key::new(&text.parse().unwrap(), id, SECRET).cell;
    assert_eq!(cell("192.0.2.1", 1), cell("192.0.2.254", 1));
    assert_ne!(cell("192.0.2.1", 1), cell("192.0.3.1", 1));
    assert_ne!(cell("192.0.2.1", 1), cell("192.0.2.1", 2));
    assert_eq!(cell("2001:db8:7:1::1", 1), cell("2001:db8:7:ffff::1", 1));
    assert_ne!(cell("2001:db8:7::1", 1), cell("2001:db8:8::1", 1));
    assert_ne!(cell("2001:db8:7::1", 1), cell("2001:db8:7::1", 2));
}

/// A slow policy's times lie far ahead; a fast one that read them would refuse everybody.
#[test]
fn policies_share_no_cells() {
    let policy = |cells_at| Policy { cells_at, ..Policy::UNLIMITED };
    for last in 0..=255 {
        let key = Key::new(&Address::V4([10, last, last, 1]), 1, SECRET);
        assert!(key.cell(&policy(0), 4) < 4);
        assert!((4..8).contains(&key.cell(&policy(4), 4)));
    }
}

/// Sources next to each other spread evenly, in both families: no set has many more than its share.
#[test]
fn neighbours_spread_over_the_sets() {
    const SETS: u32 = 1 << 10;
    const PER_SET: u32 = 16;
    let v4 = |i: u32| Address::V4((0x0a00_0000 + i).to_be_bytes());
    let v6 = |i: u32| Address::V6((0x2001_0db8_0000_0000_u128 << 64 | u128::from(i) << 64).to_be_bytes());
    let high = |i: u32| Address::V4((i << 16).to_be_bytes());
    let high6 = |i: u32| Address::V6((u128::from(i) << 96).to_be_bytes());
    for (name, source) in [
        ("v4", &v4 as &dyn Fn(u32) -> Address),
        ("v6", &v6),
        ("v4 high bits", &high),
        ("v6 high bits", &high6),
    ] {
        let mut counts = vec![0_u32; usize::try_from(SETS).unwrap()];
        for i in 0..SETS * PER_SET {
            let set = Key::new(&source(i), 1, SECRET).set(SETS);
            counts[usize::try_from(set).unwrap()] += 1;
        }
        let most = counts.iter().max().unwrap();
        let none = counts.iter().filter(|count| **count == 0).count();
        // Poisson with mean 16: above 40 is one in a million sets, none at all one in nine million.
        assert!(*most <= 40 && none == 0, "{name}: fullest set {most}, {none} empty sets");
    }
}

#[test]
fn indices_stay_within_the_table() {
    for count in [1, 2, 1 << 16, 1 << 31] {
        for last in 0..=255 {
            assert!(v4(last).set(count) < count);
            assert!(v4(last).cell(&Policy::UNLIMITED, count) < count);
        }
    }
}

use std::cell::{Cell as Shared, RefCell};
use std::mem::offset_of;
use std::rc::Rc;

use super::*;

/// The layout of what lies in maps, for the snapshot in [`crate::abi`].
pub(crate) fn layout() -> Vec<(&'static str, usize)> {
    vec![
        ("slot.owner", offset_of!(Slot<u64>, owner)),
        ("slot.tat", offset_of!(Slot<u64>, tat)),
        ("share.at", offset_of!(Share, at)),
        ("share.count", offset_of!(Share, count)),
        ("policy.packets", offset_of!(Policy, packets)),
        ("policy.packet_gates", offset_of!(Policy, packet_gates)),
        ("policy.packet_cells", offset_of!(Policy, packet_cells)),
        ("policy.id", offset_of!(Policy, id)),
        ("policy.shares", offset_of!(Policy, shares)),
        ("policy.bits", offset_of!(Policy, bits)),
        ("policy.bit_gates", offset_of!(Policy, bit_gates)),
        ("policy.bit_cells", offset_of!(Policy, bit_cells)),
        ("policy.shared", offset_of!(Policy, shared)),
        ("bound.cells", offset_of!(Bound, cells)),
        ("bound.batch", offset_of!(Bound, batch)),
    ]
}

const NOW: Nanos = Nanos(1_000_000_000_000);
const SECOND: u64 = 1_000_000_000;
const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// One of each: whoever sends meets everybody else.
#[derive(Debug, Default)]
struct Small<W> {
    set: Set<W>,
    gate: W,
    cell: W,
}

impl<W: Word> Rates for Small<W> {
    type Word = W;

    fn secret(&self) -> [u64; 2] {
        SECRET
    }

    fn sets(&self) -> u32 {
        1
    }

    fn set(&self, index: u32) -> Option<&Set<W>> {
        (index == 0).then_some(&self.set)
    }

    fn gate(&self, index: u32) -> Option<&W> {
        (index == 0).then_some(&self.gate)
    }

    fn cell(&self, index: u32) -> Option<&W> {
        (index == 0).then_some(&self.cell)
    }

    fn batch(&self, _: u32) -> Option<&Batch<W>> {
        None
    }

    fn cpu_bits(&self) -> u32 {
        0
    }
}

impl<W: Word> Small<W> {
    fn charge(&self, source: u8, policy: &Policy, bytes: u32, now: Nanos) -> Charge {
        let key = v4(source);
        let shared = |act| step_shared(self, key.network, policy, act, bytes, now);
        charge(policy, |unit, act| step(self, &key, policy, (unit, act), bytes, now), shared).unwrap()
    }

    /// What is in all words: a charge that writes nothing changes nothing of it.
    fn words(&self) -> Vec<u64> {
        let slots = self.set.slots.iter().flat_map(|slot| [slot.owner.load(), slot.tat.load()]);
        slots.chain([self.gate.load(), self.cell.load()]).collect()
    }
}

fn v4(last: u8) -> Key {
    Key::new(&Address::V4([192, 0, 2, last]), 1, SECRET)
}

/// One packet a second, and `burst` at once.
fn packets(burst: u64) -> Policy {
    Policy { packets: Quota::packets(1, burst).unwrap(), id: 1, ..Policy::UNLIMITED }
}

fn after(seconds: u64) -> Nanos {
    NOW.saturating_add(Nanos::from_secs(seconds))
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

    fn store(&self, value: u64) {
        self.value.set(value);
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
    let rates = Small::<Contended>::default();
    let later = after(1);
    for (step, source, now, expected) in [
        (0, 1, NOW, Charge::Conforms),
        (1, 1, NOW, Charge::Conforms),
        (2, 1, NOW, Charge::OverPackets),
        (3, 2, NOW, Charge::Conforms),
        (4, 1, later, Charge::Conforms),
        (5, 1, later, Charge::OverPackets),
        (6, 2, later, Charge::Conforms),
        (7, 2, later, Charge::Conforms),
    ] {
        assert_eq!(rates.charge(source, &packets(2), 60, now), expected, "step {step}");
    }
    assert_eq!(rates.cell.load(), 0, "nobody needed the shared cell");
    assert_eq!(rates.gate.load(), 0, "a small burst has no gate");
}

#[test]
fn a_full_set_shares_a_cell_and_evicts_nobody() {
    let rates = Small::<Contended>::default();
    let charge = |last, now| rates.charge(last, &packets(1), 60, now);
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
    let full = after(1);
    assert_eq!(charge(102, Nanos(full.0 - 1)), Charge::OverPackets);
    assert_eq!(charge(102, full), Charge::Conforms);
    assert_eq!(charge(102, full), Charge::OverPackets, "it had a slot, not the cell");
    assert_eq!(charge(103, full), Charge::Conforms);
}

/// Packets and bits of a source are two buckets, and so is what a full set leaves to share.
#[test]
fn a_source_with_two_limits_has_two_slots() {
    let rates = Small::<Contended>::default();
    let both = Policy { bits: Quota::bits(1_000, 1).unwrap(), ..packets(1) };
    let sources = u8::try_from(WAYS / 2).unwrap();
    for last in 0..sources {
        assert_eq!(rates.charge(last, &both, 60, NOW), Charge::Conforms);
    }
    assert_eq!(rates.cell.load(), 0);
    assert!(rates.set.slots.iter().all(|slot| slot.tat.load() > NOW.0));
    assert_eq!(rates.charge(100, &packets(1), 60, NOW), Charge::Conforms);
    assert_ne!(rates.cell.load(), 0, "the next source went to the shared cell");
    for last in 0..sources {
        assert_eq!(rates.charge(last, &both, 60, NOW), Charge::OverBits);
    }
}

/// What one limit refuses does not use up the other.
#[test]
fn both_limits_or_neither() {
    let rates = Small::<Contended>::default();
    let both = Policy { bits: Quota::bits(8_000, 100).unwrap(), ..packets(3) };
    let charge = |bytes| rates.charge(1, &both, bytes, NOW);
    assert_eq!(charge(60), Charge::Conforms);
    assert_eq!(charge(60), Charge::Conforms);
    // 120 bytes against a burst of 100: over, however often it is asked.
    let words = rates.words();
    for _ in 0..5 {
        assert_eq!(charge(60), Charge::OverBits);
    }
    assert_eq!(rates.words(), words, "refused packets cost no packets");
    let by_packets = Policy { bits: Quota::bits(8_000, 10_000).unwrap(), ..both };
    let rates = Small::<Contended>::default();
    let charge = |bytes| rates.charge(1, &by_packets, bytes, NOW);
    assert_eq!([charge(60), charge(60), charge(60)], [Charge::Conforms; 3]);
    let words = rates.words();
    assert_eq!(charge(60), Charge::OverPackets);
    assert_eq!(rates.words(), words, "refused packets cost no bits");
}

/// A burst of 1001 packets: the tolerance is 1000 seconds, the slack 5 and that of the gate 4.
#[test]
fn a_gate_is_all_that_the_first_packets_need() {
    let rates = Small::<Contended>::default();
    for i in 1..=5 {
        assert_eq!(rates.charge(1, &packets(1_001), 60, NOW), Charge::Conforms);
        assert_eq!(rates.gate.load(), after(i).0);
    }
    assert_eq!(rates.set.slots[0].owner.load(), 0, "nobody has a slot");
    // The next one takes a slot, and closes the gate until that is full again, and for as long as the burst of the gate
    // was: for itself and for others, who have slots too.
    assert_eq!(rates.charge(1, &packets(1_001), 60, NOW), Charge::Conforms);
    assert_eq!(rates.set.slots[0].tat.load(), after(1).0);
    assert_eq!(rates.gate.load(), after(1 + 5).0);
    assert_eq!(rates.charge(2, &packets(1_001), 60, after(1)), Charge::Conforms);
    assert_eq!(rates.set.slots[0].owner.load(), v4(2).owner, "a full bucket's slot is free");
}

#[test]
fn over_the_limit_writes_nothing() {
    let rates = Small::<Contended>::default();
    let policy = packets(1_001);
    let mut admitted = 0;
    while rates.charge(1, &policy, 60, NOW) == Charge::Conforms {
        admitted += 1;
    }
    assert_eq!(admitted, 1_001 + 5);
    let words = rates.words();
    for _ in 0..5 {
        assert_eq!(rates.charge(1, &policy, 60, NOW), Charge::OverPackets);
    }
    assert_eq!(rates.words(), words);
    assert_eq!(rates.charge(2, &policy, 60, NOW), Charge::Conforms, "a stranger at the same gate");
}

/// A source that rests until its gate has opened, and takes a few packets or all that there are, gets its rate and not
/// twice that. A gate that were raised by no more than the slot would give one for nothing each time.
#[test]
fn resting_for_the_gate_does_not_pay() {
    let policy = packets(401);
    for (rest, at_once) in (0..6).flat_map(|rest| [1, 2, 3, 4, 5, 1_000].map(|at_once| (rest, at_once))) {
        let rates = Small::<Contended>::default();
        let mut now = NOW;
        let mut admitted = 0;
        for cycle in 1..2_000 {
            let before = admitted;
            while admitted - before < at_once && rates.charge(1, &policy, 60, now) == Charge::Conforms {
                admitted += 1;
            }
            // Now and then the whole burst comes back.
            let rest = if cycle % 100 == 0 { 395 + rest } else { rest };
            now = now.saturating_add(Nanos::from_secs(rest));
        }
        let most = (now.0 - NOW.0) / SECOND + 401 + 2;
        assert!(admitted <= most, "{admitted} of {most}, {at_once} at once and a rest of {rest} s");
    }
}

/// Each lost race is a packet that somebody else was admitted.
#[test]
fn a_lost_race_for_a_bucket_is_run_again() {
    for (losses, expected) in [(0, Charge::Conforms), (7, Charge::Conforms), (8, Charge::OverPackets)] {
        let rates = Small::<Contended>::default();
        let roomy = Policy { packets: Quota::packets(1_000, 200).unwrap(), ..packets(1) };
        rates.set.slots[0].tat.losses.set(losses);
        assert_eq!(rates.charge(1, &roomy, 60, NOW), expected, "{losses} losses");
    }
    // The winner took the last packet.
    let rates = Small::<Contended>::default();
    rates.set.slots[0].tat.losses.set(1);
    rates.set.slots[0].tat.winner.set(Some(NOW.0 + SECOND));
    assert_eq!(rates.charge(1, &packets(1), 60, NOW), Charge::OverPackets);
}

/// Whoever loses the gate has a slot.
#[test]
fn a_lost_race_for_a_gate() {
    let policy = packets(1_001);
    for losses in [1, 2, 9] {
        let rates = Small::<Contended>::default();
        rates.gate.losses.set(losses);
        assert_eq!(rates.charge(1, &policy, 60, NOW), Charge::Conforms, "{losses} losses");
        let slot = rates.set.slots[0].tat.load();
        assert_eq!(slot != 0, losses >= 2, "{losses} losses");
        assert!(slot == 0 || rates.gate.load() >= slot + 5 * SECOND, "{losses} losses");
    }
    // The gate cannot be raised: better no packet than one that nobody paid.
    let rates = Small::<Contended>::default();
    rates.gate.losses.set(2 + 8);
    assert_eq!(rates.charge(1, &policy, 60, NOW), Charge::OverPackets);
    assert_eq!(rates.set.slots[0].tat.load(), 0);
}

#[test]
fn a_lost_race_for_a_slot() {
    // To another source: this packet goes to the shared cell.
    let rates = Small::<Contended>::default();
    rates.set.slots[0].owner.losses.set(1);
    rates.set.slots[0].owner.winner.set(Some(v4(2).owner));
    assert_eq!(rates.charge(1, &packets(1), 60, NOW), Charge::Conforms);
    assert_ne!(rates.cell.load(), 0);
    assert_eq!(rates.set.slots[0].tat.load(), 0, "the winner's bucket is untouched");
    // To the same source on another CPU: the slot is its own.
    let rates = Small::<Contended>::default();
    rates.set.slots[0].owner.losses.set(1);
    rates.set.slots[0].owner.winner.set(Some(v4(1).owner));
    assert_eq!(rates.charge(1, &packets(1), 60, NOW), Charge::Conforms);
    assert_eq!(rates.cell.load(), 0);
    assert_ne!(rates.set.slots[0].tat.load(), 0);
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

    fn store(&self, value: u64) {
        self.0.set(value);
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
fn interleaved(rates: &Rc<Small<Watched>>, policy: Policy, other: u8, at: u32) -> (Charge, Option<Charge>) {
    let verdict = Rc::new(Shared::new(None));
    let work = {
        let (rates, verdict) = (Rc::clone(rates), Rc::clone(&verdict));
        move || verdict.set(Some(rates.charge(other, &policy, 60, NOW)))
    };
    OTHER_CPU.set(Some(OtherCpu { words: at, work: Box::new(work) }));
    let mine = rates.charge(1, &policy, 60, NOW);
    OTHER_CPU.set(None);
    (mine, verdict.get())
}

/// Two CPUs with packets of one source never give it two buckets, wherever one comes in between the other.
#[test]
fn one_source_on_two_cpus_has_one_slot() {
    let fresh = || Rc::new(Small::<Watched>::default());
    let formerly_owned = || {
        let rates = fresh();
        for (way, slot) in rates.set.slots.iter().enumerate() {
            slot.owner.0.set(v4(u8::try_from(100 + way).unwrap()).owner);
            slot.tat.0.set(NOW.0 - 1);
        }
        rates
    };
    let partly_busy = || {
        let rates = formerly_owned();
        for way in [0, 1, 4] {
            rates.set.slots[way].tat.0.set(NOW.0 + 1);
        }
        rates
    };
    for (name, rates) in [
        ("fresh", &fresh as &dyn Fn() -> Rc<Small<Watched>>),
        ("formerly owned", &formerly_owned),
        ("partly busy", &partly_busy),
    ] {
        for at in 0.. {
            let rates = rates();
            let (mine, other) = interleaved(&rates, packets(1), 1, at);
            let Some(other) = other else {
                assert!(at > 10, "{name}: the other CPU never came in between");
                break;
            };
            let slots = rates.set.slots.iter().filter(|slot| slot.owner.0.get() == v4(1).owner).count();
            assert_eq!(slots, 1, "{name}, before word {at}");
            let admitted = [mine, other].iter().filter(|charge| **charge == Charge::Conforms).count();
            assert_eq!(admitted, 1, "{name}, before word {at}");
        }
    }
}

/// Two CPUs never get a source through its gate while its slot is charged, wherever one comes in between the other.
#[test]
fn one_source_on_two_cpus_has_one_gate() {
    let policy = packets(1_001);
    for at in 0.. {
        let rates = Rc::new(Small::<Watched>::default());
        // The gate is closed to one packet and about to open.
        rates.gate.0.set(after(4).0 + 1);
        let verdicts = Rc::new(Shared::new(0));
        let work = {
            let (rates, verdicts) = (Rc::clone(&rates), Rc::clone(&verdicts));
            let next = Nanos(NOW.0 + 1);
            move || {
                while rates.charge(1, &policy, 60, next) == Charge::Conforms {
                    verdicts.set(verdicts.get() + 1);
                }
            }
        };
        OTHER_CPU.set(Some(OtherCpu { words: at, work: Box::new(work) }));
        let mine = u64::from(rates.charge(1, &policy, 60, NOW) == Charge::Conforms);
        if OTHER_CPU.take().is_some() {
            assert!(at > 10, "the other CPU never came in between");
            break;
        }
        let mut admitted = mine + verdicts.get();
        assert!(admitted <= 1_001 + 5, "{admitted} at once, before word {at}");
        while rates.charge(1, &policy, 60, after(2_000)) == Charge::Conforms {
            admitted += 1;
        }
        assert!(admitted <= 2_000 + 1_001 + 5, "{admitted} with a rest, before word {at}");
    }
}

/// Two sources that want the same slot: at worst one of them loses one packet, and gets the next one through.
#[test]
fn two_sources_on_two_cpus() {
    for at in 0.. {
        let rates = Rc::default();
        let (mine, other) = interleaved(&rates, packets(1), 2, at);
        let Some(other) = other else { break };
        assert!(mine == Charge::Conforms || other == Charge::Conforms, "before word {at}");
        for source in [1, 2] {
            let next = rates.charge(source, &packets(1), 60, after(1));
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
    assert!(keys.iter().all(|key| key.owner & BITS == 0), "what marks the slots for bits");
    let count = keys.len();
    keys.sort_by_key(|key| key.owner);
    keys.dedup_by_key(|key| key.owner);
    assert_eq!(keys.len(), count);

    assert_eq!(key("2001:db8::1", 1), key("2001:db8::ffff:2", 1), "a /64 is one source");
    // Who does not know the secret knows neither set nor cell.
    for source in ["192.0.2.1", "2001:db8::1"] {
        for secret in [[SECRET[0], 2], [1, SECRET[1]]] {
            let other = Key::new(&address(source), 1, secret);
            let hash = mix(key(source, 1).owner, SECRET);
            assert_ne!(hash, mix(other.owner, secret), "{source}");
            assert_ne!(key(source, 1).network, other.network, "{source}");
        }
    }
}

/// Who finds no slot shares with its network, and under its own policy.
#[test]
fn cells_belong_to_networks() {
    let cell = |text: &str, id| Key::new(&text.parse().unwrap(), id, SECRET).network;
    assert_eq!(cell("192.0.2.1", 1), cell("192.0.2.254", 1));
    assert_ne!(cell("192.0.2.1", 1), cell("192.0.3.1", 1));
    assert_ne!(cell("192.0.2.1", 1), cell("192.0.2.1", 2));
    assert_eq!(cell("2001:db8:7:1::1", 1), cell("2001:db8:7:ffff::1", 1));
    assert_ne!(cell("2001:db8:7::1", 1), cell("2001:db8:8::1", 1));
    assert_ne!(cell("2001:db8:7::1", 1), cell("2001:db8:7::1", 2));
}

/// A slow policy's times lie far ahead; a fast one that read them would refuse everybody.
#[test]
fn shares_do_not_overlap() {
    let mut seen = [0; 8];
    for i in 0..=255 {
        let hash = mix(i, SECRET);
        for share in [Share { at: 0, count: 4 }, Share { at: 4, count: 2 }, Share { at: 6, count: 1 }] {
            let index = share.index(hash);
            assert!((share.at..share.at + share.count).contains(&index));
            seen[usize::try_from(index).unwrap()] += 1;
        }
    }
    assert!(seen[..4].iter().all(|count| (32..=96).contains(count)), "{seen:?}");
    assert_eq!((seen[4] + seen[5], seen[6], seen[7]), (256, 256, 0));
    assert_eq!(Share { at: 3, ..Share::NONE }.index(u64::MAX), 3, "no share is one word");
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
            let set = low_bits(mix(Key::new(&source(i), 1, SECRET).owner, SECRET), SETS);
            counts[usize::try_from(set).unwrap()] += 1;
        }
        let most = counts.iter().max().unwrap();
        let none = counts.iter().filter(|count| **count == 0).count();
        // Poisson with mean 16: above 40 is one in a million sets, none at all one in nine million.
        assert!(*most <= 40 && none == 0, "{name}: fullest set {most}, {none} empty sets");
    }
}

//! The tables against a plain model: a map of prefixes, asked one by one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{FOR_GOOD, Listed, NoPlace, v4, v6};
use crate::{Address, Prefix};

/// Drawn once, as those of machines are: the hash multiplies by it.
const SECRET: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Tables of both families in ordinary memory.
struct Tables {
    level: Vec<AtomicU64>,
    wide: Vec<AtomicU64>,
    any_v4: AtomicU64,
    any_v6: AtomicU64,
    lengths_v4: [AtomicU64; v4::LENGTH_WORDS],
    exact_v4: Vec<v4::Bucket<AtomicU64>>,
    filter: Vec<AtomicU64>,
    short: [AtomicU64; v6::LENGTH_WORDS],
    long: [AtomicU64; v6::LENGTH_WORDS + 1],
    exact_v6: Vec<v6::Bucket<AtomicU64>>,
    /// Whether IPv4 entries are to be added the quick way, if that is possible; it changes each time.
    quickly: bool,
}

fn buckets<B: Default>(count: usize) -> Vec<B> {
    (0..count).map(|_| B::default()).collect()
}

impl Tables {
    fn new() -> Self {
        Self {
            level: words(v4::LEVEL_WORDS),
            wide: words(v4::WIDE_WORDS),
            any_v4: AtomicU64::new(0),
            any_v6: AtomicU64::new(0),
            lengths_v4: Default::default(),
            exact_v4: buckets(1),
            filter: words(v6::FILTER_WORDS),
            short: Default::default(),
            long: Default::default(),
            exact_v6: buckets(1),
            quickly: false,
        }
    }

    fn v4(&self) -> v4::Writer<'_> {
        let Self { level, wide, lengths_v4: lengths, any_v4: any, exact_v4: exact, .. } = self;
        v4::Writer { level, wide, lengths, any, exact, secret: SECRET }
    }

    fn v6(&self) -> v6::Writer<'_> {
        let Self { filter, any_v6: any, short, long, exact_v6: exact, .. } = self;
        v6::Writer { filter, any, short, long, exact, secret: SECRET }
    }

    fn set(&mut self, prefix: Prefix, listed: Listed) {
        let length = u32::from(prefix.length());
        self.quickly ^= true;
        if let (true, Address::V4(bytes)) = (self.quickly, prefix.address()) {
            let (v4, address) = (self.v4(), u32::from_be_bytes(bytes));
            let before = v4.get(address, length);
            if v4.add(address, length, listed) {
                assert!(before.is_none() && !listed.is_none(), "{prefix} was {before:?}");
                return;
            }
        }
        while let Err(NoPlace) = match prefix.address() {
            Address::V4(bytes) => self.v4().set(u32::from_be_bytes(bytes), length, listed),
            Address::V6(bytes) => self.v6().set(u128::from_be_bytes(bytes), length, listed),
        } {
            self.grow(prefix.address().is_v4());
        }
    }

    fn grow(&mut self, v4: bool) {
        let mut size = if v4 { self.exact_v4.len() } else { self.exact_v6.len() };
        loop {
            size *= 2;
            if v4 {
                let exact = buckets(size);
                if self.v4().copy_to(&exact).is_ok() {
                    self.exact_v4 = exact;
                    return;
                }
            } else {
                let exact = buckets(size);
                if self.v6().copy_to(&exact).is_ok() {
                    self.exact_v6 = exact;
                    return;
                }
            }
        }
    }

    fn tidy(&self) {
        let mut scratch = vec![0; 2 * v4::LEVEL_WORDS + v4::WIDE_WORDS + self.exact_v4.len()];
        let (level, rest) = scratch.split_at_mut(v4::LEVEL_WORDS);
        let (hosts, rest) = rest.split_at_mut(v4::LEVEL_WORDS);
        let (wide, overflowed) = rest.split_at_mut(v4::WIDE_WORDS);
        self.v4().tidy(&mut v4::Scratch { level, hosts, wide, overflowed });
        self.v6().tidy(&mut v6::Scratch { filter: &mut scratch[..v6::FILTER_WORDS] });
    }

    fn lookup(&self, address: Address) -> Listed {
        match address {
            Address::V4(bytes) => v4::lookup(&self.v4(), u32::from_be_bytes(bytes)),
            Address::V6(bytes) => {
                let address = u128::from_be_bytes(bytes);
                let (high, low) = ((address >> 64) as u64, address as u64);
                let listed = v6::lookup(&self.v6(), high, low);
                assert!(v6::quick(&self.v6(), high).is_none_or(|quick| quick == listed), "{address:x}");
                listed
            }
        }
    }

    fn entries(&self) -> BTreeMap<Prefix, Listed> {
        let mut entries: BTreeMap<Prefix, Listed> = BTreeMap::new();
        let mut add = |address, length: u32, listed| {
            let prefix = Prefix::new(address, length as u8).unwrap();
            let entry = entries.entry(prefix).or_default();
            *entry = entry.union(listed);
        };
        self.v4().entries(|address, length, listed| add(Address::V4(address.to_be_bytes()), length, listed));
        self.v6().entries(|address, length, listed| add(Address::V6(address.to_be_bytes()), length, listed));
        entries
    }
}

fn expected(model: &BTreeMap<Prefix, Listed>, address: Address) -> Listed {
    let listed = model.iter().filter(|(prefix, _)| prefix.contains(address));
    listed.fold(Listed::NONE, |all, (_, listed)| all.union(*listed))
}

/// Few bits vary, so that prefixes nest and buckets run full.
fn address(random: &mut Random) -> Address {
    let mut byte = |mask: u64| (random.next() & mask) as u8;
    if byte(1) == 0 {
        // The first and the last /24s of words of the level, and some between.
        Address::V4([byte(0x80), byte(1), [0, 1, 2, 30, 31, 32, 63, 63][usize::from(byte(7))], byte(0x87)])
    } else {
        let mut bytes = [0; 16];
        (bytes[0], bytes[5], bytes[7], bytes[8], bytes[15]) = (0x20, byte(1), byte(3), byte(0x80), byte(7));
        Address::V6(bytes)
    }
}

/// With `hosts`, mostly such.
fn prefix(random: &mut Random, hosts: bool) -> Prefix {
    let address = address(random);
    let all = [0, 1, 7, 15, 16, 23, 24, 25, 31, 32, 32, 32, 33, 47, 48, 63, 64, 64, 65, 127, 128, 128, 128];
    let length = if hosts && random.below(16) > 0 { 128 } else { random.pick(&all) };
    Prefix::new(address, length.min(address.bits())).unwrap()
}

/// Whether this is what the tables may say where a plain model says `wanted`.
fn agrees(found: Listed, wanted: Listed) -> bool {
    // Who is allowed for good need not be blocked too, and the other way round for what is settled.
    found == wanted || (found == Listed::ALLOWED && wanted.allow() == FOR_GOOD)
}

fn listed(random: &mut Random) -> Listed {
    let deadlines = [0, 0, 1, 5, 9, FOR_GOOD, FOR_GOOD];
    Listed::new(random.pick(&deadlines), random.pick(&[0, 0, 0, 1, 5, FOR_GOOD]))
}

fn case(seed: u64, steps: u64) {
    let mut random = Random(seed);
    let mut tables = Tables::new();
    let mut model: BTreeMap<Prefix, Listed> = BTreeMap::new();
    for step in 0..steps {
        match random.below(12) {
            0 => tables.tidy(),
            1 => tables.grow(random.below(2) == 0),
            2..5 => {
                if let Some(prefix) =
                    model.keys().nth(random.below(model.len().max(1) as u64) as usize).copied()
                {
                    tables.set(prefix, Listed::NONE);
                    model.remove(&prefix);
                }
            }
            _ => {
                let (prefix, listed) = (prefix(&mut random, seed % 2 == 1), listed(&mut random));
                tables.set(prefix, listed);
                model.insert(prefix, listed);
                model.retain(|_, listed| !listed.is_none());
            }
        }
        // Any addresses, and some that are listed.
        let start = random.below(model.len().max(1) as u64) as usize;
        let listed = model.keys().map(|prefix| prefix.address()).skip(start).take(4).collect::<Vec<_>>();
        for address in (0..8).map(|_| address(&mut random)).chain(listed) {
            let (found, wanted) = (tables.lookup(address), expected(&model, address));
            assert!(
                agrees(found, wanted),
                "seed {seed}, step {step}: {address} is {found:?}, not {wanted:?}, of {model:?}"
            );
        }
    }
    assert_eq!(tables.entries(), model, "seed {seed}");
    for (prefix, _) in model {
        tables.set(prefix, Listed::NONE);
    }
    tables.tidy();
    let zero =
        |words: &[AtomicU64]| words.iter().all(|word| word.load(std::sync::atomic::Ordering::SeqCst) == 0);
    for words in [
        tables.level.as_slice(),
        &tables.wide,
        &tables.lengths_v4,
        std::slice::from_ref(&tables.any_v4),
        std::slice::from_ref(&tables.any_v6),
        &tables.filter,
        &tables.short,
        &tables.long,
    ] {
        assert!(zero(words), "seed {seed}: empty tables are not all zeros after tidying");
    }
}

#[test]
fn random_changes_agree_with_a_plain_model() {
    for seed in 0..12 {
        case(seed, 150);
    }
}

/// A change of the tables of IPv4, as its stores in their order: what each word was and is. In each table free words come
/// first, since what moves is in both places until its former one is taken.
fn stores<'a>(order: &[&'a [AtomicU64]], change: impl FnOnce()) -> Vec<(&'a AtomicU64, u64, u64)> {
    let all =
        || order.iter().enumerate().flat_map(|(table, words)| words.iter().map(move |word| (table, word)));
    let before: Vec<u64> = all().map(|(_, word)| word.load(Relaxed)).collect();
    change();
    let changed = all().zip(before).map(|((table, word), before)| (table, word, before, word.load(Relaxed)));
    let mut changed: Vec<_> = changed.filter(|(_, _, before, after)| before != after).collect();
    changed.sort_by_key(|(table, _, before, _)| (*table, *before > 1));
    changed.into_iter().map(|(_, word, before, after)| (word, before, after)).collect()
}

/// Whoever writes is killed after each of its stores, and readers look at what it left, before and after it is tidied.
#[test]
fn what_a_killed_writer_leaves_is_the_former_state_or_the_new_one() {
    let (mut seen, mut torn) = (0, 0);
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut tables = Tables::new();
        (tables.exact_v4, tables.exact_v6) = (buckets(64), buckets(1));
        let mut v4 = |hosts| loop {
            let prefix = prefix(&mut random, hosts);
            // Shorter ones have thousands of words.
            if prefix.address().is_v4() && prefix.length() > 14 {
                break prefix;
            }
        };
        let hosts = seed % 2 == 0;
        let model: BTreeMap<Prefix, Listed> = (0..20).map(|_| (v4(hosts), Listed::BLOCKED)).collect();
        let (more, removed) = (v4(seed % 3 == 0), seed % 4 == 0);
        let more = if removed { *model.keys().nth(3).unwrap() } else { more };
        for prefix in model.keys() {
            tables.set(*prefix, Listed::BLOCKED);
        }
        if seed % 5 == 0 {
            tables.tidy();
        }
        let mut after = model.clone();
        after.insert(more, Listed::BLOCKED);
        after.retain(|prefix, _| !(removed && *prefix == more));

        let Tables { level, wide, any_v4, lengths_v4, exact_v4, .. } = &tables;
        let (exact, any) = (exact_v4.as_flattened(), std::slice::from_ref(any_v4));
        let order: [&[AtomicU64]; 5] = if removed {
            [level, exact, wide, any, lengths_v4]
        } else {
            [lengths_v4, exact, wide, level, any]
        };
        let Address::V4(bytes) = more.address() else { unreachable!("IPv4") };
        let listed = if removed { Listed::NONE } else { Listed::BLOCKED };
        let made = stores(&order, || {
            let done = tables.v4().set(u32::from_be_bytes(bytes), more.length().into(), listed);
            assert_eq!(done, Ok(()), "seed {seed}");
        });
        let mut addresses: Vec<Address> = (0..60).map(|_| address(&mut random)).collect();
        addresses.retain(|address| address.is_v4());
        addresses.extend(after.keys().chain(model.keys()).map(|prefix| prefix.address()));
        for (word, before, _) in &made {
            word.store(*before, Relaxed);
        }
        for (number, (word, _, now)) in made.iter().enumerate() {
            word.store(*now, Relaxed);
            for address in &addresses {
                let found = tables.lookup(*address);
                let may = [expected(&model, *address), expected(&after, *address)];
                let fine = may.iter().any(|wanted| agrees(found, *wanted));
                assert!(fine, "seed {seed}, store {number}: {address} is {found:?}, not one of {may:?}");
                torn += usize::from(may[0] != may[1]);
            }
        }
        // Half of it, as one that is tidied at the next start.
        for (word, before, _) in &made[made.len() / 2..] {
            word.store(*before, Relaxed);
        }
        tables.tidy();
        let left = tables.entries();
        assert!(left == model || left == after, "seed {seed}: {left:?}");
        for address in &addresses {
            let (found, wanted) = (tables.lookup(*address), expected(&left, *address));
            assert!(agrees(found, wanted), "seed {seed}: {address} is {found:?}, not {wanted:?}");
            seen += 1;
        }
    }
    assert!(seen > 300 && torn > 20, "{seen} {torn}");
}

/// Of a million random hosts, and of many in few networks: how many other addresses have to be looked at closer.
#[test]
fn hosts_disturb_few_of_their_neighbours() {
    let tables = Tables { exact_v4: buckets(1 << 15), ..Tables::new() };
    let v4 = tables.v4();
    let mut random = Random(7);
    let mut any = |mask: u64| (random.next() & mask) as u32;
    // Of IPv4, so they are as dense as a million are in all of it.
    const A_64TH: u64 = 0x03ff_ffff;
    for _ in 0..1_000_000 / 64 {
        v4.set(any(A_64TH), 32, Listed::BLOCKED).unwrap();
    }
    for _ in 0..2_000 {
        v4.set(0xc000_0000 | any(0x001f_00ff), 32, Listed::BLOCKED).unwrap();
    }
    let blind = v4::Writer { exact: &[], ..v4 };
    let mut share = |of: u32, mask: u64| {
        let closer = (0..20_000).filter(|_| v4::quick(&blind, of | any(mask)).is_none()).count();
        closer as f64 / 20_000.0
    };
    let (sparse, dense) = (share(0, A_64TH), share(0xc000_0000, 0x001f_1fff));
    assert!(sparse > 0.002 && sparse < 0.015, "{sparse} of the addresses");
    tables.tidy();
    let (again, tidied) = (share(0, A_64TH), share(0xc000_0000, 0x001f_1fff));
    assert!(again < 0.015 && dense < 0.5 && tidied < 0.08, "{again}, {dense}, {tidied}");
}

#[test]
fn what_is_settled_needs_no_second_look() {
    let mut tables = Tables::new();
    let text = |text: &str| text.parse::<Prefix>().unwrap();
    tables.set(text("10.0.0.0/8"), Listed::BLOCKED);
    tables.set(text("10.1.0.0/16"), Listed::ALLOWED);
    // Without the exact table, only the level is left to answer.
    let blind = |tables: &Tables, address: u32| v4::quick(&v4::Writer { exact: &[], ..tables.v4() }, address);
    assert_eq!(blind(&tables, 0x0a00_0001), Some(Listed::BLOCKED));
    assert_eq!(blind(&tables, 0x0a01_0001), Some(Listed::ALLOWED));
    assert_eq!(blind(&tables, 0x0b00_0001), Some(Listed::NONE));
    tables.set(text("10.2.3.4"), Listed::new(0, 7));
    assert_eq!(blind(&tables, 0x0a02_0301), None);
    tables.set(text("10.2.3.4"), Listed::NONE);
    tables.tidy();
    assert_eq!(blind(&tables, 0x0a02_0301), Some(Listed::BLOCKED));
}

/// How many of `places` are taken when one more host has none; all that were set before are still found.
fn load(places: usize, mut set: impl FnMut(u32) -> bool, found: impl Fn(u32) -> bool) -> f64 {
    let set = (0..).find(|n| !set(*n)).unwrap();
    assert!((0..set).all(found));
    f64::from(set) / places as f64
}

#[test]
fn entries_make_room_for_others() {
    let tables = Tables { exact_v4: buckets(1 << 8), exact_v6: buckets(1 << 8), ..Tables::new() };
    let (v4, v6) = (tables.v4(), tables.v6());
    let set = |n| v4.set(n, 32, Listed::BLOCKED).is_ok();
    let load_v4 = load(v4.exact.len() * v4::WORDS, set, |n| v4::lookup(&v4, n) == Listed::BLOCKED);
    let net = |n| u128::from(n) << 64;
    let set = |n| v6.set(net(n), 64, Listed::BLOCKED).is_ok();
    let load_v6 =
        load(v6.exact.len() * v6::ENTRIES, set, |n| v6::lookup(&v6, n.into(), 7) == Listed::BLOCKED);
    assert!(load_v4 > 0.85 && load_v6 > 0.65, "{load_v4} {load_v6}");
}

#[test]
fn a_full_table_says_so_and_keeps_what_it_has() {
    let tables = Tables::new();
    let host = |n: u32| n << 8 | 1;
    let first_refused = (0..100).find(|n| tables.v4().set(host(*n), 32, Listed::BLOCKED).is_err()).unwrap();
    assert_eq!(first_refused, 8);
    assert!((0..8).all(|n| v4::lookup(&tables.v4(), host(n)) == Listed::BLOCKED));
    assert_eq!(tables.v4().set(host(3), 32, Listed::NONE), Ok(()));
    assert_eq!(tables.v4().set(host(9), 32, Listed::BLOCKED), Ok(()));
    assert_eq!(v4::lookup(&tables.v4(), host(3)), Listed::NONE);
    assert_eq!(tables.v4().fill(), (8, 8));
}

/// Most entries of a table that is half full are where readers look first, whatever order they came in; one that has to move on
/// for another is found meanwhile.
#[test]
fn most_entries_are_at_home() {
    let tables = Tables { exact_v4: buckets(1 << 8), ..Tables::new() };
    let v4 = tables.v4();
    let words = tables.exact_v4.as_flattened();
    let mut random = Random(3);
    let blocked = |hosts: &[u32]| hosts.iter().all(|host| v4::lookup(&v4, *host) == Listed::BLOCKED);
    let (mut hosts, mut moved) = (Vec::new(), 0);
    while hosts.len() < words.len() / 2 {
        // So that places become free in front of others.
        if hosts.len() % 8 == 7 && random.below(2) == 0 {
            let gone = hosts.swap_remove(random.below(hosts.len() as u64) as usize);
            v4.set(gone, 32, Listed::NONE).unwrap();
        }
        let host = random.next() as u32;
        let made = stores(&[words], || v4.set(host, 32, Listed::BLOCKED).unwrap());
        if let [(copy, ..), (home, guest, _)] = made.as_slice() {
            // To another bucket, or behind its former place: a reader who goes through this one has not been there yet.
            let index = |word| words.iter().position(|other| std::ptr::eq(other, word)).unwrap();
            let (to, from) = (index(*copy), index(*home));
            assert!(to / v4::WORDS != from / v4::WORDS || to > from, "from {from} to {to}");
            home.store(*guest, Relaxed);
            assert!(copy.load(Relaxed) == *guest && blocked(&hosts));
            // Who is killed here leaves it twice, and who comes next does not.
            assert_eq!(v4.fill().0, hosts.len() + 1);
            tables.tidy();
            assert!(v4.fill().0 == hosts.len() && blocked(&hosts));
            v4.set(host, 32, Listed::BLOCKED).unwrap();
            moved += 1;
        }
        hosts.push(host);
    }
    assert!(blocked(&hosts));
    let share = hosts.iter().filter(|host| v4.is_at_home(**host)).count() as f64 / hosts.len() as f64;
    assert!(share > 0.7 && moved > 20, "{share} of them, {moved} moved");
}

/// Where a place in the first bucket became free again, what went on to the second one is still there.
#[test]
fn nothing_is_added_twice() {
    let tables = Tables { exact_v4: buckets(8), ..Tables::new() };
    let v4 = tables.v4();
    let listed = (0..).take_while(|n| v4.set(*n, 32, Listed::BLOCKED).is_ok()).count() as u32;
    assert!(listed > 40, "{listed}");
    for gone in (0..listed).filter(|n| n % 3 == 0) {
        v4.set(gone, 32, Listed::NONE).unwrap();
    }
    for there in (0..listed).filter(|n| n % 3 != 0) {
        assert!(!v4.add(there, 32, Listed::BLOCKED), "{there} is there already");
    }
}

#[test]
fn deadlines_are_rounded_up() {
    use crate::abi::Entry;
    let entry = Entry { block_until: 1, allow_until: u64::MAX - 1 };
    assert_eq!(entry.rounded(), Entry { block_until: 1 << 28, allow_until: u64::MAX });
    let exact = Entry { block_until: 5 << 28, allow_until: 0 };
    assert_eq!(exact.rounded(), exact);
    assert_eq!(Listed::from_bits(Listed::from_entry(exact).to_bits()).entry(), exact);
}

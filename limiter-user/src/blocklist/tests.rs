//! Random edits against a naive model, and against a kernel that is looked at after every single change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::*;

/// splitmix64: enough to choose cases by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// A moment of some seconds, which the kernel's rounding leaves as it is.
fn at(moment: u64) -> Nanos {
    Nanos(moment << 32)
}

fn moments_later(now: Nanos, moments: u64) -> Nanos {
    Nanos(now.0 + at(moments).0)
}

/// The kernel's lists: what is found for an address is the union of all entries that contain it.
#[derive(Debug, Default, Clone)]
struct Kernel(BTreeMap<Prefix, Entry>);

impl Kernel {
    fn apply(&mut self, change: Change) {
        if change.entry.is_none() {
            self.0.remove(&change.prefix);
        } else {
            self.0.insert(change.prefix, change.entry);
        }
    }

    fn entry(&self, address: Address) -> Entry {
        let matching = self.0.iter().filter(|(prefix, _)| prefix.contains(address));
        matching.fold(Entry::NONE, |union, (_, entry)| union.union(*entry))
    }

    fn installed(&self) -> Vec<Change> {
        self.0.iter().map(|(prefix, entry)| Change { prefix: *prefix, entry: *entry }).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Dropped,
    Neither,
}

fn verdict(entry: Entry, now: Nanos) -> Verdict {
    if entry.allows(now) {
        Verdict::Allowed
    } else if entry.blocks(now) {
        Verdict::Dropped
    } else {
        Verdict::Neither
    }
}

/// All claims, one after the other.
#[derive(Debug, Default, Clone)]
struct Model(HashMap<Key, Terms>);

impl Model {
    fn verdict(&self, address: Address, now: Nanos) -> Verdict {
        let says = |action| {
            self.0
                .iter()
                .any(|(key, terms)| key.action == action && key.prefix.contains(address) && terms.until > now)
        };
        match (says(Action::Allow), says(Action::Block)) {
            (true, _) => Verdict::Allowed,
            (false, true) => Verdict::Dropped,
            (false, false) => Verdict::Neither,
        }
    }

    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::Set(claim) => drop(self.0.insert(claim.key, claim.terms.clone())),
                Edit::Remove(key) => drop(self.0.remove(key)),
            }
        }
    }
}

/// Sixteen addresses of each family, so that random prefixes meet.
fn addresses() -> Vec<Address> {
    let v4 = (0..16).map(|last| Address::V4([192, 0, 2, last]));
    let v6 = (0..16).map(|last| Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]));
    v4.chain(v6).collect()
}

fn random_prefix(random: &mut Random, addresses: &[Address]) -> Prefix {
    let address = random.pick(addresses);
    let length = match random.below(8) {
        0 => u8::try_from(random.below(8)).unwrap(),
        1 | 2 => address.bits(),
        _ => address.bits() - u8::try_from(random.below(5)).unwrap(),
    };
    Prefix::new(address, length).unwrap()
}

fn random_edits(random: &mut Random, addresses: &[Address], owners: &[OwnerId], now: Nanos) -> Vec<Edit> {
    let mut edits = BTreeMap::new();
    // What an import would do.
    let alike = (random.below(4) == 0)
        .then(|| (random.pick(&[Action::Block, Action::Allow]), moments_later(now, 1 + random.below(20))));
    for _ in 0..=random.below(6) {
        if let Some((action, until)) = alike {
            let key = Key { prefix: random_prefix(random, addresses), action, owner: owners[0] };
            let terms = Terms { until, created: 3, actor: None, reason: None };
            edits.insert(key, Edit::Set(Claim { key, terms }));
            continue;
        }
        let action = random.pick(&[Action::Block, Action::Allow]);
        let key = Key { prefix: random_prefix(random, addresses), action, owner: random.pick(owners) };
        let edit = if random.below(3) == 0 {
            Edit::Remove(key)
        } else {
            let until =
                if random.below(3) == 0 { Nanos::NEVER } else { moments_later(now, 1 + random.below(20)) };
            let reason = (random.below(2) == 0).then(|| Arc::from(format!("reason {}", random.below(3))));
            Edit::Set(Claim {
                key,
                terms: Terms { until, created: now.0 >> 32, actor: Some(Arc::from("uid:7")), reason },
            })
        };
        edits.insert(key, edit);
    }
    edits.into_values().collect()
}

struct Case {
    addresses: Vec<Address>,
    list: Blocklist,
    model: Model,
    kernel: Kernel,
    now: Nanos,
}

impl Case {
    /// Makes `changes` one by one, looking at every address in between.
    fn install(&mut self, before: &Model, changes: &[Change]) {
        for change in changes {
            self.kernel.apply(*change);
            for address in &self.addresses {
                let (then, after) =
                    (before.verdict(*address, self.now), self.model.verdict(*address, self.now));
                let between = verdict(self.kernel.entry(*address), self.now);
                assert!(
                    then != after || between == then,
                    "{address}: {then:?}, {between:?}, {after:?}: {change:?}"
                );
                let known = [then, after, Verdict::Neither].contains(&between);
                assert!(known, "{address}: {then:?}, {between:?}, {after:?}: {change:?}");
            }
        }
        self.check();
    }

    /// The list, the kernel and the model agree, now and later.
    fn check(&self) {
        assert_eq!(self.list.entries().collect::<Vec<_>>(), self.kernel.installed());
        for address in &self.addresses {
            let entry = self.kernel.entry(*address);
            assert_eq!(entry, self.list.entry(Prefix::host(*address)), "{address}");
            for later in 0..25 {
                let now = moments_later(self.now, later);
                assert_eq!(verdict(entry, now), self.model.verdict(*address, now), "{address} {later} later");
            }
        }
        let totals = self.list.totals();
        let count =
            |count: &dyn Fn(&Prefix) -> bool| self.kernel.0.keys().filter(|p| count(p)).count() as u64;
        assert_eq!(totals.addresses_v4, count(&|p| p.address().is_v4() && p.is_host()));
        assert_eq!(totals.addresses_v6, count(&|p| !p.address().is_v4() && p.is_host()));
        assert_eq!(totals.prefixes_v4, count(&|p| p.address().is_v4() && !p.is_host()));
        assert_eq!(totals.prefixes_v6, count(&|p| !p.address().is_v4() && !p.is_host()));
        let with = |action| {
            let keys = self.model.0.keys().filter(|key| key.action == action);
            keys.map(|key| key.prefix).collect::<BTreeSet<_>>().len() as u64
        };
        assert_eq!((totals.blocks, totals.allows), (with(Action::Block), with(Action::Allow)));
        let claims: HashMap<Key, Terms> =
            self.list.from(None).map(|claim| (claim.key, claim.terms)).collect();
        assert_eq!(claims, self.model.0);
        // Nothing is looked up that cannot be there.
        for address in &self.addresses {
            for wider in self.list.lengths.covering(Prefix::host(*address)) {
                let like = |prefix: &Prefix| {
                    prefix.length() == wider.length() && prefix.address().is_v4() == address.is_v4()
                };
                assert!(self.kernel.0.keys().any(like), "no prefix is like {wider}");
            }
        }
    }
}

fn list_with_owners() -> (Blocklist, Vec<OwnerId>) {
    let mut list = Blocklist::new();
    let owners = [Owner::Operator, Owner::List(Arc::from("a")), Owner::List(Arc::from("b"))];
    let owners = owners.iter().map(|owner| list.owner(owner).unwrap()).collect();
    (list, owners)
}

fn random_case(seed: u64, steps: u64) {
    let mut random = Random(seed);
    let (list, owners) = list_with_owners();
    let mut case = Case {
        addresses: addresses(),
        list,
        model: Model::default(),
        kernel: Kernel::default(),
        now: at(1_000),
    };
    for _ in 0..steps {
        let before = case.model.clone();
        match random.below(11) {
            10 => {
                let prefixes: BTreeSet<Prefix> =
                    (0..random.below(8)).map(|_| random_prefix(&mut random, &case.addresses)).collect();
                let (action, owner) = (random.pick(&[Action::Block, Action::Allow]), random.pick(&owners));
                let until = if random.below(3) == 0 {
                    Nanos::NEVER
                } else {
                    moments_later(case.now, random.below(20))
                };
                let terms = Terms { until, created: 5, actor: None, reason: None };
                let unclaimed = |prefix: &&Prefix| !before.0.keys().any(|key| key.prefix == **prefix);
                let free: Vec<Prefix> = prefixes.iter().filter(unclaimed).copied().collect();
                let counted = case.list.count_of(owner);
                let claimed = case.list.claim_unclaimed(prefixes.iter().copied(), action, owner, &terms);
                assert!(claimed.changes.iter().map(|change| change.prefix).eq(free.iter().copied()));
                assert_eq!(claimed.others.len() + free.len(), prefixes.len());
                assert_eq!(case.list.count_of(owner), counted + free.len() as u64);
                for prefix in free {
                    case.model.0.insert(Key { prefix, action, owner }, terms.clone());
                }
                case.install(&before, &claimed.changes);
            }
            0 => {
                case.now = moments_later(case.now, random.below(15));
                let (now, before) = (case.now, case.model.clone());
                case.model.0.retain(|_, terms| terms.until > now);
                let changes = case.list.expire(now, usize::MAX).changes;
                case.install(&before, &changes);
                assert!(case.list.next_expiry().is_none_or(|next| next > now));
            }
            1 => {
                // Taken back as a whole.
                let edits = random_edits(&mut random, &case.addresses, &owners, case.now);
                let outcome = case.list.apply(edits.clone());
                case.model.apply(&edits);
                case.install(&before, &outcome.changes);
                let made = std::mem::replace(&mut case.model, before);
                let undone = case.list.apply(outcome.undo).changes;
                case.install(&made, &undone);
            }
            2 => {
                // A new daemon that finds what another one left a while ago, and has all claims in its store.
                case.now = moments_later(case.now, random.below(15));
                for _ in 0..random.below(5) {
                    let edits = random_edits(&mut random, &case.addresses, &owners, case.now);
                    case.model.apply(&edits);
                }
                let (mut list, _) = list_with_owners();
                let claims = case.model.0.iter();
                list.fill(claims.map(|(key, terms)| Claim { key: *key, terms: terms.clone() }));
                let changes = list.reconcile(case.kernel.installed());
                case.list = list;
                case.install(&before, &changes);
                assert_eq!(case.list.reconcile(case.kernel.installed()), []);
            }
            _ => {
                let edits = random_edits(&mut random, &case.addresses, &owners, case.now);
                case.model.apply(&edits);
                let changes = case.list.apply(edits).changes;
                case.install(&before, &changes);
            }
        }
    }
}

#[test]
fn random_edits_keep_list_kernel_and_model_together() {
    for seed in 0..60 {
        random_case(seed, 30);
    }
}

/// Whatever is found in the kernel, it ends as desired.
#[test]
fn any_kernel_state_is_brought_to_the_desired_one() {
    let addresses = addresses();
    for seed in 0..300 {
        let mut random = Random(seed);
        let (mut list, owners) = list_with_owners();
        list.apply(random_edits(&mut random, &addresses, &owners, at(1_000)));
        let mut kernel = Kernel::default();
        for _ in 0..random.below(12) {
            let until = [0, at(5).0, at(1_010).0, u64::MAX];
            let entry = Entry { block_until: random.pick(&until), allow_until: random.pick(&until) };
            kernel.apply(Change { prefix: random_prefix(&mut random, &addresses), entry });
        }
        for change in list.reconcile(kernel.installed()) {
            kernel.apply(change);
        }
        assert_eq!(list.entries().collect::<Vec<_>>(), kernel.installed(), "seed {seed}");
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn claim(text: &str, action: Action, owner: OwnerId, until: Nanos) -> Claim {
    let terms = Terms { until, created: 1, actor: None, reason: None };
    Claim { key: Key { prefix: prefix(text), action, owner }, terms }
}

#[test]
fn taking_one_claim_back_leaves_the_others() {
    let (mut list, owners) = list_with_owners();
    let claims =
        owners.iter().map(|owner| Edit::Set(claim("192.0.2.1", Action::Block, *owner, Nanos::NEVER)));
    assert_eq!(list.apply(claims.collect()).changes.len(), 1);
    let key = |owner| Key { prefix: prefix("192.0.2.1"), action: Action::Block, owner };
    assert_eq!(list.apply(vec![Edit::Remove(key(owners[0])), Edit::Remove(key(owners[1]))]).changes, []);
    let gone = Change { prefix: prefix("192.0.2.1"), entry: Entry::NONE };
    assert_eq!(list.apply(vec![Edit::Remove(key(owners[2]))]).changes, [gone]);
    assert_eq!(list.totals(), Totals::default());
}

#[test]
fn an_expired_narrow_prefix_does_not_shadow_a_live_wide_one() {
    let (mut list, owners) = list_with_owners();
    list.apply(vec![
        Edit::Set(claim("10.0.0.0/8", Action::Block, owners[0], Nanos::NEVER)),
        Edit::Set(claim("10.1.0.0/16", Action::Allow, owners[0], Nanos(50))),
    ]);
    let entry = list.entry(prefix("10.1.2.3"));
    assert!(entry.allows(Nanos(49)) && !entry.allows(Nanos(50)) && entry.blocks(Nanos(50)));
    let claims: Vec<String> =
        list.covering(prefix("10.1.2.3")).iter().map(|claim| claim.key.prefix.to_string()).collect();
    assert_eq!(claims, ["10.1.0.0/16", "10.0.0.0/8"]);
}

/// The kernel rounds deadlines, which is no reason to write its entries again at every start.
#[test]
fn what_differs_by_rounding_only_stays() {
    let (mut list, owners) = list_with_owners();
    let until = [at(7).0 - 5, at(7).0, u64::MAX - 1, u64::MAX];
    let claims = (0..4_u8).zip(until).map(|(last, until)| {
        Edit::Set(claim(&format!("192.0.2.{last}"), Action::Block, owners[0], Nanos(until)))
    });
    let exact = list.apply(claims.collect()).changes;
    let rounded = |change: &Change| Change { entry: change.entry.rounded(), ..*change };
    let kept: Vec<Change> = exact.iter().map(rounded).collect();
    assert!(kept != exact);
    assert_eq!(list.reconcile(kept.clone()), []);
    assert_eq!(list.excess(&kept, owners[1]), []);
    for by in [-1, 1] {
        let other = |change: &Change| Change {
            entry: Entry {
                block_until: change.entry.block_until.wrapping_add_signed(by << 35),
                allow_until: 0,
            },
            ..*change
        };
        assert_eq!(
            list.reconcile(kept.iter().map(other).collect()).len(),
            4,
            "what is another deadline is changed"
        );
    }
}

/// What moves from one prefix to another is dropped all the time, and allows come before and go after blocks.
#[test]
fn what_the_kernel_holds_is_raised_before_it_is_lowered() {
    let (mut list, owners) = list_with_owners();
    list.apply(vec![
        Edit::Set(claim("10.1.0.0/16", Action::Block, owners[0], Nanos::NEVER)),
        Edit::Set(claim("10.2.0.0/16", Action::Allow, owners[0], Nanos::NEVER)),
    ]);
    let entry = |text: &str, block_until, allow_until| Change {
        prefix: prefix(text),
        entry: Entry { block_until, allow_until },
    };
    let never = u64::MAX;
    let installed =
        vec![entry("10.0.0.0/8", never, 0), entry("10.1.0.0/16", 0, never), entry("10.2.0.0/15", 0, never)];
    assert_eq!(
        list.reconcile(installed),
        [
            entry("10.2.0.0/16", 0, never),
            entry("10.1.0.0/16", never, never),
            entry("10.0.0.0/8", 0, 0),
            entry("10.1.0.0/16", never, 0),
            entry("10.2.0.0/15", 0, 0),
        ]
    );
}

#[test]
fn excess_leaves_out_what_is_desired() {
    let (mut list, owners) = list_with_owners();
    list.apply(vec![Edit::Set(claim("192.0.2.0/24", Action::Block, owners[1], Nanos::NEVER))]);
    let installed = |text: &str, block_until, allow_until| Change {
        prefix: prefix(text),
        entry: Entry { block_until, allow_until },
    };
    let (never, soon) = (u64::MAX, at(9).0);
    let found = [
        installed("10.1.0.0/16", never, soon),
        installed("10.1.2.3", soon, 0),
        installed("192.0.2.0/24", never, 0),
    ];
    let excess: Vec<(String, Action, u64)> = list
        .excess(&found, owners[0])
        .iter()
        .map(|claim| (claim.key.prefix.to_string(), claim.key.action, claim.terms.until.0))
        .collect();
    assert_eq!(
        excess,
        [
            ("10.1.0.0/16".to_owned(), Action::Block, never),
            ("10.1.0.0/16".to_owned(), Action::Allow, soon),
            ("10.1.2.3".to_owned(), Action::Block, soon),
        ]
    );
}

#[test]
fn many_expiries_come_in_parts_and_stale_ones_do_not_pile_up() {
    let (mut list, owners) = list_with_owners();
    let host = |n: u32| Prefix::host(Address::V4(n.to_be_bytes()));
    let set = |n, until| {
        let key = Key { prefix: host(n), action: Action::Block, owner: owners[0] };
        Edit::Set(Claim { key, terms: Terms { until, created: 1, actor: None, reason: None } })
    };
    list.apply((0..10_000).map(|n| set(n, Nanos(100))).collect());
    assert_eq!(list.next_expiry(), Some(Nanos(100)));
    assert_eq!(list.expire(Nanos(99), 4_000).changes, []);
    assert_eq!(list.expire(Nanos(100), 4_000).changes.len(), 4_000);
    assert_eq!(list.expire(Nanos(100), 40_000).changes.len(), 6_000);
    assert_eq!(list.next_expiry(), None);
    for until in 200..20_000 {
        list.apply(vec![set(1, Nanos(until))]);
    }
    assert!(list.expiries.len() < 2_000, "{}", list.expiries.len());
    assert_eq!(list.expire(Nanos(19_998), 100_000).changes, []);
    assert_eq!(list.len(), 1);
}

#[test]
fn filling_keeps_the_last_of_equal_claims() {
    let (mut list, owners) = list_with_owners();
    let with = |reason: &str, until| {
        let mut claim = claim("192.0.2.1", Action::Block, owners[0], until);
        claim.terms.reason = Some(Arc::from(reason));
        claim
    };
    list.fill(vec![with("first", Nanos(5)), with("second", Nanos(7))]);
    assert_eq!(list.from(None).collect::<Vec<_>>(), [with("second", Nanos(7))]);
    assert_eq!(list.count_of(owners[0]), 1);
    assert_eq!(list.expire(Nanos(7), 10).changes.len(), 1);
    assert_eq!(list.expiring, 0);
}

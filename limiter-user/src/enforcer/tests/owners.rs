//! Several owners with a word on the same addresses.

use std::collections::BTreeMap;

use super::*;
use crate::config::lists::parse;

const OWNERS: [&str; 4] = ["operator", "fail2ban:sshd", "app:shop", "crowdsec"];
const PREFIXES: [&str; 7] =
    ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.0/31", "192.0.2.0/24", "2001:db8::1", "2001:db8::/64"];
const LIST: &str = "list:drop";

fn by(owner: &str) -> Caller {
    Caller { owner: owner.parse().unwrap(), actor: Arc::from(format!("token:{owner}")) }
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Until when, in seconds since the boot; `u64::MAX` for good.
type Until = u64;

/// All claims, one after the other.
#[derive(Debug, Default)]
struct Model(BTreeMap<(&'static str, Action, &'static str), Until>);

impl Model {
    /// What the kernel shall have for each prefix at `now`: until when it is blocked, and allowed; 0 if it is not.
    fn entries(&self, now: u64) -> BTreeMap<Prefix, (Until, Until)> {
        let mut entries: BTreeMap<Prefix, (Until, Until)> = BTreeMap::new();
        for ((prefix, action, _), until) in self.0.iter().filter(|(_, until)| **until > now) {
            let entry = entries.entry(prefix.parse().unwrap()).or_default();
            match action {
                Action::Block => entry.0 = entry.0.max(*until),
                Action::Allow => entry.1 = entry.1.max(*until),
            }
        }
        entries
    }
}

/// What the kernel has that has not ended by `now`.
fn in_force(kernel: &MemoryDataplane, now: u64) -> BTreeMap<Prefix, (Until, Until)> {
    let seconds = |until: u64| match until {
        u64::MAX => until,
        until => Some(until / 1_000_000_000).filter(|until| *until > now).unwrap_or(0),
    };
    let entries = kernel
        .lists()
        .into_iter()
        .map(|Change { prefix, entry }| (prefix, (seconds(entry.block_until), seconds(entry.allow_until))));
    entries.filter(|(_, entry)| *entry != (0, 0)).collect()
}

#[derive(Debug, Clone)]
enum Step {
    /// Who asks, for whom, for how long, and whether as an import.
    Add(&'static str, Action, Vec<&'static str>, Option<u64>, bool),
    Remove(&'static str, Action, Vec<&'static str>),
    RemoveAllOwners(Action, Vec<&'static str>),
    Purge(&'static str, Action),
}

impl Step {
    fn random(random: &mut Random) -> Self {
        let action = if random.below(4) == 0 { Action::Allow } else { Action::Block };
        let owner = random.pick(&OWNERS);
        let mut prefixes: Vec<&'static str> = (0..=random.below(3)).map(|_| random.pick(&PREFIXES)).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        match random.below(12) {
            0..7 => {
                let seconds = (random.below(4) > 0).then(|| 1 + random.below(30) as u64);
                let import = action == Action::Block && random.below(5) == 0;
                Self::Add(owner, action, prefixes, seconds, import)
            }
            7..10 => Self::Remove(owner, action, prefixes),
            10 => Self::RemoveAllOwners(action, prefixes),
            _ => Self::Purge(owner, action),
        }
    }

    async fn ask(self, handle: &Handle) {
        // An owner asks itself, or an operator does.
        match self {
            Self::Add(owner, action, prefixes, seconds, true) => {
                let parsed = parse(prefixes.join("\n").as_bytes());
                let options =
                    ImportOptions { seconds, force: owner == "operator", ..ImportOptions::default() };
                handle.import(action, parsed, options, by(owner)).await.unwrap();
            }
            Self::Add(owner, action, prefixes, seconds, false) => {
                let request = AddRequest { seconds, ..asked(&prefixes) };
                handle.add(action, request, by(owner)).await.unwrap();
            }
            Self::Remove(owner, action, prefixes) => {
                let request = RemoveRequest { owner: Some(owner.to_owned()), ..gone(&prefixes) };
                handle.remove(action, request, by("operator")).await.unwrap();
            }
            Self::RemoveAllOwners(action, prefixes) => {
                let request = RemoveRequest { all_owners: true, ..gone(&prefixes) };
                handle.remove(action, request, by("operator")).await.unwrap();
            }
            Self::Purge(owner, action) => {
                let request = RemoveRequest { owner: Some(owner.to_owned()), all: true, ..gone(&[]) };
                handle.remove(action, request, by("operator")).await.unwrap();
            }
        }
    }

    /// Short requests are made in the order in which they are asked for, long ones when there is time.
    fn is_short(&self) -> bool {
        !matches!(self, Self::Add(.., true) | Self::Purge(..))
    }

    fn model(&self, model: &mut Model, now: u64) {
        match self {
            Self::Add(owner, action, prefixes, seconds, _) => {
                let until = seconds.map_or(u64::MAX, |seconds| now + seconds);
                model.0.extend(prefixes.iter().map(|prefix| ((*prefix, *action, *owner), until)));
            }
            Self::Remove(owner, action, prefixes) => {
                for prefix in prefixes {
                    model.0.remove(&(*prefix, *action, *owner));
                }
            }
            Self::RemoveAllOwners(action, prefixes) => {
                model.0.retain(|(prefix, of, owner), _| {
                    !(of == action && prefixes.contains(prefix) && *owner != LIST)
                });
            }
            Self::Purge(owner, action) => model.0.retain(|(_, of, by), _| !(of == action && by == owner)),
        }
    }
}

clock!(MODEL_SECONDS, model_clock);

#[tokio::test]
async fn whatever_the_order_the_claims_that_are_left_count() {
    for seed in 0..6 {
        let mut setup = Setup::new();
        let file = setup.path("drop.txt");
        std::fs::write(&file, "192.0.2.0/31\n").unwrap();
        // Nobody waits before their turn comes.
        setup.more = format!(
            "[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n[guards]\npeers_share = false\n"
        );
        let (mut random, mut model, mut boot) = (Random(seed), Model::default(), BOOT);
        model.0.insert(("192.0.2.0/31", Action::Block, LIST), u64::MAX);
        let mut handle = setup.start_at(model_clock, boot);
        let mut past = Vec::new();
        for _ in 0..60 {
            let now = MODEL_SECONDS.load(Ordering::Relaxed);
            match random.below(8) {
                0 => {
                    let passed = 1 + random.below(12) as u64;
                    MODEL_SECONDS.fetch_add(passed, Ordering::Relaxed);
                    past.push(format!("{passed} s pass"));
                }
                1 => {
                    handle.shutdown().await;
                    let fresh = random.below(2) == 0;
                    if fresh {
                        // The machine was started anew.
                        boot[0] += 1;
                        setup.kernel = MemoryDataplane::new(1_000_000);
                    }
                    handle = setup.start_at(model_clock, boot);
                    past.push(format!("restart, fresh kernel: {fresh}"));
                }
                2 => {
                    let listed = random.pick(&PREFIXES);
                    std::fs::write(&file, listed).unwrap();
                    handle.reload(setup.config()).await.unwrap();
                    model.0.retain(|(_, _, owner), _| *owner != LIST);
                    model.0.insert((listed, Action::Block, LIST), u64::MAX);
                    past.push(format!("the list is {listed}"));
                }
                _ => {
                    let mut steps: Vec<Step> =
                        (0..=random.below(3)).map(|_| Step::random(&mut random)).collect();
                    if !steps.iter().all(Step::is_short) {
                        steps.truncate(1);
                    }
                    steps.iter().for_each(|step| step.model(&mut model, now));
                    past.push(format!("at {now}: {steps:?}"));
                    // All at once, so that they share a commit.
                    let asked = steps.into_iter().map(|step| step.ask(&handle));
                    futures_util::future::join_all(asked).await;
                }
            }
            let now = MODEL_SECONDS.load(Ordering::Relaxed);
            let told = |what: &str| format!("{what} is wrong, seed {seed}:\n{}", past.join("\n"));
            assert_eq!(in_force(&setup.kernel, now), model.entries(now), "{}", told("the kernel"));
            let mut found = Vec::new();
            for action in [Action::Block, Action::Allow] {
                for claim in claims(&handle, action).await {
                    found.push((claim.prefix, action, claim.owner));
                }
            }
            found.sort();
            let live = model
                .0
                .iter()
                .filter(|(_, until)| **until > now)
                .map(|((prefix, action, owner), _)| ((*prefix).to_owned(), *action, (*owner).to_owned()));
            assert_eq!(found, live.collect::<Vec<_>>(), "{}", told("the list"));
        }
        handle.shutdown().await;
    }
}

#[tokio::test]
async fn only_operators_speak_for_others() {
    let setup = Setup::with("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = \"/nowhere\"\n");
    let handle = setup.start();
    let shop = || by("app:shop");
    handle.add(Action::Block, asked(&["192.0.2.1"]), shop()).await.unwrap();
    let own = AddRequest { owner: Some("app:shop".to_owned()), ..asked(&["192.0.2.2"]) };
    handle.add(Action::Block, own, shop()).await.unwrap();
    let found = claims(&handle, Action::Block).await;
    assert!(found.iter().all(|claim| claim.owner == "app:shop"));
    assert_eq!(found[0].actor.as_deref(), Some("token:app:shop"));

    let other = || Some("crowdsec".to_owned());
    for request in [
        AddRequest { owner: other(), ..asked(&["192.0.2.3"]) },
        AddRequest { force: true, ..asked(&["192.0.2.3"]) },
    ] {
        let error = handle.add(Action::Block, request, shop()).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error:?}");
    }
    for request in [
        RemoveRequest { owner: other(), ..gone(&["192.0.2.1"]) },
        RemoveRequest { all_owners: true, ..gone(&["192.0.2.1"]) },
        RemoveRequest { owner: Some("app:shop".to_owned()), all: true, ..gone(&[]) },
    ] {
        let error = handle.remove(Action::Block, request, shop()).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error:?}");
    }
    for owner in ["list:drop", "list:none", "app:", "nobody"] {
        let request = AddRequest { owner: Some(owner.to_owned()), ..asked(&["192.0.2.3"]) };
        let error = handle.add(Action::Block, request, uid()).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{owner}: {error:?}");
    }
    assert_eq!(setup.lists(), ["192.0.2.1 b", "192.0.2.2 b"]);

    let removed = handle.remove(Action::Block, gone(&["192.0.2.1"]), uid()).await.unwrap();
    assert_eq!((removed.removed, removed.missing.len()), (0, 1));
    assert_eq!(removed.still_listed, ["192.0.2.1 by app:shop"]);
    let all = RemoveRequest { all_owners: true, ..gone(&["192.0.2.1"]) };
    assert_eq!(handle.remove(Action::Block, all, uid()).await.unwrap().removed, 1);
    assert_eq!(setup.lists(), ["192.0.2.2 b"]);
}

#[tokio::test]
async fn all_of_an_owner_is_removed_if_that_is_what_was_seen() {
    let setup = Setup::new();
    let handle = setup.start();
    let many: String =
        (0..40_000).map(|n| format!("10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255)).collect();
    let options = ImportOptions { owner: Some("feed:many".to_owned()), ..ImportOptions::default() };
    handle.import(Action::Block, parse(many.as_bytes()), options, uid()).await.unwrap();
    handle.add(Action::Block, asked(&["10.0.0.7", "192.0.2.1"]), uid()).await.unwrap();
    let all = |expected| RemoveRequest {
        owner: Some("feed:many".to_owned()),
        all: true,
        expected,
        ..RemoveRequest::default()
    };
    let error = handle.remove(Action::Block, all(Some(39_999)), uid()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    assert_eq!(setup.lists().len(), 40_001);
    let mixed = RemoveRequest { prefixes: vec!["192.0.2.1".to_owned()], ..all(None) };
    assert!(handle.remove(Action::Block, mixed, uid()).await.is_err());
    assert_eq!(handle.remove(Action::Block, all(Some(40_000)), uid()).await.unwrap().removed, 40_000);
    assert_eq!(setup.lists(), ["10.0.0.7 b", "192.0.2.1 b"]);
    handle.shutdown().await;
    let fresh = Setup { kernel: MemoryDataplane::new(100), ..setup };
    fresh.start();
    assert_eq!(fresh.lists(), ["10.0.0.7 b", "192.0.2.1 b"]);
}

/// A page is short when few of many claims are asked for, and nothing is left out.
#[tokio::test]
async fn the_claims_of_one_owner_are_found_among_many() {
    let setup = Setup::new();
    let handle = setup.start();
    let many: String =
        (0..70_000).map(|n| format!("10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255)).collect();
    handle.import(Action::Block, parse(many.as_bytes()), ImportOptions::default(), uid()).await.unwrap();
    let few = ["10.0.0.1", "10.0.127.255", "10.0.128.0", "10.1.0.1", "192.0.2.1"];
    handle.add(Action::Block, asked(&few), by("app:shop")).await.unwrap();
    handle.add(Action::Allow, asked(&few), by("app:shop")).await.unwrap();
    for action in [Action::Block, Action::Allow] {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let owner = Some("app:shop".parse().unwrap());
            let page = handle.page(action, owner, after, 2).await.unwrap();
            found.extend(page.claims.into_iter().map(|claim| claim.prefix));
            pages += 1;
            let Some(next) = page.next else { break };
            let text = next.to_string();
            assert_eq!(text.parse(), Ok(next));
            after = Some(text.parse().unwrap());
        }
        assert_eq!(found, few);
        assert!(pages > 3, "{pages}");
    }
    let nobody = handle.page(Action::Block, Some("app:none".parse().unwrap()), None, 9).await.unwrap();
    assert!(nobody.claims.is_empty() && nobody.next.is_none());
}

clock!(OFFENCE_SECONDS, offence_clock);

#[tokio::test]
async fn who_comes_back_is_blocked_for_longer() {
    let mut setup = Setup::with(
        "[escalation]\nsteps = [\"10s\", \"100s\"]\nforget = \"1000s\"\n[[escalation.owner]]\nowner = \"crowdsec\"\nsteps = [\"7s\"]\n",
    );
    let mut handle = setup.start_at(offence_clock, BOOT);
    async fn offends(handle: &Handle, owner: &str, prefix: &str) -> Option<(u8, u64)> {
        let request = AddRequest { escalate: true, ..asked(&[prefix]) };
        let done = handle.add(Action::Block, request, by(owner)).await.unwrap();
        assert_eq!(done.added + done.updated, done.escalated.len() as u64);
        assert_eq!(done.unchanged, 1 - done.escalated.len() as u64);
        done.escalated.first().map(|escalated| (escalated.level, escalated.seconds))
    }
    let pass = |seconds| OFFENCE_SECONDS.fetch_add(seconds, Ordering::Relaxed);

    assert_eq!(offends(&handle, "app:shop", "192.0.2.1").await, Some((1, 10)));
    assert_eq!(offends(&handle, "crowdsec", "192.0.2.1").await, Some((1, 7)));
    assert_eq!(setup.lists(), ["192.0.2.1 b1010"]);
    pass(5);
    // It is blocked already.
    assert_eq!(offends(&handle, "app:shop", "192.0.2.1").await, None);
    pass(5);
    // Across a restart, and one of the machine.
    handle.shutdown().await;
    setup.kernel = MemoryDataplane::new(100);
    handle = setup.start_at(offence_clock, [2; 16]);
    assert_eq!(offends(&handle, "app:shop", "192.0.2.1").await, Some((2, 100)));
    assert_eq!(offends(&handle, "crowdsec", "192.0.2.1").await, Some((1, 7)));
    let question = |address: &str| Question {
        address: address.parse().unwrap(),
        protocol: None,
        port: None,
        interface: None,
    };
    let explained = handle.explain(question("192.0.2.1")).await.unwrap();
    let mut levels: Vec<_> =
        explained.offences.iter().map(|offence| (offence.owner.as_str(), offence.level)).collect();
    levels.sort_unstable();
    assert_eq!(levels, [("app:shop", 2), ("crowdsec", 1)]);
    // Taken back by people; while it would have run, it is the same visit.
    let all = RemoveRequest { all_owners: true, ..gone(&["192.0.2.1"]) };
    handle.remove(Action::Block, all, uid()).await.unwrap();
    assert_eq!(offends(&handle, "app:shop", "192.0.2.1").await, Some((2, 100)));
    // A level is forgotten, then all of it.
    pass(100 + 1000);
    assert_eq!(offends(&handle, "app:shop", "192.0.2.1").await, Some((2, 100)));
    pass(100 + 2000);
    assert!(handle.explain(question("192.0.2.1")).await.unwrap().offences.is_empty());
    assert_eq!(offends(&handle, "app:shop", "192.0.2.1").await, Some((1, 10)));

    // What is longer stays, and does not count.
    handle.add(Action::Block, asked(&["192.0.2.9"]), by("app:shop")).await.unwrap();
    assert_eq!(offends(&handle, "app:shop", "192.0.2.9").await, None);
    assert!(handle.explain(question("192.0.2.9")).await.unwrap().offences.is_empty());
    // A host has a whole /64.
    assert_eq!(offends(&handle, "app:shop", "2001:db8::1").await, Some((1, 10)));
    assert_eq!(offends(&handle, "app:shop", "2001:db8::2").await, Some((1, 10)));
    pass(10);
    assert_eq!(offends(&handle, "app:shop", "2001:db8::3").await, Some((2, 100)));

    let wrong = AddRequest { escalate: true, ..asked(&["192.0.2.1"]) };
    assert!(handle.add(Action::Allow, wrong.clone(), uid()).await.is_err());
    let wrong = AddRequest { seconds: Some(5), ..wrong };
    assert!(handle.add(Action::Block, wrong, uid()).await.is_err());
}

use super::*;

fn address(text: &str) -> Address {
    Address::from(text.parse::<std::net::IpAddr>().unwrap())
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn policy(category: &str, per: Per) -> Policy {
    Policy {
        category: category.into(),
        threshold: 5,
        within: Nanos::from_secs(60),
        per,
        block: Length::Seconds(600),
        ipv6_prefix: 64,
    }
}

fn report<'a>(from: &str, category: &'a str) -> Report<'a> {
    Report { address: address(from), category, weight: 1, account: None, device: None }
}

fn blocked(outcome: Outcome) -> Vec<Prefix> {
    match outcome {
        Outcome::Blocks(verdicts) => verdicts.into_iter().map(|verdict| verdict.prefix).collect(),
        Outcome::Unknown | Outcome::Counted => Vec::new(),
    }
}

#[test]
fn the_fifth_failure_within_a_minute_blocks() {
    let mut reports = Reports::new(vec![policy("login_failed", Per::Address)]);
    let mut take = |from: &str, second: u64| {
        reports.take(&report(from, "login_failed"), Nanos::from_secs(1_000 + second))
    };
    for second in [0, 1, 2, 3] {
        assert_eq!(take("203.0.113.7", second), Outcome::Counted);
        assert_eq!(take("203.0.113.8", second), Outcome::Counted);
    }
    // The first is no longer in the window: this one makes four.
    assert_eq!(take("203.0.113.8", 60), Outcome::Counted);
    let outcome = take("203.0.113.7", 59);
    let expected = Verdict {
        prefix: prefix("203.0.113.7/32"),
        length: Length::Seconds(600),
        reason: "login_failed: 5 within 1m".to_owned(),
    };
    assert_eq!(outcome, Outcome::Blocks(vec![expected]));
    // Counts anew.
    assert_eq!(take("203.0.113.7", 60), Outcome::Counted);
}

#[test]
fn weights_add_up_and_categories_do_not() {
    let mut reports =
        Reports::new(vec![policy("login_failed", Per::Address), policy("scraping", Per::Address)]);
    let now = Nanos::from_secs(1_000);
    let heavy = |category| Report { weight: 4, ..report("203.0.113.7", category) };
    assert_eq!(reports.take(&heavy("login_failed"), now), Outcome::Counted);
    assert_eq!(reports.take(&heavy("scraping"), now), Outcome::Counted);
    assert_eq!(reports.take(&heavy("coffee"), now), Outcome::Unknown);
    assert_eq!(blocked(reports.take(&report("203.0.113.7", "scraping"), now)), [prefix("203.0.113.7")]);
    assert_eq!(reports.take(&Report { weight: 0, ..heavy("login_failed") }, now), Outcome::Counted);
    assert_eq!(blocked(reports.take(&heavy("login_failed"), now)), [prefix("203.0.113.7")]);
}

#[test]
fn a_host_of_ipv6_is_its_network() {
    let mut reports = Reports::new(vec![policy("login_failed", Per::Address)]);
    let mut last = Outcome::Counted;
    for host in 1..=5 {
        let from = format!("2001:db8:7::{host}");
        last = reports.take(&report(&from, "login_failed"), Nanos::from_secs(1_000));
    }
    assert_eq!(blocked(last), [prefix("2001:db8:7::/64")]);
}

#[test]
fn all_addresses_seen_with_an_account_are_blocked() {
    let mut reports = Reports::new(vec![policy("login_failed", Per::Account)]);
    let mut take = |from: &str, account: Option<&'static str>, second: u64| {
        let report = Report { account, ..report(from, "login_failed") };
        reports.take(&report, Nanos::from_secs(1_000 + second))
    };
    for second in 0..10 {
        assert_eq!(take("198.51.100.9", None, second), Outcome::Counted, "it names no account");
    }
    // The first of these is seen too early to be among them.
    for (second, from) in [(0, "203.0.113.1"), (61, "203.0.113.2"), (62, "203.0.113.3"), (63, "203.0.113.2")]
    {
        assert_eq!(take(from, Some("alice"), second), Outcome::Counted);
        assert_eq!(take("198.51.100.1", Some("bob"), second), Outcome::Counted);
    }
    assert_eq!(take("203.0.113.4", Some("alice"), 64), Outcome::Counted);
    let outcome = take("203.0.113.5", Some("alice"), 65);
    assert_eq!(blocked(outcome), ["203.0.113.3", "203.0.113.2", "203.0.113.4", "203.0.113.5"].map(prefix));
}

#[test]
fn memory_is_bounded_and_those_reported_last_are_kept() {
    let mut reports = Reports::new(vec![policy("login_failed", Per::Address)]);
    let now = Nanos::from_secs(1_000);
    let faithful = report("192.0.2.1", "login_failed");
    for round in 0..4 {
        assert_eq!(reports.take(&faithful, now), Outcome::Counted, "{round}");
        for n in 0..u32::try_from(SUBJECTS / 4).unwrap() {
            let other = Address::V4((0x0b00_0000 + (round << 20) + n).to_be_bytes());
            reports.take(&Report { address: other, ..faithful.clone() }, now);
            assert!(reports.recent.len() + reports.older.len() <= SUBJECTS);
        }
    }
    assert_eq!(blocked(reports.take(&faithful, now)), [prefix("192.0.2.1")]);
}

#[test]
fn policies_that_stay_keep_their_sums() {
    let (login, scraping) = (policy("login_failed", Per::Address), policy("scraping", Per::Address));
    let mut reports = Reports::new(vec![login.clone(), scraping.clone()]);
    let now = Nanos::from_secs(1_000);
    for category in ["login_failed", "scraping"] {
        reports.take(&Report { weight: 4, ..report("203.0.113.7", category) }, now);
    }
    reports.set_policies(vec![scraping, Policy { threshold: 6, ..login }]);
    assert_eq!(blocked(reports.take(&report("203.0.113.7", "scraping"), now)), [prefix("203.0.113.7")]);
    assert_eq!(reports.take(&report("203.0.113.7", "login_failed"), now), Outcome::Counted);
}

/// Against the definition: blocked as soon as the weights of the last minute reach the threshold.
#[test]
fn random_reports_follow_the_definition() {
    for seed in 1..50_u64 {
        let mut random = seed;
        let mut roll = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut reports = Reports::new(vec![Policy { threshold: 12, ..policy("x", Per::Address) }]);
        let mut came: HashMap<Address, Vec<(u64, u64)>> = HashMap::new();
        let mut second = 1_000;
        for _ in 0..500 {
            second += roll(12);
            let from = Address::V4([203, 0, 113, u8::try_from(roll(4)).unwrap()]);
            let weight = 1 + roll(3);
            let all = came.entry(from).or_default();
            all.push((second, weight));
            let sum: u64 = all.iter().filter(|(at, _)| second - at < 60).map(|(_, weight)| weight).sum();
            let report = Report {
                address: from,
                category: "x",
                weight: u32::try_from(weight).unwrap(),
                account: None,
                device: None,
            };
            let outcome = reports.take(&report, Nanos::from_secs(second));
            assert_eq!(!blocked(outcome).is_empty(), sum >= 12, "seed {seed}, second {second}");
            if sum >= 12 {
                all.clear();
            }
        }
    }
}

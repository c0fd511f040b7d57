//! Limits: what passes is what was promised, to a percent; and nobody pays for what others send.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use limiter_tests::lab::{HOST, Lab};
use limiter_tests::tcp::{Client, Server};
use limiter_tests::traffic::{Flood, Generator, Sent, same};
use limiter_tests::{Config, Daemon, Dice, frames, in_lab};

const INTERFACE: &str = HOST.interface;

/// A configuration with these `[[rule]]`s: name, match, limit per source.
fn rules(rules: &[(&str, &str, &str)]) -> Config {
    let tables = rules.iter().map(|(name, matching, limit)| {
        let matching =
            if matching.is_empty() { String::new() } else { format!("match = {{ {matching} }}\n") };
        format!("[[rule]]\nname = {name:?}\n{matching}limit = [ {{ per = \"source\", {limit} }} ]\n")
    });
    Config { tables: tables.collect(), ..Config::default() }
}

/// One `[[rule]]` for all packets with these limits.
fn rule_for_all(limits: &str) -> Config {
    Config { tables: format!("[[rule]]\nname = \"all\"\nlimit = [ {limits} ]\n"), ..Config::default() }
}

fn served_while_one_source_floods(mode: &'static str) {
    in_lab(mode, |lab| {
        let config = Config { mode, ..rules(&[("all", "", r#"rate = "10k/s", burst = 1000"#)]) };
        let daemon = Daemon::start(lab, &config)?;
        lab.witness.watch("flood", "ip saddr 198.51.100.7")?;
        let _server = Server::start(lab)?;
        let start = daemon.cli.counters(INTERFACE)?;
        let client = Client::over_v4(lab)?;
        let flood = same(frames::udp("198.51.100.7".parse()?, 60));
        let sent = Flood::run(lab, 50_000, vec![flood], Duration::from_secs(3))?;
        let served = client.stop();
        let counted = daemon.cli.counters(INTERFACE)?.since(&start);
        let passed = lab.witness.count("flood")?;
        println!(
            "{mode}: flood of {:.0}/s, {} sent, {passed} passed at a limit of 10,000/s; {served}; {counted}",
            sent.rate(),
            sent.frames
        );
        ensure!(served.requests > 200 && served.success() >= 0.99, "the client was not served: {served:?}");
        let dropped = counted.packets("packet_rate");
        ensure!(passed + dropped == sent.frames, "{passed} passed and {dropped} dropped of {}", sent.frames);
        ensure!(dropped > sent.frames / 2, "the flood was not held to its limit");
        Ok(())
    });
}

#[test]
fn served_while_one_source_floods_native() {
    served_while_one_source_floods("native");
}

#[test]
fn served_while_one_source_floods_generic() {
    served_while_one_source_floods("generic");
}

/// What `passed` of a flood of `sent` at a limit of `rate` and `burst` must be: no more than the burst and 1 % above the
/// rate, no less than 1 % below, if enough was offered all the time.
fn check_accuracy(what: &str, sent: &Sent, passed: u64, rate: f64, burst: f64) -> Result<()> {
    let fair = rate * sent.time.as_secs_f64();
    let passed_float = passed as f64;
    println!(
        "{what}: offered {:.0}/s for {:.2?}; {passed} passed, the rate allows {fair:.0} and a burst of {burst}: \
         {:+.2} % of the rate without the burst",
        sent.rate(),
        sent.time,
        ((passed_float - burst) / fair - 1.0) * 100.0,
    );
    ensure!(sent.rate() > 1.1 * rate, "{what}: only {:.0}/s were offered: is the machine busy?", sent.rate());
    // A packet more, since the first is due at once.
    ensure!(passed_float <= burst + fair * 1.01 + 1.0, "{what}: too many passed");
    ensure!(passed_float >= (fair * 0.99 - 1.0).min(sent.frames as f64), "{what}: too few passed");
    Ok(())
}

#[test]
fn packet_rates_are_kept_to_a_percent() {
    in_lab("accuracy", |lab| {
        let daemon = Daemon::start(
            lab,
            &rules(&[
                ("slow", r#"protocol = "udp", port = 9001"#, r#"rate = "10/s", burst = 5"#),
                ("middle", r#"protocol = "udp", port = 9002"#, r#"rate = "1k/s", burst = 100"#),
                ("fast", r#"protocol = "udp", port = 9003"#, r#"rate = "100k/s", burst = 20000"#),
            ]),
        )?;
        for (number, (port, rate, burst, seconds)) in
            [(9001, 10, 5, 5), (9002, 1_000, 100, 3), (9003, 100_000, 20_000, 3)].into_iter().enumerate()
        {
            for cpus in [1, 2] {
                // Each with a full bucket.
                let source: IpAddr = format!("198.51.100.{}", number * 2 + cpus).parse()?;
                let counter = format!("rate{number}{cpus}");
                lab.witness.watch(&counter, &format!("ip saddr {source}"))?;
                let frame = frames::udp_to(source, port, 60);
                let before = daemon.cli.counters(INTERFACE)?;
                let offered = rate * 2 / u32::try_from(cpus)?;
                let generators = (0..cpus).map(|_| same(frame.clone())).collect();
                let sent = Flood::run(lab, offered, generators, Duration::from_secs(seconds))?;
                let counted = daemon.cli.counters(INTERFACE)?.since(&before);
                let passed = counted.packets("passed");
                let seen = lab.witness.count(&counter)?;
                let what = format!("{rate}/s from {cpus} CPUs");
                ensure!(seen.abs_diff(passed) <= 2, "{what}: counted {passed}, but {seen} got through");
                check_accuracy(&what, &sent, seen, rate.into(), burst.into())?;
            }
        }
        Ok(())
    });
}

#[test]
fn bit_rates_are_kept_to_a_percent() {
    const BITS: f64 = 8_000_000.0;
    const BURST: f64 = 100_000.0;
    const FRAME: usize = 1_000;
    in_lab("bits", |lab| {
        let daemon = Daemon::start(lab, &rules(&[("all", "", r#"bits = "8Mbit/s", burst = "100kB""#)]))?;
        for (number, cpus) in [1, 2].into_iter().enumerate() {
            let source: IpAddr = format!("198.51.100.{cpus}").parse()?;
            let counter = format!("bits{number}");
            lab.witness.watch(&counter, &format!("ip saddr {source}"))?;
            let before = daemon.cli.counters(INTERFACE)?;
            let generators: Vec<_> = (0..cpus).map(|_| same(frames::udp(source, FRAME))).collect();
            let sent = Flood::run(lab, 2_000 / cpus, generators, Duration::from_secs(3))?;
            let counted = daemon.cli.counters(INTERFACE)?.since(&before);
            let seen = lab.witness.count(&counter)?;
            let dropped = counted.packets("bit_rate");
            ensure!(seen + dropped == sent.frames, "{seen} passed and {dropped} dropped of {}", sent.frames);
            let frames_a_second = BITS / 8.0 / FRAME as f64;
            let burst = BURST / FRAME as f64;
            check_accuracy(&format!("8 Mbit/s from {cpus} CPUs"), &sent, seen, frames_a_second, burst)?;
        }
        Ok(())
    });
}

#[test]
fn a_rule_for_a_service_holds_for_that_service() {
    in_lab("service", |lab| {
        let service = ("dns", r#"protocol = "udp", port = 9053"#, r#"rate = "100/s", burst = 50"#);
        let daemon = Daemon::start(lab, &rules(&[service]))?;
        lab.witness.watch("service", "udp dport 9053")?;
        lab.witness.watch("other", "udp dport 9054")?;
        let source = "198.51.100.7".parse()?;
        let generators = vec![same(frames::udp_to(source, 9053, 60)), same(frames::udp_to(source, 9054, 60))];
        let sent = Flood::run(lab, 1_000, generators, Duration::from_secs(2))?;
        let (service, other) = (lab.witness.count("service")?, lab.witness.count("other")?);
        println!(
            "{} sent to two ports; {service} passed to the limited one, {other} to the other",
            sent.frames
        );
        let offered = Sent { frames: sent.frames / 2, ..sent };
        check_accuracy("the limited port", &offered, service, 100.0, 50.0)?;
        ensure!(other + service + daemon.cli.counter(INTERFACE, "packet_rate")? == sent.frames);
        ensure!(other > 1_900, "the other port was limited too");
        let explained = daemon.cli.json("explain 198.51.100.7 udp/9053")?;
        ensure!(explained["limits"][0]["rule"] == "dns", "{explained}");
        Ok(())
    });
}

/// A host has a whole /64 to choose source addresses from.
#[test]
fn the_addresses_of_an_ipv6_network_share_a_limit() {
    in_lab("network", |lab| {
        let _daemon = Daemon::start(lab, &rules(&[("all", "", r#"rate = "100/s", burst = 50"#)]))?;
        lab.witness.watch("same", "ip6 saddr 2001:db8:7::/64")?;
        lab.witness.watch("next", "ip6 saddr 2001:db8:7:1::/64")?;
        let mut dice = Dice::new(1);
        let mut frame = frames::udp("2001:db8:7::1".parse()?, 80);
        let spread: Generator = Box::new(move |next| {
            // Another address of the network each time.
            let address = 0x2001_0db8_0007_0000_0000_0000_0000_0000 | u128::from(dice.word());
            frames::set_source(&mut frame, IpAddr::V6(address.into()));
            next.clone_from(&frame);
        });
        let other = same(frames::udp("2001:db8:7:1::1".parse()?, 80));
        let both = Flood::run(lab, 1_000, vec![spread, other], Duration::from_secs(2))?;
        let each = Sent { frames: both.frames / 2, ..both };
        for network in ["same", "next"] {
            let passed = lab.witness.count(network)?;
            check_accuracy(&format!("{network} /64"), &each, passed, 100.0, 50.0)?;
        }
        Ok(())
    });
}

/// All sources and all CPUs together get what the service has, whoever sends how much of it; and what is refused to a
/// source is taken from nobody else.
#[test]
fn the_limit_of_a_service_is_one_for_all_cpus() {
    in_lab("together", |lab| {
        // A rule of the flood's port: what the hosts say to each other by themselves is not charged, nor counted.
        let tables = r#"[[rule]]
name = "together"
match = { protocol = "udp", port = 9001 }
limit = [
    { per = "service", rate = "10k/s", burst = 2000 },
    { per = "source", rate = "1k/s", burst = 500 },
]
"#;
        let daemon = Daemon::start(lab, &Config { tables: tables.to_owned(), ..Config::default() })?;
        lab.witness.watch("together", "udp dport 9001")?;
        lab.witness.watch("greedy", "ip saddr 198.51.100.7")?;
        let before = daemon.cli.counters(INTERFACE)?;
        let greedy = same(frames::udp_to("198.51.100.7".parse()?, 9001, 60));
        let seed = Dice::seed();
        println!("seed {seed}");
        let generators = vec![udp_to_9001(seed)?, udp_to_9001(seed + 1)?, greedy];
        let sent = Flood::run(lab, 10_000, generators, Duration::from_secs(3))?;
        let counted = daemon.cli.counters(INTERFACE)?.since(&before);
        let passed = lab.witness.count("together")?;
        check_accuracy("10k/s for all together", &sent, passed, 10_000.0, 2_000.0)?;
        let dropped = counted.packets("packet_rate");
        ensure!(passed + dropped == sent.frames, "{passed} passed and {dropped} dropped of {}", sent.frames);
        let seconds = sent.time.as_secs_f64();
        let greedy = lab.witness.count("greedy")?;
        ensure!(greedy as f64 <= 505.0 + 1_010.0 * seconds, "{greedy} of one source passed");
        Ok(())
    });
}

/// Hosts of a network share its limit, and no other network pays for it.
#[test]
fn the_limit_of_a_prefix_is_one_for_its_sources() {
    in_lab("prefix", |lab| {
        let _daemon =
            Daemon::start(lab, &rule_for_all(r#"{ per = "prefix", rate = "500/s", burst = 100 }"#))?;
        lab.witness.watch("noisy", "ip saddr 198.51.100.0/24")?;
        lab.witness.watch("quiet", "ip saddr 203.0.113.0/24")?;
        let mut dice = Dice::new(1);
        let mut frame = frames::udp("198.51.100.1".parse()?, 60);
        let noisy: Generator = Box::new(move |next| {
            let [host, ..] = dice.word().to_ne_bytes();
            frames::set_source(&mut frame, IpAddr::from([198, 51, 100, host]));
            next.clone_from(&frame);
        });
        let quiet = Flood::start(lab, 300, vec![same(frames::udp("203.0.113.9".parse()?, 60))])?;
        let sent = Flood::run(lab, 3_000, vec![noisy], Duration::from_secs(3))?;
        let quiet = quiet.stop()?;
        check_accuracy("one /24", &sent, lab.witness.count("noisy")?, 500.0, 100.0)?;
        let passed = lab.witness.count("quiet")?;
        ensure!(passed == quiet.frames, "{passed} of {} of another network passed", quiet.frames);
        Ok(())
    });
}

/// A generator of UDP packets from random IPv4 sources to one port.
fn udp_to_9001(seed: u64) -> Result<Generator> {
    let mut dice = Dice::new(seed);
    let mut frame = frames::udp_to("198.51.100.1".parse()?, 9001, 60);
    Ok(Box::new(move |next| {
        frames::set_source(&mut frame, dice.v4());
        next.clone_from(&frame);
    }))
}

/// A generator of frames from random sources of both families.
fn spoofed(seed: u64) -> Result<Generator> {
    let mut dice = Dice::new(seed);
    let mut four = frames::udp("198.51.100.1".parse()?, 60);
    let mut six = frames::udp("2001:db8::1".parse()?, 80);
    Ok(Box::new(move |next| {
        if dice.one_in(4) {
            frames::set_source(&mut six, dice.v6());
            next.clone_from(&six);
        } else {
            frames::set_source(&mut four, dice.v4());
            next.clone_from(&four);
        }
    }))
}

/// Conforming sources among a flood that pretends to be everybody: the flood can neither grow the state nor push them
/// out of it.
fn innocents_pass(lab: &Lab, rate: u32) -> Result<()> {
    const INNOCENTS: u8 = 50;
    let seed = Dice::seed();
    let daemon = Daemon::start(lab, &rules(&[("all", "", r#"rate = "20/s", burst = 20"#)]))?;
    lab.witness.watch("four", "ip saddr 10.99.0.0/24")?;
    lab.witness.watch("six", "ip6 saddr 2001:db8:99::/48")?;
    let mut turn = 0;
    // Each at half its rate: 50 sources at 10/s each, of both families.
    let mut innocent = |v4: bool| -> Generator {
        turn += 1;
        let mut number = turn;
        Box::new(move |next| {
            number = (number + 1) % INNOCENTS;
            let source: IpAddr = if v4 {
                [10, 99, 0, number].into()
            } else {
                [0x2001, 0xdb8, 0x99, number.into(), 0, 0, 0, 1].into()
            };
            *next = frames::udp(source, 80);
        })
    };
    let before = daemon.cli.counters(INTERFACE)?;
    let memory = daemon.memory()?;
    let flood = Flood::start(lab, rate, vec![spoofed(seed)?])?;
    // And one that does not conform: the flood must not make it forgotten either.
    lab.witness.watch("greedy", "ip saddr 203.0.113.9")?;
    let greedy = Flood::start(lab, 40, vec![same(frames::udp("203.0.113.9".parse()?, 60))])?;
    let innocents = vec![innocent(true), innocent(false)];
    let sent = Flood::run(lab, u32::from(INNOCENTS) * 10, innocents, Duration::from_secs(4))?;
    let greedy = greedy.stop()?;
    let flood = flood.stop()?;
    check_accuracy("one at twice its limit among them", &greedy, lab.witness.count("greedy")?, 20.0, 20.0)?;
    let passed = lab.witness.count("four")? + lab.witness.count("six")?;
    let counted = daemon.cli.counters(INTERFACE)?.since(&before);
    println!(
        "seed {seed}: {} packets of random sources at {:.0}/s; of innocents {passed} of {} passed; {counted}; the \
         daemon's memory grew by {} KiB",
        flood.frames,
        flood.rate(),
        sent.frames,
        daemon.memory()?.saturating_sub(memory) / 1024
    );
    ensure!(passed == sent.frames, "{} packets of conforming sources were dropped", sent.frames - passed);
    Ok(())
}

#[test]
fn innocents_pass_in_a_spoofed_flood() {
    in_lab("spoofed", |lab| innocents_pass(lab, 100_000));
}

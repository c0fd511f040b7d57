//! Frames over a veth, handled per second.
//!
//! For each contestant there is a link of its own from one network namespace into another. A program in the kernel
//! sends frames on it from one CPU, as many as the link takes; another CPU receives them, and is busy with nothing else,
//! so what it takes off the link per second is what the contestant can handle. All contestants are there at the same
//! time, and take turns in each round.
//!
//! Veth costs every contestant the same for each frame; a device has costs of its own. nftables' figure includes the
//! buffer that the stack allocates for each frame, as it would behind a device.

mod generator;
mod link;
mod nft;
mod pace;
mod program;
mod rounds;
mod sysfs;
mod thread;

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use limiter_tests::{Config, Daemon, Lab};
use serde_json::json;

use self::link::Link;
use self::nft::{Nft, Rule};
use self::program::Program;
use self::rounds::{Expected, Figures, Flood};
use crate::model::{Model, Parameters};
use crate::options::Options;
use crate::report::{Bound, Report, SAMPLED, Target};
use crate::sources::{listed_v4, resident_v4};
use crate::{lab, machine};

/// Listed sources.
const LISTED: u32 = 1_000_000;
/// The limit of each source, and how many it may send at once.
const RATE: u32 = 1000;
const BURST: u32 = 1000;
/// Words of 8 bytes in the tables of the floors: as many as `exact_v4` has for a million addresses, `level_v4`, and `gate`.
const EXACT_WORDS: u32 = 1 << 21;
const LEVEL_WORDS: u32 = 1 << 19;
const GATE_WORDS: u32 = 1 << 16;
/// Rounds, unless asked otherwise.
const ROUNDS: u32 = 24;
const QUICK_ROUNDS: u32 = 5;

/// Measures, prints, and adds to the report.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cpus = machine::cpus()?;
    let [sender, .., receiver] = cpus.as_slice() else {
        report.skip("flood", "it needs two CPUs, one to send and one to receive");
        return Ok(());
    };
    println!("frames over a veth, handled per second by one CPU; {}", machine::line());
    let lab = lab::make("flood")?;
    let rounds = options.rounds.unwrap_or(if options.quick { QUICK_ROUNDS } else { ROUNDS });
    let figures = flood(&lab, (*sender, *receiver), rounds).inspect_err(|_| {
        for (name, content) in lab.scratch.logs() {
            eprintln!("--- {name}\n{content}---");
        }
    })?;
    figures.print();
    if !has_xdp_filter() {
        println!("  xdp-filter: not installed");
    }
    print_floors(&figures);
    add_targets(&figures, report);
    report.part(
        "flood",
        json!({
            "machine": machine::description(),
            "rounds": rounds,
            "listed": LISTED,
            "limit": { "rate": RATE, "burst": BURST },
            "rows": figures.json(),
        }),
    );
    Ok(())
}

/// The names of rows, which ratios are made of.
mod row {
    pub(super) const DROP_HOT: &str = "empty XDP drop, one source";
    pub(super) const DROP_RANDOM: &str = "empty XDP drop, random sources";
    pub(super) const SEEN_HOT: &str = "XDP drop that reads the source, one source";
    pub(super) const SEEN_RANDOM: &str = "XDP drop that reads the source, random sources";
    pub(super) const ONE_ACCESS: &str = "XDP drop after a word of 16 MiB, random sources";
    pub(super) const TWO_ACCESSES: &str = "XDP drop after a word of 4 and one of 16 MiB, random sources";
    pub(super) const PASSED_RANDOM: &str = "XDP pass that reads the source, random sources";
    pub(super) const SWAPPED: &str = "XDP pass after a swap in 512 KiB, random sources";
    pub(super) const LISTED_HOT: &str = "limiter, 1M blocked, one of them";
    pub(super) const LISTED_RANDOM: &str = "limiter, 1M blocked, random ones of them";
    pub(super) const CLEAN_RANDOM: &str = "limiter, 1M blocked, random sources (pass)";
    pub(super) const OVER_LIMIT: &str = "limiter, limit, one source far over it";
    pub(super) const LIMIT_RANDOM: &str = "limiter, limit, random sources (pass)";
    pub(super) const NFT_DROP: &str = "nftables drop, random sources";
    pub(super) const NFT_LISTED: &str = "nftables set of 1M, random ones of them";
    pub(super) const NFT_CLEAN: &str = "nftables set of 1M, random sources (pass)";
    pub(super) const NFT_OVER_LIMIT: &str = "nftables limit, one source far over it";
    pub(super) const NFT_LIMIT: &str = "nftables limit, random sources (pass)";
}

/// Sets everything up, measures, and takes it down.
fn flood(lab: &Lab, (sender, receiver): (usize, usize), rounds: u32) -> Result<Figures> {
    let link = |number| Link::new(lab, number, receiver);
    let (unseen, seen, lists, limits) = (link(0)?, link(1)?, link(2)?, link(3)?);
    let (nft_drop, nft_set, nft_limit, passed) = (link(4)?, link(5)?, link(6)?, link(7)?);
    let (one, two, swapped) = (link(8)?, link(9)?, link(10)?);

    let object = aya::include_bytes_aligned!(env!("BENCH_DROP_OBJECT"));
    let mut programs = Vec::new();
    for (name, link) in [("unseen", &unseen), ("seen", &seen), ("passed", &passed)] {
        let mut program = Program::load(object, name, &[], &[])?;
        program.attach(&lab.host, &link.name)?;
        programs.push(program);
    }
    let object = aya::include_bytes_aligned!(env!("BENCH_FLOOR_OBJECT"));
    for (name, step, first, link) in [
        ("floor_drop", 1, EXACT_WORDS, &one),
        ("floor_drop", 2, LEVEL_WORDS, &two),
        ("floor", 7, GATE_WORDS, &swapped),
    ] {
        let constants =
            [("STEP", step), ("MASK", u64::from(first) - 1), ("SECOND_MASK", u64::from(EXACT_WORDS) - 1)];
        let entries = [("table", first), ("second_table", EXACT_WORDS)];
        let mut program = Program::load(object, name, &constants, &entries)?;
        program.attach(&lab.host, &link.name)?;
        programs.push(program);
    }
    let nft = Nft::new(lab, LISTED)?;
    for (link, rule) in [
        (&unseen, Rule::Rest),
        (&seen, Rule::Rest),
        (&passed, Rule::Rest),
        (&one, Rule::Rest),
        (&two, Rule::Rest),
        (&swapped, Rule::Rest),
        (&lists, Rule::Rest),
        (&limits, Rule::Rest),
        (&nft_drop, Rule::Drop),
        (&nft_set, Rule::Listed),
        (&nft_limit, Rule::Limited),
    ] {
        nft.chain(&link.name, rule)?;
    }
    let _daemons = [blocking(lab, &lists.name)?, limiting(lab, &limits.name)?];

    let mut flood = Flood::new(lab, &nft, sender);
    let hot = |source: u32| Parameters { listed: LISTED, hot: source.into() };
    let stranger = hot(resident_v4(0));
    let listed = hot(listed_v4(0));
    for (name, link, model, parameters, expected) in [
        (row::DROP_HOT, &unseen, Model::Hot, listed, Expected::Dropped),
        (row::DROP_RANDOM, &unseen, Model::Listed, listed, Expected::Dropped),
        (row::SEEN_HOT, &seen, Model::Hot, listed, Expected::Dropped),
        (row::SEEN_RANDOM, &seen, Model::Listed, listed, Expected::Dropped),
        (row::ONE_ACCESS, &one, Model::Listed, listed, Expected::Dropped),
        (row::TWO_ACCESSES, &two, Model::Listed, listed, Expected::Dropped),
        (row::PASSED_RANDOM, &passed, Model::Any, stranger, Expected::Passed),
        (row::SWAPPED, &swapped, Model::Any, stranger, Expected::Passed),
        (row::LISTED_HOT, &lists, Model::Hot, listed, Expected::Dropped),
        (row::LISTED_RANDOM, &lists, Model::Listed, listed, Expected::Dropped),
        (row::CLEAN_RANDOM, &lists, Model::Any, listed, Expected::Passed),
        (row::OVER_LIMIT, &limits, Model::Hot, stranger, Expected::Dropped),
        (row::LIMIT_RANDOM, &limits, Model::Any, stranger, Expected::Passed),
        (row::NFT_DROP, &nft_drop, Model::Listed, listed, Expected::Dropped),
        (row::NFT_LISTED, &nft_set, Model::Listed, listed, Expected::Dropped),
        (row::NFT_CLEAN, &nft_set, Model::Any, listed, Expected::Passed),
        (row::NFT_OVER_LIMIT, &nft_limit, Model::Hot, stranger, Expected::Dropped),
        (row::NFT_LIMIT, &nft_limit, Model::Any, stranger, Expected::Passed),
    ] {
        flood.row(name, link, (model, parameters), expected)?;
    }
    flood.run(rounds)
}

/// A daemon that blocks a million sources on one interface.
fn blocking(lab: &Lab, interface: &str) -> Result<Daemon> {
    let daemon = daemon(lab, "lists", interface, "")?;
    let mut list = String::new();
    for index in 0..LISTED {
        writeln!(list, "{}", Ipv4Addr::from(listed_v4(index)))?;
    }
    let file = lab.scratch.write("listed.txt", list)?;
    let done = daemon.cli.json(&format!("block import --force {}", file.display()))?;
    ensure!(done["added"] == LISTED, "the import did not add everything: {done}");
    Ok(daemon)
}

/// A daemon that limits each source on one interface.
fn limiting(lab: &Lab, interface: &str) -> Result<Daemon> {
    let rule = format!(
        "[[rule]]\nname = \"all\"\nlimit = [{{ per = \"source\", rate = \"{RATE}/s\", burst = {BURST} }}]\n"
    );
    daemon(lab, "limits", interface, &rule)
}

fn daemon(lab: &Lab, name: &str, interface: &str, tables: &str) -> Result<Daemon> {
    let config =
        Config { interfaces: vec![interface.to_owned()], tables: tables.to_owned(), ..Config::default() };
    let mut daemon = Daemon::prepare(lab, name, &config)?;
    daemon.launch()?;
    daemon.wait_ready()?;
    Ok(daemon)
}

/// What the targets do not take into account: a packet that was sent by another CPU has to be read, which an empty program
/// does not do; and a packet that passes costs the stack's buffer, whoever lets it pass.
fn print_floors(figures: &Figures) {
    if let Some(ratio) = figures.ratio(row::LISTED_HOT, row::SEEN_HOT) {
        println!("  blocked, one source: {:.2} of an XDP drop that reads the source", ratio.median);
    }
    for (ours, theirs, than, what, floor) in [
        (row::LISTED_RANDOM, row::NFT_LISTED, "set", "drop that reads the source", row::SEEN_RANDOM),
        (row::LISTED_RANDOM, row::NFT_LISTED, "set", "drop that looks at a word of 16 MiB", row::ONE_ACCESS),
        (
            row::LISTED_RANDOM,
            row::NFT_LISTED,
            "set",
            "drop that looks at one of 4 MiB before",
            row::TWO_ACCESSES,
        ),
        (row::LIMIT_RANDOM, row::NFT_LIMIT, "limit", "pass that reads the source", row::PASSED_RANDOM),
        (row::LIMIT_RANDOM, row::NFT_LIMIT, "limit", "pass that swaps a word in 512 KiB", row::SWAPPED),
    ] {
        if let (Some(floor), Some(ours)) = (figures.ratio(floor, theirs), figures.ratio(ours, floor)) {
            println!(
                "  an XDP {what} is {:.1} times as fast as nftables' {than}; limiter reaches {:.2} of it",
                floor.median, ours.median
            );
        }
    }
    if let Some(ratio) = figures.net_ratio(row::NFT_LIMIT, row::LIMIT_RANDOM, row::NFT_DROP) {
        println!(
            "  limit, random sources: {:.1} times as fast as nftables, net of a plain nftables drop",
            ratio.median
        );
    }
}

fn add_targets(figures: &Figures, report: &mut Report) {
    for (what, ours, theirs, bound) in [
        ("blocked, 1M listed: limiter against nftables' set", row::LISTED_RANDOM, row::NFT_LISTED, 3.0),
        ("limit, random sources: limiter against nftables", row::LIMIT_RANDOM, row::NFT_LIMIT, 5.0),
        ("blocked, one source: limiter against an empty XDP drop", row::LISTED_HOT, row::DROP_HOT, 0.9),
        ("blocked, 1M listed: limiter against an empty XDP drop", row::LISTED_RANDOM, row::DROP_RANDOM, 0.75),
    ] {
        if let Some(measured) = figures.ratio(ours, theirs) {
            let (what, bound) = (format!("flood, {what}"), Bound::AtLeast(bound));
            report.target(Target { id: "R9", what, measured, bound, slack: SAMPLED });
        }
    }
}

fn has_xdp_filter() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("xdp-filter").is_file())
}

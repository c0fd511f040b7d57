//! A million addresses, with the clock running.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::traffic::{Flood, same};
use limiter_tests::{Config, Daemon, Dice, frames, in_lab, wait};

const ADDRESSES: u32 = 1_000_000;
/// How long an import may take on a machine that does a lot besides.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the daemon may need of memory for each of them.
const BYTES: u64 = 64;
/// Takes 1 to 4 million addresses around, so that neighbours are not all listed.
const STEP: u32 = 3;

/// The list has every third address of 100.64.0.0 and what follows, in no order.
fn address(number: u32) -> String {
    let [a, b, c, d] = (0x6440_0000 + number * STEP).to_be_bytes();
    format!("{a}.{b}.{c}.{d}")
}

fn list() -> String {
    let mut dice = Dice::new(1);
    let mut numbers: Vec<u32> = (0..ADDRESSES).collect();
    for i in (1..numbers.len()).rev() {
        numbers.swap(i, dice.below(i + 1));
    }
    let mut text = String::from("# a million addresses\n");
    for number in numbers {
        text.push_str(&address(number));
        text.push('\n');
    }
    text
}

/// The median time that `block test` takes, process and all.
fn block_test(daemon: &Daemon) -> Result<Duration> {
    let mut times = Vec::new();
    for number in (0..ADDRESSES).step_by(30_011) {
        let start = Instant::now();
        let answer = daemon.cli.run(&["block", "test", &address(number)])?;
        times.push(start.elapsed());
        ensure!(answer.code == 0, "{} is not blocked: {answer:?}", address(number));
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Imports `file`; how long it took until everything was in force, and until that was acknowledged, which is when it is
/// durable.
fn import(daemon: &Daemon, file: &Path) -> Result<(Duration, Duration)> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let import = scope.spawn(|| -> Result<Duration> {
            let done = daemon.cli.json(&format!("block import {}", file.display()))?;
            let took = start.elapsed();
            ensure!(done["added"] == ADDRESSES, "{done}");
            Ok(took)
        });
        let enforced = wait::until_true("everything is in force", PATIENCE, || {
            Ok(daemon.cli.json("status").is_ok_and(|status| status["blocks"] == ADDRESSES))
        });
        match import.join() {
            Ok(answered) => Ok((enforced?, answered?)),
            Err(_) => bail!("the import panicked"),
        }
    })
}

#[test]
fn a_million_addresses() {
    in_lab("million", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        let empty = daemon.memory()?;
        let file = lab.scratch.write("million.txt", list())?;
        let (enforced, import) = import(&daemon, &file)?;
        let test = block_test(&daemon)?;
        let full = daemon.memory()?;
        let bytes = full.saturating_sub(empty) / u64::from(ADDRESSES);
        let mut report = String::new();
        writeln!(
            report,
            "import: {enforced:.2?} until enforced, {import:.2?} until durable; block test: {test:.1?}"
        )?;
        writeln!(report, "memory: {} MiB empty, {} MiB full: {bytes} bytes each", empty >> 20, full >> 20)?;

        let listed = address(ADDRESSES / 2);
        let next = format!("{}.{}", listed.rsplit_once('.').context("an address")?.0, {
            let last: u8 = listed.rsplit_once('.').context("an address")?.1.parse()?;
            last.wrapping_add(1)
        });
        lab.witness.block(&[&listed])?;
        lab.witness.watch("next", &format!("ip saddr {next}"))?;
        let check = |what: &str| -> Result<()> {
            let (blocked, passed) = (lab.witness.blocked()?, lab.witness.count("next")?);
            let generators =
                vec![same(frames::udp(listed.parse()?, 60)), same(frames::udp(next.parse()?, 60))];
            let sent = Flood::run(lab, 1_000, generators, Duration::from_millis(200))?;
            ensure!(lab.witness.blocked()? == blocked, "{what}: {listed} got through");
            ensure!(lab.witness.count("next")? > passed + sent.frames / 4, "{what}: {next} was dropped");
            Ok(())
        };
        check("after the import")?;

        daemon.kill()?;
        let kept = daemon.restart()?;
        check("after kill -9")?;
        ensure!(block_test(&daemon)? < Duration::from_millis(100));

        daemon.kill()?;
        daemon.remove_pins()?;
        let rebuilt = daemon.restart()?;
        check("after the pins were removed")?;
        ensure!(daemon.cli.json("status")?["blocks"] == ADDRESSES);

        let start = Instant::now();
        daemon.cli.ok("block add 203.0.113.77")?;
        let add = start.elapsed();
        let start = Instant::now();
        daemon.cli.ok("block remove 203.0.113.77")?;
        let remove = start.elapsed();
        let start = Instant::now();
        let again = daemon.cli.json(&format!("block import {}", file.display()))?;
        let unchanged = start.elapsed();
        ensure!(again["unchanged"] == ADDRESSES, "{again}");
        writeln!(report, "restart: {kept:.2?} with the pins kept, {rebuilt:.2?} with the pins removed")?;
        writeln!(
            report,
            "one more block: {add:.1?}, its removal: {remove:.1?}; the same import: {unchanged:.2?}"
        )?;
        print!("a million addresses on {}:\n{report}", HOST.interface);
        // Each a few times what it takes, since a machine may be busy.
        ensure!(enforced < Duration::from_millis(2_500), "the import was in force after {enforced:?}");
        ensure!(import < Duration::from_secs(5), "the import took {import:?}");
        ensure!(bytes <= BYTES, "the daemon needs {bytes} bytes for each address");
        ensure!(test < Duration::from_millis(50), "block test took {test:?}");
        ensure!(kept < Duration::from_secs(5), "the restart took {kept:?}");
        ensure!(rebuilt < Duration::from_secs(5), "the restart without pins took {rebuilt:?}");
        Ok(())
    });
}

//! A configuration that locks somebody out goes away by itself, unless somebody confirms it: also over a kill, and though the
//! disk still has it.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_tests::{Config, Daemon, Lab, Sources, in_lab, wait};

const SOON: Duration = Duration::from_secs(20);
const LOCKED_OUT: [&str; 1] = ["198.51.100.7"];

/// With a list that has somebody in it who should not be.
fn mistaken(lab: &Lab) -> Config {
    let file = lab.scratch.path("drop.txt");
    let tables = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
    Config { tables, ..Config::default() }
}

struct Watched<'a> {
    sources: Sources<'a>,
    somebody: Vec<IpAddr>,
}

impl Watched<'_> {
    fn ensure_blocked(&self, blocked: bool) -> Result<()> {
        match blocked {
            true => self.sources.ensure_judged(&self.somebody, &["100.64.0.1".parse()?]),
            false => self.sources.ensure_judged(&[], &self.somebody),
        }
    }
}

/// Reloads, and returns the number of the change.
fn tried(daemon: &Daemon, time: &str) -> Result<String> {
    let said = daemon.cli.ok(&format!("reload --confirm {time}"))?;
    let id =
        said.lines().find_map(|line| line.strip_prefix("rolled back unless you keep it: limiter confirm "));
    let id = id.with_context(|| format!("nothing is said of confirming it: {said}"))?.to_owned();
    let waits = daemon.cli.ok("confirm")?;
    ensure!(
        waits.starts_with(&format!("{id} config.reload by operator (uid:0): rolled back in ")),
        "{waits}"
    );
    ensure!(warned(daemon, &format!("limiter confirm {id}"))?, "the status does not tell");
    Ok(id)
}

fn warned(daemon: &Daemon, text: &str) -> Result<bool> {
    Ok(daemon.cli.json("status")?["warnings"].to_string().contains(text))
}

fn rollbacks(daemon: &Daemon) -> Result<usize> {
    let trail = fs::read_to_string(daemon.places.state.join("audit/audit.jsonl"))?;
    Ok(trail.matches("\"config.reload.rollback\"").count())
}

fn wait_rolled_back(daemon: &Daemon) -> Result<()> {
    wait::until_true("it is rolled back", SOON, || warned(daemon, "was not confirmed in time")).map(drop)
}

#[test]
fn a_configuration_that_nobody_confirms_is_rolled_back() {
    in_lab("confirm", |lab| {
        lab.scratch.write("drop.txt", LOCKED_OUT.join("\n"))?;
        let sources = Sources::watched(lab)?;
        let somebody = LOCKED_OUT.iter().filter_map(|text| text.parse().ok()).collect();
        let watched = Watched { sources, somebody };
        let mut daemon = Daemon::start(lab, &Config::default())?;
        watched.ensure_blocked(false)?;
        ensure!(daemon.cli.ok("reload --confirm 1s")? == "nothing changed\n", "there is nothing to confirm");

        // In time, and not in time.
        daemon.configure(&mistaken(lab))?;
        let id = tried(&daemon, "1h")?;
        watched.ensure_blocked(true)?;
        ensure!(daemon.cli.run(&["reload", "--confirm", "1h"])?.code != 0, "there is one already");
        // Lists that are read again confirm nothing.
        daemon.cli.ok("reload")?;
        ensure!(daemon.cli.ok(&format!("confirm {id}"))? == "confirmed: config.reload\n");
        ensure!(daemon.cli.ok("confirm")?.is_empty() && !warned(&daemon, "confirm")?);
        ensure!(daemon.cli.run(&["confirm", &id])?.code == 5, "it is confirmed");
        daemon.kill()?;
        daemon.restart()?;
        watched.ensure_blocked(true)?;
        daemon.configure(&Config::default())?;
        daemon.cli.ok("reload")?;
        daemon.configure(&mistaken(lab))?;
        let id = tried(&daemon, "5s")?;
        wait_rolled_back(&daemon)?;
        watched.ensure_blocked(false)?;
        ensure!(rollbacks(&daemon)? == 1 && daemon.cli.run(&["confirm", &id])?.code == 5);

        // The disk still has it, and nobody takes it from there but who insists.
        let said = daemon.cli.run(&["reload"])?;
        ensure!(said.code == 1 && said.stderr.contains("was not confirmed in time"), "{said:?}");
        watched.ensure_blocked(false)?;
        daemon.kill()?;
        daemon.restart()?;
        ensure!(warned(&daemon, "was not confirmed in time")?, "a restart forgets it");
        watched.ensure_blocked(false)?;

        // Killed, with the time over before the start, and behind it.
        const LONG: Duration = Duration::from_secs(5);
        for (time, over) in [("5s", true), ("15s", false)] {
            tried(&daemon, time)?;
            let since = Instant::now();
            watched.ensure_blocked(true)?;
            daemon.kill()?;
            watched.ensure_blocked(true).context("protection outlives the daemon")?;
            if over {
                wait::until_true("its time is over", SOON, || Ok(since.elapsed() > LONG))?;
            }
            let before = rollbacks(&daemon)?;
            daemon.clear_log()?;
            daemon.restart()?;
            if !over && since.elapsed() < 2 * LONG {
                watched.ensure_blocked(true).context("it still may be confirmed")?;
            }
            wait_rolled_back(&daemon)?;
            watched.ensure_blocked(false)?;
            ensure!(rollbacks(&daemon)? == before + 1, "it is on record once");
            // At the start it is not even taken from the disk.
            ensure!(daemon.log().contains("the one before is used") == over, "{}", daemon.log());
            ensure!(daemon.log().contains("the one before comes back") != over, "{}", daemon.log());
        }

        // Whoever writes another one has said something new.
        daemon.configure(&Config { protected: vec!["192.0.2.1".to_owned()], ..mistaken(lab) })?;
        daemon.kill()?;
        daemon.restart()?;
        ensure!(!warned(&daemon, "confirm")?);
        watched.ensure_blocked(true)?;
        daemon
            .cli
            .ok(&format!("audit verify --directory {}", daemon.places.state.join("audit").display()))?;
        Ok(())
    });
}

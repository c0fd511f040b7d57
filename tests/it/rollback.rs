//! A configuration that nobody has confirmed yet, while something else is under way: what somebody says meanwhile counts.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_tests::{Config, Daemon, Lab, in_lab, wait};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// Takes a moment to read.
const ENTRIES: u32 = 300_000;
const UNDER_WAY: &str = "a reload is under way";

/// With a long list that has changed each time.
fn long_list(lab: &Lab, step: u32) -> Result<Config> {
    let mut list = String::new();
    for number in 0..ENTRIES {
        let [a, b, c, d] = (0x6440_0000 + number * step).to_be_bytes();
        writeln!(list, "{a}.{b}.{c}.{d}")?;
    }
    let file = lab.scratch.write("drop.txt", list)?;
    let tables = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
    Ok(Config { tables, ..Config::default() })
}

/// The same with something else in it, to be confirmed: the number of the change.
fn tried(daemon: &Daemon, config: &Config, time: &str) -> Result<String> {
    daemon.configure(&Config { protected: vec!["192.0.2.1".to_owned()], ..config.clone() })?;
    let reloaded = daemon.cli.json(&format!("reload --confirm {time}"))?;
    Ok(reloaded["change"].as_str().context("nothing is to be confirmed")?.to_owned())
}

fn status(daemon: &Daemon) -> Result<Value> {
    // It fails where an interface is not protected.
    daemon.cli.run(&["status", "--json"])?.json()
}

fn warned(daemon: &Daemon, text: &str) -> Result<bool> {
    Ok(status(daemon)?["warnings"].to_string().contains(text))
}

fn wait_rolled_back(daemon: &Daemon) -> Result<()> {
    wait::until_true("it is rolled back", SOON, || warned(daemon, "was not confirmed in time")).map(drop)
}

#[test]
fn what_is_confirmed_while_lists_are_read_again_stays() {
    in_lab("confirmed", |lab| {
        let config = long_list(lab, 3)?;
        let mut daemon = Daemon::start(lab, &config)?;
        let id = tried(&daemon, &config, "1h")?;
        long_list(lab, 5)?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true("it reads the lists", SOON, || {
            Ok(daemon.cli.run(&["reload", "--confirm", "1h"])?.stderr.contains(UNDER_WAY))
        })?;
        daemon.cli.ok(&format!("confirm {id}"))?;
        daemon.cli.ok("reload")?;
        ensure!(daemon.cli.ok("confirm")?.is_empty(), "it is to be confirmed again");
        daemon.kill()?;
        daemon.restart()?;
        ensure!(!warned(&daemon, "confirm")?, "a restart does not know that it is confirmed");
        Ok(())
    });
}

#[test]
fn nothing_is_confirmed_while_it_is_rolled_back() {
    in_lab("toolate", |lab| {
        let config = long_list(lab, 3)?;
        let daemon = Daemon::start(lab, &config)?;
        let id = tried(&daemon, &config, "2s")?;
        long_list(lab, 5)?;
        daemon.wait_logged("the one before comes back")?;
        let confirmed = daemon.cli.run(&["confirm", &id])?;
        ensure!(confirmed.code != 0, "it is confirmed, and rolled back all the same");
        wait_rolled_back(&daemon)
    });
}

#[test]
fn what_somebody_took_off_stays_off_when_a_configuration_is_rolled_back() {
    in_lab("takenoff", |lab| {
        let config = Config::default();
        let daemon = Daemon::start(lab, &config)?;
        tried(&daemon, &config, "2s")?;
        daemon.cli.ok("detach")?;
        wait_rolled_back(&daemon)?;
        let protected = || anyhow::Ok(status(&daemon)?["interfaces"][0]["protected"] == true);
        ensure!(!protected()?, "the rollback has put back what was taken off");
        daemon.cli.run(&["reload"])?;
        ensure!(protected()?, "a reload puts it back");
        Ok(())
    });
}

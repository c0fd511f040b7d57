//! The first and the last moments of the daemon.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::{Duration, Instant};

use anyhow::ensure;
use limiter_tests::{Config, Control, Daemon, in_lab, wait};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(20);
/// Somebody who is in no group but their own.
const USER: u32 = 4_242;

/// They come due while it is being stopped: what takes them back has the last word, and is on record.
#[test]
fn what_is_rolled_back_in_the_last_moment_is_on_record() {
    const CHANGES: usize = 60;
    in_lab("last-moment", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        let trail = daemon.places.state.join("audit/audit.jsonl");
        let mut control = Control::open(&daemon.places.socket)?;
        let asked = Instant::now();
        for number in 1..=CHANGES {
            let body =
                serde_json::json!({ "prefixes": [format!("198.51.100.{number}")], "confirm_seconds": 4 });
            ensure!(control.post("/v1/blocks", &body)?.is_ok());
        }
        ensure!(asked.elapsed() < Duration::from_secs(4), "the machine is too slow for this");
        // It does not notice that the time is over, but for the signal.
        daemon.signal(Signal::SIGSTOP)?;
        wait::until_true("their time is over", SOON, || Ok(asked.elapsed() > Duration::from_secs(9)))?;
        daemon.signal(Signal::SIGTERM)?;
        daemon.signal(Signal::SIGCONT)?;
        ensure!(daemon.wait_ended()?.success());
        let recorded =
            || Ok::<_, anyhow::Error>(fs::read_to_string(&trail)?.matches("block.add.rollback").count());
        let before = recorded()?;
        daemon.restart()?;
        ensure!(daemon.cli.ok("block list --json")?.is_empty(), "not rolled back");
        let all = recorded()?;
        println!("{before} of {CHANGES} rollbacks are on record at the end, {all} after the next start");
        ensure!(all == CHANGES, "{all} of {CHANGES} rollbacks are on record");
        Ok(())
    });
}

/// `control.group` is for a user who may not give files to it: root operates, and the status says why nobody else does.
#[test]
fn a_group_that_is_not_its_own_is_no_reason_to_stop() {
    in_lab("group", |lab| {
        let theirs = [lab.scratch.path("user"), lab.scratch.bpffs().join("user")];
        for directory in &theirs {
            fs::create_dir(directory)?;
            chown(directory, Some(USER), Some(USER))?;
        }
        let program = lab.scratch.path("limiterd");
        fs::copy(lab.binary("limiterd")?, &program)?;
        let mut daemon = Daemon::prepare(lab, "user/limiter", &Config::default())?;
        let text = fs::read_to_string(&daemon.places.config)?;
        fs::write(&daemon.places.config, text.replace("[control]\n", "[control]\ngroup = \"www-data\"\n"))?;
        daemon.use_program(program);
        let kept = "-all,+bpf,+net_admin,+perfmon";
        daemon.wrapper = vec!["setpriv".to_owned(), format!("--reuid={USER}"), format!("--regid={USER}")];
        daemon.wrapper.push("--clear-groups".to_owned());
        daemon
            .wrapper
            .extend(["bounding-set", "inh-caps", "ambient-caps"].map(|set| format!("--{set}={kept}")));
        daemon.restart()?;
        let socket = fs::metadata(&daemon.places.socket)?;
        ensure!((socket.uid(), socket.gid(), socket.mode() & 0o777) == (USER, USER, 0o660), "{socket:?}");
        let warnings = daemon.cli.json("status")?["warnings"].to_string();
        for part in ["only root may use the control socket", "SupplementaryGroups="] {
            ensure!(warnings.contains(part), "{part:?} is not in {warnings}");
        }
        daemon.cli.ok("block add 198.51.100.7")?;
        Ok(())
    });
}

/// A long list takes a while. Whoever asks meanwhile is not kept waiting, and `limiter detach` works.
#[test]
fn a_daemon_that_starts_says_so() {
    const ENTRIES: u32 = 1_000_000;
    in_lab("starting", |lab| {
        let mut list = String::new();
        for number in 0..ENTRIES {
            let [a, b, c, d] = (0x6440_0000 + number * 3).to_be_bytes();
            writeln!(list, "{a}.{b}.{c}.{d}")?;
        }
        let file = lab.scratch.write("drop.txt", list)?;
        let tables = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
        let mut daemon = Daemon::prepare(lab, "limiter", &Config { tables, ..Config::default() })?;
        daemon.launch()?;
        let (mut longest, mut told) = (Duration::ZERO, 0);
        wait::until_true("it is ready", SOON, || {
            let asked = Instant::now();
            let answer = daemon.cli.run(&["status"])?;
            longest = longest.max(asked.elapsed());
            told += usize::from(answer.code == 3 && answer.stderr.contains("limiterd is starting"));
            Ok(answer.code == 0)
        })?;
        println!("{told} times it said that it is starting, each within {longest:?}");
        ensure!(told > 0 && longest < Duration::from_secs(5), "{told} times, {longest:?}");
        ensure!(daemon.cli.json("status")?["blocks"] == ENTRIES);
        Ok(())
    });
}

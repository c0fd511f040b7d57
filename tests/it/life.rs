//! The daemon dies, comes back, finds things changed: enforcement does not notice.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_common::abi::ABI_VERSION;
use limiter_tests::daemon::remove_tree;
use limiter_tests::lab::{HOST, OUTSIDE};
use limiter_tests::netns::output;
use limiter_tests::traffic::{Flood, Generator, same};
use limiter_tests::{Config, Daemon, Dice, Lab, cli, frames, in_lab, stranger, veth, wait};
use nix::sys::signal::{Signal, kill};

const INTERFACE: &str = HOST.interface;
const BLOCKED: [&str; 2] = ["198.51.100.7", "2001:db8:bad::7"];
const SOON: Duration = Duration::from_secs(10);

/// Packets of the blocked sources.
fn attack() -> Result<Vec<Generator>> {
    BLOCKED.iter().map(|source| Ok(same(frames::udp(source.parse()?, 80)))).collect()
}

fn block(lab: &Lab, daemon: &Daemon) -> Result<()> {
    lab.witness.block(&BLOCKED)?;
    daemon.cli.ok(&format!("block add {} --reason attack", BLOCKED.join(" "))).map(drop)
}

/// Blocked sources send, and nothing gets through.
fn ensure_enforced(lab: &Lab, what: &str) -> Result<()> {
    let before = lab.witness.blocked()?;
    let sent = Flood::run(lab, 2_000, attack()?, Duration::from_millis(200))?;
    let passed = lab.witness.blocked()? - before;
    ensure!(sent.frames > 100, "{what}: only {} packets were sent", sent.frames);
    ensure!(passed == 0, "{what}: {passed} of {} packets of blocked sources got through", sent.frames);
    Ok(())
}

/// Blocked sources send, and everything gets through: nothing is enforced, or the test could not fail.
fn ensure_open(lab: &Lab, what: &str) -> Result<()> {
    let before = lab.witness.blocked()?;
    let sent = Flood::run(lab, 2_000, attack()?, Duration::from_millis(100))?;
    let passed = lab.witness.blocked()? - before;
    ensure!(passed == sent.frames, "{what}: {passed} of {} packets got through", sent.frames);
    Ok(())
}

fn ensure_listed(daemon: &Daemon) -> Result<()> {
    for source in BLOCKED {
        let answer = daemon.cli.run(&["block", "test", source])?;
        ensure!(answer.code == 0, "block test {source}: exit code {}: {}", answer.code, answer.stderr);
    }
    Ok(())
}

/// The kernel's numbers of the links that are pinned below `directory`.
fn links(lab: &Lab, directory: &Path) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mut command = lab.host.command("bpftool");
            command.args(["--json", "link", "show", "pinned"]).arg(&path);
            let Ok(text) = output(command, None) else { continue };
            let link: serde_json::Value = serde_json::from_str(&text)?;
            found.extend(link["id"].as_u64());
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn attached_program(lab: &Lab, interface: &str) -> Result<Option<u64>> {
    let link: serde_json::Value =
        serde_json::from_str(&lab.host.ip(&format!("-j -d link show {interface}"))?)?;
    Ok(link[0]["xdp"]["prog"]["id"].as_u64())
}

/// Killed in the middle of whatever it was doing, start included: not one packet gets through, and the next start takes
/// over what is there.
#[test]
fn killed_fifty_times_under_a_flood() {
    const TIMES: usize = 50;
    in_lab("kill", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        let mut daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        let link = links(lab, &daemon.places.pins)?;
        ensure!(link.len() == 1, "one pinned link for one interface: {link:?}");
        let before = daemon.cli.counters(INTERFACE)?;
        let flood = Flood::start(lab, 10_000, attack()?)?;
        let mut slowest = Duration::ZERO;
        for round in 0..TIMES {
            daemon.kill()?;
            if dice.one_in(2) {
                // This one does not get as far as being ready.
                daemon.launch()?;
                let goal = flood.sent() + dice.word() % 3_000;
                wait::until_true("the flood went on", SOON, || Ok(flood.sent() >= goal))?;
                daemon.kill()?;
            }
            let took = daemon.restart()?;
            slowest = slowest.max(took);
            ensure_listed(&daemon)?;
            let now = links(lab, &daemon.places.pins)?;
            ensure!(now == link, "round {round}: the link was {link:?} and is {now:?}");
            let passed = lab.witness.blocked()?;
            ensure!(passed == 0, "LIMITER_SEED={seed}, round {round}: {passed} packets got through");
        }
        let sent = flood.stop()?;
        let counted = daemon.cli.counters(INTERFACE)?.since(&before);
        println!(
            "LIMITER_SEED={seed}: killed {TIMES} times, slowest restart {slowest:.0?}; {} packets sent at {:.0}/s, \
             0 passed; {counted}",
            sent.frames,
            sent.rate()
        );
        let blocked = counted.packets("blocked");
        ensure!(blocked == sent.frames, "{} sent, {blocked} counted: some were not seen", sent.frames);
        Ok(())
    });
}

#[test]
fn stopping_leaves_enforcement_on() {
    in_lab("stop", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        lab.witness.block(&BLOCKED)?;
        ensure_open(lab, "before anything is blocked")?;
        block(lab, &daemon)?;
        let status = daemon.terminate()?;
        ensure!(status.success(), "SIGTERM: {status}");
        ensure_enforced(lab, "stopped by SIGTERM")?;
        let answer = daemon.cli.run(&["status"])?;
        ensure!(answer.code == 3, "status without a daemon: exit code {}", answer.code);
        daemon.restart()?;
        ensure_listed(&daemon)?;
        ensure_enforced(lab, "started again")?;
        let status = {
            daemon.signal(Signal::SIGINT)?;
            daemon.wait_ended()?
        };
        ensure!(status.success(), "SIGINT: {status}");
        ensure_enforced(lab, "stopped by SIGINT")
    });
}

#[test]
fn a_second_daemon_is_refused() {
    in_lab("second", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        // Another socket and another store, but the same pins.
        let mut second = Daemon::prepare(lab, "second", &Config::default())?;
        let text = fs::read_to_string(&second.places.config)?
            .replace(&second.places.pins.display().to_string(), &daemon.places.pins.display().to_string());
        fs::write(&second.places.config, text)?;
        second.launch()?;
        let status = second.wait_ended()?;
        let log = second.log();
        println!("the second: {status}: {}", log.trim());
        ensure!(!status.success() && status.code().is_some(), "the second daemon ended with {status}");
        let pid = daemon.pid()?.to_string();
        ensure!(
            log.contains(&pid),
            "the message does not name the process that holds the lock ({pid}): {log}"
        );
        // The very same configuration.
        let answer = cli::answer(daemon.command())?;
        ensure!(answer.code > 0, "a daemon with the same configuration: exit code {}", answer.code);
        daemon.cli.ok("status")?;
        ensure_listed(&daemon)?;
        ensure_enforced(lab, "after the second daemon gave up")
    });
}

#[test]
fn a_strangers_program_stays_unless_told_otherwise() {
    in_lab("stranger", |lab| {
        stranger::attach(lab, INTERFACE)?;
        let before = attached_program(lab, INTERFACE)?;
        ensure!(before.is_some(), "the stranger is not attached");
        let mut daemon = Daemon::prepare(lab, "limiter", &Config::default())?;
        daemon.launch()?;
        // It may run unprotected and say so, or end; it may not say it is ready.
        let (problem, _) = wait::until("the daemon says what is in the way", SOON, || {
            let answer = daemon.cli.run(&["status", "--json"])?;
            if answer.code == 3 {
                let log = daemon.log();
                return Ok(log.contains("not limiter's").then_some(log));
            }
            ensure!(answer.code != 0, "ready, with a stranger's program attached");
            let problem = answer.json()?["interfaces"][0]["problem"].as_str().map(str::to_owned);
            Ok(problem)
        })?;
        println!("with a stranger attached: {}", problem.trim());
        let id = format!("id {}", before.unwrap_or_default());
        ensure!(problem.contains(&id), "it does not name the program: {problem}");
        ensure!(attached_program(lab, INTERFACE)? == before, "the stranger's program is gone");
        drop(daemon);

        let mut daemon = Daemon::prepare(lab, "limiter", &Config::default())?;
        daemon.arguments.push("--replace".to_owned());
        daemon.restart()?;
        ensure!(attached_program(lab, INTERFACE)? != before, "ready, but the stranger is still attached");
        block(lab, &daemon)?;
        ensure_enforced(lab, "after --replace")
    });
}

#[test]
fn pins_of_another_version_are_migrated_or_refused() {
    in_lab("version", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        daemon.terminate()?;
        let pins = &daemon.places.pins;
        let (ours, theirs) =
            (pins.join(format!("v{ABI_VERSION}")), pins.join(format!("v{}", ABI_VERSION - 1)));
        fs::rename(&ours, &theirs).with_context(|| format!("no pins in {}", ours.display()))?;
        daemon.clear_log()?;
        daemon.launch()?;
        // Whatever it decides, there is no moment without enforcement.
        let flood = Flood::start(lab, 5_000, attack()?)?;
        let (ready, _) = wait::until("the daemon has decided", SOON, || {
            let answer = daemon.cli.run(&["status"])?;
            if answer.code == 0 {
                return Ok(Some(true));
            }
            let refused = answer.code != 3 || !daemon.log().is_empty();
            Ok((refused && daemon.log().contains(&format!("v{}", ABI_VERSION - 1))).then_some(false))
        })?;
        if !ready {
            // A message may come before a migration.
            let _ = daemon.wait_ready();
        }
        let sent = flood.stop()?;
        let log = daemon.log();
        println!("with pins of v{}: {}", ABI_VERSION - 1, log.trim());
        ensure!(log.contains(&format!("v{}", ABI_VERSION - 1)), "the log does not say what was found");
        let passed = lab.witness.blocked()?;
        ensure!(passed == 0, "{passed} of {} packets got through", sent.frames);
        ensure_enforced(lab, "afterwards")
    });
}

fn recreate(lab: &Lab) -> Result<Instant> {
    veth::create(&lab.host, &HOST, &lab.outside, &OUTSIDE)?;
    Ok(Instant::now())
}

#[test]
fn an_interface_that_comes_back_is_protected_again() {
    in_lab("hotplug", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        ensure_enforced(lab, "at first")?;
        for round in 0..3 {
            lab.host.ip(&format!("link delete {INTERFACE}"))?;
            wait::until_true("the daemon notices that the interface is gone", SOON, || {
                Ok(daemon.cli.run(&["status"])?.code == 1)
            })?;
            let created = recreate(lab)?;
            // The kernel is asked, not the daemon.
            wait::until_true("a program is attached", SOON, || {
                Ok(attached_program(lab, INTERFACE)?.is_some())
            })?;
            let took = created.elapsed();
            println!("round {round}: protected {took:.0?} after the interface came back");
            ensure!(took < Duration::from_secs(1), "it took {took:?}");
            ensure_enforced(lab, "after it came back")?;
            wait::until_true("the daemon is ready", SOON, || Ok(daemon.cli.run(&["status"])?.code == 0))?;
        }
        // The counters go on under the same name.
        ensure!(daemon.cli.counter(INTERFACE, "blocked")? > 0);
        Ok(())
    });
}

#[test]
fn an_interface_that_appears_late_is_protected() {
    in_lab("late", |lab| {
        lab.host.ip(&format!("link delete {INTERFACE}"))?;
        let mut daemon = Daemon::prepare(lab, "limiter", &Config::default())?;
        daemon.launch()?;
        wait::until_true("the daemon answers", SOON, || Ok(daemon.cli.run(&["status"])?.code != 3))?;
        let answer = daemon.cli.run(&["status", "--json"])?;
        ensure!(answer.code == 1, "status with the interface missing: exit code {}", answer.code);
        let status = answer.json()?;
        ensure!(status["interfaces"][0]["protected"] == false, "{status}");
        ensure!(status["interfaces"][0]["problem"].is_string(), "it does not say why: {status}");
        block(lab, &daemon)?;
        let created = recreate(lab)?;
        wait::until_true("a program is attached", SOON, || Ok(attached_program(lab, INTERFACE)?.is_some()))?;
        println!("protected {:.0?} after the interface appeared", created.elapsed());
        ensure_enforced(lab, "after it appeared")?;
        daemon.wait_ready().map(drop)
    });
}

#[test]
fn without_a_bpf_file_system_one_is_mounted() {
    in_lab("mount", |lab| {
        let mut daemon = Daemon::prepare(lab, "limiter", &Config::default())?;
        // A mount namespace of its own, without what this machine has there.
        let name = lab.scratch.path("").file_name().map(|name| name.to_string_lossy().into_owned());
        let pins = Path::new("/sys/fs/bpf").join(name.context("a scratch directory has a name")?);
        let text = fs::read_to_string(&daemon.places.config)?
            .replace(&daemon.places.pins.display().to_string(), &pins.display().to_string());
        fs::write(&daemon.places.config, text)?;
        let script = "while umount /sys/fs/bpf 2>/dev/null; do :; done; exec \"$0\" \"$@\"";
        daemon.wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
            .map(str::to_owned)
            .to_vec();
        daemon.restart()?;
        block(lab, &daemon)?;
        ensure_enforced(lab, "with a file system that the daemon mounted")?;
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", daemon.pid()?))?;
        ensure!(mounts.contains(" /sys/fs/bpf bpf "), "the daemon mounted nothing: {mounts}");
        ensure!(!pins.exists(), "the test has left its mount namespace");
        Ok(())
    });
}

#[test]
fn a_reload_takes_all_of_a_configuration_or_nothing() {
    in_lab("reload", |lab| {
        let file =
            lab.scratch.write("drop.txt", "# a feed\n198.51.100.7\n2001:db8:bad::/48 ; all of it\n")?;
        let list = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
        let limit =
            "[[rule]]\nname = \"all\"\nlimit = [ { per = \"source\", rate = \"100/s\", burst = 50 } ]\n";
        lab.witness.block(&BLOCKED)?;
        lab.witness.watch("other", "ip saddr 203.0.113.9")?;
        let daemon = Daemon::start(lab, &Config::default())?;
        ensure_open(lab, "without a list")?;

        daemon.configure(&Config { tables: list.clone(), ..Config::default() })?;
        daemon.signal(Signal::SIGHUP)?;
        wait::until_true("the list is in force", SOON, || {
            Ok(daemon.cli.run(&["block", "test", BLOCKED[0]])?.code == 0)
        })?;
        ensure_enforced(lab, "with the list")?;
        let status = daemon.cli.json("status")?;
        ensure!(status["lists"][0]["entries"] == 2, "{status}");

        // A bad one changes nothing, and says where it is wrong.
        fs::write(&daemon.places.config, format!("{}\n[[interfaces]]\nname = 7\n", list))?;
        let answer = daemon.cli.run(&["reload"])?;
        println!("reload of a bad configuration: exit code {}: {}", answer.code, answer.stderr.trim());
        ensure!(answer.code == 1 && answer.stderr.contains("interfaces"), "{answer:?}");
        ensure_enforced(lab, "after a bad configuration")?;
        daemon.cli.ok("status")?;

        // A limit arrives without a packet noticing, the list stays.
        let flood = Flood::start(lab, 2_000, attack()?)?;
        daemon.configure(&Config { tables: format!("{list}{limit}"), ..Config::default() })?;
        let link = links(lab, &daemon.places.pins)?;
        let reloaded = daemon.cli.json("reload")?;
        ensure!(!reloaded["changes"].as_array().context("no changes")?.is_empty(), "{reloaded}");
        flood.stop()?;
        ensure!(lab.witness.blocked()? > 0, "the witness counted while there was no list");
        ensure!(links(lab, &daemon.places.pins)? == link, "the reload made a new link");
        let other = same(frames::udp("203.0.113.9".parse()?, 60));
        Flood::run(lab, 1_000, vec![other], Duration::from_secs(1))?;
        let passed = lab.witness.count("other")?;
        ensure!((130..=170).contains(&passed), "{passed} passed at 100/s in a second, with a burst of 50");
        ensure_enforced(lab, "with list and limit")?;

        // The list's file changes, then is gone: then its last good content counts.
        fs::write(&file, "2001:db8:bad::/48\n")?;
        daemon.cli.ok("reload")?;
        ensure!(
            daemon.cli.run(&["block", "test", BLOCKED[0]])?.code == 5,
            "taken off the list, still blocked"
        );
        fs::remove_file(&file)?;
        daemon.cli.run(&["reload"])?;
        ensure!(daemon.cli.run(&["block", "test", BLOCKED[1]])?.code == 0, "a lost file emptied the list");
        let status = daemon.cli.run(&["status", "--json"])?.json()?;
        ensure!(status["lists"][0]["problem"].is_string(), "{status}");
        Ok(())
    });
}

#[test]
fn a_broken_store_does_not_stop_the_start() {
    in_lab("broken", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        daemon.terminate()?;
        let store = fs::read_dir(&daemon.places.state)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file())
            .max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
            .context("the daemon keeps no store")?;
        let good = fs::read(&store)?;
        println!("the store has {} bytes", good.len());
        let mut dice = Dice::new(7);
        let noise: Vec<u8> = (0..good.len()).map(|_| dice.byte()).collect();
        let mut flipped = good.clone();
        for byte in &mut flipped[..512] {
            *byte ^= 0x55;
        }
        let cases: [(&str, Vec<u8>); 5] = [
            ("cut in half", good[..good.len() / 2].to_vec()),
            ("cut in its header", good[..100].to_vec()),
            ("noise", noise),
            ("with a damaged header", flipped),
            ("of somebody else", b"{\"blocks\": []}\n".to_vec()),
        ];
        for (what, content) in cases {
            fs::write(&store, content)?;
            daemon.clear_log()?;
            let took = daemon.restart().with_context(|| format!("a store {what}"))?;
            let status = daemon.cli.json("status")?;
            let warnings = status["warnings"].as_array().context("no warnings")?;
            println!("a store {what}: ready in {took:.0?}: {warnings:?}");
            ensure!(!warnings.is_empty(), "a store {what}: status does not say so: {status}");
            // What the kernel had is still there.
            ensure_enforced(lab, what)?;
            daemon.cli.ok(&format!("block add {}", BLOCKED.join(" ")))?;
            ensure_enforced(lab, what)?;
            // What is added then is kept.
            daemon.kill()?;
            daemon.restart()?;
            ensure_listed(&daemon)?;
            daemon.terminate()?;
        }
        Ok(())
    });
}

/// Acknowledged means that it survives, whenever the daemon dies.
#[test]
fn what_was_acknowledged_survives() {
    const TIMES: usize = 10;
    in_lab("durable", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        let mut daemon = Daemon::start(lab, &Config::default())?;
        let mut acknowledged = 0_u32;
        for round in 0..TIMES {
            let pid = daemon.pid()?;
            let goal = acknowledged + u32::from(dice.byte() % 16);
            let reached = AtomicU32::new(acknowledged);
            acknowledged = std::thread::scope(|scope| -> Result<u32> {
                let adding = scope.spawn(|| -> Result<u32> {
                    loop {
                        let number = reached.load(Ordering::SeqCst);
                        let answer = daemon.cli.run(&["block", "add", &nth(number)])?;
                        if answer.code != 0 {
                            return Ok(number);
                        }
                        reached.store(number + 1, Ordering::SeqCst);
                    }
                });
                wait::until_true("blocks are added", SOON, || Ok(reached.load(Ordering::SeqCst) >= goal))?;
                kill(pid, Signal::SIGKILL)?;
                adding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            daemon.wait_ended()?;
            daemon.restart()?;
            let listed = daemon.cli.ok("block list --json")?;
            for number in 0..acknowledged {
                let prefix = format!("\"{}\"", nth(number));
                ensure!(
                    listed.contains(&prefix),
                    "LIMITER_SEED={seed}, round {round}: {prefix} was acknowledged and is lost"
                );
            }
            let count = u32::try_from(listed.lines().count())?;
            // The last one may have been written before the answer was sent.
            ensure!(count - acknowledged <= 1, "{count} blocks, {acknowledged} acknowledged");
        }
        println!(
            "LIMITER_SEED={seed}: killed {TIMES} times while blocks were added; all {acknowledged} survived"
        );
        Ok(())
    });
}

fn nth(number: u32) -> String {
    let [_, _, a, b] = number.to_be_bytes();
    format!("100.64.{a}.{b}")
}

/// The store is the truth, the kernel's tables are its cache: this is also what a reboot is.
#[test]
fn blocks_come_back_from_the_store() {
    in_lab("store", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        daemon.cli.ok("block add 198.51.100.8 --for 1h")?;
        daemon.cli.ok("allow add 203.0.113.0/24")?;
        daemon.kill()?;
        daemon.remove_pins()?;
        // Without pins, nothing holds the program; the kernel lets go of it a little later.
        wait::until_true("the program is off", SOON, || Ok(attached_program(lab, INTERFACE)?.is_none()))?;
        ensure_open(lab, "with the pins removed")?;
        let before = lab.witness.blocked()?;
        let flood = Flood::start(lab, 2_000, attack()?)?;
        daemon.restart()?;
        let ready = lab.witness.blocked()?;
        let goal = flood.sent() + 500;
        wait::until_true("the flood went on", SOON, || Ok(flood.sent() >= goal))?;
        flood.stop()?;
        println!("{} packets got through until the start was through, then none", ready - before);
        ensure!(lab.witness.blocked()? == ready, "ready, but packets get through");
        ensure_listed(&daemon)?;
        let left = daemon.cli.run(&["explain", "198.51.100.8", "--json"])?.json()?;
        let seconds = left["claims"][0]["seconds_left"].as_u64().context("no end")?;
        ensure!((3_500..=3_600).contains(&seconds), "{seconds} of an hour left");
        let allows = daemon.cli.ok("allow list --json")?;
        ensure!(allows.contains("203.0.113.0/24"), "{allows}");
        Ok(())
    });
}

#[test]
fn detach_with_the_daemon_alive() {
    in_lab("detach", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        ensure_enforced(lab, "at first")?;
        daemon.cli.ok("detach eth0")?;
        ensure!(attached_program(lab, INTERFACE)?.is_none(), "a program is still attached");
        ensure_open(lab, "detached")?;
        ensure!(daemon.cli.run(&["status"])?.code == 1, "ready, but detached");
        // Taken up again when asked.
        daemon.cli.ok("reload")?;
        wait::until_true("the daemon is ready", SOON, || Ok(daemon.cli.run(&["status"])?.code == 0))?;
        ensure_enforced(lab, "after a reload")?;
        ensure!(daemon.cli.run(&["detach", "nosuch0"])?.code == 5, "detached an interface that is not there");
        daemon.cli.ok("detach")?;
        ensure_open(lab, "detached once more")?;
        daemon.kill()?;
        daemon.restart()?;
        ensure_enforced(lab, "after a restart")
    });
}

#[test]
fn detach_with_the_daemon_dead() {
    in_lab("dead", |lab| {
        let mut daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        daemon.kill()?;
        ensure_enforced(lab, "killed")?;
        let pins = daemon.places.pins.display().to_string();
        daemon.cli.ok(&format!("detach --pins {pins}"))?;
        ensure!(attached_program(lab, INTERFACE)?.is_none(), "a program is still attached");
        ensure_open(lab, "detached")?;
        daemon.restart()?;
        ensure_listed(&daemon)?;
        ensure_enforced(lab, "after a restart")?;
        // Pins that are simply deleted are the last way out, and no harm is done.
        daemon.kill()?;
        remove_tree(&daemon.places.pins)?;
        wait::until_true("the program is off", SOON, || Ok(attached_program(lab, INTERFACE)?.is_none()))?;
        ensure_open(lab, "with the pins deleted")
    });
}

#[test]
fn detach_with_the_daemon_hung() {
    in_lab("hung", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        block(lab, &daemon)?;
        daemon.signal(Signal::SIGSTOP)?;
        let pins = daemon.places.pins.display().to_string();
        let begun = Instant::now();
        let answer = daemon.cli.run(&["detach", "--pins", &pins])?;
        daemon.signal(Signal::SIGCONT)?;
        println!("after {:.1?}: {}", begun.elapsed(), answer.stderr.trim().replace('\n', " "));
        ensure!(answer.code == 0 && answer.stderr.contains("is running"), "{answer:?}");
        Ok(())
    });
}

/// As at boot: the daemon is there before the network is.
#[test]
fn lists_do_not_block_what_the_machine_needs_later() {
    const GATEWAY: &str = "10.77.0.254";
    in_lab("boot", |lab| {
        let file = lab.scratch.write("drop.txt", format!("{GATEWAY}\n198.51.100.7\n10.99.0.1\n"))?;
        let tables = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
        // An address that is not there yet.
        let config = Config { tables, metrics: Some("10.99.0.1:9742"), ..Config::default() };
        let daemon = Daemon::start(lab, &config)?;
        let blocked = |address: &str| Ok(daemon.cli.run(&["block", "test", address])?.code == 0);
        ensure!(blocked(GATEWAY)? && blocked("10.99.0.1")?, "the list is not in force");
        let warnings = daemon.cli.json("status")?["warnings"].to_string();
        ensure!(warnings.contains("metrics"), "{warnings}");
        lab.host.ip(&format!("route add default via {GATEWAY} dev {INTERFACE}"))?;
        lab.host.ip(&format!("address add 10.99.0.1/32 dev {INTERFACE}"))?;
        for address in [GATEWAY, "10.99.0.1"] {
            wait::until_true("it is not blocked any more", SOON, || Ok(!blocked(address)?))?;
        }
        ensure!(blocked("198.51.100.7")?, "the rest of the list is gone");
        wait::until_true("metrics are served", SOON, || {
            Ok(!daemon.cli.json("status")?["warnings"].to_string().contains("metrics"))
        })?;
        lab.host.ip("route del default")?;
        wait::until_true("it is an address like others again", SOON, || blocked(GATEWAY)).map(drop)
    });
}

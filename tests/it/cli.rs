//! The command line as scripts use it: exit codes, JSON, standard input, guards.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_tests::cli::{answer, words};
use limiter_tests::daemon::memory;
use limiter_tests::lab::HOST;
use limiter_tests::{Answer, Cli, Config, Daemon, in_lab};
use nix::unistd::Pid;
use serde_json::Value;

const NOBODY: u32 = 65_534;

/// Runs a command line, and checks how it ends.
fn check(cli: &Cli, line: &str, code: i32) -> Result<Answer> {
    let answer = cli.run(&words(line))?;
    ensure!(answer.code == code, "limiter {line}: expected exit code {code}: {answer:?}");
    if code == 0 {
        ensure!(answer.stderr.is_empty(), "limiter {line}: succeeded, but complains: {answer:?}");
    } else if code != 5 {
        ensure!(!answer.stderr.is_empty(), "limiter {line}: fails without a word");
        ensure!(
            answer.stdout.is_empty() || code == 1,
            "limiter {line}: an error on standard output: {answer:?}"
        );
    }
    Ok(answer)
}

/// Runs a command line with `input` on standard input.
fn with_input(cli: &Cli, line: &str, input: &str) -> Result<Answer> {
    let mut child = cli.command(&words(line)).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().context("piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// The fields of an object that are there, against those that must be.
fn ensure_fields(what: &str, object: &Value, fields: &str) -> Result<()> {
    for field in fields.split_whitespace() {
        ensure!(!object[field].is_null(), "{what} lacks {field}: {object}");
    }
    Ok(())
}

#[test]
fn every_verb_and_its_exit_codes() {
    in_lab("verbs", |lab| {
        let config = Config { protected: vec!["192.0.2.0/24".to_owned()], ..Config::default() };
        let daemon = Daemon::start(lab, &config)?;
        let cli = &daemon.cli;
        check(cli, "status", 0)?;
        check(cli, "counters", 0)?;
        check(cli, "block list", 0)?;
        check(cli, "block test 198.51.100.7", 5)?;
        check(cli, "block add 198.51.100.7 2001:db8:bad::/48 --for 1h --reason login", 0)?;
        check(cli, "block test 198.51.100.7", 0)?;
        check(cli, "block test 2001:db8:bad::1", 0)?;
        check(cli, "block test 2001:db8:bae::1", 5)?;
        check(cli, "allow add 198.51.100.7", 0)?;
        check(cli, "block test 198.51.100.7", 5)?;
        check(cli, "allow list", 0)?;
        check(cli, "allow remove 198.51.100.7", 0)?;
        check(cli, "allow remove 198.51.100.7", 5)?;
        check(cli, "explain 198.51.100.7", 0)?;
        check(cli, "explain 198.51.100.7 udp/53", 0)?;
        let export = check(cli, "block export", 0)?.stdout;
        ensure!(export.contains("198.51.100.7") && export.contains("2001:db8:bad::/48"), "{export}");
        check(cli, "block remove 198.51.100.7 2001:db8:bad::/48", 0)?;
        check(cli, "block remove 198.51.100.7", 5)?;
        let file = lab.scratch.write("export.txt", export)?;
        check(cli, &format!("block import {}", file.display()), 0)?;
        check(cli, "block test 2001:db8:bad::1", 0)?;
        check(cli, "reload", 0)?;

        check(cli, "block import /no/such/file", 1)?;
        for line in [
            "",
            "block",
            "block add",
            "block add 198.51.100.256",
            "block add 198.51.100.0/33",
            "block add 198.51.100.7 --for soon",
            "block add 198.51.100.7 --for -5s",
            "explain 198.51.100.7 udp/70000",
            "counters --no-such-option",
            "no-such-verb",
        ] {
            check(cli, line, 2)?;
        }
        let bad = lab.scratch.write("bad.txt", "198.51.100.9\nnot an address\n")?;
        let refused = check(cli, &format!("block import {}", bad.display()), 2)?;
        ensure!(refused.stderr.contains('2') && refused.stderr.contains("not an address"), "{refused:?}");
        check(cli, "block test 198.51.100.9", 5)?;
        check(cli, "block add 192.0.2.1", 6)?;

        let nowhere = Cli::new(lab, lab.scratch.path("nobody-listens.sock"))?;
        let unreachable = check(&nowhere, "status", 3)?;
        ensure!(unreachable.stderr.contains("nobody-listens.sock"), "{unreachable:?}");
        check(&nowhere, "block add 198.51.100.7", 3)?;
        let help = check(cli, "--help", 0)?;
        ensure!(help.stdout.contains("block") && help.stdout.contains("explain"), "{help:?}");
        check(cli, "--version", 0)?;
        check(cli, "detach", 0)?;
        check(cli, "status", 1).map(drop)
    });
}

#[test]
fn json_has_what_it_promises() {
    in_lab("json", |lab| {
        let limit =
            "[[rule]]\nname = \"all\"\nlimit = [ { per = \"source\", rate = \"1k/s\", burst = 2000 } ]\n";
        let daemon = Daemon::start(lab, &Config { tables: limit.to_owned(), ..Config::default() })?;
        let cli = &daemon.cli;
        let status = cli.json("status")?;
        ensure_fields(
            "status",
            &status,
            "ready version abi pid started interfaces blocks allows tables lists warnings",
        )?;
        ensure!(status["ready"] == true && status["pid"] == daemon.pid()?.as_raw(), "{status}");
        ensure_fields("an interface", &status["interfaces"][0], "name protected mode frags")?;
        ensure_fields("a table", &status["tables"][0], "table entries capacity")?;

        let added = cli.json("block add 198.51.100.7 198.51.100.0/24 --for 1h --reason scanner")?;
        ensure!(added["added"] == 2 && added["updated"] == 0 && added["unchanged"] == 0, "{added}");
        let listed = cli.ok("block list --json")?;
        let claims: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(claims.len() == 2, "one object a line: {listed}");
        for claim in &claims {
            ensure_fields("a claim", claim, "prefix action owner reason actor created expires seconds_left")?;
            ensure!(claim["owner"] == "operator" && claim["reason"] == "scanner", "{claim}");
            ensure!(claim["actor"] == "uid:0" && claim["action"] == "block", "{claim}");
        }

        let explained = cli.json("explain 198.51.100.7 udp/53")?;
        ensure_fields(
            "an explanation",
            &explained,
            "address protocol port action reason text claims limits",
        )?;
        ensure!(explained["action"] == "drop" && explained["reason"] == "blocked", "{explained}");
        ensure!(explained["protocol"] == 17 && explained["port"] == 53, "{explained}");
        // Narrowest first.
        ensure!(explained["claims"][0]["prefix"] == "198.51.100.7", "{explained}");
        ensure!(explained["claims"][1]["prefix"] == "198.51.100.0/24", "{explained}");
        let explained = cli.json("explain 203.0.113.9 udp/53")?;
        ensure!(explained["action"] == "pass" && explained["reason"] == "passed", "{explained}");
        ensure_fields("a limit", &explained["limits"][0], "interface rule limit")?;
        ensure!(explained["limits"][0]["interface"] == HOST.interface, "{explained}");

        let allowed = cli.json("allow add 198.51.100.0/25")?;
        ensure!(allowed["added"] == 1, "{allowed}");
        let shadowed = cli.run(&words("block add 198.51.100.8 --json"))?.json()?;
        ensure!(shadowed["shadowed_by_allow"][0] == "198.51.100.8", "{shadowed}");
        let explained = cli.json("explain 198.51.100.7")?;
        ensure!(explained["action"] == "pass" && explained["reason"] == "allowed", "{explained}");

        let removed = cli.run(&words("block remove 198.51.100.7 198.51.100.99 --json"))?;
        ensure!(removed.code == 5, "{removed:?}");
        let removed = removed.json()?;
        ensure!(removed["removed"] == 1 && removed["missing"][0] == "198.51.100.99", "{removed}");

        let counters = cli.json("counters --all")?;
        let reasons = counters["interfaces"][0]["reasons"].as_array().context("no reasons")?;
        ensure!(reasons.len() == limiter_common::Reason::ALL.len(), "{counters}");
        for (reason, known) in reasons.iter().zip(limiter_common::Reason::ALL) {
            ensure_fields("a counter", reason, "reason action packets bytes")?;
            ensure!(
                reason["reason"] == known.label() && reason["action"] == known.action().label(),
                "{reason}"
            );
        }

        let problem = cli.run(&words("block add 0.0.0.0/0 --json"))?;
        let details: Value = serde_json::from_str(&problem.stderr).context("problems are JSON, too")?;
        ensure_fields("a problem", &details, "type title status detail items")?;
        ensure!(problem.code == 6 && details["type"] == "guarded", "{problem:?}");
        ensure!(cli.json("reload")?["changes"].is_array());
        let detached = cli.json("detach")?;
        ensure!(detached["interfaces"][0] == HOST.interface, "{detached}");
        Ok(())
    });
}

#[test]
fn adding_twice_is_adding_once() {
    in_lab("idempotence", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        let cli = &daemon.cli;
        let counts = |line: &str| -> Result<[u64; 3]> {
            let done = cli.json(line)?;
            let count = |field: &str| done[field].as_u64().with_context(|| format!("no {field} in {done}"));
            Ok([count("added")?, count("updated")?, count("unchanged")?])
        };
        ensure!(counts("block add 198.51.100.7 198.51.100.7")? == [1, 0, 0], "twice in one call");
        ensure!(counts("block add 198.51.100.7")? == [0, 0, 1]);
        ensure!(counts("block add 198.51.100.7 --reason why")? == [0, 1, 0]);
        ensure!(counts("block add 198.51.100.7 --reason why --for 1h")? == [0, 1, 0]);
        ensure!(counts("block add 198.51.100.8 198.51.100.7 --reason why")? == [1, 1, 0]);
        // The same, written otherwise.
        ensure!(counts("block add 198.51.100.9/24")? == [1, 0, 0]);
        ensure!(counts("block add 198.51.100.200/24 ::ffff:198.51.100.0/120")? == [0, 0, 1]);
        ensure!(cli.ok("block list --json")?.lines().count() == 3);
        Ok(())
    });
}

#[test]
fn many_addresses_and_standard_input() {
    in_lab("many", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        let cli = &daemon.cli;
        let mut line = "block add".to_owned();
        for number in 0..5_000 {
            write!(line, " 100.64.{}.{}", number / 250, number % 250)?;
        }
        let added = cli.json(&line)?;
        ensure!(added["added"] == 5_000, "{added}");
        let text =
            "# offenders\n198.51.100.7\n\n  2001:db8:bad::/48   ; a network\r\n198.51.100.8 # and a host\n";
        let added = with_input(cli, "block add - --for 10m --json", text)?;
        ensure!(added.code == 0 && added.json()?["added"] == 3, "{added:?}");
        let read = with_input(cli, "block import - --json", text)?;
        ensure!(read.code == 0 && read.json()?["updated"] == 3, "{read:?}");
        let removed = with_input(cli, "block remove - --json", text)?;
        ensure!(removed.code == 0 && removed.json()?["removed"] == 3, "{removed:?}");
        // A feed that is empty today.
        for line in ["block add -", "allow add -", "block import -", "block remove -"] {
            let empty = with_input(cli, line, "# nothing\n")?;
            ensure!(empty.code == 0 && empty.stderr.is_empty(), "{line}: {empty:?}");
        }
        let bad = with_input(cli, "block add -", "198.51.100.9\nlocalhost\n")?;
        ensure!(bad.code == 2 && bad.stderr.contains("localhost"), "{bad:?}");
        check(cli, "block test 198.51.100.9", 5).map(drop)
    });
}

#[test]
fn guards_refuse_what_would_lock_people_out() {
    in_lab("guards", |lab| {
        lab.host.ip(&format!("route add default via 10.77.0.254 dev {}", HOST.interface))?;
        lab.host.ip(&format!("-6 route add default via fd77::fe dev {}", HOST.interface))?;
        let resolv = lab.scratch.write("resolv.conf", "nameserver 192.0.2.53\nnameserver 2001:db8::53\n")?;
        let config = Config {
            protected: vec!["172.20.0.0/16".into(), "2001:db8:c0de::1".into()],
            ..Config::default()
        };
        let mut daemon = Daemon::prepare(lab, "limiter", &config)?;
        let script = format!("mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"", resolv.display());
        daemon.wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script]
            .map(str::to_owned)
            .to_vec();
        daemon.restart()?;
        let cli = &daemon.cli;
        let guarded = |prefix: &str| -> Result<()> {
            let mut command = cli.command(&["block", "add", "198.51.100.77", prefix]);
            command.env("SSH_CONNECTION", "203.0.113.50 50000 10.77.0.1 22");
            let answer = answer(command)?;
            ensure!(answer.code == 6, "block add {prefix}: {answer:?}");
            ensure!(answer.stderr.contains(prefix), "{prefix}: it does not say which: {answer:?}");
            println!("{prefix}: {}", answer.stderr.trim().replace('\n', " "));
            // All or nothing.
            check(cli, "block test 198.51.100.77", 5).map(drop)
        };
        for prefix in [
            "10.77.0.1",
            "fd77::1",
            "127.0.0.1",
            "10.77.0.0/24",
            "10.77.0.254",
            "fd77::fe",
            "192.0.2.53",
            "2001:db8::53",
            "203.0.113.50",
            "172.20.1.1",
            "172.16.0.0/12",
            "2001:db8:c0de::1",
            "2001:db8:c0de::/48",
            "0.0.0.0/0",
            "44.0.0.0/7",
            "::/0",
            "3ffe::/15",
        ] {
            guarded(prefix)?;
        }
        check(cli, "block add 44.0.0.0/8 3ffe::/16", 0)?;
        // Only from that peer.
        check(cli, "block add 203.0.113.50", 0)?;
        let file = lab.scratch.write("feed.txt", "198.51.100.77\n10.77.0.254\n")?;
        let refused = check(cli, &format!("block import {}", file.display()), 6)?;
        ensure!(refused.stderr.contains("10.77.0.254"), "{refused:?}");
        check(cli, "block test 198.51.100.77", 5)?;
        for prefix in ["10.77.0.254", "172.20.1.1", "44.0.0.0/7"] {
            check(cli, &format!("block add {prefix} --force"), 0)?;
        }
        check(cli, "block test 10.77.0.254", 0)?;
        // Allowing is no danger.
        check(cli, "allow add 10.77.0.254 192.0.2.53", 0).map(drop)
    });
}

/// Listing what is long costs neither time before the first line nor memory.
#[test]
fn a_long_list_streams() {
    const ENTRIES: u32 = 100_000;
    const MUCH: u64 = 48 << 20;
    in_lab("list", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        let mut text = String::new();
        for number in 0..ENTRIES {
            let [_, a, b, c] = number.to_be_bytes();
            writeln!(text, "100.{}.{b}.{c}", 64 + a)?;
        }
        let file = lab.scratch.write("long.txt", text)?;
        daemon.cli.ok(&format!("block import {} --for 1h --reason long", file.display()))?;
        let before = daemon.memory()?;
        for arguments in [&["block", "list", "--json"][..], &["block", "list"]] {
            let start = Instant::now();
            let mut child = daemon.cli.command(arguments).spawn()?;
            let pid = Pid::from_raw(i32::try_from(child.id())?);
            let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
            let heading = u32::from(arguments.len() == 2);
            lines.next().context("nothing was listed")??;
            let first = start.elapsed();
            let mut count = 1;
            let mut most = 0;
            for line in &mut lines {
                line?;
                count += 1;
                if count % 10_000 == 0 {
                    most = memory(pid, "VmHWM:").unwrap_or(0).max(most);
                }
            }
            let all = start.elapsed();
            ensure!(child.wait()?.success());
            println!(
                "{}: first line after {first:.1?}, {count} lines after {all:.1?}, {} KiB at most",
                arguments.join(" "),
                most / 1024
            );
            ensure!(count == ENTRIES + heading, "{count} lines");
            ensure!(first < Duration::from_millis(500), "the first line came after {first:?}");
            ensure!(most < MUCH, "the command took {most} bytes");
        }
        // A reader that has seen enough is no error.
        let script = format!(
            "{} --socket {} block list | head -n 3",
            lab.binary("limiter")?.display(),
            daemon.places.socket.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let head = answer(command)?;
        ensure!(head.code == 0 && head.stderr.is_empty() && head.stdout.lines().count() == 3, "{head:?}");
        let grown = daemon.memory()?.saturating_sub(before);
        ensure!(grown < MUCH, "the daemon grew by {grown} bytes");
        Ok(())
    });
}

/// Nothing is pushed out for something new, and nothing is done by half.
#[test]
fn a_full_table_refuses() {
    in_lab("full", |lab| {
        let room = |entries: u32| Config {
            tables: format!("[capacity]\naddresses_v4 = {entries}\n"),
            ..Config::default()
        };
        let mut daemon = Daemon::start(lab, &room(100))?;
        let cli = &daemon.cli;
        let addresses: Vec<_> = (0..150).map(|number| format!("100.64.0.{number}")).collect();
        check(cli, &format!("block add {}", addresses[..90].join(" ")), 0)?;
        let refused = check(cli, &format!("block add {}", addresses[90..].join(" ")), 1)?;
        println!("{}", refused.stderr.trim());
        ensure!(refused.stderr.contains("addresses_v4") && refused.stderr.contains("100"), "{refused:?}");
        let listed = cli.ok("block list --json")?;
        ensure!(listed.lines().count() == 90, "{} blocks after a refusal", listed.lines().count());
        check(cli, "block test 100.64.0.0", 0)?;
        check(cli, "block test 100.64.0.89", 0)?;
        check(cli, "block test 100.64.0.90", 5)?;
        check(cli, &format!("block add {}", addresses[90..100].join(" ")), 0)?;
        check(cli, "block add 100.64.0.100", 1)?;
        // The same again needs no room.
        check(cli, "block add 100.64.0.99", 0)?;
        check(cli, "block remove 100.64.0.0", 0)?;
        check(cli, "block add 100.64.0.100", 0)?;

        // More room, and everything is still there.
        daemon.configure(&room(1_000))?;
        daemon.terminate()?;
        daemon.restart()?;
        let cli = &daemon.cli;
        check(cli, "block test 100.64.0.100", 0)?;
        check(cli, &format!("block add {}", addresses.join(" ")), 0)?;
        let listed = cli.ok("block list --json")?;
        ensure!(listed.lines().count() == 150, "{} blocks", listed.lines().count());
        Ok(())
    });
}

#[test]
fn strangers_are_not_obeyed() {
    in_lab("nobody", |lab| {
        let daemon = Daemon::start(lab, &Config::default())?;
        // Where nobody may run it, whoever owns the build.
        let limiter = lab.scratch.path("limiter");
        std::fs::copy(lab.binary("limiter")?, &limiter)?;
        for line in ["block add 198.51.100.7", "block list", "reload", "detach"] {
            let mut command = Command::new(&limiter);
            command.arg("--socket").arg(&daemon.places.socket).args(words(line));
            // Not in the namespace: that would take rights, and the socket is a file.
            command.uid(NOBODY).gid(NOBODY);
            let refused = answer(command)?;
            ensure!(refused.code == 4 && !refused.stderr.is_empty(), "{line}: {refused:?}");
        }
        check(&daemon.cli, "block test 198.51.100.7", 5)?;
        check(&daemon.cli, "status", 0).map(drop)
    });
}

#[test]
fn configurations_can_be_checked() {
    in_lab("check", |lab| {
        let mut daemon = Daemon::prepare(lab, "limiter", &Config::default())?;
        daemon.arguments.push("--check".to_owned());
        let good = answer(daemon.command())?;
        ensure!(good.code == 0, "{good:?}");
        let text = "protected = [\"10.0.0.0/40\"]\n\n[[interface]]\nname = \"eth0\"\nmood = \"native\"\n";
        std::fs::write(&daemon.places.config, text)?;
        let bad = answer(daemon.command())?;
        println!("{}", bad.stderr.trim());
        ensure!(bad.code == 2, "{bad:?}");
        // All problems, each with its place.
        for part in ["limiter.toml:1", "10.0.0.0/40", "limiter.toml:5", "mood"] {
            ensure!(bad.stderr.contains(part), "{part} is not in: {}", bad.stderr);
        }
        daemon.arguments.clear();
        let refused = answer(daemon.command())?;
        ensure!(refused.code > 0, "started with a bad configuration");
        Ok(())
    });
}

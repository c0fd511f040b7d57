//! What the documents tell applications to do, done as it is written there: by curl, Python and Node, over TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use limiter_tests::cli::answer;
use limiter_tests::docs::examples;
use limiter_tests::lab::HOST;
use limiter_tests::traffic::Sender;
use limiter_tests::{Config, Daemon, Lab, frames, in_lab, skip};

const README: &str = include_str!("../../README.md");
const PAGE: &str = include_str!("../../docs/reporting.md");
const SECTION: &str = "Report from your application";

/// A line or more for the shell of the protected host, in the directory of the lab. The `limiter` there talks to the
/// daemon of the lab, and `/etc/limiter` is that directory.
fn shell(lab: &Lab, daemon: &Daemon, lines: &str) -> Result<String> {
    let here = lab.scratch.path("");
    let (real, socket) = (lab.binary("limiter")?, &daemon.places.socket);
    let script = format!("#!/bin/sh\nexec {} --socket {} \"$@\"\n", real.display(), socket.display());
    let limiter = lab.scratch.write("limiter", script)?;
    fs::set_permissions(limiter, fs::Permissions::from_mode(0o755))?;
    let mut command = lab.host.command("sh");
    command.args(["-euc", &there(lines, &here)]).current_dir(&here);
    command.env("PATH", format!("{}:{}", here.display(), std::env::var("PATH")?));
    command.env_remove("SSH_CONNECTION").env_remove("SSH_CLIENT");
    let said = answer(command)?;
    ensure!(said.code == 0, "{lines}: exit code {}: {}{}", said.code, said.stderr, said.stdout);
    Ok(said.stdout)
}

fn there(text: &str, directory: &Path) -> String {
    text.replace("/etc/limiter", directory.to_str().unwrap_or_default().trim_end_matches('/'))
}

/// The daemon of the README's example, with its certificate.
fn started(lab: &Lab) -> Result<Daemon> {
    let tables = there(&examples(README, SECTION, "toml").concat(), &lab.scratch.path(""));
    let mut daemon = Daemon::prepare(lab, "limiter", &Config { tables, ..Config::default() })?;
    let lines = examples(README, SECTION, "sh");
    ensure!(lines.len() == 2, "a certificate, then reports: {lines:?}");
    shell(lab, &daemon, &lines[0])?;
    daemon.launch()?;
    daemon.wait_ready()?;
    Ok(daemon)
}

#[test]
fn the_sixth_packet_is_dropped_after_five_reports() {
    in_lab("readme", |lab| {
        let daemon = started(lab)?;
        let source = "198.51.100.7";
        lab.witness.watch("offender", &format!("ip saddr {source}"))?;
        let sender = Sender::open(lab)?;
        let packet = frames::udp(source.parse()?, 60);
        for n in 1..=5 {
            sender.send(&[&packet])?;
            ensure!(lab.witness.count("offender")? == n, "packet {n} did not arrive");
        }
        let told = shell(lab, &daemon, &examples(README, SECTION, "sh")[1])?;
        ensure!(told.contains(source) && told.contains("app:shop"), "{told}");
        sender.send(&[&packet])?;
        ensure!(lab.witness.count("offender")? == 5, "the sixth packet got through");
        let blocked = daemon.cli.counter(HOST.interface, "blocked")?;
        ensure!(blocked == 1, "{blocked} packets were dropped as blocked");
        // The token is good for nothing else.
        let token = fs::read_to_string(lab.scratch.path("shop.token"))?;
        ensure!(token.starts_with("lmt_"), "no token: {token}");
        ensure!(!daemon.log().contains(token.trim()), "the token is in the log");
        Ok(())
    });
}

/// Five times each, so that the fifth is answered with a block.
#[test]
fn examples_in_other_languages() {
    in_lab("languages", |lab| {
        let daemon = started(lab)?;
        shell(
            lab,
            &daemon,
            "limiter token create --name page --scope report > limiter.token; cp api.pem limiter.pem",
        )?;
        let python = lab.scratch.write("report.py", &examples(PAGE, "Python", "python")[0])?;
        let node = lab.scratch.write("report.mjs", &examples(PAGE, "JavaScript", "js")[0])?;
        let curl = lab.scratch.write("report.sh", &examples(PAGE, "curl", "sh")[0])?;
        let go = lab.scratch.write("report.go", &examples(PAGE, "Go", "go")[0])?;
        // Go builds first, with what it brings along alone.
        let offline =
            format!("GOPROXY=off GOTOOLCHAIN=local GOCACHE={} go run", lab.scratch.path("go").display());
        let ways = [
            ("sh", "sh", curl, "198.51.100.7"),
            ("python3", "python3", python, "198.51.100.8"),
            ("node", "NODE_EXTRA_CA_CERTS=limiter.pem node", node, "198.51.100.9"),
            ("go", &offline, go, "198.51.100.10"),
        ];
        for (program, run, script, source) in ways {
            if Command::new(program).arg("--version").output().is_err() {
                skip("examples_in_other_languages", &format!("there is no {program}"));
                continue;
            }
            let line = format!("{run} {}", script.display());
            for n in 1..=5 {
                let said = shell(lab, &daemon, &line)?;
                let expected = if n == 5 { "blocked" } else { "counted" };
                ensure!(said.contains(expected), "{program}, report {n}: {said}");
                let code = daemon.cli.run(&["block", "test", source])?.code;
                ensure!((code == 0) == (n == 5), "{program}: block test after {n} reports: {code}");
            }
            let claims = daemon.cli.ok("block list --owner app:page")?;
            ensure!(claims.contains(source), "{program}: {claims}");
        }
        Ok(())
    });
}

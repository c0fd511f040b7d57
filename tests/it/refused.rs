//! Who is refused before they have sent all of a request hears why, also over TLS and with a client that does not listen
//! while it sends.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::lab::OUTSIDE;
use limiter_tests::{Lab, in_lab, skip};

use crate::remote::{self, Session};

/// More than buffers hold on the way.
const LARGE: usize = 10 << 20;
/// A benchmarking network (RFC 2544): who has a wrong token has to wait.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// What each of them may take: the connection is closed after 2 s.
const LONGEST: Duration = Duration::from_secs(4);

/// The status that curl shows, from this address; an error if it shows something else.
fn curl(lab: &Lab, from: Ipv4Addr, version: &str, token: &str, path: &str) -> Result<u16> {
    let url = format!("https://{}{path}", remote::address());
    let mut command = lab.outside.command("curl");
    command.args(["--silent", "--show-error", "--insecure", "--max-time", "10", version]);
    command.args(["--interface", &from.to_string(), "--output", "/dev/null", "--write-out", "%{http_code}"]);
    // It would wait for leave to send so much, and old clients do not.
    command.args(["--header", "Expect:", "--header", "Content-Type: application/json"]);
    command.args(["--header", &format!("Authorization: Bearer {token}")]);
    command.arg("--data-binary").arg(format!("@{}", lab.scratch.path("large").display())).arg(url);
    let output = command.output().context("failed to start curl")?;
    let shown = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        bail!("curl {version} {path}: {} {shown}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(shown.parse()?)
}

#[test]
fn who_is_refused_while_they_send_hears_why() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("who_is_refused_while_they_send_hears_why", "there is no curl");
    }
    in_lab("refused", |lab| {
        lab.outside.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
        lab.host.ip(&format!("route add {NETWORK}/16 via {}", OUTSIDE.v4))?;
        fs::write(lab.scratch.path("large"), vec![b' '; LARGE])?;
        let (mut daemon, pin) = remote::prepare(lab, "", "")?;
        remote::launch(&mut daemon)?;
        let token = daemon.cli.ok("token create --name test --scope block:host --scope report")?;
        let limited = daemon.cli.ok("token create --name limited --scope report --quota 1/min")?;
        let (token, limited) = (token.trim(), limited.trim());
        let mut next = 0;
        let mut from = || {
            next += 1;
            Ipv4Addr::from(u32::from(NETWORK) + next)
        };
        for version in ["--http1.1", "--http2"] {
            for (what, token, path, expected) in [
                ("too large", token, "/v1/blocks", 413),
                ("nobody", "nonsense", "/v1/blocks", 401),
                ("without the scope", limited, "/v1/blocks", 403),
                ("nowhere", token, "/v1/nothing", 404),
            ] {
                for _ in 0..5 {
                    let begun = Instant::now();
                    let status = curl(lab, from(), version, token, path)?;
                    ensure!(status == expected, "{what}, {version}: {status}");
                    ensure!(begun.elapsed() < LONGEST, "{what}, {version}: {:?}", begun.elapsed());
                }
            }
        }
        // Who guesses has to wait, and hears that.
        let guesses = from();
        let mut statuses = Vec::new();
        for _ in 0..7 {
            statuses.push(curl(lab, guesses, "--http1.1", "nonsense", "/v1/blocks")?);
        }
        ensure!(statuses == [401, 401, 401, 401, 401, 401, 429], "{statuses:?}");

        // Says all of what could have been accepted before it listens.
        let config = remote::client(pin, b"http/1.1")?;
        for (token, path, expected) in
            [("nonsense", "/v1/blocks", 401), (limited, "/v1/blocks", 403), (token, "/v1/detach", 403)]
        {
            let from = from();
            let reply = lab.outside.enter(|| {
                let mut session = Session::open_from(from, Arc::clone(&config))?;
                let body = " ".repeat(1 << 20);
                session.ask("POST", path, token, &body)
            })?;
            ensure!(reply.status == expected, "{path}: {reply:?}");
        }
        Ok(())
    });
}

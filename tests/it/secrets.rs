//! Secrets of tokens show up nowhere: not in logs at their most talkative, not in the audit trail, the state, the answers, nor
//! in the command line of any process, wherever a caller puts them.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_tests::lab::OUTSIDE;
use limiter_tests::{Lab, in_lab, wait};

use crate::remote::{self, Session};

const PATIENCE: Duration = Duration::from_secs(20);

/// Requests with `token` where it belongs, and where it does not.
fn requests(token: &str) -> Vec<String> {
    let good = format!("Authorization: Bearer {token}\r\n");
    let upper = token.to_uppercase();
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: x\r\n{good}Content-Length: {length}\r\n\r\n{body}")
    };
    vec![
        get("/v1/status", &good),
        get(&format!("/v1/blocks?limit={token}"), &good),
        get(&format!("/v1/blocks?access_token={token}"), ""),
        get(&format!("/v1/blocks?cursor={token}"), &good),
        get(&format!("/v1/lookup/{token}"), &good),
        get(&format!("/v1/lookup/{token}"), ""),
        get(&format!("/{token}"), ""),
        get(&format!("/v1/explain?address={token}"), &good),
        get(&format!("https://{token}@x/v1/status"), ""),
        get("/v1/status", &format!("Authorization: Bearer {token}0\r\n")),
        get("/v1/status", &format!("Authorization: Bearer {token} {token}\r\n")),
        get("/v1/status", &format!("Authorization: Bearer {upper}\r\n")),
        get("/v1/status", &format!("Authorization: Basic {token}\r\n")),
        get("/v1/status", &format!("Authorization: {token}\r\n")),
        get("/v1/status", &format!("{good}{good}")),
        get("/v1/status", &format!("Authorization:Bearer\t{token}\r\n")),
        get("/v1/status", &format!("Authorization Bearer {token}\r\n")),
        get("/v1/status", &format!("{good} {token}\r\n")),
        get("/v1/status", &format!("{token}: x\r\n")),
        get(
            "/v1/status",
            &format!("X-Request-Id: {token}\r\nIdempotency-Key: {token}\r\nCookie: token={token}\r\n{good}"),
        ),
        format!("{token} /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /v1/status {token}\r\nHost: x\r\n\r\n"),
        post("/v1/blocks", &format!(r#"{{"prefixes":["{token}"]}}"#)),
        post("/v1/blocks", &format!(r#"{{"prefixes":["192.0.2.7"],"reason":"by {token}"}}"#)),
        post("/v1/blocks", &format!(r#"{{"prefixes":["192.0.2.7"],"owner":"app:{token}"}}"#)),
        post("/v1/blocks", &format!(r#"{{"{token}":1}}"#)),
        post("/v1/blocks", &format!(r#"{{"prefixes":"{token}"}}"#)),
        post("/v1/blocks/import", &format!("{token}\n")),
        post(&format!("/v1/blocks/import?reason={token}"), "192.0.2.8\n"),
        post(
            "/v1/reports",
            &format!(r#"{{"address":"192.0.2.9","category":"{token}","account":"{token}"}}"#),
        ),
        post(
            "/v1/reports",
            &format!(
                r#"{{"address":"192.0.2.9","category":"login","account":"{token}","device":"{token}"}}"#
            ),
        ),
        post("/v1/config/check", &format!("{token} = \"{token}\"\n")),
        post("/v1/config/check", &format!("[[interface]]\nname = \"{token}\"\nmode = \"{token}\"\n")),
        post(&format!("/v1/changes/{token}/confirm"), ""),
        post(&format!("/v1/tokens/{token}/revoke"), ""),
        post("/v1/tokens", &format!(r#"{{"name":"{token}","scopes":["{token}"]}}"#)),
    ]
}

/// All files below, with their content.
fn files(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            // What is pinned cannot be read.
            if !path.ends_with("bpf") {
                files(&path, found)?;
            }
        } else if let Ok(content) = fs::read(&path) {
            found.push((path.display().to_string(), content));
        }
    }
    Ok(())
}

fn contains(content: &[u8], secret: &str) -> bool {
    content.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(secret.as_bytes()))
}

/// The command lines of all processes.
fn command_lines() -> Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit)) {
            // It may have ended.
            lines.extend(fs::read(path.join("cmdline")));
        }
    }
    Ok(lines)
}

/// Asks by the command line, with the token in a file; it listens until it is killed.
fn listener(lab: &Lab, file: &Path, pin: &str) -> Result<Child> {
    let mut command = lab.host.command(lab.binary("limiter")?);
    command.arg("--remote").arg(format!("https://{}", remote::address()));
    command.arg("--token-file").arg(file).args(["--pin", pin, "events"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

#[test]
fn secrets_show_up_nowhere() {
    in_lab("secrets", |lab| {
        lab.outside.ip("route add local 198.18.0.0/16 dev lo")?;
        lab.host.ip(&format!("route add 198.18.0.0/16 via {}", OUTSIDE.v4))?;
        let policy = "[[policy]]\ncategory = \"login\"\nthreshold = 1\nper = \"account\"\nwithin = \"1m\"\nblock = \"1h\"\n";
        let (mut daemon, pin) = remote::prepare(lab, "", policy)?;
        daemon.wrapper = ["env", "RUST_LOG=trace"].map(str::to_owned).to_vec();
        remote::launch(&mut daemon)?;
        ensure!(daemon.log().contains("TRACE"), "the log is not as talkative as it can be");
        let scopes = "--scope read --scope report --scope block:host --scope config";
        let token = daemon.cli.ok(&format!("token create --name talks {scopes}"))?;
        let token = token.trim();
        let secret = token.rsplit('_').next().context("a secret")?;
        ensure!(secret.len() == 64, "not a token: {token}");

        let config = remote::client(pin, b"http/1.1")?;
        let (mut answered, mut next) = (0, 0_u32);
        for request in requests(token) {
            next += 1;
            let from = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(198, 18, 0, 0)) + next);
            let reply = lab.outside.enter(|| {
                let mut session = Session::open_from(from, config.clone())?;
                session.send(request.as_bytes())?;
                session.reply()
            })?;
            let Some(reply) = reply else { continue };
            answered += 1;
            let headers: String =
                reply.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            let said = format!("{headers}{}", reply.body);
            ensure!(!contains(said.as_bytes(), secret), "{request} is answered with the secret: {said}");
        }
        ensure!(answered > 30, "only {answered} answers");

        let kept = lab.scratch.write("kept-by-its-owner", format!("{token}\n"))?;
        let mut listener = listener(lab, &kept, &pin.to_string())?;
        let seen = wait::until_true("it is in the list of processes", PATIENCE, || {
            Ok(command_lines()?.iter().any(|line| contains(line, "kept-by-its-owner")))
        });
        let lines = command_lines();
        listener.kill()?;
        listener.wait()?;
        seen?;
        ensure!(!lines?.iter().any(|line| contains(line, secret)), "the secret is in a command line");
        // Both are told what is wrong with it.
        for words in ["token revoke", "block add", "block list --owner", "explain"] {
            let said = daemon.cli.run(&[words.split(' ').collect(), vec![token]].concat())?;
            let audible = format!("{}{}", said.stdout, said.stderr);
            ensure!(said.code != 0, "limiter {words} did something: {audible}");
        }
        daemon.terminate()?;

        let mut found = Vec::new();
        files(&lab.scratch.path(""), &mut found)?;
        let named = |end: &str| found.iter().any(|(name, _)| name.ends_with(end));
        ensure!(named("limiter.log") && named("audit.jsonl") && named("tokens.json"), "files are missing");
        for (name, content) in &found {
            ensure!(
                name.ends_with("kept-by-its-owner") || !contains(content, secret),
                "the secret is in {name}"
            );
        }
        println!("{answered} answers and {} files without the secret", found.len());
        Ok(())
    });
}

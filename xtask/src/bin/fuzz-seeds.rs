//! Writes the seeds of the fuzz targets: a directory for each target, a file for each named vector.

use std::{env, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use limiter_common::testing::vectors;

/// The example configuration has every key.
const CONFIG: &str = include_str!("../../../limiter-user/config.example.toml");

/// One for each endpoint of the target, in its order.
const BODIES: [(&str, &str); 10] = [
    (
        "add",
        r#"{"prefixes":["192.0.2.7","2001:db8::/64"],"seconds":60,"reason":"a","force":true,"ssh_peer":"192.0.2.1","owner":"app:x","dry_run":false,"confirm_seconds":60}"#,
    ),
    (
        "remove",
        r#"{"prefixes":["192.0.2.7"],"owner":"crowdsec","all_owners":false,"all":false,"expected":1,"dry_run":true}"#,
    ),
    ("import", "192.0.2.7\n2001:db8::/48 # a comment\n; another\n"),
    ("allow", r#"{"prefixes":["203.0.113.0/24"],"force":false}"#),
    ("disallow", r#"{"prefixes":[],"owner":"operator","all":true}"#),
    (
        "reports",
        r#"[{"address":"192.0.2.7","category":"login_failed","weight":5,"account":"alice","device":"d"}]"#,
    ),
    (
        "stream",
        "{\"address\":\"192.0.2.7\",\"category\":\"login_failed\"}\n\n{\"address\":\"::1\",\"category\":\"other\"}\n",
    ),
    ("check", CONFIG),
    (
        "token",
        r#"{"name":"x","scopes":["report","block:prefix/24"],"max_seconds":3600,"max_prefix":24,"per_minute":10,"from":["10.0.0.0/8"],"expires_in":86400}"#,
    ),
    ("rotate", r#"{"overlap_seconds":3600}"#),
];

fn main() -> ExitCode {
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write() -> Result<()> {
    let directory = env::args_os().nth(1).context("usage: fuzz-seeds DIRECTORY")?;
    let directory = Path::new(&directory);
    for target in ["parse", "decide"] {
        for vector in vectors::vectors() {
            seed(directory, target, &vector.name, &vector.frame)?;
        }
        for sequence in vectors::sequences() {
            for (i, step) in sequence.steps.iter().enumerate() {
                seed(directory, target, &format!("{}-{i}", sequence.name), &step.frame)?;
            }
        }
    }
    // Its input is numbers; any length does to begin with.
    seed(directory, "limits", "zeros", &[0; 256])?;
    seed(directory, "config", "example", CONFIG.as_bytes())?;
    let token = format!("Bearer lmt_k3f7a2xq_{}", "0123456789abcdef".repeat(4));
    seed(directory, "tokens", "token", token.as_bytes())?;
    seed(directory, "tokens", "jwt", b"bearer eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl")?;
    let nginx = br#"<190>Nov 22 06:00:00 limiter: {"ip":"203.0.113.7","category":"rate_limit","weight":"3"}"#;
    seed(directory, "hook", "nginx", nginx)?;
    let haproxy =
        b"<25>1 2026-11-22T06:00:00.000000+00:00 - haproxy 7 - - {\"ip\":\"2001:db8::7\",\"user\":\"a\"}\n";
    seed(directory, "hook", "haproxy", haproxy)?;
    for (number, (name, body)) in (0..).zip(BODIES) {
        seed(directory, "api", name, &[&[number], body.as_bytes()].concat())?;
    }
    Ok(())
}

fn seed(directory: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let directory = directory.join(target);
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let file = directory.join(name.replace('/', "_"));
    fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))
}

//! The client for applications, against the real daemon.

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::{Config, Daemon, Lab, in_lab};
use limiter_user::client::{Client, ClientError, Pin, ProblemKind, Remote, Report, Token, Trust};

/// A daemon with an API and a policy.
pub(crate) fn started(lab: &Lab) -> Result<Daemon> {
    let [certificate, key] = [certificate(lab), lab.scratch.path("api.key")];
    let tables = format!(
        "[guards]\nblocks_per_minute = false\n[api]\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [[policy]]\ncategory = \"login_failed\"\nthreshold = 5\nwithin = \"1m\"\nblock = \"10m\"\n"
    );
    let mut daemon = Daemon::prepare(lab, "limiter", &Config { tables, ..Config::default() })?;
    let directory = lab.scratch.path("");
    daemon.cli.ok(&format!("api certificate --name 127.0.0.1 --out {}", directory.display()))?;
    daemon.launch()?;
    daemon.wait_ready()?;
    Ok(daemon)
}

fn certificate(lab: &Lab) -> PathBuf {
    lab.scratch.path("api.pem")
}

/// The way to it over TLS, with a token of these scopes.
pub(crate) fn remote(lab: &Lab, daemon: &Daemon, scopes: &[&str]) -> Result<Remote> {
    let pin = daemon.cli.ok(&format!("api pin {}", certificate(lab).display()))?;
    let scopes: String = scopes.iter().map(|scope| format!(" --scope {scope}")).collect();
    let token = daemon.cli.ok(&format!("token create --name shop{scopes}"))?;
    let token = token.lines().find(|line| line.starts_with("lmt_")).context("no token was printed")?;
    trusting(pin.trim().parse()?, Token::new(token)?)
}

fn trusting(pin: Pin, token: Token) -> Result<Remote> {
    let trust = Trust { pins: &[pin], ca: None, identity: None };
    Remote::new(&"https://127.0.0.1:9743".parse()?, trust, Some(token))
}

/// Runs `body` in the namespace of the protected host.
pub(crate) fn run<T: Send>(lab: &Lab, body: impl Future<Output = Result<T>> + Send) -> Result<T> {
    lab.host.enter(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(body))
}

#[test]
fn applications_report_block_and_look_up() {
    in_lab("client", |lab| {
        let daemon = started(lab)?;
        let local = Client::new(&daemon.places.socket);
        let shop = Client::remote(remote(lab, &daemon, &["report", "block:host", "read"])?);
        run(lab, async move {
            for (number, client) in [local, shop].iter().enumerate() {
                let [reported, blocked] =
                    [7, 8].map(|last| IpAddr::from([198, 51, 100, last + 10 * u8::from(number == 1)]));
                let report = Report::new(reported, "login_failed").account("alice");
                for n in 1..=5 {
                    let said = client.report(std::slice::from_ref(&report)).await?;
                    ensure!(said.counted == 1 && said.blocks == u64::from(n == 5), "report {n}: {said:?}");
                }
                let text = blocked.to_string();
                let time = Some(Duration::from_secs(60));
                let said = client.block(&[&text, "2001:db8::/64"], time, "scraping").await?;
                ensure!(said.added == 2, "{said:?}");
                for address in [reported, blocked] {
                    let found = client.lookup(address).await?;
                    ensure!(found.action == "drop" && found.claims.len() == 1, "{found:?}");
                }
                match client.block(&["127.0.0.1"], None, "").await {
                    Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::Guarded => {}
                    other => bail!("the loopback is guarded: {other:?}"),
                }
                // A refusal does not cost the connection, nor what comes after it.
                ensure!(client.lookup([192, 0, 2, 1].into()).await?.action == "pass", "blocked by nobody");
            }
            Ok(())
        })
    });
}

#[test]
fn a_client_outlives_the_daemon_and_trusts_nobody_else() {
    in_lab("client-restart", |lab| {
        let mut daemon = started(lab)?;
        let shop = remote(lab, &daemon, &["report"])?;
        // Lives on between the requests, with the connections that are kept.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let report = [Report::new([198, 51, 100, 7].into(), "login_failed")];
        let clients = [Client::new(&daemon.places.socket), Client::remote(shop)];
        let all = |expected: &str| -> Result<()> {
            for client in &clients {
                let said = lab.host.enter(|| Ok(runtime.block_on(client.report(&report))))?;
                match (expected, said) {
                    ("counted", Ok(said)) if said.counted == 1 => {}
                    ("unreachable", Err(ClientError::Unreachable { .. })) => {}
                    (_, other) => bail!("expected {expected}: {other:?}"),
                }
            }
            Ok(())
        };
        all("counted")?;
        daemon.kill()?;
        all("unreachable")?;
        daemon.restart()?;
        all("counted")?;

        let stranger: Pin = "sha256:q83vEjRWeJASNFZ4kBI0VniQEjRWeJASNFZ4kBI0Vng=".parse()?;
        let token = "lmt_abcdefgh_0123456789";
        let misled = Client::remote(trusting(stranger, Token::new(token)?)?);
        match run(lab, async move { Ok(misled.report(&report).await) })? {
            Err(error @ ClientError::Untrusted { .. }) => {
                ensure!(!format!("{error} {error:?}").contains(token), "{error}");
            }
            other => bail!("another key than the pinned one: {other:?}"),
        }
        ensure!(
            !Path::new(&daemon.places.log).exists() || !daemon.log().contains(token),
            "the token was sent"
        );
        Ok(())
    });
}

//! Who may do what over the network: every endpoint with every scope, by tokens, JWTs and client certificates, and with
//! credentials that are not good (any more).

pub(crate) mod issuer;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_tests::lab::OUTSIDE;
use limiter_tests::{Daemon, Lab, in_lab, wait};
use limiter_user::tls::{self, Trust};
use serde_json::{Value, json};
use tokio_rustls::rustls::ClientConfig;

use crate::remote::{self, Reply, Session};
use issuer::{Authority, Issuer};

/// A benchmarking network (RFC 2544). Who shows wrong credentials has to wait, and here nobody has to.
const NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const PATIENCE: Duration = Duration::from_secs(20);

const SCOPES: [&str; 7] = ["read", "report", "block:host", "block:prefix/24", "allow", "config", "admin"];

/// An endpoint as the description names it, what it is asked, and whom it is for beside `admin`; no body is a GET. What
/// admins ask changes nothing that the others need.
type Row = (&'static str, &'static str, Option<&'static str>, &'static [&'static str]);

const BLOCKERS: &[&str] = &["block:host", "block:prefix/24"];
const ROWS: [Row; 26] = [
    ("/v1/blocks", "/v1/blocks", None, &["read"]),
    ("/v1/blocks", "/v1/blocks", Some(r#"{"prefixes":["192.0.2.7"]}"#), BLOCKERS),
    ("/v1/blocks", "/v1/blocks", Some(r#"{"prefixes":["192.0.2.0/24"]}"#), &["block:prefix/24"]),
    ("/v1/blocks", "/v1/blocks", Some(r#"{"prefixes":["192.0.0.0/16"]}"#), &[]),
    ("/v1/blocks/remove", "/v1/blocks/remove", Some(r#"{"prefixes":["192.0.2.7"]}"#), BLOCKERS),
    ("/v1/blocks/import", "/v1/blocks/import", Some("192.0.2.7\n"), BLOCKERS),
    ("/v1/allows", "/v1/allows", None, &["read"]),
    ("/v1/allows", "/v1/allows", Some(r#"{"prefixes":["203.0.113.9"]}"#), &["allow"]),
    ("/v1/allows/remove", "/v1/allows/remove", Some(r#"{"prefixes":["203.0.113.9"]}"#), &["allow"]),
    ("/v1/reports", "/v1/reports", Some(r#"{"address":"192.0.2.7","category":"x"}"#), &["report"]),
    ("/v1/explain", "/v1/explain?address=192.0.2.7", None, &["read"]),
    ("/v1/lookup/{address}", "/v1/lookup/192.0.2.7", None, &["read"]),
    ("/v1/status", "/v1/status", None, &["read"]),
    ("/v1/counters", "/v1/counters", None, &["read"]),
    ("/v1/events", "/v1/events", None, &["read"]),
    ("/v1/config/check", "/v1/config/check", Some("x = 1\n"), &["config"]),
    ("/v1/reload", "/v1/reload", Some(""), &["config"]),
    ("/v1/detach", "/v1/detach", Some(r#"{"interfaces":["none"]}"#), &[]),
    ("/v1/changes", "/v1/changes", None, &["read"]),
    (
        "/v1/changes/{id}/confirm",
        "/v1/changes/7/confirm",
        Some(""),
        &["block:host", "block:prefix/24", "allow"],
    ),
    ("/v1/tokens", "/v1/tokens", None, &[]),
    ("/v1/tokens", "/v1/tokens", Some(r#"{"name":"x","scopes":["read"],"expires_in":60}"#), &[]),
    ("/v1/tokens/{id}/revoke", "/v1/tokens/aaaaaaaa/revoke", Some(""), &[]),
    ("/v1/tokens/{id}/rotate", "/v1/tokens/aaaaaaaa/rotate", Some("{}"), &[]),
    ("/v1/openapi.json", "/v1/openapi.json", None, &["read"]),
    ("/v1/nothing", "/v1/nothing", None, &SCOPES),
];
/// For anybody.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

fn method(body: Option<&str>) -> &'static str {
    if body.is_some() { "POST" } else { "GET" }
}

/// Asks on a connection of its own, from another address each time.
struct Strangers {
    config: Arc<ClientConfig>,
    next: u32,
}

impl Strangers {
    fn ask(&mut self, token: &str, path: &str, body: Option<&str>) -> Result<Reply> {
        self.next += 1;
        let from = Ipv4Addr::from(u32::from(NETWORK) + self.next);
        let mut session = Session::open_from(from, Arc::clone(&self.config))?;
        session.ask(method(body), path, token, body.unwrap_or_default())
    }
}

/// The whole table for one caller, on one connection: `has` is its scope.
fn check(config: &Arc<ClientConfig>, token: &str, has: &str) -> Result<usize> {
    let mut session = Session::open(Arc::clone(config))?;
    for (_, path, body, scopes) in ROWS {
        let reply = session.ask(method(body), path, token, body.unwrap_or_default())?;
        let may = has == "admin" || scopes.contains(&has);
        let refused = reply.status == 403;
        ensure!(
            may != refused && reply.status != 401 && reply.status < 500,
            "{has}: {} {path} {body:?} is answered with {}: {}",
            method(body),
            reply.status,
            reply.body
        );
        if path == "/v1/events" && may {
            // An answer without end.
            session = Session::open(Arc::clone(config))?;
        }
    }
    Ok(ROWS.len())
}

/// Nothing that the daemon serves is missing in the table.
fn ensure_complete(description: &str) -> Result<()> {
    let description: Value = serde_json::from_str(description)?;
    let mut served = BTreeSet::new();
    for (path, methods) in description["paths"].as_object().context("paths")? {
        for name in methods.as_object().context("methods")?.keys().filter(|name| *name != "parameters") {
            served.insert((path.as_str(), name.to_uppercase()));
        }
    }
    let rows = ROWS.iter().filter(|row| row.0 != "/v1/nothing");
    let rows = rows.map(|(endpoint, _, body, _)| (*endpoint, method(*body).to_owned()));
    let known: BTreeSet<_> = rows.chain(PROBES.map(|probe| (probe, "GET".to_owned()))).collect();
    ensure!(served == known, "served {served:?}, in the table {known:?}");
    Ok(())
}

fn outside(lab: &Lab) -> Result<()> {
    lab.outside.ip(&format!("route add local {NETWORK}/16 dev lo"))?;
    lab.host.ip(&format!("route add {NETWORK}/16 via {}", OUTSIDE.v4)).map(drop)
}

fn token(daemon: &Daemon, arguments: &str) -> Result<String> {
    let token = daemon.cli.ok(&format!("token create --name test {arguments}"))?;
    Ok(token.trim().to_owned())
}

fn id(token: &str) -> &str {
    token.split('_').nth(1).unwrap_or_default()
}

#[test]
fn every_endpoint_with_every_scope() {
    in_lab("scopes", |lab| {
        outside(lab)?;
        let (ours, theirs) = (Issuer::new("k1")?, Issuer::new("k1")?);
        let jwks = lab.scratch.write("jwks.json", json!({"keys": [ours.jwk()]}).to_string())?;
        let mut api = format!(
            "[api.oauth]\nissuer = {:?}\naudience = {:?}\njwks = {jwks:?}\n",
            Issuer::NAME,
            Issuer::AUDIENCE
        );
        for scope in SCOPES {
            api += &format!("[[api.oauth.role]]\nscope = \"limiter:{scope}\"\nscopes = [\"{scope}\"]\n");
        }
        let (mut daemon, pin) = remote::prepare(lab, &api, "")?;
        remote::launch(&mut daemon)?;
        let config = remote::client(pin, b"http/1.1")?;

        let mut asked = 0;
        for scope in SCOPES {
            let token = token(&daemon, &format!("--scope {scope}"))?;
            let jwt = ours.jwt(&format!("openid limiter:{scope}"), &json!({}))?;
            for credential in [token, jwt] {
                asked += lab.outside.enter(|| check(&config, &credential, scope))?;
            }
        }

        let good = token(&daemon, "--scope admin")?;
        let (revoked, rotated) = (token(&daemon, "--scope admin")?, token(&daemon, "--scope admin")?);
        daemon.cli.ok(&format!("token revoke {}", id(&revoked)))?;
        let renewed = daemon.cli.ok(&format!("token rotate {}", id(&rotated)))?;
        let expired = token(&daemon, "--scope admin --expires 1s")?;
        let last = if good.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{}{last}", &good[..good.len() - 1]);
        let unknown = good.replacen(id(&good), "aaaaaaaa", 1);
        let admin = "limiter:admin";
        let signed = ours.jwt(admin, &json!({}))?;
        let (_, claims) = signed.split_once('.').context("a JWT")?;
        let strangers: [(&str, String); 13] = [
            ("nobody", String::new()),
            ("no token", "x".to_owned()),
            ("revoked", revoked),
            ("rotated", rotated),
            ("expired", expired),
            ("another secret", wrong),
            ("another id", unknown),
            ("an expired JWT", ours.jwt(admin, &json!({"exp": 1_000_000_000}))?),
            ("a JWT of tomorrow", ours.jwt(admin, &json!({"nbf": 4_000_000_000_u64}))?),
            ("another audience", ours.jwt(admin, &json!({"aud": "other"}))?),
            ("another issuer", ours.jwt(admin, &json!({"iss": "https://login.example.org"}))?),
            ("another key", theirs.jwt(admin, &json!({}))?),
            // {"alg":"none"} in base64.
            ("no signature", format!("eyJhbGciOiJub25lIn0.{claims}")),
        ];
        lab.outside.enter(|| {
            let mut callers = Strangers { config: Arc::clone(&config), next: 0 };
            ensure_complete(&callers.ask(&good, "/v1/openapi.json", None)?.body)?;
            ensure!(callers.ask(renewed.trim(), "/v1/status", None)?.status == 200, "the new secret is good");
            wait::until_true("the token has expired", PATIENCE, || {
                Ok(callers.ask(&strangers[4].1, "/v1/tokens", None)?.status == 401)
            })?;
            for (what, credential) in &strangers {
                for (_, path, body, _) in ROWS {
                    let reply = callers.ask(credential, path, body)?;
                    ensure!(reply.status == 401, "{what}: {path} is answered with {}", reply.status);
                    ensure!(
                        reply.header("www-authenticate").is_some(),
                        "{what}: nothing says how to come in"
                    );
                    asked += 1;
                }
                for path in PROBES {
                    ensure!(callers.ask(credential, path, None)?.status == 200, "{what}: {path}");
                }
            }
            // Genuine, and good for nothing.
            for (_, path, body, _) in ROWS {
                let reply = callers.ask(&ours.jwt("openid", &json!({}))?, path, body)?;
                ensure!(
                    reply.status == 403,
                    "a JWT without a role: {path} is answered with {}",
                    reply.status
                );
            }
            Ok(())
        })?;
        println!(
            "{asked} requests, by {} callers who may something and {} who may not",
            2 * SCOPES.len(),
            strangers.len()
        );
        Ok(())
    });
}

#[test]
fn client_certificates_have_roles() {
    in_lab("certificates", |lab| {
        outside(lab)?;
        let (ours, theirs) = (Authority::new()?, Authority::new()?);
        let ca = lab.scratch.write("clients.pem", ours.pem())?;
        let mut api = format!("client_ca = {ca:?}\n");
        let name = |scope: &str| format!("{}.example.net", scope.replace([':', '/'], "-"));
        for scope in SCOPES {
            let (name, owner) = (name(scope), scope.replace([':', '/'], "-"));
            api +=
                &format!("[[api.client]]\nname = \"{name}\"\nowner = \"{owner}\"\nscopes = [\"{scope}\"]\n");
        }
        let (mut daemon, pin) = remote::prepare(lab, &api, "")?;
        remote::launch(&mut daemon)?;
        let here = lab.scratch.path("");
        let with = |authority: &Authority, name: &str| {
            let (certificate, key) = authority.issue(name, &here)?;
            let identity = Some((certificate.as_path(), key.as_path()));
            tls::client(Trust { pins: &[pin], ca: None, identity })
        };
        for scope in SCOPES {
            let config = with(&ours, &name(scope))?;
            lab.outside.enter(|| check(&config, "", scope))?;
        }
        let claims = daemon.cli.ok("block list --owner app:block-host")?;
        ensure!(claims.contains("192.0.2.7"), "what a certificate blocks is its owner's: {claims}");

        // A header counts more than a certificate.
        let config = with(&ours, &name("read"))?;
        let reports = token(&daemon, "--scope report")?;
        lab.outside.enter(|| check(&config, &reports, "report"))?;

        let unnamed = with(&ours, "other.example.net")?;
        let wrong = format!("{}0", &reports[..reports.len() - 1]);
        let foreign = with(&theirs, &name("admin"))?;
        let none = remote::client(pin, b"http/1.1")?;
        lab.outside.enter(|| {
            for (_, path, body, _) in ROWS {
                let ask = |config: &Arc<ClientConfig>, token: &str| {
                    let mut session = Session::open(Arc::clone(config))?;
                    session.ask(method(body), path, token, body.unwrap_or_default())
                };
                let reply = ask(&unnamed, "")?;
                ensure!(reply.status == 403, "not named: {path} is answered with {}", reply.status);
                // TLS says no, and so does nobody else.
                ensure!(ask(&foreign, "").is_err(), "{path} is answered to somebody of another issuer");
                ensure!(
                    ask(&none, &reports).is_err(),
                    "{path} is answered to somebody without a certificate"
                );
            }
            let admin = with(&ours, &name("admin"))?;
            if wrong != reports {
                let reply = Session::open(admin)?.ask("GET", "/v1/status", &wrong, "")?;
                ensure!(reply.status == 401, "a wrong token beside a good certificate: {}", reply.status);
            }
            Ok(())
        })
    });
}

//! A daemon with its policy, its API and its clients, before, during and after the load.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::{Config, Daemon, Lab};
use limiter_user::client::{Client, Remote, Token, Trust};
use serde_json::{Value, json};

use super::attack::{self, Attack, Work};
use super::clients::{self, Done, Load, Pace};
use super::kept;

/// How long it is looked at before the load.
const BEFORE: Duration = Duration::from_secs(3);
/// Where the API is.
const URL: &str = "https://127.0.0.1:9743";

/// Which way applications ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Socket,
    Tls,
}

pub(super) struct Scene<'a> {
    lab: &'a Lab,
    daemon: Daemon,
    /// `None`: over the control socket.
    remote: Option<Remote>,
    /// Whose the blocks are.
    owner: &'static str,
}

/// All that was found.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) done: Done,
    /// Sources that have to be blocked.
    pub(super) blocked: u32,
    /// Those of them that the kernel lets through, and those that the list did not have after kill -9.
    pub(super) not_enforced: u32,
    pub(super) forgotten: u32,
    /// The flood, before and during the load; and how many of its packets came through in all.
    pub(super) before: Work,
    pub(super) during: Work,
    pub(super) passed: u64,
    /// Share of a CPU that the daemon took during the load.
    pub(super) cpu: f64,
    /// What it had in memory at the end, in bytes.
    pub(super) memory: u64,
}

impl<'a> Scene<'a> {
    pub(super) fn new(lab: &'a Lab, way: Way) -> Result<Self> {
        let directory = lab.scratch.path("");
        let tables = format!(
            "[capacity]\naddresses_v4 = {}\n[api]\ncertificate = {:?}\nkey = {:?}\n{}",
            1 << 21,
            directory.join("api.pem"),
            directory.join("api.key"),
            clients::policy(),
        );
        let mut daemon = Daemon::prepare(lab, "load", &Config { tables, ..Config::default() })?;
        let certificate = format!("api certificate --name 127.0.0.1 --out {}", directory.display());
        daemon.cli.ok(&certificate)?;
        daemon.launch()?;
        daemon.wait_ready()?;
        let (remote, owner) = match way {
            Way::Socket => (None, "operator"),
            Way::Tls => (Some(remote(&daemon, &directory.join("api.pem"))?), "app:load"),
        };
        Ok(Self { lab, daemon, remote, owner })
    }

    pub(super) fn run(mut self, load: Load, pace: &Pace) -> Result<Outcome> {
        let lab = self.lab;
        lab.witness.watch("attack", &format!("ip saddr {}", attack::SOURCE))?;
        self.daemon.cli.ok(&format!("block add {}", attack::SOURCE))?;
        let attack = Attack::begin(lab)?;
        let first = attack.now()?;
        std::thread::sleep(BEFORE);
        let (second, cpu) = (attack.now()?, self.cpu()?);
        let begun = Instant::now();
        let (remote, socket) = (&self.remote, &self.daemon.places.socket);
        let client = || remote.clone().map_or_else(|| Client::new(socket), Client::remote);
        let done = lab.host.enter(|| clients::run(&client, load, pace, &AtomicBool::new(false)))?;
        let cpu = (self.cpu()? - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
        let third = attack.now()?;
        let sent = attack.end()?;
        let dropped = self.daemon.cli.counter(HOST.interface, "blocked")?;
        ensure!(dropped == sent, "{sent} packets of a blocked source were sent, and {dropped} dropped");
        let memory = self.daemon.memory()?;

        let blocked = pace.sources(load);
        ensure!(done.told == u64::from(blocked), "{} blocks by the answers, not {blocked}", done.told);
        let not_enforced = kept::not_enforced(lab, blocked)?;
        self.daemon.kill()?;
        self.daemon.restart()?;
        let forgotten = kept::forgotten(&self.daemon, self.owner, blocked)?;
        let passed = lab.witness.count("attack")?;
        self.daemon.terminate()?;
        self.daemon.remove_pins()?;
        let (before, during) = (first.until(second), second.until(third));
        Ok(Outcome { done, blocked, not_enforced, forgotten, before, during, passed, cpu, memory })
    }

    /// What the daemon has computed until now.
    fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.daemon.pid()?))?;
        // The name may have spaces, and is in brackets.
        let (_, rest) = stat.rsplit_once(')').context("not the statistics of a process")?;
        let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        let ticks = ticks.sum::<Result<u64, _>>()?;
        // USER_HZ is 100 on every architecture that there is an eBPF compiler for.
        Ok(Duration::from_millis(ticks * 10))
    }
}

/// The way over TLS, with a token that may report and block hosts.
fn remote(daemon: &Daemon, certificate: &Path) -> Result<Remote> {
    let printed = daemon.cli.ok("token create --name load --scope report --scope block:host")?;
    let token = printed.lines().find(|line| line.starts_with("lmt_")).context("no token was printed")?;
    let trust = Trust { pins: &[], ca: Some(certificate), identity: None };
    Remote::new(&URL.parse()?, trust, Some(Token::new(token)?))
}

impl Outcome {
    pub(super) fn json(&self) -> Value {
        json!({
            "per_second": self.done.rate(),
            "acknowledged": self.done.acknowledged,
            "blocked": self.blocked,
            "not_enforced": self.not_enforced,
            "forgotten": self.forgotten,
            "passed": self.passed,
            "answer_ms": {
                "median": self.done.latency(0.5),
                "p99": self.done.latency(0.99),
                "most": self.done.latency(1.0),
            },
            "dropped_per_second": { "before": self.before.per_second(), "during": self.during.per_second() },
            "program_ns": { "before": self.before.nanoseconds(), "during": self.during.nanoseconds() },
            "daemon_cpu": self.cpu,
            "daemon_bytes": self.memory,
        })
    }
}

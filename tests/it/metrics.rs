//! What monitoring sees: the numbers are those of the traffic, and Prometheus itself agrees with the format.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use limiter_common::testing::frames::Arp;
use limiter_tests::lab::{HOST, Lab, OUTSIDE};
use limiter_tests::netns::output;
use limiter_tests::tcp::get;
use limiter_tests::traffic::{Flood, Sender, same};
use limiter_tests::{Config, Daemon, frames, in_lab, skip, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const INTERFACE: &str = HOST.interface;
const LISTEN: &str = "127.0.0.1:9742";

fn monitored() -> Config {
    let limit = "[[rule]]\nname = \"all\"\nlimit = [ { per = \"source\", rate = \"1k/s\", burst = 100 } ]\n";
    Config { metrics: Some(LISTEN), tables: limit.to_owned(), ..Config::default() }
}

/// Samples by name and labels, as they are written.
fn scrape(lab: &Lab) -> Result<BTreeMap<String, f64>> {
    let (status, body) = get(&lab.host, LISTEN.parse()?, "/metrics")?;
    ensure!(status.contains(" 200 "), "{status}");
    body.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
            Ok((name.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
        })
        .collect()
}

/// The sum of the samples of `metric` that have all of `labels`.
fn sum(samples: &BTreeMap<String, f64>, metric: &str, labels: &[&str]) -> f64 {
    let fits = |name: &str| name.split('{').next() == Some(metric) && labels.iter().all(|l| name.contains(l));
    samples.iter().filter(|(name, _)| fits(name)).map(|(_, value)| value).sum()
}

/// Frames that the outside end of the link has sent.
fn transmitted(lab: &Lab) -> Result<u64> {
    let text = lab.outside.ip(&format!("-j -s link show {}", OUTSIDE.interface))?;
    let link: Value = serde_json::from_str(&text)?;
    link[0]["stats64"]["tx"]["packets"].as_u64().context("the link does not count")
}

/// Something for every kind of reason.
fn mixed_traffic(lab: &Lab, daemon: &Daemon) -> Result<()> {
    daemon.cli.ok("block add 198.51.100.7 2001:db8:bad::/48")?;
    daemon.cli.ok("allow add 203.0.113.1")?;
    let sender = Sender::open(lab)?;
    for source in ["198.51.100.7", "2001:db8:bad::7", "203.0.113.1", "203.0.113.2", "2001:db8::2"] {
        for framing in frames::framings(source.parse()?) {
            sender.send(&framing.frames)?;
        }
    }
    sender.send(&[frames::framed(&[], &[Arp::default().into()])])?;
    let generators =
        vec![same(frames::udp("198.51.100.7".parse()?, 200)), same(frames::udp("203.0.113.3".parse()?, 200))];
    Flood::run(lab, 5_000, generators, Duration::from_secs(1)).map(drop)
}

#[test]
fn counters_add_up_to_the_frames_sent() {
    in_lab("metrics", |lab| {
        let daemon = Daemon::start(lab, &monitored())?;
        let (before, sent_before) = (scrape(lab)?, transmitted(lab)?);
        mixed_traffic(lab, &daemon)?;
        let (after, sent_after) = (scrape(lab)?, transmitted(lab)?);
        let grown =
            |metric: &str, labels: &[&str]| sum(&after, metric, labels) - sum(&before, metric, labels);
        let interface = format!("interface=\"{INTERFACE}\"");
        let packets = grown("limiter_packets_total", &[&interface]);
        let dropped = grown("limiter_packets_total", &[&interface, "action=\"drop\""]);
        let sent = sent_after - sent_before;
        println!("{sent} frames sent, {packets} counted, {dropped} of them dropped");
        ensure!(packets == sent as f64, "{sent} frames were sent, and {packets} counted");
        for reason in ["blocked", "allowed", "passed", "packet_rate", "not_ip", "chain_too_long"] {
            let label = format!("reason=\"{reason}\"");
            ensure!(grown("limiter_packets_total", &[&label]) > 0.0, "nothing counted as {reason}");
        }
        // All frames of the flood from the blocked source have 200 bytes.
        let bytes = grown("limiter_bytes_total", &["reason=\"blocked\""]);
        let blocked = grown("limiter_packets_total", &["reason=\"blocked\""]);
        ensure!(bytes > blocked * 150.0 && bytes < blocked * 220.0, "{bytes} bytes in {blocked} packets");
        // The command line says the same.
        let counters = daemon.cli.counters(INTERFACE)?;
        for reason in ["blocked", "packet_rate"] {
            let label = format!("reason=\"{reason}\"");
            let metric = sum(&after, "limiter_packets_total", &[&label]);
            ensure!(counters.packets(reason) as f64 == metric, "{reason}: {counters} against {metric}");
        }
        ensure!(sum(&after, "limiter_xdp_attached", &[&interface, "mode=\"native\""]) == 1.0);
        ensure!(sum(&after, "limiter_interface_protected", &[&interface]) == 1.0);
        ensure!(sum(&after, "limiter_build_info", &[]) == 1.0);
        ensure!(sum(&after, "limiter_blocks", &[]) == 2.0);
        ensure!(sum(&after, "limiter_map_capacity", &["map=\"addresses_v4\""]) > 0.0);
        // Nothing grows with the number of attackers.
        ensure!(!after.keys().any(|name| name.contains("198.51.100")), "an address is a label");
        Ok(())
    });
}

#[test]
fn other_paths_are_not_found() {
    in_lab("paths", |lab| {
        let _daemon = Daemon::start(lab, &monitored())?;
        let (status, _) = get(&lab.host, LISTEN.parse()?, "/")?;
        ensure!(status.contains(" 404 ") || status.contains(" 200 "), "{status}");
        let (status, _) = get(&lab.host, LISTEN.parse()?, "/v1/status")?;
        ensure!(status.contains(" 404 "), "the control API is served to the network: {status}");
        Ok(())
    });
}

/// Whether Prometheus' programs are here; if not the test is skipped.
fn prometheus_is_missing(lab: &Lab, test: &str) -> bool {
    let missing = ["promtool", "prometheus"].into_iter().find(|program| {
        let mut command = lab.host.command(program);
        command.arg("--version");
        output(command, None).is_err()
    });
    if let Some(program) = missing {
        skip(test, &format!("there is no {program}: `cargo xtask test` gets it where there is apt"));
    }
    missing.is_some()
}

#[test]
fn promtool_finds_nothing_wrong() {
    in_lab("promtool", |lab| {
        if prometheus_is_missing(lab, "metrics::promtool_finds_nothing_wrong") {
            return Ok(());
        }
        let daemon = Daemon::start(lab, &monitored())?;
        mixed_traffic(lab, &daemon)?;
        let (_, body) = get(&lab.host, LISTEN.parse()?, "/metrics")?;
        let mut command = lab.host.command("promtool");
        command.args(["check", "metrics"]);
        // It fails if there is anything to complain about.
        let said = output(command, Some(&body))?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    });
}

#[test]
fn a_prometheus_server_scrapes() {
    const SERVER: &str = "127.0.0.1:9090";
    in_lab("prometheus", |lab| {
        if prometheus_is_missing(lab, "metrics::a_prometheus_server_scrapes") {
            return Ok(());
        }
        let daemon = Daemon::start(lab, &monitored())?;
        mixed_traffic(lab, &daemon)?;
        let config = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n\
             scrape_configs:\n  - job_name: limiter\n    static_configs:\n      - targets: [\"{LISTEN}\"]\n"
        );
        let config = lab.scratch.write("prometheus.yml", config)?;
        let log = std::fs::File::create(lab.scratch.path("prometheus.log"))?;
        let mut command = lab.host.command("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", lab.scratch.path("tsdb").display()))
            .arg(format!("--web.listen-address={SERVER}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut server = command.spawn()?;
        let address: SocketAddr = SERVER.parse()?;
        let query = |expression: &str| -> Result<Option<f64>> {
            let path = format!("/api/v1/query?query={expression}");
            let Ok((_, body)) = get(&lab.host, address, &path) else { return Ok(None) };
            let answer: Value = serde_json::from_str(&body).unwrap_or_default();
            Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
        };
        let outcome = (|| {
            wait::until("Prometheus has scraped", Duration::from_secs(20), || {
                Ok(query("up%7Bjob%3D%22limiter%22%7D")?.filter(|up| *up == 1.0))
            })?;
            let blocked = daemon.cli.counter(INTERFACE, "blocked")? as f64;
            ensure!(blocked > 1_000.0, "only {blocked} packets were blocked");
            let expression = "limiter_packets_total%7Breason%3D%22blocked%22%7D";
            let (_, took) = wait::until("Prometheus has the counter", Duration::from_secs(10), || {
                Ok(query(expression)?.filter(|value| *value == blocked))
            })?;
            println!("Prometheus: up is 1, and {blocked} packets were blocked, seen after {took:.0?}");
            Ok(())
        })();
        kill(Pid::from_raw(i32::try_from(server.id())?), Signal::SIGKILL)?;
        server.wait()?;
        outcome
    });
}

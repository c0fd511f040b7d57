//! Blocks over the control socket, one by one and in batches; each request waits for the answer to the one before, and
//! with the answer its blocks are durable. Beside them one block by a command of ipset or nftables, as fail2ban does it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use limiter_tests::netns::output;
use limiter_tests::{Config, Daemon, Lab, Namespace};
use serde_json::{Value, json};

use super::others::is_installed;
use super::socket::Connection;
use crate::report::Spread;
use crate::sources::listed_v4;
use crate::statistics::spread;

/// Blocks in a request, and how many requests, in the long form and in the short one.
const REQUESTS: [(u32, [u32; 2]); 3] = [(1, [1000, 200]), (1000, [40, 10]), (10_000, [20, 5])];
/// Connections that ask at the same time for one block after the other, how many requests each, and how often all of it.
const CONNECTIONS: [u32; 2] = [8, 32];
const MANY_REQUESTS: u32 = 500;
const ROUNDS: u32 = 3;
/// Commands of others.
const COMMANDS: u32 = 50;

/// Measures and prints; the result is for the JSON.
pub(super) fn run(lab: &Lab, quick: bool) -> Result<Value> {
    let mut daemon = Daemon::prepare(lab, "requests", &Config::default())?;
    daemon.launch()?;
    daemon.wait_ready()?;
    let mut connection = Connection::open(&daemon.places.socket)?;
    let mut addresses = (0..).map(address);
    println!("  blocks a second:");
    let mut figures = Vec::new();
    for (blocks, [long, short]) in REQUESTS {
        let mut rates = Vec::new();
        for _ in 0..if quick { short } else { long } {
            let prefixes = addresses.by_ref().take(blocks as usize).collect();
            let start = Instant::now();
            connection.block(prefixes)?;
            rates.push(f64::from(blocks) / start.elapsed().as_secs_f64());
        }
        let rate = line(&format!("limiter, {blocks} in a request, durable"), &rates);
        figures.push(json!({ "blocks": blocks, "per_second": rate.json() }));
    }
    for connections in CONNECTIONS {
        let requests = if quick { MANY_REQUESTS / 5 } else { MANY_REQUESTS };
        let rates = (0..ROUNDS).map(|_| {
            let prefixes = addresses.by_ref().take((connections * requests) as usize).collect();
            at_the_same_time(&daemon.places.socket, connections, prefixes)
        });
        let rates: Vec<f64> = rates.collect::<Result<_>>()?;
        let rate = line(&format!("limiter, 1 in a request, {connections} connections"), &rates);
        figures.push(json!({ "blocks": 1, "connections": connections, "per_second": rate.json() }));
    }
    daemon.terminate()?;
    daemon.remove_pins()?;
    let mut others = serde_json::Map::new();
    for (program, prepare, add) in [
        ("ipset", "create listed hash:ip", "add listed"),
        (
            "nft",
            "add table inet filter; add set inet filter listed { type ipv4_addr; }",
            "add element inet filter listed",
        ),
    ] {
        if !is_installed(program) {
            continue;
        }
        let namespace = Namespace::new()?;
        let command = |words: &str| -> Command {
            let mut command = namespace.command(program);
            if program == "nft" {
                command.arg(words)
            } else {
                command.args(words.split_whitespace())
            };
            command
        };
        output(command(prepare), None).context(program)?;
        let mut rates = Vec::new();
        for address in (0..COMMANDS).map(address) {
            let add =
                if program == "nft" { format!("{add} {{ {address} }}") } else { format!("{add} {address}") };
            let start = Instant::now();
            output(command(&add), None).context(program)?;
            rates.push(1.0 / start.elapsed().as_secs_f64());
        }
        let rate = line(&format!("{program}, 1 in a command, not durable"), &rates);
        others.insert(program.to_owned(), rate.json());
    }
    Ok(json!({ "limiter": figures, "commands": others }))
}

/// Blocks all of `prefixes`, one in a request, over so many connections; returns how many a second.
fn at_the_same_time(socket: &Path, connections: u32, prefixes: Vec<String>) -> Result<f64> {
    let each = prefixes.len().div_ceil(connections as usize).max(1);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads = prefixes.chunks(each).map(|part| {
            scope.spawn(move || -> Result<()> {
                let mut connection = Connection::open(socket)?;
                part.iter().try_for_each(|prefix| connection.block(vec![prefix.clone()]))
            })
        });
        // All of them run before the first is waited for.
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("a connection gave up"),
        })
    })?;
    Ok(f64::from(u32::try_from(prefixes.len())?) / start.elapsed().as_secs_f64())
}

fn address(index: u32) -> String {
    Ipv4Addr::from(listed_v4(index)).to_string()
}

fn line(what: &str, rates: &[f64]) -> Spread {
    let rate = spread(rates);
    println!("    {what:<45} {:>8.0}   ({:.0} – {:.0})", rate.median, rate.low, rate.high);
    rate
}

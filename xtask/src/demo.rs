//! `cargo xtask demo`: the real daemon protects a real interface from a real flood, live, in namespaces of its own.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use limiter_tests::{
    Config, Daemon, Lab,
    cli::Counters,
    frames,
    lab::HOST,
    tcp::{Client, Served, Server},
    traffic::{Flood, Generator, same},
};

use crate::{build, setup, workspace};

/// What a source may send a second, and at once.
const LIMIT: u32 = 1_000;
const BURST: u32 = 500;
/// What is sent a second: by blocked sources, and by one that is over its limit.
const ATTACK: u32 = 20_000;
const EXCESS: u32 = 10_000;

const BLOCKED: [&str; 2] = ["198.51.100.7", "2001:db8:bad::7"];
const GREEDY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// The second stage finds the binaries there: it runs as root, and what was built belongs to the user.
const BUILT: &str = "LIMITER_BIN_DIR";

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long the flood lasts
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3600))]
    seconds: u32,
}

/// Shows everything; fails if anything got through that should not, or the client was not served.
pub(crate) fn demo(arguments: &Arguments) -> Result<()> {
    let binaries = match std::env::var_os(BUILT) {
        Some(directory) => directory.into(),
        None => {
            build::binaries()?;
            workspace::binaries()?
        }
    };
    if !workspace::is_root() {
        return as_root(&binaries, arguments);
    }
    setup::tools(&[setup::Tool::Ip, setup::Tool::Nft])?;

    let lab = Lab::with_binaries("demo", binaries)?;
    lab.witness.block(&BLOCKED)?;
    lab.witness.watch("greedy", &format!("ip saddr {GREEDY}"))?;
    let limit = format!(
        "[[rule]]\nname = \"default\"\nlimit = [ {{ per = \"source\", rate = \"{LIMIT}/s\", burst = {BURST} }} ]\n"
    );
    let daemon = Daemon::start(&lab, &Config { tables: limit, ..Config::default() })?;
    let reason = "--reason demo";
    daemon.cli.ok(&format!("block add {} {reason}", BLOCKED.join(" ")))?;
    let status = daemon.cli.json("status")?;
    let mode = status["interfaces"][0]["mode"].as_str().context("status does not tell the mode")?;

    println!("limiterd protects {} ({mode} XDP) in a network namespace of its own.", HOST.interface);
    println!("Blocked: {}. Limit: {LIMIT} packets/s per source.", BLOCKED.join(" and "));
    println!("Sent to it: {ATTACK} packets/s of the blocked sources, in every framing that gets past others");
    println!(
        "(priority tags, fragments, extension headers …); {EXCESS}/s of one source over its limit; and an"
    );
    println!("HTTP client that asks again and again. Behind XDP, nftables counts what got through.\n");

    let _server = Server::start(&lab)?;
    let start = Instant::now();
    let before = daemon.cli.counters(HOST.interface)?;
    let attack = Flood::start(&lab, ATTACK, vec![attack()?])?;
    let excess = Flood::start(&lab, EXCESS, vec![same(frames::udp(GREEDY.into(), 60))])?;
    let client = Client::start(&lab, HOST.v4.into(), Duration::from_millis(10))?;

    let mut view = View::new(before.clone());
    for second in 1..=arguments.seconds {
        let tick = start + Duration::from_secs(second.into());
        std::thread::sleep(tick.saturating_duration_since(Instant::now()));
        let now = Moment {
            second,
            counters: daemon.cli.counters(HOST.interface)?,
            attack: attack.sent(),
            excess: excess.sent(),
            through: lab.witness.blocked()?,
            admitted: lab.witness.count("greedy")?,
            served: client.served(),
        };
        view.show(&now)?;
    }

    let attack = attack.stop()?;
    let excess = excess.stop()?;
    let served = client.stop();
    let counted = daemon.cli.counters(HOST.interface)?.since(&before);
    let through = lab.witness.blocked()?;
    let admitted = lab.witness.count("greedy")?;
    // One more, since the first is due at once.
    let allowance = (f64::from(LIMIT) * excess.time.as_secs_f64() * 1.01) + f64::from(BURST) + 1.0;

    println!("\nAfter {} s, {} frames were dropped:", arguments.seconds, grouped(dropped(&counted)));
    for count in counted.0.iter().filter(|count| count.drops && count.packets > 0) {
        println!("  {:>12}  {}", grouped(count.packets), count.reason);
    }
    println!("Of {} packets of blocked sources {through} got through.", grouped(attack.frames));
    println!(
        "Of {} packets of the source over its limit {} got through; its limit allows {allowance:.0}.",
        grouped(excess.frames),
        grouped(admitted)
    );
    println!("The client: {served}.");

    ensure!(through == 0, "{through} packets of blocked sources got through");
    ensure!(admitted as f64 <= allowance, "the source over its limit got {admitted} packets through");
    ensure!(served.success() >= 0.99, "the client was not served: {}", served.problem.unwrap_or_default());
    ensure!(
        dropped(&counted) >= attack.frames,
        "{} frames of blocked sources were sent, and {} dropped: where are the others?",
        attack.frames,
        dropped(&counted)
    );
    Ok(())
}

/// Once more, by sudo.
fn as_root(binaries: &std::path::Path, arguments: &Arguments) -> Result<()> {
    let sudo = workspace::find_program("sudo")
        .context("network namespaces and XDP need root, and there is no sudo here; run this as root")?;
    let xtask = std::env::current_exe().context("finding the path of xtask")?;
    let mut command = Command::new(sudo);
    command.arg("--").arg("env").arg(format!("{BUILT}={}", binaries.display())).arg(xtask);
    command.args(["demo", "--seconds", &arguments.seconds.to_string()]);
    Err(command.exec()).context("starting sudo")
}

/// Packets of the blocked sources, in all framings that Linux would deliver, one after the other.
fn attack() -> Result<Generator> {
    let mut all = Vec::new();
    for source in BLOCKED {
        let source: IpAddr = source.parse()?;
        all.extend(frames::framings(source).into_iter().filter(|f| f.delivered).flat_map(|f| f.frames));
    }
    let mut turn = 0;
    Ok(Box::new(move |next| {
        turn = (turn + 1) % all.len();
        next.clone_from(&all[turn]);
    }))
}

fn dropped(counters: &Counters) -> u64 {
    counters.0.iter().filter(|count| count.drops).map(|count| count.packets).sum()
}

/// All figures at one moment.
struct Moment {
    second: u32,
    counters: Counters,
    /// Packets sent by blocked sources, and by the one over its limit.
    attack: u64,
    excess: u64,
    /// Of them, got through.
    through: u64,
    admitted: u64,
    served: Served,
}

/// What is on the terminal: a block that is drawn over itself, or plain lines where that is not possible.
struct View {
    terminal: bool,
    /// Lines drawn, to be drawn over.
    drawn: usize,
    last: Counters,
    last_attack: u64,
    last_excess: u64,
    last_requests: u64,
}

impl View {
    fn new(counters: Counters) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { terminal, drawn: 0, last: counters, last_attack: 0, last_excess: 0, last_requests: 0 }
    }

    fn show(&mut self, now: &Moment) -> Result<()> {
        let text = if self.terminal { self.block(now)? } else { self.line(now) };
        let mut out = std::io::stdout().lock();
        if self.drawn > 0 {
            // Up to the first line, and everything below it away.
            write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        self.drawn = if self.terminal { text.lines().count() } else { 0 };
        self.last = now.counters.clone();
        self.last_attack = now.attack;
        self.last_excess = now.excess;
        self.last_requests = now.served.requests;
        Ok(())
    }

    fn line(&self, now: &Moment) -> String {
        let second = now.counters.since(&self.last);
        format!(
            "{:>3} s  dropped/s: {} blocked, {} packet_rate  got through: {} blocked, {} over limit  client: {} of {} \
             served\n",
            now.second,
            grouped(second.packets("blocked")),
            grouped(second.packets("packet_rate")),
            now.through,
            grouped(now.admitted),
            now.served.requests - now.served.failed,
            now.served.requests,
        )
    }

    fn block(&self, now: &Moment) -> Result<String> {
        let second = now.counters.since(&self.last);
        let mut text = String::new();
        writeln!(text, "  {:>3} s                       sent/s   got through in all", now.second)?;
        writeln!(
            text,
            "  blocked sources         {:>10}   {:>10}",
            grouped(now.attack - self.last_attack),
            grouped(now.through)
        )?;
        writeln!(
            text,
            "  source over its limit   {:>10}   {:>10}",
            grouped(now.excess - self.last_excess),
            grouped(now.admitted)
        )?;
        writeln!(
            text,
            "  HTTP client             {:>10}   {:>10} of {} requests served, median {:.1?}",
            grouped(now.served.requests - self.last_requests),
            grouped(now.served.requests - now.served.failed),
            grouped(now.served.requests),
            now.served.latency(50)
        )?;
        writeln!(text, "\n  in the kernel         packets/s       in all")?;
        for (count, total) in second.0.iter().zip(&now.counters.0).filter(|(_, total)| total.packets > 0) {
            writeln!(
                text,
                "  {} {:<16} {:>10}   {:>10}",
                if count.drops { "drop" } else { "pass" },
                count.reason,
                grouped(count.packets),
                grouped(total.packets)
            )?;
        }
        Ok(text)
    }
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}

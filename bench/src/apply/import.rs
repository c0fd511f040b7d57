//! A large file, by the command line and the daemon.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use limiter_tests::{Config, Daemon, Lab};

use super::{Samples, probe};
use crate::sources::listed_v4;

/// Addresses of the file, evenly spread and the last among them, that are watched until they are dropped.
const WATCHED: u32 = 64;
/// How often there is a packet of each: how exact the figure is.
const EVERY: Duration = Duration::from_millis(3);
const LOOK: Duration = Duration::from_millis(1);
/// Packets of each behind the answer.
const AFTER: usize = 3;

/// From the start of the command on.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Until every watched address was dropped.
    pub(super) enforced: Samples,
    /// Until the command ended, which is when everything is durable too.
    pub(super) durable: Samples,
}

impl Times {
    pub(super) fn add(&mut self, (enforced, durable): (Duration, Duration)) {
        self.enforced.add(enforced);
        self.durable.add(durable);
    }
}

/// How long it took with a new daemon until the addresses of `file` were enforced, and until they were durable.
pub(super) fn run(lab: &Lab, round: u32, file: &Path, count: u32) -> Result<(Duration, Duration)> {
    let mut daemon = Daemon::prepare(lab, &format!("import{round}"), &Config::default())?;
    daemon.launch()?;
    daemon.wait_ready()?;
    let watched: Vec<Ipv4Addr> =
        (1..=WATCHED).map(|part| listed_v4(part * (count / WATCHED) - 1).into()).collect();
    let ((start, durable), drops) = probe::watch(lab, &watched, EVERY, None, |listener| {
        let mut command = daemon.cli.command(&["block", "import", "--force"]);
        command.arg(file).stdout(Stdio::null()).stderr(Stdio::inherit());
        let start = Instant::now();
        let mut import = command.spawn().context("cannot start limiter")?;
        let status = loop {
            if let Some(status) = import.try_wait().context("cannot wait for limiter")? {
                break status;
            }
            listener.note()?;
            thread::sleep(LOOK);
        };
        let durable = start.elapsed();
        ensure!(status.success(), "the import failed: {status}");
        listener.wait_for(AFTER)?;
        Ok((start, durable))
    })?;
    let enforced =
        drops.into_iter().collect::<Option<Vec<Instant>>>().and_then(|drops| drops.into_iter().max());
    let enforced = enforced.context("a watched address is not dropped after the import")? - start;
    let blocks = &daemon.cli.json("status")?["blocks"];
    ensure!(*blocks == count, "{blocks} of {count} addresses are blocked after the import");
    daemon.terminate()?;
    daemon.remove_pins()?;
    Ok((enforced, durable))
}

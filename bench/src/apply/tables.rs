//! From parsed entries to enforced: the daemon's own writer on the kernel's own tables, which are empty and of the size
//! that the daemon makes them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use limiter_common::abi::Entry;
use limiter_common::{Address, Nanos, Prefix};
use limiter_tests::Lab;
use limiter_user::config::Capacity;
use limiter_user::dataplane::Change;
use limiter_user::dataplane::kernel::{Dataplane, OpenOptions};

use crate::sources::listed_v4;

/// As by default, see `config.example.toml`.
const CAPACITY: Capacity = Capacity {
    addresses_v4: 1 << 20,
    addresses_v6: 1 << 18,
    prefixes_v4: 1 << 18,
    prefixes_v6: 1 << 18,
    sources: 1 << 19,
};

/// How long `count` blocks took.
pub(super) fn fill(lab: &Lab, round: u32, count: u32) -> Result<Duration> {
    let pins = lab.scratch.bpffs().join(format!("tables{round}"));
    let options =
        OpenOptions { pins_directory: pins.clone(), capacity: CAPACITY, log_drops: false, replace: false };
    let changes: Vec<Change> = (0..count)
        .map(|index| Change {
            prefix: Prefix::host(Address::V4(listed_v4(index).to_be_bytes())),
            entry: Entry { block_until: Nanos::NEVER.0, allow_until: 0 },
        })
        .collect();
    let dataplane = Dataplane::open(&options)?;
    let mut writer = dataplane.writer();
    let start = Instant::now();
    writer.apply(&changes).context("cannot fill the tables")?;
    let time = start.elapsed();
    let installed = writer.installed().context("cannot read the tables")?.len();
    ensure!(installed == changes.len(), "{installed} of {count} blocks are in the tables");
    drop((writer, dataplane));
    std::fs::remove_dir_all(&pins).with_context(|| format!("cannot remove {}", pins.display()))?;
    Ok(time)
}

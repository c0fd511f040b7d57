//! What is left of what was acknowledged: in the kernel, and in the list after kill -9.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use limiter_tests::{Daemon, Lab, frames};
use limiter_user::dataplane::kernel::testrun;

use super::{attack, clients};

/// How many of the first `count` sources the program on the interface lets through.
pub(super) fn not_enforced(lab: &Lab, count: u32) -> Result<u32> {
    let program = attack::program(lab)?;
    let mut missing = 0;
    let mut frame = frames::udp(clients::blocked(0).into(), 60);
    for number in 0..count {
        frames::set_source(&mut frame, clients::blocked(number).into());
        missing += u32::from(testrun::passes(program, &frame)?);
    }
    Ok(missing)
}

/// How many of them the list of the daemon does not have.
pub(super) fn forgotten(daemon: &Daemon, owner: &str, count: u32) -> Result<u32> {
    let listed = daemon.cli.ok(&format!("block export --owner {owner}"));
    let listed = listed.context("cannot read the list")?;
    let listed: HashSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let missing = (0..count).filter(|number| {
        let source = clients::blocked(*number).to_string();
        !listed.contains(source.as_str())
    });
    Ok(u32::try_from(missing.count())?)
}

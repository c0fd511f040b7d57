//! What people use today for large lists: `ipset restore` and `nft -f`, each from a file of its own format and in a
//! network namespace of its own.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use limiter_tests::netns::output;
use limiter_tests::{Lab, Namespace};

use crate::sources::listed_v4;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    Ipset,
    Nft,
}

impl Other {
    pub(super) const ALL: [Self; 2] = [Self::Ipset, Self::Nft];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ipset => "ipset restore",
            Self::Nft => "nft -f",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Ipset => "ipset",
            Self::Nft => "nft",
        }
    }
}

/// The same addresses for each of us.
#[derive(Debug)]
pub(super) struct Files {
    /// One a line.
    pub(super) list: PathBuf,
    ipset: PathBuf,
    nft: PathBuf,
}

impl Files {
    pub(super) fn write(lab: &Lab, count: u32) -> Result<Self> {
        let mut list = String::new();
        // With the size from the start, so that it need not grow.
        let mut ipset =
            format!("create listed hash:ip hashsize {} maxelem {count}\n", count.next_power_of_two());
        let mut nft = format!(
            "table inet filter {{\n set listed {{ type ipv4_addr; size {count}; }}\n chain input {{ type filter hook \
             input priority 0; ip saddr @listed drop; }}\n}}\nadd element inet filter listed {{\n"
        );
        for index in 0..count {
            let address = Ipv4Addr::from(listed_v4(index));
            writeln!(list, "{address}")?;
            writeln!(ipset, "add listed {address}")?;
            writeln!(nft, "{address},")?;
        }
        nft.push_str("}\n");
        Ok(Self {
            list: lab.scratch.write("listed.txt", list)?,
            ipset: lab.scratch.write("listed.ipset", ipset)?,
            nft: lab.scratch.write("listed.nft", nft)?,
        })
    }
}

/// How long it took, from the start of the program to its end; `None` if it is not installed.
pub(super) fn restore(files: &Files, other: Other) -> Result<Option<Duration>> {
    if !is_installed(other.program()) {
        return Ok(None);
    }
    let namespace = Namespace::new()?;
    let mut command = namespace.command(other.program());
    match other {
        Other::Ipset => command.arg("restore").arg("-file").arg(&files.ipset),
        Other::Nft => command.arg("-f").arg(&files.nft),
    };
    let start = Instant::now();
    output(command, None).with_context(|| other.label())?;
    Ok(Some(start.elapsed()))
}

pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

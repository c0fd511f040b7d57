//! nftables on the same links: in the netdev hook, which is the earliest that it has, in one table of the host.

mod counter;

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use limiter_tests::netns::output;
use limiter_tests::{Lab, Namespace};

use self::counter::Counters;
use super::{BURST, RATE};
use crate::sources::listed_v4;

/// Elements that the dynamic set has room for: more than sources come in one sample.
const DYNAMIC: u32 = 1 << 21;

/// What a chain does with what arrives on its link. Whatever it does not drop by its rule it counts and then drops, so
/// that the stack behind costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Counts and drops everything. It also stands behind XDP programs that let frames through.
    Rest,
    /// Drops everything.
    Drop,
    /// Drops listed sources, by a set.
    Listed,
    /// Drops sources over a limit, by a set that learns them.
    Limited,
}

/// The table.
#[derive(Debug)]
pub(super) struct Nft {
    namespace: Namespace,
    counters: Counters,
}

impl Nft {
    /// With a set of the first `listed` listed sources, and no chains.
    pub(super) fn new(lab: &Lab, listed: u32) -> Result<Self> {
        let nft = Self { namespace: lab.host.try_clone()?, counters: Counters::of(&lab.host)? };
        let mut script = format!(
            "table netdev flood {{
                set listed {{ type ipv4_addr; size {listed}; }}
                set heard {{ type ipv4_addr; size {DYNAMIC}; flags dynamic, timeout; timeout 1m; }}
            }}
            add element netdev flood listed {{ "
        );
        for index in 0..listed {
            write!(script, "{},", Ipv4Addr::from(listed_v4(index)))?;
        }
        script.push('}');
        nft.run(&script)?;
        Ok(nft)
    }

    /// Adds a chain for what arrives on `link`.
    pub(super) fn chain(&self, link: &str, rule: Rule) -> Result<()> {
        let rules = match rule {
            Rule::Rest => String::new(),
            Rule::Drop => "drop".to_owned(),
            Rule::Listed => "ip saddr @listed drop".to_owned(),
            Rule::Limited => {
                format!("add @heard {{ ip saddr limit rate over {RATE}/second burst {BURST} packets }} drop")
            }
        };
        self.run(&format!(
            "table netdev flood {{
                counter {link} {{ }}
                chain {link} {{
                    type filter hook ingress device {link} priority 0;
                    {rules}
                    counter name {link} drop
                }}
            }}"
        ))
    }

    /// Frames from `link` that no rule dropped.
    pub(super) fn passed(&self, link: &str) -> Result<u64> {
        self.counters.packets("flood", link)
    }

    /// Forgets the sources that were heard of, so that there is room for others.
    pub(super) fn forget(&self) -> Result<()> {
        self.run("flush set netdev flood heard")
    }

    fn run(&self, script: &str) -> Result<()> {
        let mut command = self.namespace.command("nft");
        command.args(["-f", "-"]);
        let shown = script.get(..200).unwrap_or(script);
        output(command, Some(script)).with_context(|| format!("failed to run nft on: {shown}"))?;
        Ok(())
    }
}

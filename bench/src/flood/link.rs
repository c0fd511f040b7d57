//! A link of the flood: a veth pair from outside into the host, whose receiving half works on a CPU of its own.
//!
//! Veth receives frames that XDP sends as a driver does, with NAPI and native XDP, if its end offers GRO or has a
//! program. NAPI would run on the CPU of the sender; as a thread it can be put on another one.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use limiter_tests::netns::output;
use limiter_tests::{Lab, Namespace, wait};

use super::sysfs::{Received, Sysfs};
use super::thread::{Rank, give_cpu};

/// The kernel makes its threads in no time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pair: `flood<n>` in the host, and `source<n>` outside.
#[derive(Debug)]
pub(super) struct Link {
    /// The end in the host.
    pub(super) name: String,
    /// The index of the end outside.
    pub(super) source: u32,
    pub(super) received: Received,
    /// The thread that receives.
    thread: u32,
}

impl Link {
    /// Makes pair number `number`, which receives on `cpu`.
    pub(super) fn new(lab: &Lab, number: usize, cpu: usize) -> Result<Self> {
        let (name, source) = (format!("flood{number}"), format!("source{number}"));
        lab.host.ip(&format!("link add {name} type veth peer name {source} netns {}", lab.outside.path()))?;
        let host = Sysfs::of(&lab.host)?;
        for (namespace, end) in [(&lab.host, &name), (&lab.outside, &source)] {
            namespace.ip(&format!("link set {end} addrgenmode none"))?;
            offer_gro(namespace, end)?;
            namespace.ip(&format!("link set {end} up"))?;
        }
        let before = threads(&name);
        host.set(&name, "threaded", "1").context("NAPI in threads needs Linux 5.12")?;
        // Of this name there may be one in another namespace.
        let what = format!("{name} receives in a thread");
        let find = || Ok(threads(&name).difference(&before).next().copied());
        let (thread, _) = wait::until(&what, PATIENCE, find)?;
        give_cpu(thread, cpu, Rank::Worker)
            .with_context(|| format!("the thread that receives for {name}"))?;
        Ok(Self {
            received: host.received(&name)?,
            source: Sysfs::of(&lab.outside)?.index(&source)?,
            name,
            thread,
        })
    }

    /// What its thread has computed so far.
    pub(super) fn computed(&self) -> Result<Duration> {
        // proc(5): nanoseconds on the CPU, waiting for it, and how often.
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.thread)).context("schedstat")?;
        let nanos = text.split_whitespace().next().context("schedstat is empty")?;
        Ok(Duration::from_nanos(nanos.parse().context("schedstat")?))
    }
}

fn offer_gro(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut command = namespace.command("ethtool");
    command.args(["--offload", interface, "gro", "on"]);
    output(command, None).with_context(|| format!("cannot switch on GRO of {interface}"))?;
    Ok(())
}

/// The kernel's threads that receive for an interface of this name.
fn threads(interface: &str) -> BTreeSet<u32> {
    let prefix = format!("napi/{interface}-");
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeSet::new() };
    processes
        .flatten()
        .filter_map(|process| {
            let number = process.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            name.starts_with(&prefix).then_some(number)
        })
        .collect()
}

//! What is measured: limiter as it is shipped, and the usual ways to do the same job. Each over lists of its own.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::Context as _;
use limiter_common::abi::Entry;
use limiter_common::{Action, Address, Nanos, Prefix};
use limiter_user::config::{self, Interface};
use limiter_user::dataplane::kernel::testrun::{Entry as Program, TestPrograms, bytes_of_kernel_memory};
use limiter_user::dataplane::{ApplyError, Change, Writer};

use super::object::{Name, Object};
use super::size;
use crate::bpf;
use crate::machine;
use crate::verdicts::frame::Family;
use crate::verdicts::lists::List;

/// Elements that are made and written at a time.
const BATCH: usize = 1 << 16;

/// A program that judges packets.
#[derive(Debug)]
pub(super) struct Subject {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Limiter(Box<TestPrograms>),
    /// With a map of its verdicts.
    Reference(Object),
    /// Without.
    Bare(Object),
}

/// A limit of packets for each source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// Packets a second.
    pub(super) rate: u32,
    /// Packets at once.
    pub(super) burst: u32,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s burst {}", size(self.rate), self.burst)
    }
}

/// Packets that were judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Verdicts {
    pub(super) passed: u64,
    pub(super) dropped: u64,
}

impl Verdicts {
    pub(super) fn since(self, before: Self) -> Self {
        Self { passed: self.passed - before.passed, dropped: self.dropped - before.dropped }
    }

    pub(super) fn all(self) -> u64 {
        self.passed + self.dropped
    }
}

impl Subject {
    /// A program that does nothing.
    pub(super) fn empty() -> anyhow::Result<Self> {
        Ok(Self { name: "empty".into(), kind: Kind::Bare(Object::load(Name::Empty, &[], &[])?) })
    }

    /// Limiter with this list and this limit, as the daemon would load it.
    pub(super) fn limiter(list: &List, limit: Option<Limit>) -> anyhow::Result<Self> {
        let (interface, mut capacity) = configuration(limit)?;
        let entries = list.len();
        match (list.family(), list.are_hosts()) {
            (Family::V4, true) => capacity.addresses_v4 = capacity.addresses_v4.max(entries),
            (Family::V4, false) => capacity.prefixes_v4 = capacity.prefixes_v4.max(entries),
            (Family::V6, _) => capacity.prefixes_v6 = capacity.prefixes_v6.max(entries),
        }
        let programs = TestPrograms::of_interface(&interface, &capacity, |writer| fill(writer, list))
            .with_context(|| format!("limiter with {list}"))?;
        Ok(Self { name: "limiter".into(), kind: Kind::Limiter(Box::new(programs)) })
    }

    /// Hash tables of single sources.
    pub(super) fn hash(list: &List) -> anyhow::Result<Self> {
        let map = match list.family() {
            Family::V4 => "hash_v4",
            Family::V6 => "hash_v6",
        };
        let object = Object::load(Name::Hash, &[], &[(map, list.len())])?;
        fill_map(object.map(map)?, list, Key::Exact).with_context(|| format!("{map} with {list}"))?;
        Ok(Self { name: "hash".into(), kind: Kind::Reference(object) })
    }

    /// Tries of prefixes.
    pub(super) fn lpm(list: &List) -> anyhow::Result<Self> {
        let map = match list.family() {
            Family::V4 => "lpm_v4",
            Family::V6 => "lpm_v6",
        };
        let object = Object::load(Name::Lpm, &[], &[(map, list.len())])?;
        fill_map(object.map(map)?, list, Key::Prefix).with_context(|| format!("{map} with {list}"))?;
        Ok(Self { name: "lpm".into(), kind: Kind::Reference(object) })
    }

    /// A rate limiter in an LRU hash table of so many `sources`, behind a hash table of the listed ones.
    pub(super) fn lru(
        family: Family,
        sources: u32,
        limit: Limit,
        list: Option<&List>,
    ) -> anyhow::Result<Self> {
        let (lru, hash) = match family {
            Family::V4 => ("lru_v4", "blocked_v4"),
            Family::V6 => ("lru_v6", "blocked_v6"),
        };
        let increment = 1_000_000_000_u64.div_ceil(limit.rate.into());
        let constants = [
            ("INCREMENT", increment),
            ("TOLERANCE", increment * u64::from(limit.burst - 1)),
            ("BLOCKLIST", list.is_some().into()),
        ];
        let object =
            Object::load(Name::Lru, &constants, &[(lru, sources), (hash, list.map_or(1, List::len))])?;
        if let Some(list) = list {
            fill_map(object.map(hash)?, list, Key::Exact).with_context(|| format!("{hash} with {list}"))?;
        }
        let name = if list.is_some() { "hash + lru" } else { "lru" };
        Ok(Self { name: name.into(), kind: Kind::Reference(object) })
    }

    /// A single step, see `floor` in `bench/ebpf`: the access to a table of so many words, a power of two.
    pub(super) fn table(name: &str, words: u32) -> anyhow::Result<Self> {
        let constants = [("STEP", 1), ("MASK", u64::from(words) - 1)];
        let object = Object::load(Name::Floor, &constants, &[("table", words)])?;
        Ok(Self { name: name.into(), kind: Kind::Bare(object) })
    }

    /// An access to one table, and then to another.
    pub(super) fn tables(name: &str, words: u32, second: u32) -> anyhow::Result<Self> {
        let constants = [("STEP", 2), ("MASK", u64::from(words) - 1), ("SECOND_MASK", u64::from(second) - 1)];
        let object = Object::load(Name::Floor, &constants, &[("table", words), ("second_table", second)])?;
        Ok(Self { name: name.into(), kind: Kind::Bare(object) })
    }

    /// A single step that has a number.
    pub(super) fn step(name: &str, step: u64) -> anyhow::Result<Self> {
        let object = Object::load(Name::Floor, &[("STEP", step)], &[])?;
        Ok(Self { name: name.into(), kind: Kind::Bare(object) })
    }

    /// The same under another name, to tell two of a kind apart.
    pub(super) fn called(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn program(&self) -> BorrowedFd<'_> {
        match &self.kind {
            // What is attached where the kernel takes frames in several buffers, as all of today do.
            Kind::Limiter(programs) => programs.program(Program::Frags),
            Kind::Reference(object) | Kind::Bare(object) => object.program(),
        }
    }

    /// What it counted so far; `None` if it does not count.
    pub(super) fn verdicts(&self) -> anyhow::Result<Option<Verdicts>> {
        match &self.kind {
            Kind::Limiter(programs) => {
                let mut sum = Verdicts::default();
                for (reason, count) in programs.counted().context("cannot read limiter's counters")? {
                    match reason.action() {
                        Action::Pass => sum.passed += count.packets,
                        Action::Drop => sum.dropped += count.packets,
                    }
                }
                Ok(Some(sum))
            }
            Kind::Reference(object) => {
                let count = |verdict: u32| -> anyhow::Result<u64> {
                    let mut values = vec![0; machine::possible_cpus()? * 8];
                    bpf::lookup(object.map("verdicts")?, &verdict.to_ne_bytes(), &mut values)?;
                    let values = values.chunks_exact(8).filter_map(|value| value.try_into().ok());
                    Ok(values.map(u64::from_ne_bytes).sum())
                };
                Ok(Some(Verdicts { passed: count(0)?, dropped: count(1)? }))
            }
            Kind::Bare(_) => Ok(None),
        }
    }

    /// The reasons that were counted, for messages.
    pub(super) fn reasons(&self) -> String {
        let Kind::Limiter(programs) = &self.kind else { return String::new() };
        let counted = programs.counted().unwrap_or_default();
        let counted = counted.iter().filter(|(_, count)| count.packets > 0);
        let words: Vec<String> =
            counted.map(|(reason, count)| format!("{} {}", reason.label(), count.packets)).collect();
        words.join(", ")
    }

    /// Bytes that the kernel keeps for the lists of a family.
    pub(super) fn list_memory(&self, family: Family) -> anyhow::Result<u64> {
        let suffix = match family {
            Family::V4 => "_v4",
            Family::V6 => "_v6",
        };
        match &self.kind {
            Kind::Limiter(programs) => {
                let maps = programs.memory().context("cannot read the size of limiter's maps")?;
                Ok(maps.iter().filter(|(name, _)| name.ends_with(suffix)).map(|(_, bytes)| bytes).sum())
            }
            Kind::Reference(object) | Kind::Bare(object) => {
                let map =
                    object.map(&format!("hash{suffix}")).or_else(|_| object.map(&format!("lpm{suffix}")))?;
                bytes_of_kernel_memory(map).context("cannot read the size of a map")
            }
        }
    }
}

/// An interface with this limit, and the tables that the daemon would make for it.
fn configuration(limit: Option<Limit>) -> anyhow::Result<(Interface, config::Capacity)> {
    let mut text = String::from("[[interface]]\nname = \"bench\"\n");
    if let Some(Limit { rate, burst }) = limit {
        text += &format!(
            "[[rule]]\nname = \"all\"\nlimit = [ {{ per = \"source\", rate = \"{rate}/s\", burst = {burst} }} ]\n"
        );
    }
    let config = config::parse(&text, Path::new("bench.toml"))
        .map_err(|problems| anyhow::anyhow!("{problems}"))
        .context("the benchmark's configuration")?;
    let interface = config.interfaces.into_iter().next().context("no interface")?;
    Ok((interface, config.capacity))
}

/// Blocks the list, by the daemon's own writer.
fn fill(writer: &mut dyn Writer, list: &List) -> Result<(), ApplyError> {
    let entry = Entry { block_until: list.deadline(), allow_until: 0 };
    let mut changes = Vec::with_capacity(BATCH);
    for prefix in list.prefixes() {
        changes.push(Change { prefix, entry });
        if changes.len() == BATCH {
            writer.apply(&changes)?;
            changes.clear();
        }
    }
    writer.apply(&changes)
}

/// What a reference's key looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// An IPv4 address, or the upper half of an IPv6 address.
    Exact,
    /// The length in bits in front of a whole address.
    Prefix,
}

fn fill_map(map: BorrowedFd<'_>, list: &List, form: Key) -> anyhow::Result<()> {
    let (mut keys, mut values, mut count) = (Vec::new(), Vec::new(), 0);
    let mut prefixes = list.prefixes().peekable();
    while let Some(prefix) = prefixes.next() {
        push_key(&mut keys, prefix, form);
        values.extend(list.deadline().to_ne_bytes());
        count += 1;
        if count == BATCH || prefixes.peek().is_none() {
            bpf::update_batch(map, &keys, &values, count)?;
            keys.clear();
            values.clear();
            count = 0;
        }
    }
    Ok(())
}

fn push_key(keys: &mut Vec<u8>, prefix: Prefix, form: Key) {
    if form == Key::Prefix {
        keys.extend(u32::from(prefix.length()).to_ne_bytes());
    }
    match (prefix.address(), form) {
        (Address::V4(bytes), _) => keys.extend(bytes),
        (Address::V6(bytes), Key::Prefix) => keys.extend(bytes),
        (Address::V6([a, b, c, d, e, f, g, h, ..]), Key::Exact) => keys.extend([a, b, c, d, e, f, g, h]),
    }
}

/// In `Nanos`, as the lists have it.
pub(super) const FOR_GOOD: u64 = Nanos::NEVER.0;

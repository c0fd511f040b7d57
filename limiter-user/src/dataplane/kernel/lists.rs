//! The lists: written as memory that the programs read, without a system call for an entry.
//!
//! The words and their order are those of [`limiter_common::lists`]; here they get memory, and more of it when an exact
//! table is about to be full.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use limiter_common::abi::{self, Lengths, MapSpec};
use limiter_common::lists::{Listed, NoPlace, v4, v6};
use limiter_common::{Address, Prefix};

use super::mapped::{Mapped, ask_for};
use super::maps::{Map, Maps};
use crate::config::Capacity;
use crate::dataplane::{ApplyError, Change, Table, Writer};

/// What is left behind by removals is tidied up when it is as much as this share of what is listed (and a constant), or
/// after some time; both only make lookups a little slower until then.
const TIDY_SHARE: usize = 4;
const TIDY_AT_LEAST: usize = 1 << 16;
const TIDY_AFTER: Duration = Duration::from_secs(60);

/// The memory of an entry is asked for so many entries before it is changed.
const AHEAD: usize = 16;

/// Puts a table in the place of a smaller one that has the same entries.
pub(super) trait Replace: fmt::Debug + Send + Sync {
    /// On success, the programs that run and the next start have `table`; else everything is as it was.
    fn replace_table(&self, spec: &MapSpec, table: Map) -> anyhow::Result<()>;
}

/// Writes to the maps.
#[derive(Debug)]
pub(super) struct KernelWriter {
    maps: Arc<Maps>,
    replace: Arc<dyn Replace>,
    capacity: Capacity,
    secret: [u64; 2],
    /// From the first use on.
    tables: Option<Tables>,
    /// Entries that were announced and have not come yet, by [`Family`].
    expected: [usize; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(prefix: Prefix) -> Self {
        if prefix.address().is_v4() { Self::V4 } else { Self::V6 }
    }

    fn spec(self) -> &'static MapSpec {
        match self {
            Self::V4 => &abi::EXACT_V4,
            Self::V6 => &abi::EXACT_V6,
        }
    }

    /// Places that a bucket may have taken on average. More would do for long, but then ever more lookups have to look
    /// at two buckets.
    fn fill(self) -> usize {
        match self {
            Self::V4 => v4::WORDS * 5 / 8,
            Self::V6 => v6::ENTRIES / 2,
        }
    }

    /// Places that an entry takes: of IPv4, one for each action.
    fn places(self, listed: Listed) -> usize {
        let entry = listed.entry();
        match self {
            Self::V4 => usize::from(entry.block_until > 0) + usize::from(entry.allow_until > 0),
            Self::V6 => usize::from(!listed.is_none()),
        }
    }

    /// The most places that `capacity` asks for.
    fn most(self, capacity: &Capacity) -> usize {
        let (addresses, prefixes, places) = match self {
            Self::V4 => (capacity.addresses_v4, capacity.prefixes_v4, 2),
            Self::V6 => (capacity.addresses_v6, capacity.prefixes_v6, 1),
        };
        (addresses as usize).saturating_add(prefixes as usize).saturating_mul(places)
    }

    /// Buckets for so many places.
    fn buckets(self, places: usize) -> usize {
        places.div_ceil(self.fill()).next_power_of_two()
    }
}

/// The memory of all tables, and what is in it.
#[derive(Debug)]
struct Tables {
    level: Mapped,
    wide: Mapped,
    filter: Mapped,
    lengths: Mapped,
    exact: [Exact; 2],
    secret: [u64; 2],
    /// Entries of each [`Table`].
    used: [u32; Table::ALL.len()],
    /// Removals since the last time that the tables were tidied.
    removed: usize,
    /// Whether IPv4 prefixes were added since then: for their sake, parts of the level lead closer more often than they
    /// must.
    rough: bool,
    tidied: Instant,
}

/// An exact table.
#[derive(Debug)]
struct Exact {
    map: Arc<Map>,
    memory: Mapped,
    /// Places that are taken by what is listed.
    taken: usize,
    /// It grows when so many are.
    grow_at: usize,
}

impl Exact {
    fn new(family: Family, map: Arc<Map>, memory: Mapped, taken: usize) -> Self {
        let grow_at = map.entries() as usize * family.fill();
        Self { map, memory, taken, grow_at }
    }
}

impl Tables {
    fn open(maps: &Maps, secret: [u64; 2]) -> io::Result<Self> {
        let mapped = |spec| maps.get(spec).mapped();
        let exact = |family: Family| {
            let map = maps.get(family.spec());
            let memory = map.mapped()?;
            io::Result::Ok(Exact::new(family, map, memory, 0))
        };
        let mut tables = Self {
            level: mapped(&abi::LEVEL_V4)?,
            wide: mapped(&abi::WIDE_V4)?,
            filter: mapped(&abi::FILTER_V6)?,
            lengths: mapped(&abi::LENGTHS)?,
            exact: [exact(Family::V4)?, exact(Family::V6)?],
            secret,
            used: [0; Table::ALL.len()],
            // Nobody knows what an earlier run has left.
            removed: 1,
            rough: false,
            tidied: Instant::now(),
        };
        let entries = tables.entries();
        tables.count(&entries);
        Ok(tables)
    }

    /// Takes these for all entries that there are.
    fn count(&mut self, entries: &[Change]) {
        let (mut used, mut taken) = ([0; Table::ALL.len()], [0; 2]);
        for Change { prefix, entry } in entries {
            used[Table::of(*prefix) as usize] += 1;
            let family = Family::of(*prefix);
            taken[family as usize] += family.places(Listed::from_entry(*entry));
        }
        self.used = used;
        for (exact, taken) in self.exact.iter_mut().zip(taken) {
            exact.taken = taken;
        }
    }

    fn lengths(&self) -> &Lengths<AtomicU64> {
        self.lengths.values().first().expect("the map has one entry")
    }

    fn v4(&self) -> v4::Writer<'_> {
        let Lengths { v4: lengths, v4_any: any, .. } = self.lengths();
        let [Exact { memory, .. }, _] = &self.exact;
        let (level, wide) = (self.level.words(), self.wide.words());
        v4::Writer { level, wide, lengths, any, exact: memory.values(), secret: self.secret }
    }

    fn v6(&self) -> v6::Writer<'_> {
        let Lengths { v6_any: any, v6_short: short, v6_long: long, .. } = self.lengths();
        let [_, Exact { memory, .. }] = &self.exact;
        v6::Writer {
            filter: self.filter.words(),
            any,
            short,
            long,
            exact: memory.values(),
            secret: self.secret,
        }
    }

    fn get(&self, prefix: Prefix) -> Listed {
        let length = u32::from(prefix.length());
        match prefix.address() {
            Address::V4(bytes) => self.v4().get(u32::from_be_bytes(bytes), length),
            Address::V6(bytes) => self.v6().get(u128::from_be_bytes(bytes), length),
        }
    }

    fn set(&self, prefix: Prefix, listed: Listed) -> Result<(), NoPlace> {
        let length = u32::from(prefix.length());
        match prefix.address() {
            Address::V4(bytes) => self.v4().set(u32::from_be_bytes(bytes), length, listed),
            Address::V6(bytes) => self.v6().set(u128::from_be_bytes(bytes), length, listed),
        }
    }

    /// Asks for the memory that a change of this prefix needs.
    fn ahead(&self, prefix: Prefix) {
        let length = u32::from(prefix.length());
        match prefix.address() {
            Address::V4(bytes) => self.v4().ahead(u32::from_be_bytes(bytes), length, ask_for),
            Address::V6(bytes) => self.v6().ahead(u128::from_be_bytes(bytes), length, ask_for),
        }
    }

    /// Makes a change that adds an entry, if that can be told at one look and there is room; else does nothing.
    fn add(&mut self, change: &Change, capacity: &Capacity) -> bool {
        let Change { prefix, entry } = change;
        let Address::V4(bytes) = prefix.address() else { return false };
        let table = Table::of(*prefix);
        let room = self.used[table as usize] < table.capacity(capacity);
        let exact = &self.exact[Family::V4 as usize];
        if !room || exact.taken >= exact.grow_at {
            return false;
        }
        let listed = Listed::from_entry(*entry);
        let added = self.v4().add(u32::from_be_bytes(bytes), u32::from(prefix.length()), listed);
        if added {
            self.account(*prefix, Listed::NONE, listed);
        }
        added
    }

    /// Keeps account of an entry that was `before` and is `after`.
    fn account(&mut self, prefix: Prefix, before: Listed, after: Listed) {
        let family = Family::of(prefix);
        let taken = &mut self.exact[family as usize].taken;
        *taken = (*taken + family.places(after)).saturating_sub(family.places(before));
        let used = &mut self.used[Table::of(prefix) as usize];
        match (before.is_none(), after.is_none()) {
            (true, false) => *used += 1,
            (false, true) => *used = used.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        self.removed += usize::from(family.places(after) < family.places(before));
        self.rough |= Table::of(prefix) == Table::PrefixesV4 && before.is_none();
    }

    /// Everything that is listed, each prefix once.
    fn entries(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::with_capacity(self.exact.iter().map(|exact| exact.taken).sum());
        let mut allows = false;
        let mut add = |address: Address, length: u32, listed: Listed| {
            let entry = listed.entry();
            allows |= entry.allow_until > 0;
            let prefix = u8::try_from(length).ok().and_then(|length| Prefix::new(address, length));
            changes.extend(prefix.map(|prefix| Change { prefix, entry }));
        };
        self.v4().entries(|address, length, listed| add(Address::V4(address.to_be_bytes()), length, listed));
        self.v6().entries(|address, length, listed| add(Address::V6(address.to_be_bytes()), length, listed));
        if allows {
            // An IPv4 prefix that is both blocked and allowed came twice.
            changes.sort_unstable_by_key(|change| change.prefix);
            changes.dedup_by(|next, kept| {
                let same = next.prefix == kept.prefix;
                if same {
                    kept.entry = kept.entry.union(next.entry);
                }
                same
            });
        }
        changes
    }

    fn tidy(&mut self) {
        let (mut level, mut hosts) = (vec![0; v4::LEVEL_WORDS], vec![0; v4::LEVEL_WORDS]);
        let mut wide = vec![0; v4::WIDE_WORDS];
        let v4 = self.v4();
        let mut overflowed = vec![0; v4.exact.len().div_ceil(64)];
        v4.tidy(&mut v4::Scratch {
            level: &mut level,
            hosts: &mut hosts,
            wide: &mut wide,
            overflowed: &mut overflowed,
        });
        let mut filter = vec![0; v6::FILTER_WORDS];
        self.v6().tidy(&mut v6::Scratch { filter: &mut filter });
        self.removed = 0;
        self.rough = false;
        self.tidied = Instant::now();
    }
}

impl KernelWriter {
    pub(super) fn new(
        maps: Arc<Maps>,
        replace: Arc<dyn Replace>,
        capacity: Capacity,
        secret: [u64; 2],
    ) -> Self {
        Self { maps, replace, capacity, secret, tables: None, expected: [0; 2] }
    }

    /// Makes the tables as large as they can become.
    pub(super) fn grow_to_capacity(&mut self) -> Result<(), ApplyError> {
        for family in Family::ALL {
            self.opened()?;
            let buckets = family.buckets(family.most(&self.capacity));
            self.grow(family, buckets)
                .map_err(|error| ApplyError::Kernel { table: family.spec().name, error })?;
        }
        Ok(())
    }

    /// Opens the tables, anew if another writer has replaced one.
    fn opened(&mut self) -> Result<(), ApplyError> {
        let current = self.tables.as_ref().is_some_and(|tables| {
            let same = |family: &Family| {
                Arc::ptr_eq(&tables.exact[*family as usize].map, &self.maps.get(family.spec()))
            };
            Family::ALL.iter().all(same)
        });
        if !current {
            let tables = Tables::open(&self.maps, self.secret);
            self.tables =
                Some(tables.map_err(|error| ApplyError::Kernel { table: abi::EXACT_V4.name, error })?);
        }
        Ok(())
    }

    /// Makes the exact table of `family` larger: at least `buckets`.
    fn grow(&mut self, family: Family, buckets: usize) -> io::Result<()> {
        let Some(tables) = &mut self.tables else { return Ok(()) };
        let exact = &tables.exact[family as usize];
        let (former, taken) = (exact.map.entries() as usize, exact.taken);
        let mut buckets = buckets.max(former);
        if buckets == former {
            return Ok(());
        }
        let started = Instant::now();
        let (map, memory) = loop {
            let entries = u32::try_from(buckets).map_err(io::Error::other)?;
            let map = Map::create(family.spec(), entries)?;
            let memory = map.mapped()?;
            let copied = match family {
                Family::V4 => tables.v4().copy_to(memory.values()),
                Family::V6 => tables.v6().copy_to(memory.values()),
            };
            match copied {
                Ok(()) => break (map, memory),
                Err(NoPlace) => buckets *= 2,
            }
        };
        let copied = started.elapsed();
        self.replace
            .replace_table(family.spec(), map)
            .map_err(|error| io::Error::other(format!("{error:#}")))?;
        tables.exact[family as usize] = Exact::new(family, self.maps.get(family.spec()), memory, taken);
        tracing::info!(
            table = family.spec().name,
            buckets,
            entries = taken,
            milliseconds = started.elapsed().as_millis(),
            copying = copied.as_millis(),
            "a table has grown"
        );
        Ok(())
    }

    /// Sees to it that an entry more has room, with `left` changes to come.
    fn make_room(&mut self, prefix: Prefix, left: usize, must: bool) -> Result<(), ApplyError> {
        let family = Family::of(prefix);
        let Some(tables) = &self.tables else { return Ok(()) };
        let exact = &tables.exact[family as usize];
        if exact.taken < exact.grow_at && !must {
            return Ok(());
        }
        let wanted = exact.taken + 1 + left.max(self.expected[family as usize]);
        let most = family.buckets(family.most(&self.capacity));
        let now = exact.map.entries() as usize;
        let buckets = family.buckets(wanted).min(most).max(now * 2);
        match self.grow(family, buckets) {
            Ok(()) => Ok(()),
            Err(error) if must => {
                let error = io::Error::other(format!("it cannot grow: {error}"));
                Err(ApplyError::Kernel { table: Table::of(prefix).name(), error })
            }
            Err(error) => {
                tracing::warn!("the table {} should grow and cannot yet: {error}", family.spec().name);
                if let Some(tables) = &mut self.tables {
                    let exact = &mut tables.exact[family as usize];
                    exact.grow_at = exact.taken + exact.taken / 16 + 1;
                }
                Ok(())
            }
        }
    }

    fn change(&mut self, change: &Change, left: usize) -> Result<(), ApplyError> {
        let Change { prefix, entry } = change;
        let listed = Listed::from_entry(*entry);
        let Some(tables) = &mut self.tables else { return Ok(()) };
        let before = tables.get(*prefix);
        if before == listed {
            return Ok(());
        }
        if before.is_none() {
            let table = Table::of(*prefix);
            let capacity = table.capacity(&self.capacity);
            if tables.used[table as usize] >= capacity {
                return Err(ApplyError::Full { table: table.name(), capacity });
            }
            self.make_room(*prefix, left, false)?;
        }
        loop {
            let Some(tables) = &mut self.tables else { return Ok(()) };
            let made = tables.set(*prefix, listed);
            let after = if made.is_ok() { listed } else { tables.get(*prefix) };
            match made {
                Ok(()) => {
                    tables.account(*prefix, before, after);
                    return Ok(());
                }
                Err(NoPlace) => {
                    if let Err(error) = self.make_room(*prefix, left, true) {
                        // One of two deadlines may have been set.
                        if let Some(tables) = &mut self.tables {
                            tables.account(*prefix, before, after);
                        }
                        return Err(error);
                    }
                }
            }
        }
    }
}

impl Writer for KernelWriter {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        self.opened()?;
        if let Some(tables) = &self.tables {
            changes.iter().take(AHEAD).for_each(|change| tables.ahead(change.prefix));
        }
        for (index, change) in changes.iter().enumerate() {
            if let Some(tables) = &mut self.tables {
                if let Some(later) = changes.get(index + AHEAD) {
                    tables.ahead(later.prefix);
                }
                if tables.add(change, &self.capacity) {
                    continue;
                }
            }
            self.change(change, changes.len() - index - 1)?;
        }
        let v4 = changes.iter().filter(|change| change.prefix.address().is_v4()).count();
        for (expected, come) in self.expected.iter_mut().zip([v4, changes.len() - v4]) {
            *expected = expected.saturating_sub(come);
        }
        if let Some(tables) = &mut self.tables {
            let listed: usize = tables.exact.iter().map(|exact| exact.taken).sum();
            if tables.removed > listed / TIDY_SHARE + TIDY_AT_LEAST {
                tables.tidy();
            }
        }
        Ok(())
    }

    fn expect(&mut self, v4: usize, v6: usize) {
        self.expected = [v4, v6];
    }

    fn prepare(&mut self, v4: usize, v6: usize) {
        if self.opened().is_err() {
            return;
        }
        for (family, coming) in Family::ALL.into_iter().zip([v4, v6]) {
            let places = coming.min(family.most(&self.capacity));
            let enough =
                self.tables.as_ref().is_none_or(|tables| places <= tables.exact[family as usize].grow_at);
            if enough {
                continue;
            }
            // Tried again when the list is there.
            if let Err(error) = self.grow(family, family.buckets(places)) {
                tracing::debug!("the table {} cannot grow ahead of a list: {error}", family.spec().name);
            }
        }
    }

    fn tidy(&mut self) {
        if let Some(tables) = &mut self.tables
            && (tables.removed > 0 || tables.rough)
            && tables.tidied.elapsed() > TIDY_AFTER
        {
            tables.tidy();
        }
    }

    fn installed(&mut self) -> Result<Vec<Change>, ApplyError> {
        self.opened()?;
        let Some(tables) = &mut self.tables else { return Ok(Vec::new()) };
        // Whoever wrote last may have ended in the middle: what is told is what is in force, and what is counted.
        tables.tidy();
        let entries = tables.entries();
        tables.count(&entries);
        Ok(entries)
    }
}

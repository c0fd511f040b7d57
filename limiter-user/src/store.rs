//! Claims on disk: `claims.redb` in the state directory. What [`Store::commit`] took survives kill -9 and power loss.
//!
//! A disk fault never keeps the daemon from starting. A file that cannot be understood is set aside as
//! `claims.redb.corrupt-N`, what can still be read of it is kept, and the rest is the caller's to recover from the
//! kernel. A directory that cannot be written makes the store [unusable](Store::problem), and committing fails.

mod block;
mod crc;
mod expiry;
mod file;
mod offences;
mod unconfirmed;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use limiter_common::{Nanos, Prefix};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition, TableHandle, WriteTransaction,
};

use crate::blocklist::{Owner, Terms};
use crate::config::Action;
use crate::enforcer::Now;
use block::{Block, Id};
use expiry::Boot;
pub(crate) use file::set_aside;
use file::{OpenError, guarded};
use offences::OFFENCES;
pub use offences::Repeat;
use unconfirmed::UNCONFIRMED;
pub use unconfirmed::{Unconfirmed, Undo};

/// The blocks of claims. The version of their format is in the name.
const CLAIMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims-3");
/// Where earlier builds kept them. What is found there is moved when the store is opened.
const CLAIMS_2: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims-2");
/// Of the running boot: its identifier, and both clocks at the first start in it, in nanoseconds.
const BOOTS: TableDefinition<'_, [u8; 16], (u64, u64)> = TableDefinition::new("boots-1");

/// Of the pages of the file, this many bytes are kept in memory: a million claims have about 10 MiB.
const CACHE: usize = 4 << 20;

/// A claim as it is kept: like [`crate::blocklist::Claim`], but it knows its owner by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub prefix: Prefix,
    pub action: Action,
    pub owner: Owner,
    pub terms: Terms,
}

/// A change of the store.
#[derive(Debug, Clone)]
pub enum Write {
    Put(Record),
    Delete {
        prefix: Prefix,
        action: Action,
        owner: Owner,
    },
    Repeat(Repeat),
    /// A change waits for being confirmed.
    Unconfirmed(Unconfirmed),
    /// It does not any more.
    Confirmed(u64),
}

/// The store, and what was in it.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Claims that have not expired.
    pub records: Records,
    /// Whether claims may be missing that were there; also if there was no file at all.
    pub lost: bool,
    /// There may be records that could not be read for now: the first [`Store::reopen`] brings them.
    pub unseen: bool,
    /// For the operator.
    pub warnings: Vec<String>,
}

/// What was read, kept as it is on disk: a tenth of the size of [`Record`]s.
#[derive(Debug)]
pub struct Records {
    blocks: Vec<RawBlock>,
    boot: Boot,
    len: usize,
    owners: BTreeSet<Owner>,
    repeats: Vec<Repeat>,
    unconfirmed: Vec<Unconfirmed>,
}

/// A key and its value.
type RawBlock = (Box<[u8]>, Box<[u8]>);

impl Records {
    fn none(boot: Boot) -> Self {
        Self {
            blocks: Vec::new(),
            boot,
            len: 0,
            owners: BTreeSet::new(),
            repeats: Vec::new(),
            unconfirmed: Vec::new(),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whose they are.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owners.iter()
    }

    /// Whom to remember, beside the claims.
    #[must_use]
    pub fn repeats(&self) -> &[Repeat] {
        &self.repeats
    }

    /// The changes that nobody has confirmed yet.
    #[must_use]
    pub fn unconfirmed(&self) -> &[Unconfirmed] {
        &self.unconfirmed
    }

    /// Each of them; those with prefixes that are near each other in a row.
    pub fn iter(&self) -> impl Iterator<Item = Record> {
        let blocks = self.blocks.iter().filter_map(|(key, value)| Block::decode(key, value));
        blocks.filter_map(|block| block.records(self.boot)).flatten()
    }

    /// Takes a block as it was read. False if it cannot be understood.
    fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        let records = Block::decode(key, value).and_then(|block| block.records(self.boot));
        if let Some(records) = &records {
            self.len += records.len();
            for record in records {
                if !self.owners.contains(&record.owner) {
                    self.owners.insert(record.owner.clone());
                }
            }
            self.blocks.push((key.into(), value.into()));
        }
        records.is_some()
    }
}

/// Nothing was stored; says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStored(pub String);

/// The open store. After an error it is unusable until it is [opened again](Store::reopen).
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    boot_id: [u8; 16],
    state: Result<Database, String>,
    /// Something was written without waiting for the disk, since the last time that was waited for.
    later: bool,
}

impl Store {
    /// Opens the store in `directory`, which is made if it is not there.
    #[must_use]
    pub fn open(directory: &Path, boot_id: [u8; 16], now: Now) -> Opened {
        let path = directory.join("claims.redb");
        let mut warnings = Vec::new();
        let mut lost = false;
        let mut unseen = false;
        let (state, records) = match open_file(&path, boot_id, now) {
            Ok((database, contents)) => {
                lost |= contents.note(&path, &mut warnings);
                (Ok(database), contents.records)
            }
            Err(OpenError::Unusable(why)) => {
                let records = read_only(&path, boot_id, now).unwrap_or_else(|| {
                    lost = true;
                    unseen = true;
                    Records::none(here(boot_id, now))
                });
                (Err(why), records)
            }
            Err(OpenError::Corrupt(why)) => {
                lost = true;
                start_anew(&path, &why, boot_id, now, &mut warnings)
            }
        };
        Opened { store: Self { path, boot_id, state, later: false }, records, lost, unseen, warnings }
    }

    /// Why nothing can be stored now.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.state.as_ref().err().map(String::as_str)
    }

    /// Makes all `writes` durable, or none, and with them what was written before. Claims that expire are stored with the
    /// time they have left `now`.
    ///
    /// # Errors
    ///
    /// If the disk refused.
    pub fn commit(&mut self, writes: &[Write], now: Now) -> Result<(), NotStored> {
        self.write(writes, now, Durability::Immediate)
    }

    /// Makes all `writes`, or none, without waiting for the disk: they become durable with the next
    /// [`Self::commit`].
    ///
    /// # Errors
    ///
    /// If the disk refused.
    pub fn commit_later(&mut self, writes: &[Write], now: Now) -> Result<(), NotStored> {
        self.write(writes, now, Durability::None)
    }

    /// Opens the store again if it is unusable. Then returns what is in it: not what was committed last, where a
    /// [`Self::commit_later`] was not followed by a [`Self::commit`], and nothing at all if the file is gone.
    ///
    /// # Errors
    ///
    /// If it still is unusable.
    pub fn reopen(&mut self, now: Now) -> Result<Option<Records>, NotStored> {
        if self.state.is_ok() {
            return Ok(None);
        }
        match open_file(&self.path, self.boot_id, now) {
            Ok((database, contents)) => {
                self.state = Ok(database);
                if contents.unreadable > 0 {
                    let path = self.path.display();
                    tracing::warn!("{} blocks of claims in {path} cannot be read", contents.unreadable);
                }
                Ok(Some(contents.records))
            }
            Err(error) => {
                let why = error.to_string();
                let refusal = self.refusal(&why);
                self.state = Err(why);
                Err(refusal)
            }
        }
    }

    fn refusal(&self, why: &str) -> NotStored {
        NotStored(format!("{}: {why}", self.path.display()))
    }

    /// What an error of the disk leaves.
    #[cfg(test)]
    pub(crate) fn fail(&mut self) {
        self.state = Err("a test".to_owned());
    }

    fn write(&mut self, writes: &[Write], now: Now, durability: Durability) -> Result<(), NotStored> {
        let wait = matches!(durability, Durability::Immediate);
        if writes.is_empty() && !(wait && self.later) {
            return Ok(());
        }
        let database = match &self.state {
            Ok(database) => database,
            Err(why) => return Err(self.refusal(why)),
        };
        let mut sorted: Vec<(Id, &Write)> =
            writes.iter().filter_map(|write| Some((Id::of(write)?, write))).collect();
        let repeats = writes.iter().filter_map(|write| match write {
            Write::Repeat(repeat) => Some(repeat),
            Write::Put(_) | Write::Delete { .. } | Write::Unconfirmed(_) | Write::Confirmed(_) => None,
        });
        let repeats: Vec<&Repeat> = repeats.collect();
        let changes = writes.iter().filter_map(|write| match write {
            Write::Unconfirmed(change) => Some((change.id, Some(change))),
            Write::Confirmed(id) => Some((*id, None)),
            Write::Put(_) | Write::Delete { .. } | Write::Repeat(_) => None,
        });
        let changes: Vec<_> = changes.collect();
        // Neighbours share blocks. Stable: of two writes to one claim the later one counts.
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        let boot = here(self.boot_id, now);
        if let Err(error) = guarded(|| write(database, &sorted, &repeats, &changes, boot, durability)) {
            let why = error.to_string();
            let refusal = self.refusal(&why);
            // After an error the library refuses everything until the file is opened again.
            self.state = Err(why);
            return Err(refusal);
        }
        self.later = !wait;
        Ok(())
    }
}

/// The clocks in this boot.
fn here(id: [u8; 16], now: Now) -> Boot {
    Boot { id, wall: expiry::wall_nanos(now), boot: now.boot }
}

/// Makes `writes`, which are sorted, and remembers `repeats`.
fn write(
    database: &Database,
    writes: &[(Id, &Write)],
    repeats: &[&Repeat],
    changes: &[(u64, Option<&Unconfirmed>)],
    boot: Boot,
    durability: Durability,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    {
        let mut table = transaction.open_table(CLAIMS)?;
        let mut rest = writes;
        while let Some((first, _)) = rest.first() {
            let key = first.bytes();
            let key = key.as_slice();
            // The block that has the place of the first, and where its place ends.
            let (old, mut block) = match table.range(..=key)?.next_back().transpose()? {
                Some((old, value)) => match Block::decode(old.value(), value.value()) {
                    Some(block) => (Some(old.value().to_vec()), block),
                    // What is damaged stays, for whoever can make something of it.
                    None => (None, Block::default()),
                },
                None => (None, Block::default()),
            };
            let next = table.range::<&[u8]>((Bound::Excluded(key), Bound::Unbounded))?.next().transpose()?;
            let end = next.map_or(rest.len(), |(next, _)| {
                rest.partition_point(|(id, _)| id.bytes().as_slice() < next.value())
            });
            let (here, later) = rest.split_at(end);
            block.merge(here, boot);
            if let Some(old) = old {
                table.remove(old.as_slice())?;
            }
            for (key, value) in block.encode() {
                table.insert(key.as_slice(), value.as_slice())?;
            }
            rest = later;
        }
    }
    offences::write(&transaction, repeats)?;
    unconfirmed::write(&transaction, changes, boot)?;
    transaction.commit()?;
    Ok(())
}

/// What a file holds.
#[derive(Debug)]
struct Contents {
    records: Records,
    /// Blocks that are damaged.
    unreadable: usize,
    /// There was no file.
    new: bool,
}

impl Contents {
    fn nothing(boot: Boot) -> Self {
        Self { records: Records::none(boot), unreadable: 0, new: false }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        if !self.records.take(key, value) {
            self.unreadable += 1;
        }
    }

    fn take_repeat(&mut self, key: &[u8], value: &[u8]) {
        self.records.repeats.extend(Repeat::decode(key, value));
    }

    fn take_unconfirmed(&mut self, key: &[u8], value: &[u8]) {
        let boot = self.records.boot;
        self.records.unconfirmed.extend(Unconfirmed::decode(key, value, boot));
    }

    fn take_version_2(&mut self, key: &[u8], value: &[u8]) {
        match Block::from_version_2(key, value) {
            Some(value) => self.take(key, &value),
            None => self.unreadable += 1,
        }
    }

    /// Whether something is missing.
    fn note(&self, path: &Path, warnings: &mut Vec<String>) -> bool {
        if self.unreadable > 0 {
            let path = path.display();
            warnings.push(format!("{} blocks of claims in {path} cannot be read", self.unreadable));
        }
        self.unreadable > 0 || self.new
    }
}

/// Takes a key and its value.
type Take = fn(&mut Contents, &[u8], &[u8]);

fn open_file(path: &Path, boot_id: [u8; 16], now: Now) -> Result<(Database, Contents), OpenError> {
    let (database, new) = file::open(path)?;
    let contents = guarded(|| {
        let boot = first_start(&database, boot_id, now)?;
        Ok(Contents { new, ..read(&database, boot)? })
    });
    Ok((database, contents?))
}

/// The clocks at the first start in this boot. All starts in one boot go by these, so that a wall clock that is set
/// meanwhile changes no deadline.
fn first_start(database: &Database, id: [u8; 16], now: Now) -> Result<Boot, redb::Error> {
    let transaction = database.begin_write()?;
    let boot = {
        let mut table = transaction.open_table(BOOTS)?;
        let known = table.get(id)?.map(|clocks| clocks.value());
        match known {
            Some((wall, boot)) => Boot { id, wall, boot: Nanos(boot) },
            None => {
                table.retain(|_, _| false)?;
                let wall = expiry::wall_nanos(now);
                table.insert(id, (wall, now.boot.0))?;
                Boot { id, wall, boot: now.boot }
            }
        }
    };
    transaction.open_table(CLAIMS)?;
    migrate(&transaction)?;
    transaction.commit()?;
    Ok(boot)
}

/// Moves blocks that an earlier build wrote. What is damaged of them stays where it is, and is told.
fn migrate(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    if !transaction.list_tables()?.any(|table| table.name() == CLAIMS_2.name()) {
        return Ok(());
    }
    let left = {
        let mut old = transaction.open_table(CLAIMS_2)?;
        let mut new = transaction.open_table(CLAIMS)?;
        let mut moved = Vec::new();
        for entry in old.iter()? {
            let (key, value) = entry?;
            if let Some(value) = Block::from_version_2(key.value(), value.value()) {
                new.insert(key.value(), value.as_slice())?;
                moved.push(key.value().to_vec());
            }
        }
        for key in &moved {
            old.remove(key.as_slice())?;
        }
        old.len()?
    };
    if left == 0 {
        transaction.delete_table(CLAIMS_2)?;
    }
    Ok(())
}

fn read(database: &impl ReadableDatabase, boot: Boot) -> Result<Contents, redb::Error> {
    let mut contents = Contents::nothing(boot);
    let transaction = database.begin_read()?;
    for_each(&transaction, CLAIMS, |key, value| contents.take(key, value))?;
    for_each(&transaction, OFFENCES, |key, value| contents.take_repeat(key, value))?;
    for_each(&transaction, UNCONFIRMED, |key, value| contents.take_unconfirmed(key, value))?;
    for_each(&transaction, CLAIMS_2, |key, value| contents.take_version_2(key, value))?;
    Ok(contents)
}

/// Everything in a table, which may not be there.
fn for_each(
    transaction: &ReadTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    mut see: impl FnMut(&[u8], &[u8]),
) -> Result<(), redb::Error> {
    let table = match transaction.open_table(table) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?,
    };
    for entry in table.iter()? {
        let (key, value) = entry?;
        see(key.value(), value.value());
    }
    Ok(())
}

/// The records of a store that cannot be written.
fn read_only(path: &Path, boot_id: [u8; 16], now: Now) -> Option<Records> {
    let contents = guarded(|| {
        let database = redb::Builder::new().set_cache_size(CACHE).open_read_only(path)?;
        let here = here(boot_id, now);
        let transaction = database.begin_read()?;
        let known = match transaction.open_table(BOOTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            table => table?.get(boot_id)?.map(|clocks| clocks.value()),
        };
        let boot = known.map_or(here, |(wall, boot)| Boot { wall, boot: Nanos(boot), ..here });
        read(&database, boot)
    });
    contents.ok().filter(|contents| contents.unreadable == 0).map(|contents| contents.records)
}

/// Sets the file aside and starts another one with what can still be read.
fn start_anew(
    path: &Path,
    why: &str,
    boot_id: [u8; 16],
    now: Now,
    warnings: &mut Vec<String>,
) -> (Result<Database, String>, Records) {
    let aside = match set_aside(path) {
        Ok(aside) => aside,
        Err(error) => {
            warnings.push(format!("{} is damaged ({why}) and cannot be set aside: {error}", path.display()));
            return (Err(format!("damaged: {why}")), Records::none(here(boot_id, now)));
        }
    };
    let saved = salvage(&aside, boot_id, now);
    warnings.push(format!(
        "{} was damaged ({why}); it is now {}, and {} claims could be read from it",
        path.display(),
        aside.display(),
        saved.len()
    ));
    let state =
        open_file(path, boot_id, now).map(|(database, _)| database).map_err(|error| error.to_string());
    let mut store = Store { path: path.to_owned(), boot_id, state, later: false };
    let repeats = saved.repeats().iter().cloned().map(Write::Repeat);
    let unconfirmed = saved.unconfirmed().iter().cloned().map(Write::Unconfirmed);
    let writes: Vec<Write> = saved.iter().map(Write::Put).chain(repeats).chain(unconfirmed).collect();
    if let Err(NotStored(why)) = store.commit(&writes, now) {
        warnings.push(format!("the claims that were read are in force but not stored: {why}"));
    }
    (store.state, saved)
}

/// What can be read of a damaged file. Every record has a checksum, so nothing is made up.
fn salvage(path: &Path, boot_id: [u8; 16], now: Now) -> Records {
    let contents = std::sync::Mutex::new(Contents::nothing(here(boot_id, now)));
    // A block takes more than this many bytes of the file; a tree that goes in circles has more of them.
    let most = std::fs::metadata(path).map_or(0, |file| file.len() / 16);
    let ended = guarded(|| {
        let mut builder = redb::Builder::new();
        let database = builder.set_cache_size(CACHE).open(path)?;
        let transaction = database.begin_read()?;
        let tables: [(_, Take); 4] = [
            (CLAIMS, Contents::take),
            (CLAIMS_2, Contents::take_version_2),
            (OFFENCES, Contents::take_repeat),
            (UNCONFIRMED, Contents::take_unconfirmed),
        ];
        for (table, take) in tables {
            let table = match transaction.open_table(table) {
                Err(redb::TableError::TableDoesNotExist(_)) => continue,
                table => table?,
            };
            for (entry, _) in table.iter()?.zip(0..most) {
                let (key, value) = entry?;
                if let Ok(mut contents) = contents.lock() {
                    take(&mut contents, key.value(), value.value());
                }
            }
        }
        Ok(())
    });
    if let Err(why) = ended {
        tracing::debug!("reading {} ended: {why}", path.display());
    }
    let contents = contents.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    contents.records
}

#[cfg(test)]
mod tests;

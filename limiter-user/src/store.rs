//! Claims on disk: `claims.redb` in the state directory. What [`Store::commit`] took survives kill -9 and power loss. Beside
//! it, `claims.serial` says how many commits there were, so that a file that has gone back to an earlier one is noticed.
//!
//! A disk fault never keeps the daemon from starting. A file that cannot be understood is set aside as
//! `claims.redb.corrupt-N`, what can still be read of it is kept, and the rest is the caller's to recover from the
//! kernel. A directory that cannot be written makes the store [unusable](Store::problem), and committing fails.

mod block;
mod changes;
mod crc;
mod expiry;
mod file;
mod id;
mod offences;
mod serial;
mod terms;
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
use block::Block;
use changes::{Change, Changes};
use expiry::Boot;
pub(crate) use file::set_aside;
use file::{Before, OpenError, guarded};
use offences::OFFENCES;
pub use offences::Repeat;
use serial::Serial;
use unconfirmed::UNCONFIRMED;
pub use unconfirmed::{Unconfirmed, Undo};

/// The blocks of claims. The version of their format is in the name.
const CLAIMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims-3");
/// Where earlier builds kept them. What is found there is moved when the store is opened.
const CLAIMS_2: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims-2");
/// Of the running boot: its identifier, and both clocks at the first start in it, in nanoseconds.
const BOOTS: TableDefinition<'_, [u8; 16], (u64, u64)> = TableDefinition::new("boots-1");

/// How many commits there were, beside the file.
const SERIAL_FILE: &str = "claims.serial";
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
    serial: Serial,
    /// Whether the number of commits was compared with what is stored: not if that could not be read.
    compared: bool,
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
        let opened = open_file(&path, boot_id, now);
        let mut missing = 0;
        let mut serial = Serial::open(&directory.join(SERIAL_FILE));
        let (state, records) = match opened {
            Ok((database, contents)) => {
                lost |= contents.note(&path, &mut warnings);
                missing = contents.note_missing(&mut serial, &path, &mut warnings);
                lost |= missing > 0;
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
                let store = Self {
                    path,
                    boot_id,
                    state: Err(format!("damaged: {why}")),
                    serial,
                    compared: true,
                    later: false,
                };
                let (store, records) = start_anew(store, &why, now, &mut warnings);
                return Opened { store, records, lost: true, unseen, warnings };
            }
        };
        let compared = state.is_ok();
        let mut store = Self { path, boot_id, state, serial, compared, later: false };
        if missing > 0 {
            // So that it is told once. If it cannot be written, it is told again.
            let _ = store.make(&[], now, Durability::Immediate);
        }
        Opened { store, records, lost, unseen, warnings }
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
    /// [`Self::commit_later`] was not followed by a [`Self::commit`], and nothing at all if the file is gone. With it come
    /// sentences about what is lost, if it could not be read at the start.
    ///
    /// # Errors
    ///
    /// If it still is unusable.
    pub fn reopen(&mut self, now: Now) -> Result<Option<(Records, Vec<String>)>, NotStored> {
        if self.state.is_ok() {
            return Ok(None);
        }
        match open_file(&self.path, self.boot_id, now) {
            Ok((database, contents)) => {
                self.state = Ok(database);
                let mut serial = Serial::open(&self.path.with_file_name(SERIAL_FILE));
                let mut warnings = Vec::new();
                contents.note(&self.path, &mut warnings);
                contents.note_missing(&mut serial, &self.path, &mut warnings);
                if std::mem::replace(&mut self.compared, true) {
                    // What is missing is known, and written again.
                    warnings.drain(..).for_each(|warning| tracing::info!("{warning}, but known"));
                }
                let former = std::mem::replace(&mut self.serial, serial);
                self.serial.lost(former.next().max(contents.serial));
                Ok(Some((contents.records, warnings)))
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
        self.close("a test".to_owned());
    }

    /// Lets go of the files, so that the disk can be taken away and repaired.
    fn close(&mut self, why: String) {
        if let Ok(database) = std::mem::replace(&mut self.state, Err(why)) {
            file::close(database);
        }
        self.serial.close();
    }

    fn write(&mut self, writes: &[Write], now: Now, durability: Durability) -> Result<(), NotStored> {
        let wait = matches!(durability, Durability::Immediate);
        if writes.is_empty() && !(wait && self.later) {
            return Ok(());
        }
        self.make(writes, now, durability)
    }

    /// A commit, whatever it holds.
    fn make(&mut self, writes: &[Write], now: Now, durability: Durability) -> Result<(), NotStored> {
        let database = match &self.state {
            Ok(database) => database,
            Err(why) => return Err(self.refusal(why)),
        };
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
        let (boot, number) = (here(self.boot_id, now), self.serial.next());
        let claims = Changes::of(writes, boot);
        let claims = claims.sorted();
        let made = guarded(|| write(database, &claims, &repeats, &changes, boot, (number, durability)));
        if let Err(error) = made {
            let why = error.to_string();
            let refusal = self.refusal(&why);
            // After an error the library refuses everything until the file is opened again.
            self.close(why);
            return Err(refusal);
        }
        let durable = matches!(durability, Durability::Immediate);
        self.serial.made(durable);
        self.later = !durable;
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close("closed".to_owned());
    }
}

/// The clocks in this boot.
fn here(id: [u8; 16], now: Now) -> Boot {
    Boot { id, wall: now.wall_nanos(), boot: now.boot }
}

/// Makes the changes of `claims`, which are [sorted](Changes::sorted), and remembers `repeats`.
fn write(
    database: &Database,
    claims: &[Change<'_>],
    repeats: &[&Repeat],
    changes: &[(u64, Option<&Unconfirmed>)],
    boot: Boot,
    (number, durability): (u64, Durability),
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(durability)?;
    serial::write(&transaction, number)?;
    write_claims(&transaction, claims)?;
    offences::write(&transaction, repeats)?;
    unconfirmed::write(&transaction, changes, boot)?;
    transaction.commit()?;
    Ok(())
}

fn write_claims(transaction: &WriteTransaction, claims: &[Change<'_>]) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(CLAIMS)?;
    // What is in the table cannot be looked at while it is changed.
    let (mut old_key, mut old_value, mut value) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = claims;
    while let Some(Change { id, .. }) = rest.first() {
        // The block that has the place of the first, and where its place ends.
        old_key.clear();
        old_value.clear();
        let end = {
            let mut place = table.upper_bound(Bound::Included(*id))?;
            if let Some((key, value)) = place.peek_prev()? {
                old_key.extend(key.value());
                old_value.extend(value.value());
            }
            let next = place.peek_next()?;
            let in_front =
                |change: &Change<'_>| next.as_ref().is_none_or(|(next, _)| change.id < next.value());
            rest.iter().take_while(|change| in_front(change)).count()
        };
        let (here, later) = rest.split_at(end);
        // What is damaged stays, for whoever can make something of it, and so does what another build may understand.
        let old = Block::decode(&old_key, &old_value).filter(Block::is_understood);
        let mut goes = old.is_some();
        let mut block = old.unwrap_or_default();
        block.merge(here);
        for part in block.parts() {
            if goes && part.key() != old_key {
                table.remove(old_key.as_slice())?;
            }
            // Mostly it begins as before, and is replaced.
            goes = false;
            part.write(&mut value);
            table.insert(part.key(), value.as_slice())?;
        }
        if goes {
            table.remove(old_key.as_slice())?;
        }
        rest = later;
    }
    Ok(())
}

/// What a file holds.
#[derive(Debug)]
struct Contents {
    records: Records,
    /// Blocks that are damaged.
    unreadable: usize,
    /// Offenders, and changes that wait for being confirmed, that are damaged.
    forgotten: usize,
    unconfirmed: usize,
    /// Of the last commit.
    serial: u64,
    before: Before,
}

impl Contents {
    fn nothing(boot: Boot) -> Self {
        let records = Records::none(boot);
        Self { records, unreadable: 0, forgotten: 0, unconfirmed: 0, serial: 0, before: Before::Something }
    }

    fn take(&mut self, key: &[u8], value: &[u8]) {
        if !self.records.take(key, value) {
            self.unreadable += 1;
        }
    }

    fn take_repeat(&mut self, key: &[u8], value: &[u8]) {
        match Repeat::decode(key, value) {
            Some(repeat) => self.records.repeats.push(repeat),
            None => self.forgotten += 1,
        }
    }

    fn take_unconfirmed(&mut self, key: &[u8], value: &[u8]) {
        let boot = self.records.boot;
        match Unconfirmed::decode(key, value, boot) {
            Some(change) => self.records.unconfirmed.push(change),
            None => self.unconfirmed += 1,
        }
    }

    fn take_version_2(&mut self, key: &[u8], value: &[u8]) {
        match Block::from_version_2(key, value) {
            Some(value) => self.take(key, &value),
            None => self.unreadable += 1,
        }
    }

    /// How many commits are missing by the number beside the file.
    fn note_missing(&self, serial: &mut Serial, path: &Path, warnings: &mut Vec<String>) -> u64 {
        let missing = serial.lost(self.serial);
        if missing > 0 {
            warnings.push(format!("the last {missing} changes of {} are lost", path.display()));
        }
        missing
    }

    /// Whether claims are missing.
    fn note(&self, path: &Path, warnings: &mut Vec<String>) -> bool {
        let path = path.display();
        if self.unreadable > 0 {
            warnings.push(format!("{} blocks of claims in {path} cannot be read", self.unreadable));
        }
        if self.forgotten > 0 {
            warnings.push(format!(
                "{} offenders in {path} cannot be read: they are not blocked for longer next time",
                self.forgotten
            ));
        }
        if self.unconfirmed > 0 {
            warnings.push(format!(
                "{} changes in {path} that nobody has confirmed cannot be read: what they did stays",
                self.unconfirmed
            ));
        }
        if self.before == Before::Emptiness {
            warnings.push(format!("{path} was empty: what it held is lost"));
        }
        self.unreadable > 0 || self.before != Before::Something
    }
}

/// Takes a key and its value.
type Take = fn(&mut Contents, &[u8], &[u8]);

fn open_file(path: &Path, boot_id: [u8; 16], now: Now) -> Result<(Database, Contents), OpenError> {
    let (database, before) = file::open(path)?;
    let contents = guarded(|| {
        let boot = first_start(&database, boot_id, now)?;
        Ok(Contents { before, ..read(&database, boot)? })
    });
    match contents {
        Ok(contents) => Ok((database, contents)),
        Err(error) => {
            file::close(database);
            Err(error)
        }
    }
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
                let wall = now.wall_nanos();
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
    contents.serial = serial::read(&transaction)?;
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

/// Sets the file of a store that is damaged aside and starts another one with what can still be read.
fn start_anew(mut store: Store, why: &str, now: Now, warnings: &mut Vec<String>) -> (Store, Records) {
    let (path, boot_id) = (store.path.clone(), store.boot_id);
    let aside = match set_aside(&path) {
        Ok(aside) => aside,
        Err(error) => {
            warnings.push(format!("{} is damaged ({why}) and cannot be set aside: {error}", path.display()));
            return (store, Records::none(here(boot_id, now)));
        }
    };
    let saved = salvage(&aside, boot_id, now);
    warnings.push(format!(
        "{} was damaged ({why}); it is now {}, and {} claims, {} offenders and {} changes that wait for being confirmed \
         could be read from it",
        path.display(),
        aside.display(),
        saved.len(),
        saved.repeats().len(),
        saved.unconfirmed().len()
    ));
    store.state =
        open_file(&path, boot_id, now).map(|(database, _)| database).map_err(|error| error.to_string());
    // What is made of it has later numbers.
    store.serial.lost(0);
    let repeats = saved.repeats().iter().cloned().map(Write::Repeat);
    let unconfirmed = saved.unconfirmed().iter().cloned().map(Write::Unconfirmed);
    let writes: Vec<Write> = saved.iter().map(Write::Put).chain(repeats).chain(unconfirmed).collect();
    if let Err(NotStored(why)) = store.make(&writes, now, Durability::Immediate) {
        warnings.push(format!("the claims that were read are in force but not stored: {why}"));
    }
    (store, saved)
}

/// What can be read of a damaged file. Every record has a checksum, so nothing is made up.
fn salvage(path: &Path, boot_id: [u8; 16], now: Now) -> Records {
    let contents = std::sync::Mutex::new(Contents::nothing(here(boot_id, now)));
    // A block takes more than this many bytes of the file; a tree that goes in circles has more of them.
    let most = std::fs::metadata(path).map_or(0, |file| file.len() / 16);
    let opened = guarded(|| {
        let database = redb::Builder::new().set_cache_size(CACHE).open(path)?;
        let transaction = database.begin_read()?;
        Ok((database, transaction))
    });
    let tables: [(_, Take); 4] = [
        (CLAIMS, Contents::take),
        (CLAIMS_2, Contents::take_version_2),
        (OFFENCES, Contents::take_repeat),
        (UNCONFIRMED, Contents::take_unconfirmed),
    ];
    for (table, take) in tables {
        // Each by itself: what is behind the damage in one does not keep the next from being read.
        let ended = opened.as_ref().map_err(ToString::to_string).and_then(|(_, transaction)| {
            let read = guarded(|| {
                let table = match transaction.open_table(table) {
                    Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
                    table => table?,
                };
                for (entry, _) in table.iter()?.zip(0..most) {
                    let (key, value) = entry?;
                    if let Ok(mut contents) = contents.lock() {
                        take(&mut contents, key.value(), value.value());
                    }
                }
                Ok(())
            });
            read.map_err(|why| why.to_string())
        });
        if let Err(why) = ended {
            tracing::debug!("reading {} of {} ended: {why}", table.name(), path.display());
        }
    }
    if let Ok((database, transaction)) = opened {
        drop(transaction);
        file::close(database);
    }
    let contents = contents.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    contents.records
}

#[cfg(test)]
mod tests;

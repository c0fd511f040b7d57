//! The lists: batched updates of the four tables that hold them.

use std::io;
use std::sync::Arc;

use limiter_common::abi::{self, Entry, MapSpec};
use limiter_common::{Address, Prefix};

use super::bpf::{self, ENOTSUPP};
use super::maps::Maps;
use crate::dataplane::{ApplyError, Change, Writer};

/// Elements per system call: large enough that the call does not matter, small enough to stay in the cache.
const BATCH: usize = 8192;
/// How often an element is tried again when the kernel is short of memory for a moment.
const ATTEMPTS: usize = 10;
const VALUE: usize = size_of::<Entry>();

const TABLES: [&MapSpec; 4] = [&abi::ADDRESSES_V4, &abi::ADDRESSES_V6, &abi::PREFIXES_V4, &abi::PREFIXES_V6];

/// Writes to the maps.
#[derive(Debug)]
pub(super) struct KernelWriter {
    maps: Arc<Maps>,
    pending: [Pending; 4],
}

/// Changes of one kind to one table, not made yet.
#[derive(Debug, Default)]
struct Pending {
    keys: Vec<u8>,
    values: Vec<u8>,
    count: usize,
    removes: bool,
}

impl KernelWriter {
    pub(super) fn new(maps: Arc<Maps>) -> Self {
        Self { maps, pending: Default::default() }
    }
}

impl Pending {
    fn push(&mut self, Change { prefix, entry }: &Change) {
        self.removes = entry.is_none();
        self.count += 1;
        push_key(&mut self.keys, *prefix);
        if !self.removes {
            self.values.extend(entry.block_until.to_ne_bytes());
            self.values.extend(entry.allow_until.to_ne_bytes());
        }
    }

    /// The buffers are kept, their content is not.
    fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.count = 0;
    }
}

/// Collects changes in batches of one kind for one table, and has them made. What concerns the same address is made in
/// order: of each family there is only one batch at a time, since a host's change and that of a prefix around it, which
/// are in two tables, must not pass each other.
fn in_batches(
    changes: &[Change],
    pending: &mut [Pending; TABLES.len()],
    mut make: impl FnMut(usize, &Pending) -> Result<(), ApplyError>,
) -> Result<(), ApplyError> {
    let mut flush = |table: usize, pending: &mut Pending| {
        let result = if pending.count == 0 { Ok(()) } else { make(table, pending) };
        pending.clear();
        result
    };
    let mut outcome = Ok(());
    for change in changes {
        let table = table_of(change.prefix);
        let sibling = sibling(table);
        outcome = flush(sibling, &mut pending[sibling]);
        let pending = &mut pending[table];
        if outcome.is_ok() && (pending.count == BATCH || pending.removes != change.entry.is_none()) {
            outcome = flush(table, pending);
        }
        if outcome.is_err() {
            break;
        }
        pending.push(change);
    }
    // Also after an error: what came before it in the other family is still pending.
    for (table, pending) in pending.iter_mut().enumerate() {
        let result = flush(table, pending);
        outcome = outcome.and(result);
    }
    outcome
}

/// Copies all lists. Returns the tables that had not the room for all entries.
pub(super) fn copy(from: &Maps, to: Arc<Maps>) -> Result<Vec<&'static str>, ApplyError> {
    let mut writer = KernelWriter::new(to);
    let mut full = Vec::new();
    for spec in TABLES {
        let mut entries = Vec::new();
        read(from, spec, &mut entries).map_err(|error| ApplyError::Kernel { table: spec.name, error })?;
        match writer.apply(&entries) {
            Ok(()) => {}
            Err(ApplyError::Full { table, .. }) => full.push(table),
            Err(error @ ApplyError::Kernel { .. }) => return Err(error),
        }
    }
    Ok(full)
}

impl Writer for KernelWriter {
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError> {
        let maps = &self.maps;
        in_batches(changes, &mut self.pending, |table, pending| make(maps, TABLES[table], pending))
    }

    fn installed(&mut self) -> Result<Vec<Change>, ApplyError> {
        let mut changes = Vec::new();
        for spec in TABLES {
            read(&self.maps, spec, &mut changes)
                .map_err(|error| ApplyError::Kernel { table: spec.name, error })?;
        }
        Ok(changes)
    }
}

/// Index in [`TABLES`] of the table that holds `prefix`.
fn table_of(prefix: Prefix) -> usize {
    match (prefix.address(), prefix.is_host()) {
        (Address::V4(_), true) => 0,
        (Address::V6(_), true) => 1,
        (Address::V4(_), false) => 2,
        (Address::V6(_), false) => 3,
    }
}

/// The other table of the same family.
fn sibling(table: usize) -> usize {
    (table + 2) % TABLES.len()
}

fn push_key(keys: &mut Vec<u8>, prefix: Prefix) {
    if !prefix.is_host() {
        keys.extend(u32::from(prefix.length()).to_ne_bytes());
    }
    match prefix.address() {
        Address::V4(bytes) => keys.extend(bytes),
        Address::V6(bytes) => keys.extend(bytes),
    }
}

/// The reverse of [`push_key`]; `None` for a key that this program cannot have written.
fn prefix_of(spec: &MapSpec, key: &[u8]) -> Option<Prefix> {
    let (len, bytes) = if *spec == abi::PREFIXES_V4 || *spec == abi::PREFIXES_V6 {
        let (len, bytes) = key.split_first_chunk()?;
        (Some(u32::from_ne_bytes(*len)), bytes)
    } else {
        (None, key)
    };
    let address = match bytes.len() {
        4 => Address::V4(bytes.try_into().ok()?),
        _ => Address::V6(bytes.try_into().ok()?),
    };
    match len {
        Some(len) => Prefix::new(address, u8::try_from(len).ok()?),
        None => Some(Prefix::host(address)),
    }
}

/// Makes all changes of `pending`, batch by batch; element by element where the kernel has no batches for the table, or
/// has not the memory for one at this moment.
fn make(maps: &Maps, spec: &'static MapSpec, pending: &Pending) -> Result<(), ApplyError> {
    let map = maps.fd(spec);
    let key_size = spec.key_size as usize;
    let mut done = 0;
    while done < pending.count {
        let keys = &pending.keys[done * key_size..];
        let rest = pending.count - done;
        let (made, result) = if pending.removes {
            bpf::delete_batch(map, keys, rest)
        } else {
            bpf::update_batch(map, keys, &pending.values[done * VALUE..], rest)
        };
        done += made;
        let Err(error) = result else { continue };
        if done == pending.count {
            break;
        }
        match error.raw_os_error() {
            // The element that stopped it, or the first one if there are no batches here.
            Some(
                libc::ENOENT
                | libc::ENOMEM
                | libc::EBUSY
                | libc::EAGAIN
                | libc::EINTR
                | libc::EINVAL
                | libc::E2BIG
                | libc::ENOSPC
                | libc::EFAULT
                | ENOTSUPP,
            ) => {
                let until = if batches_work(&error) { done + 1 } else { pending.count };
                while done < until {
                    element(maps, spec, pending, done)?;
                    done += 1;
                }
            }
            _ => return Err(ApplyError::Kernel { table: spec.name, error }),
        }
    }
    Ok(())
}

fn batches_work(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP))
}

/// Makes the change number `index` of `pending`.
fn element(maps: &Maps, spec: &'static MapSpec, pending: &Pending, index: usize) -> Result<(), ApplyError> {
    let map = maps.fd(spec);
    let key_size = spec.key_size as usize;
    let key = &pending.keys[index * key_size..(index + 1) * key_size];
    let mut attempts = ATTEMPTS;
    loop {
        let result = if pending.removes {
            bpf::delete(map, key)
        } else {
            bpf::update(map, key, &pending.values[index * VALUE..(index + 1) * VALUE])
        };
        let Err(error) = result else { return Ok(()) };
        attempts -= 1;
        match error.raw_os_error() {
            Some(libc::ENOENT) if pending.removes => return Ok(()),
            // Hash tables say E2BIG, tries ENOSPC. Nothing was evicted.
            Some(libc::E2BIG | libc::ENOSPC) => {
                return Err(ApplyError::Full { table: spec.name, capacity: maps.capacity(spec) });
            }
            Some(libc::ENOMEM | libc::EBUSY | libc::EAGAIN | libc::EINTR) if attempts > 0 => {
                std::thread::yield_now();
            }
            _ => return Err(ApplyError::Kernel { table: spec.name, error }),
        }
    }
}

/// Appends the content of a table.
fn read(maps: &Maps, spec: &MapSpec, changes: &mut Vec<Change>) -> io::Result<()> {
    let map = maps.fd(spec);
    let key_size = spec.key_size as usize;
    let mut size = BATCH;
    let (mut keys, mut values) = (vec![0; size * key_size], vec![0; size * VALUE]);
    let mut position = None;
    loop {
        let before = position;
        let (count, result) = bpf::lookup_batch(map, &mut position, &mut keys, &mut values, size);
        for (key, value) in keys.chunks_exact(key_size).zip(values.chunks_exact(VALUE)).take(count) {
            push(spec, key, value, changes);
        }
        match result {
            Ok(()) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => return Ok(()),
                // One bucket holds more than fits: nothing was read.
                Some(libc::ENOSPC) => {
                    position = before;
                    size *= 2;
                    keys.resize(size * key_size, 0);
                    values.resize(size * VALUE, 0);
                }
                Some(libc::EINVAL | ENOTSUPP) if before.is_none() => return read_each(maps, spec, changes),
                Some(libc::EINTR | libc::EAGAIN) => position = before,
                _ => return Err(error),
            },
        }
    }
}

/// The same, for kernels without batches for this kind of table.
fn read_each(maps: &Maps, spec: &MapSpec, changes: &mut Vec<Change>) -> io::Result<()> {
    let map = maps.fd(spec);
    let mut key = vec![0; spec.key_size as usize];
    let mut value = [0; VALUE];
    let mut previous: Option<Vec<u8>> = None;
    loop {
        match bpf::next_key(map, previous.as_deref(), &mut key) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
        bpf::lookup(map, &key, &mut value)?;
        push(spec, &key, &value, changes);
        previous = Some(key.clone());
    }
}

fn push(spec: &MapSpec, key: &[u8], value: &[u8], changes: &mut Vec<Change>) {
    let word = |at: usize| {
        let bytes = value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        u64::from_ne_bytes(bytes)
    };
    let entry = Entry { block_until: word(0), allow_until: word(8) };
    if let Some(prefix) = prefix_of(spec, key) {
        changes.push(Change { prefix, entry });
    }
}

#[cfg(test)]
mod tests {
    use limiter_common::Nanos;

    use super::*;

    fn change(text: &str, entry: Entry) -> Change {
        Change { prefix: text.parse().unwrap(), entry }
    }

    /// The batches that are made of `changes`: table, whether it removes, and elements.
    fn batches(changes: &[Change], fails: Option<usize>) -> (Vec<(&'static str, bool, usize)>, bool) {
        let mut made = Vec::new();
        let mut pending = Default::default();
        let outcome = in_batches(changes, &mut pending, |table, pending| {
            made.push((TABLES[table].name, pending.removes, pending.count));
            if fails == Some(made.len()) {
                return Err(ApplyError::Full { table: TABLES[table].name, capacity: 0 });
            }
            Ok(())
        });
        assert!(pending.iter().all(|pending| pending.count == 0 && pending.keys.is_empty()));
        (made, outcome.is_ok())
    }

    const BLOCK: Entry = Entry { block_until: Nanos::NEVER.0, allow_until: 0 };
    const ALLOW: Entry = Entry { block_until: 0, allow_until: Nanos::NEVER.0 };

    #[test]
    fn a_host_and_the_prefix_around_it_do_not_pass_each_other() {
        // A host becomes part of a prefix.
        let to_prefix = [change("192.0.2.0/24", BLOCK), change("192.0.2.1", Entry::NONE)];
        assert_eq!(
            batches(&to_prefix, None).0,
            [("prefixes_v4", false, 1), ("addresses_v4", true, 1)],
            "removed before it was blocked otherwise"
        );
        let allowed_first = [change("2001:db8::/32", ALLOW), change("2001:db8::1", BLOCK)];
        assert_eq!(
            batches(&allowed_first, None).0,
            [("prefixes_v6", false, 1), ("addresses_v6", false, 1)],
            "blocked before it was allowed"
        );
        let back =
            [change("192.0.2.1", BLOCK), change("192.0.2.0/24", Entry::NONE), change("192.0.2.2", BLOCK)];
        assert_eq!(
            batches(&back, None).0,
            [("addresses_v4", false, 1), ("prefixes_v4", true, 1), ("addresses_v4", false, 1)]
        );
    }

    #[test]
    fn families_do_not_break_each_others_batches() {
        let hosts: Vec<Change> = (0..BATCH + 1)
            .flat_map(|n| {
                [
                    change(&format!("10.0.{}.{}", n / 256, n % 256), BLOCK),
                    change(&format!("2001:db8::{n:x}"), BLOCK),
                ]
            })
            .collect();
        let (made, _) = batches(&hosts, None);
        let (v4, v6) = (("addresses_v4", false, BATCH), ("addresses_v6", false, BATCH));
        assert_eq!(made, [v4, v6, ("addresses_v4", false, 1), ("addresses_v6", false, 1)]);
    }

    #[test]
    fn after_an_error_only_the_other_family_goes_on() {
        let changes = [
            change("2001:db8::1", BLOCK),
            change("192.0.2.1", BLOCK),
            change("192.0.2.0/24", BLOCK),
            change("192.0.2.2", BLOCK),
        ];
        let (made, worked) = batches(&changes, Some(1));
        assert_eq!(made, [("addresses_v4", false, 1), ("addresses_v6", false, 1)]);
        assert!(!worked);
    }

    #[test]
    fn keys_are_read_back_as_they_were_written() {
        for text in ["192.0.2.1", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::1", "2001:db8::/33"] {
            let prefix: Prefix = text.parse().unwrap();
            let spec = TABLES[table_of(prefix)];
            let mut key = Vec::new();
            push_key(&mut key, prefix);
            assert_eq!(key.len(), spec.key_size as usize, "{text}");
            assert_eq!(prefix_of(spec, &key), Some(prefix));
        }
    }
}

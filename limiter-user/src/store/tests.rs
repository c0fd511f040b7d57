//! Whatever happens to the file, the store opens, makes nothing up, and takes claims again.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use limiter_common::Address;

use super::*;

const BOOT: [u8; 16] = [1; 16];

fn now() -> Now {
    Now { boot: Nanos::from_secs(1_000), wall: UNIX_EPOCH + Duration::from_secs(1_700_000_000) }
}

fn record(n: u32) -> Record {
    let terms = Terms {
        until: if n.is_multiple_of(2) { Nanos::NEVER } else { Nanos::from_secs(2_000 + u64::from(n)) },
        created: 1_700_000_000,
        actor: Some(std::sync::Arc::from(format!("token:{}", n % 7))),
        reason: n.is_multiple_of(3).then(|| std::sync::Arc::from(format!("reason {n}"))),
    };
    let prefix = Prefix::host(Address::V4((0x0a00_0000 + n).to_be_bytes()));
    Record { prefix, action: Action::Block, owner: Owner::Operator, terms }
}

fn puts(records: &[Record]) -> Vec<Write> {
    records.iter().cloned().map(Write::Put).collect()
}

fn sorted(records: &Records) -> Vec<Record> {
    let mut found: Vec<Record> = records.iter().collect();
    assert_eq!(found.len(), records.len());
    found.sort_by_key(|record| record.prefix);
    found
}

/// A directory with a store of these records, and the bytes of its file.
fn stored(records: &[Record]) -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = Store::open(directory.path(), BOOT, now());
    assert!(opened.lost && opened.warnings.is_empty());
    opened.store.commit(&puts(records), now()).unwrap();
    drop(opened);
    let bytes = fs::read(directory.path().join("claims.redb")).unwrap();
    (directory, bytes)
}

#[test]
fn what_was_committed_is_there_again() {
    let records: Vec<Record> = (0..100).map(record).collect();
    let (directory, _) = stored(&records);
    let mut opened = Store::open(directory.path(), BOOT, now());
    assert!(!opened.lost && opened.warnings.is_empty());
    assert_eq!(sorted(&opened.records), records);

    let Record { prefix, action, owner, .. } = record(3);
    opened.store.commit(&[Write::Delete { prefix, action, owner }], now()).unwrap();
    // In the same commit, the later word counts.
    let changed = Record { terms: Terms { until: Nanos::NEVER, ..record(5).terms }, ..record(5) };
    opened.store.commit(&puts(&[record(5), changed.clone()]), now()).unwrap();
    drop(opened.store);
    let found = sorted(&Store::open(directory.path(), BOOT, now()).records);
    assert_eq!(found.len(), 99);
    assert_eq!(found[4], changed);
}

#[test]
fn what_was_committed_later_is_durable_with_the_next_commit() {
    let (directory, _) = stored(&[record(1)]);
    let mut opened = Store::open(directory.path(), BOOT, now());
    let path = directory.path().join("claims.redb");
    let crashed = |store: &Store| {
        // What a power cut would leave: the file as it is, while the library holds it open.
        assert_eq!(store.problem(), None);
        let elsewhere = tempfile::tempdir().unwrap();
        fs::copy(&path, elsewhere.path().join("claims.redb")).unwrap();
        let found = Store::open(elsewhere.path(), BOOT, now());
        assert!(!found.lost, "{:?}", found.warnings);
        found.records.len()
    };
    opened.store.commit_later(&puts(&[record(2)]), now()).unwrap();
    assert_eq!(crashed(&opened.store), 1);
    opened.store.commit(&puts(&[record(3)]), now()).unwrap();
    assert_eq!(crashed(&opened.store), 3);
    opened.store.commit_later(&puts(&[record(4)]), now()).unwrap();
    assert_eq!(crashed(&opened.store), 3);
    opened.store.commit(&[], now()).unwrap();
    assert_eq!(crashed(&opened.store), 4);
}

/// The file is `bytes`: the store opens, holds nothing but what was stored, and takes more.
#[track_caller]
fn check_damaged(what: &str, bytes: &[u8], records: &HashSet<String>) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("claims.redb");
    fs::write(&path, bytes).unwrap();
    let mut opened = Store::open(directory.path(), BOOT, now());
    for record in opened.records.iter() {
        assert!(records.contains(&format!("{record:?}")), "{what}: made up {record:?}");
    }
    let found = opened.records.len();
    assert!(found == records.len() || opened.lost, "{what}: {found} records, and nothing said");
    assert!(opened.lost != opened.warnings.is_empty(), "{what}: {:?}", opened.warnings);
    opened
        .store
        .commit(&puts(&[record(1_000_000)]), now())
        .unwrap_or_else(|error| panic!("{what}: {error:?}"));
    drop(opened.store);
    let again = Store::open(directory.path(), BOOT, now());
    assert_eq!(again.records.len(), found + 1, "{what}");
    assert!(!again.lost, "{what}: {:?}", again.warnings);
    found
}

#[test]
fn damaged_files() {
    let records: Vec<Record> = (0..500).map(record).collect();
    let (_directory, bytes) = stored(&records);
    let known: HashSet<String> = records.iter().map(|record| format!("{record:?}")).collect();
    assert_eq!(check_damaged("intact", &bytes, &known), records.len());

    let step = bytes.len() / 20;
    for length in (1..bytes.len()).step_by(step).chain([1, 8, 64, 320, 4095, 4096, bytes.len() - 1]) {
        check_damaged(&format!("cut off at {length}"), &bytes[..length], &known);
    }
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut readable = 0;
    for _ in 0..40 {
        let (at, bit) = (random(used), random(8));
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        readable += check_damaged(&format!("bit {bit} of byte {at}"), &damaged, &known);
    }
    // What is read of damaged files is most of what was there.
    assert!(readable > 40 * records.len() / 2, "{readable}");
    for what in [&b"garbage"[..], &[0; 100_000], b"redb\x1a\x0a\xa9\x0d\x0a and then nothing"] {
        assert_eq!(check_damaged("no database", what, &HashSet::new()), 0);
    }
    let mut page = bytes.clone();
    for byte in page.iter_mut().skip(4096).take(4096) {
        *byte = !*byte;
    }
    check_damaged("a page turned over", &page, &known);
}

#[test]
fn an_empty_file_is_a_new_store() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("claims.redb"), "").unwrap();
    let mut opened = Store::open(directory.path(), BOOT, now());
    // Of which something may be left in the kernel.
    assert!(opened.lost && opened.warnings.len() == 1, "{:?}", opened.warnings);
    opened.store.commit(&puts(&[record(1)]), now()).unwrap();
}

/// The library goes back to the commit before, and so may somebody with an old copy.
#[test]
fn a_file_that_is_older_than_it_was_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("claims.redb");
    let open = || Store::open(directory.path(), BOOT, now());
    open().store.commit(&puts(&[record(1)]), now()).unwrap();
    let old = fs::read(&path).unwrap();
    let mut opened = open();
    for n in 2..5 {
        opened.store.commit(&puts(&[record(n)]), now()).unwrap();
    }
    // What the disk is not waited for may be gone.
    opened.store.commit_later(&puts(&[record(5)]), now()).unwrap();
    drop(opened);
    assert!(!open().lost);
    // The slot of the last commit (the header says which one that is) is damaged.
    let mut bytes = fs::read(&path).unwrap();
    let slot = 64 + 128 * usize::from(bytes[9] & 1);
    bytes[slot + 120] ^= 1;
    for older in [bytes, old] {
        fs::write(&path, older).unwrap();
        let opened = open();
        assert!(opened.lost && opened.warnings.len() == 1, "{:?}", opened.warnings);
        assert!(opened.warnings[0].contains("changes"), "{:?}", opened.warnings);
        drop(opened);
        let again = open();
        assert!(!again.lost, "told twice: {:?}", again.warnings);
        drop(again);
        open().store.commit(&puts(&[record(6)]), now()).unwrap();
    }
}

#[test]
fn what_is_no_file_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("claims.redb");
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    for make in ["directory", "link", "socket"] {
        match make {
            "directory" => fs::create_dir_all(path.join("x")).unwrap(),
            "link" => std::os::unix::fs::symlink(&elsewhere, &path).unwrap(),
            _ => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
        }
        let mut opened = Store::open(directory.path(), BOOT, now());
        assert!(opened.lost && opened.warnings.len() == 1, "{make}: {:?}", opened.warnings);
        opened.store.commit(&puts(&[record(1)]), now()).unwrap();
        drop(opened);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"precious");
}

#[test]
fn damaged_files_do_not_fill_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..9 {
        fs::write(directory.path().join("claims.redb"), format!("garbage {n}")).unwrap();
        assert!(Store::open(directory.path(), BOOT, now()).lost);
    }
    let mut names: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("corrupt"))
        .collect();
    names.sort();
    let expected: Vec<String> = (1..=5).map(|n| format!("claims.redb.corrupt-{n}")).collect();
    assert_eq!(names, expected);
    let first = fs::read(directory.path().join(&expected[0])).unwrap();
    assert!(first.starts_with(b"garbage 0"));
}

/// Not damage, so nothing is set aside.
#[test]
fn a_store_in_use_is_left_alone() {
    let (directory, _) = stored(&[record(1)]);
    let first = Store::open(directory.path(), BOOT, now());
    let mut second = Store::open(directory.path(), BOOT, now());
    assert!(second.store.problem().is_some_and(|why| why.contains("another process")), "{:?}", second.store);
    assert!(second.unseen);
    assert!(second.store.commit(&puts(&[record(2)]), now()).is_err());
    assert!(second.store.reopen(now()).is_err());
    drop(first);
    assert_eq!(sorted(&second.store.reopen(now()).unwrap().unwrap().0), [record(1)]);
    assert!(second.store.reopen(now()).unwrap().is_none());
    second.store.commit(&puts(&[record(2)]), now()).unwrap();
    drop(second);
    assert_eq!(Store::open(directory.path(), BOOT, now()).records.len(), 2);
    let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: HashSet<_> = names.collect();
    assert_eq!(names, ["claims.redb", "claims.serial"].map(Into::into).into_iter().collect());
}

#[test]
fn damaged_blocks_are_left_and_told() {
    let (directory, _) = stored(&[record(1)]);
    let path = directory.path().join("claims.redb");
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(CLAIMS).unwrap().insert(&b"\x04whatever"[..], &b"else"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for n in 1..3 {
        let mut opened = Store::open(directory.path(), BOOT, now());
        assert_eq!(sorted(&opened.records), (1..=n).map(record).collect::<Vec<_>>());
        assert!(opened.lost && opened.warnings[0].starts_with("1 blocks"), "{:?}", opened.warnings);
        // Before it, and then behind it.
        opened.store.commit(&puts(&[record(n + 1)]), now()).unwrap();
        let behind = Record { prefix: "192.0.2.1".parse().unwrap(), ..record(1) };
        opened.store.commit(&puts(std::slice::from_ref(&behind)), now()).unwrap();
        let Record { prefix, action, owner, .. } = behind;
        opened.store.commit(&[Write::Delete { prefix, action, owner }], now()).unwrap();
    }
}

#[test]
fn offenders_are_remembered_and_forgotten() {
    let (directory, _) = stored(&[record(1)]);
    let repeat = |n: u8, offence: Option<crate::blocklist::Offence>| {
        let offender = Prefix::host(Address::V4([192, 0, 2, n]));
        Write::Repeat(Repeat { offender, owner: Owner::Crowdsec, offence })
    };
    let offence = |level| Some(crate::blocklist::Offence { level, ends: 1_700_000_000 });
    let mut opened = Store::open(directory.path(), BOOT, now());
    let writes: Vec<Write> = (0..3).map(|n| repeat(n, offence(n + 1))).collect();
    opened.store.commit(&writes, now()).unwrap();
    // In the same commit, the later word counts.
    opened.store.commit(&[repeat(0, offence(9)), repeat(0, None), repeat(1, offence(7))], now()).unwrap();
    drop(opened);
    let path = directory.path().join("claims.redb");
    let levels = |records: &Records| -> Vec<Option<u8>> {
        records.repeats().iter().map(|repeat| repeat.offence.map(|offence| offence.level)).collect()
    };
    assert_eq!(levels(&salvage(&path, BOOT, now())), [Some(7), Some(3)]);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(OFFENCES).unwrap().insert(&b"\x04whatever"[..], &b"else"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let opened = Store::open(directory.path(), BOOT, now());
    assert_eq!(levels(&opened.records), [Some(7), Some(3)]);
    assert!(!opened.lost, "claims are all there");
}

/// A block as version 2 wrote it, in a file that has nothing else.
fn version_2(directory: &Path, damage: bool) {
    let path = directory.join("claims.redb");
    let prefix = "192.0.2.7".parse().unwrap();
    let key = id::Id::new(prefix, Action::Block, Owner::Operator).bytes();
    let terms = [&5_u64.to_le_bytes()[..], &1000_u32.to_le_bytes(), &[0], b"why"].concat();
    let mut rest = vec![1];
    rest.extend(u16::try_from(terms.len()).unwrap().to_le_bytes());
    rest.extend(&terms);
    rest.extend([0, 0]);
    rest.extend(&key);
    let mut value = crc::checksum([&key, &rest]).to_le_bytes().to_vec();
    value.extend(&rest);
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(CLAIMS_2).unwrap();
        table.insert(key.as_slice(), value.as_slice()).unwrap();
        if damage {
            value[6] ^= 1;
            table.insert(&b"\x04damaged"[..], value.as_slice()).unwrap();
        }
    }
    transaction.commit().unwrap();
}

#[test]
fn what_an_earlier_build_stored_is_moved() {
    for damage in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        version_2(directory.path(), damage);
        for _ in 0..2 {
            let opened = Store::open(directory.path(), BOOT, now());
            assert_eq!((opened.lost, opened.warnings.len()), (damage, usize::from(damage)));
            let found = sorted(&opened.records);
            assert_eq!(found.len(), 1);
            let Terms { until, created, actor, reason } = &found[0].terms;
            assert_eq!((*until, *created), (Nanos::NEVER, 5));
            assert_eq!((actor.as_deref(), reason.as_deref()), (Some("uid:1000"), Some("why")));
        }
        let database = Database::open(directory.path().join("claims.redb")).unwrap();
        let transaction = database.begin_read().unwrap();
        let left = transaction.list_tables().unwrap().filter(|table| table.name() == CLAIMS_2.name()).count();
        assert_eq!(left, usize::from(damage), "what is damaged stays");
    }
}

/// Nothing can be written, so nothing is moved; what is there counts all the same.
#[test]
fn what_an_earlier_build_stored_is_read_without_writing() {
    let directory = tempfile::tempdir().unwrap();
    version_2(directory.path(), false);
    let path = directory.path().join("claims.redb");
    assert_eq!(read_only(&path, BOOT, now()).unwrap().len(), 1);
    assert_eq!(salvage(&path, BOOT, now()).len(), 1);
}

/// Writes of all sizes, wherever they meet blocks that are there.
#[test]
fn many_writes_follow_a_model() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), BOOT, now()).store;
    let mut model = BTreeMap::new();
    let mut seed = 7_u64;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((seed >> 33) % u64::from(below)).unwrap()
    };
    for round in 0..60 {
        let count = [1, 2, 40, 1_000][round % 4];
        let removes = if round < 30 { 3 } else { 9 };
        let writes: Vec<Write> = (0..count)
            .map(|_| {
                let n = random(5_000);
                let put =
                    Record { terms: Terms { created: u64::from(random(3)), ..record(n).terms }, ..record(n) };
                if random(10) < removes {
                    let Record { prefix, action, owner, .. } = put;
                    model.remove(&prefix);
                    Write::Delete { prefix, action, owner }
                } else {
                    model.insert(put.prefix, put.clone());
                    Write::Put(put)
                }
            })
            .collect();
        store.commit_later(&writes, now()).unwrap();
        if round % 10 == 9 {
            // With nothing more to write, it waits for the disk all the same.
            store.commit(&[], now()).unwrap();
            drop(store);
            let opened = Store::open(directory.path(), BOOT, now());
            assert!(!opened.lost && opened.warnings.is_empty());
            assert!(sorted(&opened.records).iter().eq(model.values()), "round {round}");
            store = opened.store;
        }
    }
}

#[test]
fn a_million_claims_take_little_space() {
    let records: Vec<Record> = (0..100_000).map(|n| Record { terms: record(0).terms, ..record(n) }).collect();
    let (directory, _) = stored(&records);
    let size = fs::metadata(directory.path().join("claims.redb")).unwrap().len();
    assert!(size < 40 * 100_000, "{size} bytes");
    let opened = Store::open(directory.path(), BOOT, now());
    assert_eq!(opened.records.len(), records.len());
}

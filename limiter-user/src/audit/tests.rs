use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::file::{CURRENT, HEAD};
use super::*;

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_767_268_800_123)
}

fn options(directory: &Path) -> Options {
    Options { directory: directory.to_owned(), size: 1 << 20, keep: 3 }
}

/// Runs `events` through a trail, which is closed afterwards.
fn write(options: Options, events: &[Event<'_>]) -> Option<String> {
    let mut file = File::open(options, noon());
    for event in events {
        file.append(event.record(noon()));
    }
    file.rest();
    file.problem()
}

fn event(what: &str) -> Event<'_> {
    Event { actor: "uid:0", owner: "operator", what, count: 1, ..Event::default() }
}

#[track_caller]
fn whole(directory: &Path, records: u64) {
    let found = verify(directory).unwrap();
    assert_eq!((found.problems, found.records, found.last), (Vec::<String>::new(), records, records));
}

#[tokio::test]
async fn a_record_says_who_did_what() {
    let directory = tempfile::tempdir().unwrap();
    let trail = Trail::open(options(directory.path()), noon()).unwrap();
    let subjects = ["203.0.113.7/32".to_owned()];
    let asked = Event {
        actor: "token:7f3a",
        owner: "app:checkout",
        peer: Some("198.51.100.1".parse().unwrap()),
        request: Some("r-1"),
        what: "block.add",
        subjects: &subjects,
        count: 1,
        after: Some("until 2026-01-01T13:00:00Z".to_owned()),
        reason: Some("scan\u{1b}[31mner\r\n{\"seq\":9}"),
        ..Event::default()
    };
    trail.record(asked.clone(), noon()).await;
    trail.record(Event { refused: Some("203.0.113.7 is the gateway"), ..asked }, noon()).await;
    let text = fs::read_to_string(directory.path().join(CURRENT)).unwrap();
    let [first, second] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert_eq!(
        first,
        format!(
            "{{\"seq\":1,\"time\":\"2026-01-01T12:00:00.123Z\",\"actor\":\"token:7f3a\",\"owner\":\"app:checkout\",\
             \"peer\":\"198.51.100.1\",\"request\":\"r-1\",\"what\":\"block.add\",\"subjects\":[\"203.0.113.7/32\"],\
             \"count\":1,\"after\":\"until 2026-01-01T13:00:00Z\",\"reason\":\"scan[31mner{{\\\"seq\\\":9}}\",\
             \"outcome\":\"done\",\"prev\":\"{}\"}}",
            "0".repeat(64)
        )
    );
    assert!(second.contains("\"outcome\":\"refused\",\"why\":\"203.0.113.7 is the gateway\""), "{second}");
    assert_eq!(trail.problem(), None);
    whole(directory.path(), 2);
}

#[test]
fn long_texts_and_many_subjects_are_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (long, many) = ("ä".repeat(1_000), vec!["192.0.2.1".to_owned(); 101]);
    let asked = Event { reason: Some(&long), subjects: &many, count: 101, ..event("block.add") };
    write(options(directory.path()), &[asked]);
    let text = fs::read_to_string(directory.path().join(CURRENT)).unwrap();
    assert!(text.len() < 700 && text.contains("\"count\":101") && !text.contains("192.0.2.1"), "{text}");
}

#[test]
fn a_trail_goes_on_over_starts_and_files() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { size: 1_000, ..options(directory.path()) };
    for round in 0..15 {
        assert_eq!(write(small.clone(), &[event("block.add"), event("block.remove")]), None);
        let found = verify(directory.path()).unwrap();
        assert_eq!((found.problems.len(), found.last), (0, 2 * (round + 1)), "{found:?}");
    }
    // Of those that were put away, three are kept.
    let found = verify(directory.path()).unwrap();
    assert_eq!(found.files, 4);
    assert!(found.first > 1 && found.records == 30 - found.first + 1, "{found:?}");
}

#[test]
fn whatever_is_done_to_a_trail_shows() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { size: 2_000, keep: 100, ..options(directory.path()) };
    write(small, &vec![event("block.add"); 30]);
    whole(directory.path(), 30);
    let mut files = file::put_away(directory.path()).unwrap();
    files.push(directory.path().join(CURRENT));
    for path in &files {
        let text = &fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for at in 0..lines.len() {
            let without = [&lines[..at], &lines[at + 1..]].concat().concat();
            let twice = [&lines[..=at], &lines[at..]].concat().concat();
            let changed = lines.iter().enumerate().map(|(number, line)| {
                if number == at { line.replace("block.add", "block.aid") } else { (*line).to_owned() }
            });
            let changed: String = changed.collect();
            for (how, forged) in [("without", without), ("twice", twice), ("changed", changed)] {
                fs::write(path, forged).unwrap();
                let found = verify(directory.path()).unwrap();
                assert!(!found.problems.is_empty(), "{}: {how} line {at}", path.display());
            }
        }
        fs::write(path, text).unwrap();
    }
    whole(directory.path(), 30);
}

/// Killed in the middle of a record, at every byte of it.
#[test]
fn half_a_record_is_taken_off() {
    let directory = tempfile::tempdir().unwrap();
    write(options(directory.path()), &[event("block.add"), event("block.remove")]);
    let path = directory.path().join(CURRENT);
    let text = fs::read(&path).unwrap();
    let first = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for end in first..text.len() {
        // As after a power cut, when the last word on the head had not reached the disk.
        fs::remove_file(directory.path().join(HEAD)).unwrap();
        fs::write(&path, &text[..end]).unwrap();
        let told = write(options(directory.path()), &[event("allow.add")]);
        assert_eq!(told.is_some(), end > first, "{end}: {told:?}");
        whole(directory.path(), 2 + u64::from(end > first));
    }
}

#[test]
fn what_is_no_trail_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(CURRENT);
    fs::write(&path, "not a record\n").unwrap();
    let told = write(options(directory.path()), &[event("block.add")]).unwrap();
    assert!(told.contains("audit.damaged-"), "{told}");
    whole(directory.path(), 2);
}

#[test]
fn a_trail_that_cannot_be_written_says_so_and_goes_on_later() {
    let directory = tempfile::tempdir().unwrap();
    let trail = directory.path().join("trail");
    // Not even root makes a directory where a file is.
    fs::write(&trail, "").unwrap();
    let mut file = File::open(options(&trail), noon());
    assert!(file.problem().unwrap().contains("cannot be written, 0 records are missing"));
    file.append(event("block.add").record(noon()));
    file.append(event("block.add").record(noon()));
    assert!(file.problem().unwrap().contains("2 records are missing"));
    fs::remove_file(&trail).unwrap();
    file.append(event("block.remove").record(noon()));
    assert_eq!(file.problem(), None);
    let text = fs::read_to_string(trail.join(CURRENT)).unwrap();
    assert!(text.contains("block.remove") && text.contains("\"missed\":2"), "{text}");
    whole(&trail, 1);
}

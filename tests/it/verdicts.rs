//! The kernel agrees with the host: the loaded programs, run by `BPF_PROG_TEST_RUN`, give every frame the verdict and
//! the reason that the same code gives it here.

use std::collections::BTreeMap;

use limiter_common::abi::{Limits, Settings};
use limiter_common::parse::{find_plain_ipv4, is_one_buffer};
use limiter_common::testing::vectors::{NOW, Sequence, TableSet, Vector, moments, sequences, vectors};
use limiter_common::{Action, Nanos, Reason, judge};
use limiter_tests::Dice;
use limiter_user::config::Capacity;
use limiter_user::dataplane::Change;
use limiter_user::dataplane::kernel::testrun::{Entry, TestPrograms};

/// Shorter frames are refused by `BPF_PROG_TEST_RUN`, and dropped by devices.
const SHORTEST: usize = 14;
/// What is read of a frame ends before this, but for the longest header chains.
const FARTHEST_SPLIT: usize = 160;
const RANDOM_FRAMES: usize = 30_000;

const CAPACITY: Capacity = Capacity {
    addresses_v4: 1 << 12,
    addresses_v6: 1 << 12,
    prefixes_v4: 1 << 12,
    prefixes_v6: 1 << 12,
    sources: 1 << 14,
};

/// The programs over the tables of `set`, once for each moment, all over the same maps.
fn load(set: TableSet, moments: &[Nanos]) -> Vec<TestPrograms> {
    let limits = set.limits();
    let settings: Vec<Settings> = moments
        .iter()
        .map(|moment| Settings {
            // With all bits, so that hashes have all values.
            secret: [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03],
            fixed_now: moment.0,
            limited: u32::from(limits != Limits::NONE),
            super_frames: u32::from(set.super_frames()),
            // Also where nothing is; daemons of other tests start without.
            listed_v4: 1,
            ..Settings::default()
        })
        .collect();
    let programs = TestPrograms::load_all(&settings, &limits, &CAPACITY)
        .unwrap_or_else(|error| panic!("{set:?}: {error:#}"));
    let installed = set.installed();
    let changes: Vec<Change> =
        installed.0.iter().map(|(prefix, entry)| Change { prefix: *prefix, entry: *entry }).collect();
    programs[0].writer().apply(&changes).unwrap_or_else(|error| panic!("{set:?}: {error}"));
    programs
}

/// Collects what disagrees, so that one run shows all of it.
#[derive(Default)]
struct Disagreements {
    compared: usize,
    list: Vec<String>,
}

impl Disagreements {
    /// Runs one frame and compares verdict, reason and bytes.
    fn compare(
        &mut self,
        name: &str,
        programs: &TestPrograms,
        (entry, first_buffer): (Entry, Option<u32>),
        frame: &[u8],
        expected: Reason,
    ) {
        self.compared += 1;
        let case = || format!("{name} ({entry:?}, first buffer {first_buffer:?}, {} bytes)", frame.len());
        match programs.run(entry, frame, first_buffer) {
            Ok(outcome) => {
                let right = outcome.reason == expected
                    && outcome.passed == (expected.action() == Action::Pass)
                    && outcome.bytes == counted(frame, first_buffer) as u64;
                if !right {
                    self.list.push(format!("{}: {outcome:?} instead of {expected:?}", case()));
                }
            }
            Err(error) => self.list.push(format!("{}: {error:#}", case())),
        }
    }

    fn report(self) {
        assert!(self.compared > 0, "nothing was compared");
        let shown: Vec<String> = self.list.iter().take(40).cloned().collect();
        assert!(
            self.list.is_empty(),
            "{} of {} disagree:\n{}",
            self.list.len(),
            self.compared,
            shown.join("\n")
        );
    }
}

/// The bytes that are counted: all, but for what trails a packet that ends in a short first buffer.
fn counted(frame: &[u8], first_buffer: Option<u32>) -> usize {
    let first = first_buffer.and_then(|len| frame.get(..usize::try_from(len).ok()?));
    first
        .filter(|first| is_one_buffer(*first, find_plain_ipv4(*first).is_some_and(|source| source != 0)))
        .unwrap_or(frame)
        .len()
}

/// The vectors that can be run, by their tables.
fn by_tables() -> BTreeMap<TableSet, Vec<Vector>> {
    let mut sets: BTreeMap<TableSet, Vec<Vector>> = BTreeMap::new();
    for vector in vectors().into_iter().filter(|vector| vector.frame.len() >= SHORTEST) {
        sets.entry(vector.tables).or_default().push(vector);
    }
    sets
}

#[test]
fn every_vector_has_the_reason_it_has_on_the_host() {
    let mut disagreements = Disagreements::default();
    for (set, vectors) in by_tables() {
        let programs = &load(set, &[NOW])[0];
        for vector in vectors {
            for entry in [Entry::Linear, Entry::Frags] {
                disagreements.compare(&vector.name, programs, (entry, None), &vector.frame, vector.expected);
            }
        }
    }
    disagreements.report();
}

/// A header that starts in the first buffer and ends in the second is the same header. Splitting the buffers of a test
/// run at will needs Linux 6.18.
#[test]
fn every_vector_has_its_reason_wherever_the_buffers_are_split() {
    let mut disagreements = Disagreements::default();
    for (set, vectors) in by_tables() {
        let programs = &load(set, &[NOW])[0];
        for vector in vectors {
            let end = vector.frame.len().min(FARTHEST_SPLIT);
            for split in SHORTEST..end {
                let split = u32::try_from(split).ok();
                disagreements.compare(
                    &vector.name,
                    programs,
                    (Entry::Frags, split),
                    &vector.frame,
                    vector.expected,
                );
            }
        }
    }
    disagreements.report();
}

/// Longer than a page, which takes several buffers in every kernel that has them.
#[test]
fn every_vector_has_its_reason_with_a_tail_of_pages() {
    let mut disagreements = Disagreements::default();
    for (set, vectors) in by_tables() {
        let tables = set.in_memory();
        let programs = &load(set, &[NOW])[0];
        for vector in vectors {
            let mut frame = vector.frame;
            frame.resize(frame.len() + 9000, 0);
            // Padding may make a truncated packet whole, and a super-frame longer.
            let expected = judge(frame.as_slice(), &tables, &NOW);
            disagreements.compare(&vector.name, programs, (Entry::Frags, None), &frame, expected);
        }
    }
    disagreements.report();
}

#[test]
fn every_sequence_has_the_reasons_it_has_on_the_host() {
    let mut disagreements = Disagreements::default();
    let mut sets: BTreeMap<TableSet, Vec<Sequence>> = BTreeMap::new();
    for sequence in sequences() {
        sets.entry(sequence.tables).or_default().push(sequence);
    }
    let moments: Vec<Nanos> = moments().into_iter().collect();
    for (set, sequences) in sets {
        for entry in [Entry::Linear, Entry::Frags] {
            // Fresh rate state for each.
            let programs = load(set, &moments);
            for sequence in &sequences {
                for (number, step) in sequence.steps.iter().enumerate() {
                    let moment = moments.binary_search(&step.now).expect("`moments` lists them all");
                    let name = format!("{}, step {number}", sequence.name);
                    disagreements.compare(
                        &name,
                        &programs[moment],
                        (entry, None),
                        &step.frame,
                        step.expected,
                    );
                }
            }
        }
    }
    disagreements.report();
}

/// Frames that nobody thought of: vectors with a few bytes changed, cut or added, and pure noise.
#[test]
fn random_frames_have_the_reason_they_have_on_the_host() {
    let seed = Dice::seed();
    let mut dice = Dice::new(seed);
    let frames: Vec<Vec<u8>> = vectors().into_iter().map(|vector| vector.frame).collect();
    let mut disagreements = Disagreements::default();
    for set in [TableSet::Listed, TableSet::SuperFrames, TableSet::BlockAll] {
        let tables = set.in_memory();
        let programs = &load(set, &[NOW])[0];
        for number in 0..RANDOM_FRAMES / 3 {
            let frame = mutated(&mut dice, &frames);
            let expected = judge(frame.as_slice(), &tables, &NOW);
            let name = format!("seed {seed}, {set:?} {number}");
            disagreements.compare(&name, programs, (Entry::Linear, None), &frame, expected);
            let split = SHORTEST + dice.below(frame.len() - SHORTEST + 1);
            let split = (split < frame.len()).then(|| u32::try_from(split).ok()).flatten();
            disagreements.compare(&name, programs, (Entry::Frags, split), &frame, expected);
        }
    }
    disagreements.report();
}

fn mutated(dice: &mut Dice, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = dice.of(frames).clone();
    if dice.one_in(20) {
        frame = (0..dice.below(200)).map(|_| dice.byte()).collect();
    }
    for _ in 0..dice.below(4) {
        let len = frame.len();
        match dice.below(4) {
            // Most of what matters is in the first bytes.
            0 if len > 0 => frame[dice.below(len.min(80))] = dice.byte(),
            1 if len > 0 => frame[dice.below(len.min(80))] ^= 1 << dice.below(8),
            2 => frame.truncate(dice.below(len + 1)),
            _ => frame.extend((0..dice.below(40)).map(|_| 0)),
        }
    }
    // One buffer of a test run.
    frame.truncate(3000);
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

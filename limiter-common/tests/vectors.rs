//! Every named case, on the host.

use std::collections::{BTreeMap, BTreeSet};

use limiter_common::testing::vectors::{TableSet, moments, sequences, vectors};
use limiter_common::{Reason, judge};

/// Judges each set of tables once filled: filling it anew for each of thousands of vectors would take longer than all
/// the rest.
#[test]
fn every_vector() {
    let tables: BTreeMap<TableSet, _> = TableSet::ALL.iter().map(|set| (*set, set.in_memory())).collect();
    let now = limiter_common::testing::vectors::NOW;
    let failures: Vec<String> = vectors()
        .iter()
        .filter_map(|vector| {
            let got = judge(vector.frame.as_slice(), &tables[&vector.tables], &now);
            (got != vector.expected)
                .then(|| format!("{}: expected {:?}, got {got:?}", vector.name, vector.expected))
        })
        .collect();
    assert!(failures.is_empty(), "{} vectors fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_sequence() {
    let failures: Vec<String> = sequences()
        .iter()
        .filter_map(|sequence| {
            let expected: Vec<Reason> = sequence.steps.iter().map(|step| step.expected).collect();
            let got = sequence.judge();
            (got != expected)
                .then(|| format!("{}:\n  expected {expected:?}\n  got      {got:?}", sequence.name))
        })
        .collect();
    assert!(failures.is_empty(), "{} sequences fail:\n{}", failures.len(), failures.join("\n"));
}

/// Names become file names of seeds and lines of reports.
#[test]
fn names_are_unique_file_names() {
    let names: Vec<String> = vectors()
        .into_iter()
        .map(|vector| vector.name)
        .chain(sequences().into_iter().map(|sequence| sequence.name))
        .collect();
    let mut seen = BTreeSet::new();
    for name in &names {
        assert!(seen.insert(name), "{name} is there twice");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
    }
}

/// A case of the catalogue that applies has at least one vector or sequence; the others are explained in the
/// documentation of the list.
#[test]
fn every_case_of_the_catalogue() {
    let names: Vec<String> = vectors()
        .into_iter()
        .map(|vector| vector.name)
        .chain(sequences().into_iter().map(|sequence| sequence.name))
        .collect();
    let elsewhere = [12, 39, 104];
    let cases = (1..=15)
        .chain(20..=27)
        .chain(30..=55)
        .chain(60..=64)
        .chain(70..=78)
        .chain(80..=82)
        .chain(100..=107)
        .filter(|case| !elsewhere.contains(case));
    for case in cases {
        let prefix = format!("p{case:02}_");
        assert!(names.iter().any(|name| name.starts_with(&prefix)), "no vector for {prefix}");
    }
}

/// Every reason that can be reached without a failing table is the answer to some vector.
#[test]
fn every_reason_is_expected_somewhere() {
    let mut expected: Vec<Reason> = vectors().iter().map(|vector| vector.expected).collect();
    expected.extend(sequences().iter().flat_map(|sequence| sequence.steps.iter().map(|step| step.expected)));
    for reason in Reason::ALL {
        assert_eq!(*reason != Reason::Internal, expected.contains(reason), "{reason:?}");
    }
}

/// Sequences may share one table only if none spends what is another's.
#[test]
fn sequences_run_one_after_another() {
    let tables = TableSet::Limited.in_memory();
    for sequence in sequences() {
        for (i, step) in sequence.steps.iter().enumerate() {
            let got = judge(step.frame.as_slice(), &tables, &step.now);
            assert_eq!(got, step.expected, "step {i} of {}", sequence.name);
        }
    }
}

/// The kernel program is loaded for each moment, and the maps are filled for each set of tables.
#[test]
fn few_moments_and_sets() {
    assert!(moments().len() <= 8, "{:?}", moments());
    assert!(sequences().iter().all(|sequence| sequence.tables == TableSet::Limited));
}

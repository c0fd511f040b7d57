//! `SECURITY.md` as far as a machine can hold it to its word: the tests that it names are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

const PAGE: &str = include_str!("../../SECURITY.md");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where tests are.
const CRATES: [&str; 3] = ["limiter-common/src", "limiter-user/src", "tests/it"];

/// What is between backticks in paragraphs that begin with `Tests:`.
fn named() -> BTreeSet<&'static str> {
    let paragraphs = PAGE.split("\n\n").filter_map(|paragraph| paragraph.strip_prefix("Tests:"));
    let quoted = paragraphs.flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    quoted.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')).collect()
}

/// Names of functions that are tests.
fn tests(directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            tests(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            for attribute in ["#[test]", "#[tokio::test"] {
                let behind = text.split(attribute).skip(1);
                let name = |text: &str| Some(text.split_once("fn ")?.1.split_once('(')?.0.to_owned());
                found.extend(behind.filter_map(name));
            }
        }
    }
    Ok(())
}

#[test]
fn the_tests_that_are_named_exist() -> Result<()> {
    let mut there = BTreeSet::new();
    for part in CRATES {
        tests(&Path::new(ROOT).join(part), &mut there)?;
    }
    let named = named();
    ensure!(named.len() > 50, "{} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !there.contains(**name)).collect();
    ensure!(missing.is_empty(), "no such tests: {missing:?}");
    Ok(())
}

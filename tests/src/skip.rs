//! Tests that cannot run here say so, and do not count as passed.

use std::fs::OpenOptions;
use std::io::Write;

/// Notes that the test called `name` did not run, in the file that `LIMITER_SKIPPED_FILE` names. The test returns then.
pub fn skip(name: &str, reason: &str) {
    println!("skipped: {name}: {reason}");
    let Some(path) = std::env::var_os("LIMITER_SKIPPED_FILE") else { return };
    let noted = OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = noted.and_then(|mut file| writeln!(file, "{name}: {reason}")) {
        panic!("{name} is skipped ({reason}), and that cannot be noted: {error}");
    }
}

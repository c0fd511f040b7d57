//! Any text is either a configuration or a list of problems, each of which points into the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use limiter_user::config;

fuzz_target!(|text: &str| {
    let Err(refusal) = config::parse(text, Path::new("limiter.toml")) else { return };
    assert!(!refusal.problems.is_empty(), "a refusal gives no reason");
    let lines: Vec<_> = text.split('\n').collect();
    for problem in &refusal.problems {
        let line = lines.get(problem.line - 1).expect("a problem lies on a line of the text");
        // Behind the last character is where something may be missing.
        assert!((1..=line.chars().count() + 1).contains(&problem.column), "{problem:?} lies beside the text");
        assert!(!problem.text.is_empty(), "{problem:?} says nothing");
    }
});

//! Any text is either a configuration or a list of problems, each of which points into the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

// The module's source instead of a dependency on limiter-user: it is pure, and the daemon around it would make the
// fuzzer compile for minutes.
#[expect(dead_code, unused_imports, reason = "the daemon uses what this target does not")]
#[path = "../../../limiter-user/src"]
mod limiter_user {
    pub(crate) mod config;
    pub(crate) mod prefixes;
}
// Where the module looks for it.
use limiter_user::prefixes;

fuzz_target!(|text: &str| {
    let Err(refusal) = limiter_user::config::parse(text, Path::new("limiter.toml")) else { return };
    assert!(!refusal.problems.is_empty(), "a refusal gives no reason");
    let lines: Vec<_> = text.split('\n').collect();
    for problem in &refusal.problems {
        let line = lines.get(problem.line - 1).expect("a problem lies on a line of the text");
        // Behind the last character is where something may be missing.
        assert!((1..=line.chars().count() + 1).contains(&problem.column), "{problem:?} lies beside the text");
        assert!(!problem.text.is_empty(), "{problem:?} says nothing");
    }
});

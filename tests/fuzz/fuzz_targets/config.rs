//! Any text is either a configuration or a list of problems, each of which points into the text.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = limiter_user::config::parse(text, Path::new("limiter.toml")) {
        assert!(!problems.to_string().is_empty(), "a refusal gives no reason");
    }
});

//! `cargo xtask fuzz`: the coverage-guided fuzz targets in `tests/fuzz`.
//!
//! cargo-fuzz normally wants a nightly compiler. The pinned one does as well, with its unstable flags unlocked and
//! without the address sanitizer, which has nothing to find in safe code.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{setup, shell, workspace};

/// The targets, in the order in which they run.
const TARGETS: [&str; 7] = ["parse", "decide", "limits", "config", "tokens", "hook", "api"];

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which target; all of them without
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs one target or all of them.
pub(crate) fn fuzz(arguments: &Arguments) -> Result<()> {
    match &arguments.target {
        Some(target) => fuzz_all(&[target], arguments.seconds),
        None => fuzz_all(&TARGETS, arguments.seconds),
    }
}

/// Runs every target for `seconds`, on all processors; what is found lies in `tests/fuzz/artifacts`.
pub(crate) fn all(seconds: u32) -> Result<()> {
    fuzz_all(&TARGETS, seconds)
}

fn fuzz_all(targets: &[&str], seconds: u32) -> Result<()> {
    setup::fuzzer()?;
    let directory = workspace::root().join("tests/fuzz");
    let build = workspace::target()?.join("fuzz");
    let seeds = build.join("seeds");
    let mut write = workspace::cargo()?;
    write.args(["run", "--quiet", "--locked", "--package", "xtask", "--features", "fuzz-seeds"]);
    shell::run(write.args(["--bin", "fuzz-seeds", "--"]).arg(&seeds)).context("writing the seeds")?;
    for target in targets {
        // Only what libFuzzer itself adds is kept here, outside the repository.
        let corpus = build.join("corpus").join(target);
        let seeds = seeds.join(target);
        fs::create_dir_all(&corpus).with_context(|| format!("creating {}", corpus.display()))?;
        let mut fuzz = workspace::cargo()?;
        fuzz.env("RUSTC_BOOTSTRAP", "1").env_remove("CARGO_TARGET_DIR");
        fuzz.args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"]).arg(&directory);
        fuzz.arg("--target-dir").arg(&build).arg(target).args([&corpus, &seeds]);
        fuzz.args(["--", &format!("-max_total_time={seconds}"), "-print_final_stats=1"]);
        shell::run(&mut fuzz).with_context(|| format!("fuzzing {target}"))?;
    }
    Ok(())
}

//! `cargo xtask ci`: what CI runs, in the same order: cheap things first.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::{bench, dist, ebpf, fuzz, setup, shell, test, workspace};

/// How long each fuzz target runs in CI: long enough to replay the seeds and to find what is shallow.
const FUZZ_SECONDS: u32 = 20;

type Step = fn() -> Result<()>;

/// Options of `cargo xtask ci`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only the steps with this in their names, such as clippy
    step: Option<String>,
}

/// Runs the steps; the first that fails ends it.
pub(crate) fn ci(arguments: &Arguments) -> Result<()> {
    let steps: [(&str, Step); 10] = [
        ("formatting", formatting),
        ("clippy, host", clippy_host),
        ("clippy, eBPF for the host", clippy_stub),
        ("clippy, eBPF for the kernel", clippy_kernel),
        ("documentation", documentation),
        ("calls of a verdict", ebpf::check_path),
        ("fuzzing", || fuzz::all(FUZZ_SECONDS)),
        ("distribution", dist::dist),
        ("benchmark", bench::quick),
        // Last, so that the run ends with what was tested and what was skipped.
        ("tests", || test::test(&test::Arguments::default())),
    ];
    let start = Instant::now();
    let wanted = arguments.step.as_deref().unwrap_or_default();
    let steps: Vec<_> = steps.into_iter().filter(|(name, _)| name.contains(wanted)).collect();
    if steps.is_empty() {
        bail!("ci has no step with {wanted} in its name");
    }
    for (name, step) in steps {
        eprintln!("ci: {name}");
        let begin = Instant::now();
        step().with_context(|| format!("ci: {name}"))?;
        eprintln!("ci: {name}: ok after {} s", begin.elapsed().as_secs());
    }
    eprintln!("ci: all ok after {} s", start.elapsed().as_secs());
    Ok(())
}

fn formatting() -> Result<()> {
    for directory in ["", "bench/ebpf", "limiter-ebpf", "tests/fuzz"] {
        let directory = workspace::root().join(directory);
        shell::run(workspace::cargo()?.current_dir(directory).args(["fmt", "--all", "--check"]))?;
    }
    Ok(())
}

fn clippy_host() -> Result<()> {
    setup::toolchain()?;
    let mut clippy = workspace::cargo()?;
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets", "--all-features"]);
    shell::run(clippy.args(["--", "-Dwarnings"]))
}

/// The eBPF crates as host tools see them: with their stubs of a `main`.
fn clippy_stub() -> Result<()> {
    for directory in ebpf::crate_directories() {
        let mut clippy = workspace::cargo()?;
        clippy.current_dir(directory);
        shell::run(clippy.args(["clippy", "--locked", "--", "-Dwarnings"]))?;
    }
    Ok(())
}

/// The eBPF crates as they are built.
fn clippy_kernel() -> Result<()> {
    let toolchain = setup::toolchain_with_clippy()?;
    for directory in ebpf::crate_directories() {
        let mut clippy = toolchain.cargo("clippy", &directory, &ebpf::target_directory()?);
        shell::run(clippy.args(["--", "-Dwarnings"]))?;
    }
    Ok(())
}

fn documentation() -> Result<()> {
    let mut doc = workspace::cargo()?;
    doc.args(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
    shell::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
}

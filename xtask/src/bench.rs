//! `cargo xtask bench`: builds the benchmark and what it measures, optimised, and runs it as root.

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, setup, shell, workspace};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
// Help is the benchmark's own.
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Arguments of the benchmark; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<OsString>,
}

/// Runs it with the same arguments.
pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    run(&arguments.bench)
}

/// The short form, which fails on clear regressions.
pub(crate) fn quick() -> Result<()> {
    run(&["verdicts".into(), "--quick".into()])
}

fn run(arguments: &[OsString]) -> Result<()> {
    setup::toolchain()?;
    // Test runs of programs need no network.
    if arguments.first().is_none_or(|part| part != "verdicts") {
        setup::tools(&setup::Tool::OF_BENCH)?;
    }
    build::binaries()?;
    shell::run(workspace::cargo()?.args(["build", "--release", "--locked", "--package", "limiter-bench"]))?;
    let bench = workspace::binaries()?.join("limiter-bench");
    let mut command = if workspace::is_root() {
        Command::new(bench)
    } else {
        let sudo =
            workspace::find_program("sudo").context("the benchmark needs root, and there is no sudo here")?;
        let mut command = Command::new(sudo);
        command.arg("--").arg(bench);
        command
    };
    shell::run(command.args(arguments))
}

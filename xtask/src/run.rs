//! `cargo xtask run`: limiterd, freshly built, as root.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

use crate::{build, workspace};

/// Options of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of limiterd, behind `--`
    #[arg(last = true)]
    limiterd: Vec<std::ffi::OsString>,
}

/// Becomes limiterd; returns only when that fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    build::binaries()?;
    let limiterd = workspace::binaries()?.join("limiterd");
    let mut command = if workspace::is_root() {
        Command::new(&limiterd)
    } else {
        let sudo =
            workspace::find_program("sudo").context("limiterd needs root, and there is no sudo here")?;
        let mut command = Command::new(sudo);
        command.arg("--").arg(&limiterd);
        command
    };
    // In place of this process, so that signals reach the daemon.
    Err(command.args(&arguments.limiterd).exec()).with_context(|| format!("starting {}", limiterd.display()))
}

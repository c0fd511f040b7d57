//! `cargo xtask build`: the two binaries, optimised, each a self-contained file.

use anyhow::Result;

use crate::{setup, shell, workspace};

/// Builds and prints where the binaries are.
pub(crate) fn build() -> Result<()> {
    binaries()?;
    for name in ["limiterd", "limiter"] {
        println!("{}", workspace::binaries()?.join(name).display());
    }
    Ok(())
}

/// Builds without a word on standard output, for the commands that need the binaries.
pub(crate) fn binaries() -> Result<()> {
    setup::toolchain()?;
    shell::run(workspace::cargo()?.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "limiter-user",
        "--bins",
    ]))
}

//! `cargo xtask setup`: makes the eBPF toolchain and the programs that tests use available.
//!
//! Everything here first looks and then acts, so that a machine that has everything sees neither output nor delay.
//! The other commands call the part that they need.

mod compiler;
mod packages;

use anyhow::Result;

pub(crate) use packages::{Tool, Unpacked};

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only what building needs, not what the tests, the linter and the fuzzers need
    #[arg(long)]
    build_only: bool,
}

/// Everything that any of the commands needs.
pub(crate) fn setup(arguments: &Arguments) -> Result<()> {
    let toolchain = compiler::ensure()?;
    if arguments.build_only {
        return Ok(());
    }
    packages::ensure(&Tool::ALL)?;
    prometheus();
    web_servers();
    compiler::ensure_clippy(&toolchain)?;
    compiler::ensure_fuzzer()
}

/// The eBPF toolchain, installed if it was not there.
pub(crate) fn toolchain() -> Result<crate::toolchain::Toolchain> {
    compiler::ensure()
}

/// The eBPF toolchain with clippy.
pub(crate) fn toolchain_with_clippy() -> Result<crate::toolchain::Toolchain> {
    let toolchain = compiler::ensure()?;
    compiler::ensure_clippy(&toolchain)?;
    Ok(toolchain)
}

/// Programs of the system, installed if they were not there.
pub(crate) fn tools(tools: &[Tool]) -> Result<()> {
    packages::ensure(tools)
}

/// Where Prometheus' programs are, if not on PATH; fetched if they were not there. Without them its tests are skipped,
/// and say so.
pub(crate) fn prometheus() -> Option<std::path::PathBuf> {
    packages::prometheus().unwrap_or_else(|error| {
        eprintln!("setup: no Prometheus: {error:#}");
        None
    })
}

/// Where nginx and HAProxy are, likewise.
pub(crate) fn web_servers() -> Option<Unpacked> {
    packages::web_servers().unwrap_or_else(|error| {
        eprintln!("setup: no web servers: {error:#}");
        None
    })
}

/// cargo-fuzz.
pub(crate) fn fuzzer() -> Result<()> {
    compiler::ensure_fuzzer()
}

#[cfg(test)]
mod tests {
    use crate::{shell, workspace};

    /// Set-up is what makes the eBPF object buildable, so xtask must not need it: limiter-user builds it.
    #[test]
    fn xtask_compiles_before_there_is_an_ebpf_toolchain() {
        let mut tree = workspace::cargo().unwrap();
        tree.args(["tree", "--locked", "--offline", "--package", "xtask", "--all-features"]);
        let tree = shell::output(tree.args(["--edges", "normal,build", "--prefix", "none"])).unwrap();
        assert!(tree.contains("limiter-tests "), "the harness is a part of xtask:\n{tree}");
        assert!(!tree.contains("limiter-user "), "limiter-user needs the eBPF toolchain:\n{tree}");
    }
}

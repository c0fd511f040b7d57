//! `cargo xtask ebpf`: looking into the object that the daemon carries.

use std::{path::PathBuf, process::Command as Process};

use anyhow::{Context as _, Result};

use crate::{setup, shell, toolchain::Toolchain, workspace};

/// Subcommands of `cargo xtask ebpf`.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Build the object alone and print where it is
    Build,
    /// Load every program and print what the verifier says about it (as root)
    Report,
    /// Print the machine code of every program
    Disasm,
}

/// Runs one of the subcommands.
pub(crate) fn ebpf(command: &Command) -> Result<()> {
    let toolchain = setup::toolchain()?;
    let object = object(&toolchain)?;
    match command {
        Command::Build => println!("{}", object.display()),
        Command::Report => {
            let mut report = workspace::cargo()?;
            report.args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                "xtask",
                "--features",
                "verifier-report",
            ]);
            shell::run(report.args(["--bin", "verifier-report", "--"]).arg(object))?;
        }
        Command::Disasm => {
            let tool = disassembler(&toolchain)?;
            shell::run(
                Process::new(tool)
                    .args(["--disassemble", "--line-numbers", "--no-show-raw-insn"])
                    .arg(object),
            )?;
        }
    }
    Ok(())
}

/// The path of `limiter-ebpf`.
pub(crate) fn crate_directory() -> PathBuf {
    workspace::root().join("limiter-ebpf")
}

/// That and the programs of the benchmark: everything that is compiled for BPF.
pub(crate) fn crate_directories() -> [PathBuf; 2] {
    [crate_directory(), workspace::root().join("bench/ebpf")]
}

/// Where `limiter-user`'s build script, too, keeps what it compiles for BPF.
pub(crate) fn target_directory() -> Result<PathBuf> {
    Ok(workspace::target()?.join("ebpf"))
}

fn object(toolchain: &Toolchain) -> Result<PathBuf> {
    let built = toolchain.build(&crate_directory(), &target_directory()?);
    Ok(built.context("building the eBPF object")?.join("limiter"))
}

fn disassembler(toolchain: &Toolchain) -> Result<PathBuf> {
    let of_rustup = format!("lib/rustlib/{}-unknown-linux-gnu/bin/llvm-objdump", std::env::consts::ARCH);
    [PathBuf::from("/usr/lib/llvm-22/bin/llvm-objdump"), toolchain.sysroot.join(of_rustup)]
        .into_iter()
        .find(|tool| tool.is_file())
        .or_else(|| workspace::find_program("llvm-objdump"))
        .context(
            "llvm-objdump is not here; run: rustup component add llvm-tools (or install the package llvm)",
        )
}

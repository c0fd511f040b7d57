//! `cargo xtask ebpf`: looking into the object that the daemon carries.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command as Process,
};

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
    /// Print how many instructions and which calls sample frames run through
    #[command(after_help = COLUMNS)]
    Path(PathArguments),
}

const COLUMNS: &str = "\
The columns:
  instructions  those executed, of the program as it was compiled, a call being one; the verifier removes a few more
  inlined       calls that the kernel replaces by instructions on x86-64, and how many of these are executed instead
                (lookups in arrays; in per-CPU arrays since Linux 6.10)
  calls         those that stay calls: of the kernel, and of functions within the program";

/// Options of `cargo xtask ebpf path`.
#[derive(clap::Args)]
pub(crate) struct PathArguments {
    /// Only the scenarios with this in their names, such as limiter_frags/clean
    filter: Option<String>,
    /// Print JSON
    #[arg(long, conflicts_with = "trace")]
    json: bool,
    /// Fail if a verdict on a plain IPv4 frame makes more calls than it may, or if a vector has another verdict than on
    /// the host
    #[arg(long, conflicts_with = "trace")]
    check: bool,
    /// Print every instruction of one scenario, such as limiter_frags/clean/udp
    #[arg(long, value_name = "SCENARIO")]
    trace: Option<String>,
}

/// Runs one of the subcommands.
pub(crate) fn ebpf(command: &Command) -> Result<()> {
    let toolchain = setup::toolchain()?;
    let object = object(&toolchain)?;
    match command {
        Command::Build => println!("{}", object.display()),
        Command::Report => inspect(&object, ["report"])?,
        Command::Path(arguments) => inspect(&object, arguments.to_vec())?,
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

/// Fails if a verdict on a plain IPv4 frame makes more calls than it may.
pub(crate) fn check_path() -> Result<()> {
    let arguments = PathArguments { filter: None, json: false, check: true, trace: None };
    ebpf(&Command::Path(arguments))
}

impl PathArguments {
    /// As `ebpf-inspect` takes them.
    fn to_vec(&self) -> Vec<String> {
        let mut arguments = vec!["path".to_owned()];
        arguments.extend(self.filter.clone());
        arguments.extend(self.json.then(|| "--json".to_owned()));
        arguments.extend(self.check.then(|| "--check".to_owned()));
        arguments.extend(self.trace.iter().map(|scenario| format!("--trace={scenario}")));
        arguments
    }
}

/// Runs the binary that reads the object. It is one of its own, since few commands need what it is made of.
fn inspect(object: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
    let mut inspect = workspace::cargo()?;
    inspect.args(["run", "--quiet", "--locked", "--package", "xtask", "--features", "ebpf-inspect"]);
    shell::run(inspect.args(["--bin", "ebpf-inspect", "--"]).arg(object).args(arguments))
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

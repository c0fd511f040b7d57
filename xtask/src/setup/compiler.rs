//! The compiler, the linker, the linter and the fuzzer: what cargo's own tools need.
//!
//! The eBPF object needs `rust-src` for the very compiler in use, and a bpf-linker whose LLVM is at least as new as
//! that compiler's. There are three ways to get both, tried in this order: what is given, rustup, Debian's packages.
//! A way counts as taken only when the linker has really linked something of that compiler.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::{
    shell,
    toolchain::{self, Toolchain},
    workspace,
};

/// The version that is known to work with the pinned compiler.
const BPF_LINKER: &str = "0.10.4";
const CARGO_FUZZ: &str = "0.13.2";
/// The newest LLVM that this bpf-linker can use.
const LLVM: u32 = 22;
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];
const COMPILING: Duration = Duration::from_secs(1800);

type Way = fn() -> Result<Toolchain>;

/// A working toolchain, installed by the first way that this machine can take.
pub(crate) fn ensure() -> Result<Toolchain> {
    if let Ok(given) = toolchain::find()
        && links(&given)
    {
        return Ok(given);
    }
    let ways: [(&str, Way); 2] = [("rustup", by_rustup), ("Debian's packages", by_debian)];
    let mut failures = String::new();
    for (way, install) in ways {
        match install().and_then(|_| found()) {
            Ok(toolchain) => {
                eprintln!("setup: the eBPF toolchain comes from {way} ({})", toolchain.sysroot.display());
                return Ok(toolchain);
            }
            Err(error) => {
                eprintln!("setup: not by {way}: {error}");
                failures += &format!("\n- by {way}: {error:#}");
            }
        }
    }
    bail!(
        "no way to an eBPF toolchain works on this machine:{failures}\n\
         needed are a compiler with rust-src (rustup component add rust-src --toolchain {}) and a bpf-linker \
         (cargo install bpf-linker --version {BPF_LINKER} --locked); when both are there, run cargo xtask setup again",
        toolchain::pinned_channel(),
    );
}

/// What every build will find from now on, which need not be what was installed last.
fn found() -> Result<Toolchain> {
    let found = toolchain::find()?;
    if !links(&found) {
        let (sysroot, linker) = (found.sysroot.display(), found.linker.display());
        bail!(
            "{linker} cannot link what {sysroot} compiles; name another compiler in {}",
            toolchain::SYSROOT_VARIABLE
        );
    }
    Ok(found)
}

/// rustup has the source of its compilers, and bpf-linker can borrow the compiler's own LLVM.
fn by_rustup() -> Result<Toolchain> {
    let rustup = workspace::find_program("rustup").context("rustup is not installed")?;
    let sysroot = toolchain::rustup_sysroot()
        .with_context(|| format!("rustup has no toolchain {}", toolchain::pinned_channel()))?;
    if !toolchain::builds_core(&sysroot) {
        let mut add = Command::new(rustup);
        add.args(["component", "add", "rust-src", "--toolchain", toolchain::pinned_channel()])
            .env("RUSTUP_MAX_RETRIES", "1");
        shell::run_behind_progress(
            "adding rust-src to rustup's compiler",
            &mut add,
            Duration::from_secs(60),
        )?;
    }
    with_linker(sysroot, |install| install)
}

/// Debian 12 keeps a current compiler for the sake of its browsers, with source and LLVM.
fn by_debian() -> Result<Toolchain> {
    let sysroot = PathBuf::from(toolchain::DEBIAN_SYSROOT);
    let llvm = format!("/usr/lib/llvm-{LLVM}");
    if !toolchain::builds_core(&sysroot)
        || !is_recent(&sysroot)
        || !Path::new(&llvm).join("include/llvm-c").is_dir()
    {
        packages::install(&DEBIAN_PACKAGES)?;
    }
    let used = number_after(&sysroot, "LLVM version: ", 0).context("rustc -vV names no LLVM version")?;
    if used > LLVM {
        bail!("/usr/bin/rustc uses LLVM {used}, and bpf-linker {BPF_LINKER} knows none above {LLVM}");
    }
    with_linker(sysroot, |install| {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [Path::new(&llvm).join("bin")].into_iter().chain(env::split_paths(&path));
        install.args(["--no-default-features", "--features", &format!("llvm-{LLVM}")]);
        install.env("PATH", env::join_paths(path).unwrap_or_default())
    })
}

/// A toolchain of `sysroot` and bpf-linker; compiles the latter unless one is there that can work with `sysroot`.
fn with_linker(sysroot: PathBuf, adapt: impl Fn(&mut Command) -> &mut Command) -> Result<Toolchain> {
    let mut force = false;
    if let Some(linker) = toolchain::find_linker() {
        let toolchain = Toolchain { sysroot: sysroot.clone(), linker };
        if links(&toolchain) {
            return Ok(toolchain);
        }
        force = true;
    }
    let mut install = workspace::cargo()?;
    install.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    // Not this repository's target directory: it would be filled with another project's build.
    install.env_remove("CARGO_TARGET_DIR");
    if force {
        install.arg("--force");
    }
    let what = format!("compiling bpf-linker {BPF_LINKER}, one to three minutes");
    shell::run_behind_progress(&what, adapt(&mut install), COMPILING)?;
    let linker = toolchain::find_linker()
        .context("bpf-linker was installed, but is neither on PATH nor in cargo's bin")?;
    let toolchain = Toolchain { sysroot, linker };
    if !links(&toolchain) {
        bail!(
            "{} cannot link what {}/bin/rustc compiles",
            toolchain.linker.display(),
            toolchain.sysroot.display()
        );
    }
    Ok(toolchain)
}

/// Whether the compiler is at least the pinned one; Debian's ordinary one may be years older.
fn is_recent(sysroot: &Path) -> bool {
    let pinned = toolchain::pinned_channel().split('.').nth(1).and_then(|minor| minor.parse().ok());
    pinned.is_none_or(|pinned| number_after(sysroot, "release: ", 1).is_some_and(|minor| minor >= pinned))
}

/// The `part`th number of the version behind `label` in what `rustc -vV` prints.
fn number_after(sysroot: &Path, label: &str, part: usize) -> Option<u32> {
    let version = shell::output(Command::new(sysroot.join("bin/rustc")).arg("-vV")).ok()?;
    version.lines().find_map(|line| line.strip_prefix(label)?.split('.').nth(part)?.parse().ok())
}

/// Whether the linker reads what the compiler writes: an empty crate, so that it takes a tenth of a second.
fn links(toolchain: &Toolchain) -> bool {
    let try_it = || -> Result<()> {
        let directory = workspace::target()?.join("setup");
        fs::create_dir_all(&directory)?;
        let source = directory.join("empty.rs");
        fs::write(&source, "#![feature(no_core)]\n#![no_core]\n#![no_main]\n")?;
        let mut linker = std::ffi::OsString::from("-Clinker=");
        linker.push(&toolchain.linker);
        let mut rustc = toolchain.command("rustc");
        rustc.args(["--target", toolchain::TARGET, "--crate-type", "bin", "-Ctarget-cpu=v3"]);
        shell::output(rustc.arg(linker).arg("-o").arg(directory.join("empty.o")).arg(&source))?;
        Ok(())
    };
    is_recent(&toolchain.sysroot) && try_it().is_ok()
}

/// Clippy for the compiler of the object.
pub(crate) fn ensure_clippy(toolchain: &Toolchain) -> Result<()> {
    if toolchain.sysroot.join("bin/cargo-clippy").is_file() {
        return Ok(());
    }
    if toolchain.sysroot == Path::new(toolchain::DEBIAN_SYSROOT) {
        return packages::install(&["rust-web-clippy"]);
    }
    bail!("there is no clippy in {}; run: rustup component add clippy", toolchain.sysroot.display())
}

/// cargo-fuzz.
pub(crate) fn ensure_fuzzer() -> Result<()> {
    if shell::succeeds(workspace::cargo()?.args(["fuzz", "--version"])) {
        return Ok(());
    }
    let mut install = workspace::cargo()?;
    install
        .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"])
        .env_remove("CARGO_TARGET_DIR");
    shell::run_behind_progress(
        &format!("compiling cargo-fuzz {CARGO_FUZZ}, about a minute"),
        &mut install,
        COMPILING,
    )
}

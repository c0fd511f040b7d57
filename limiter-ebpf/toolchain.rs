//! Finds the compiler and the linker for the eBPF object, and builds it.
//!
//! Shared through `#[path]` by `limiter-user/build.rs` and by xtask, so that both agree on what is missing and on
//! the flags. It only looks and builds: installing is `cargo xtask setup`. It uses the standard library alone.
//!
//! The BPF target has no prebuilt `core`, so a compiler qualifies only with the standard library's source
//! (`rust-src`) in its own sysroot. Unstable `-Z build-std` is unlocked on stable compilers by `RUSTC_BOOTSTRAP=1`.

use std::{
    env,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The target triple of the object.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// Where Debian's packages put compiler and standard library.
pub(crate) const DEBIAN_SYSROOT: &str = "/usr";
/// A sysroot to take instead of those found; for people who bring a compiler of their own.
pub(crate) const SYSROOT_VARIABLE: &str = "LIMITER_BPF_SYSROOT";

/// A compiler with `rust-src` and a linker, ready to build the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// Directory with `bin/rustc`, `bin/cargo` and `lib/rustlib/src`.
    pub(crate) sysroot: PathBuf,
    /// The `bpf-linker` executable.
    pub(crate) linker: PathBuf,
}

/// What a machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No sysroot with `rust-src`.
    Source,
    /// No `bpf-linker`.
    Linker,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "no Rust compiler with the rust-src component",
            Self::Linker => "bpf-linker is not installed",
        })
    }
}

impl std::error::Error for Missing {}

/// The first compiler with `rust-src` and the first `bpf-linker`.
pub(crate) fn find() -> Result<Toolchain, Missing> {
    Ok(Toolchain {
        sysroot: find_sysroot().ok_or(Missing::Source)?,
        linker: find_linker().ok_or(Missing::Linker)?,
    })
}

/// The first sysroot that can build `core`: the one asked for, the running cargo's, rustup's pinned one, Debian's.
pub(crate) fn find_sysroot() -> Option<PathBuf> {
    if let Some(asked) = env::var_os(SYSROOT_VARIABLE) {
        return Some(PathBuf::from(asked)).filter(|sysroot| builds_core(sysroot));
    }
    let running =
        env::var_os("CARGO").and_then(|cargo| Some(Path::new(&cargo).parent()?.parent()?.to_path_buf()));
    running
        .into_iter()
        .chain(rustup_sysroot())
        .chain([PathBuf::from(DEBIAN_SYSROOT)])
        .find(|s| builds_core(s))
}

/// Whether there is everything in `sysroot` that `-Z build-std=core` needs.
pub(crate) fn builds_core(sysroot: &Path) -> bool {
    ["bin/rustc", "bin/cargo", "lib/rustlib/src/rust/library/core/src/lib.rs"]
        .iter()
        .all(|file| sysroot.join(file).is_file())
}

/// The sysroot of rustup's toolchain that `rust-toolchain.toml` pins, whether it has `rust-src` or not.
pub(crate) fn rustup_sysroot() -> Option<PathBuf> {
    let toolchains = match env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME")?).join(".rustup"),
    }
    .join("toolchains");
    let pinned = format!("{}-", pinned_channel());
    fs::read_dir(toolchains)
        .ok()?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&pinned))
        .map(|entry| entry.path())
}

/// The channel that `rust-toolchain.toml` pins.
pub(crate) fn pinned_channel() -> &'static str {
    include_str!("../rust-toolchain.toml")
        .lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .expect("rust-toolchain.toml has a line `channel = \"…\"`")
}

/// `bpf-linker` on PATH, else where `cargo install` puts it.
pub(crate) fn find_linker() -> Option<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => Some(PathBuf::from(home)),
        None => env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")),
    };
    env::split_paths(&on_path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.is_file())
}

impl Toolchain {
    /// A program of the sysroot, in an environment free of the outer cargo's variables.
    ///
    /// Cargo tells its build scripts and `cargo run` programs about itself (`RUSTC`, `CARGO_ENCODED_RUSTFLAGS`,
    /// `RUSTC_WORKSPACE_WRAPPER` under clippy, …); all of that speaks of the host build and would mislead the inner
    /// one. What the user may have set about network and terminal stays, and so does the job server.
    pub(crate) fn command(&self, program: &str) -> Command {
        const KEPT: [&str; 6] =
            ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_HTTP_", "CARGO_TERM_", "CARGO_REGISTR"];
        let mut command = Command::new(self.sysroot.join("bin").join(program));
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let about_cargo = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
            if about_cargo
                || text.starts_with("RUSTC")
                || text.starts_with("RUSTDOC")
                || text.starts_with("RUSTFLAGS")
            {
                command.env_remove(&name);
            }
        }
        // For a bpf-linker that borrows rustc's own LLVM: it searches for libLLVM from PATH and LD_LIBRARY_PATH.
        let mut path = vec![self.sysroot.join("bin")];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        command
            .env("PATH", env::join_paths(path).unwrap_or_default())
            .env("LD_LIBRARY_PATH", self.sysroot.join("lib"))
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("RUSTC", self.sysroot.join("bin/rustc"))
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }

    /// Cargo with everything that the BPF target needs; the caller adds nothing but options of the subcommand.
    ///
    /// `crate_directory` is that of `limiter-ebpf` or alike; `target_directory` must not be the outer cargo's, which holds a lock on it.
    pub(crate) fn cargo(&self, subcommand: &str, crate_directory: &Path, target_directory: &Path) -> Command {
        let mut command = self.command("cargo");
        command
            .current_dir(crate_directory)
            .args([
                subcommand,
                "--release",
                "--locked",
                "--target",
                TARGET,
                "-Z",
                "build-std=core",
                "--target-dir",
            ])
            .arg(target_directory)
            .env("CARGO_ENCODED_RUSTFLAGS", encoded_flags())
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }

    /// Builds the objects of a crate into `target_directory` and returns the directory where they are, named after its
    /// binaries. Messages of the compiler go to standard error.
    pub(crate) fn build(&self, crate_directory: &Path, target_directory: &Path) -> io::Result<PathBuf> {
        let status = self.cargo("build", crate_directory, target_directory).stdout(io::stderr()).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("the eBPF objects do not build ({status})")));
        }
        Ok(target_directory.join(TARGET).join("release"))
    }
}

/// Compiler flags, in cargo's encoding.
fn encoded_flags() -> OsString {
    [
        // aya-ebpf's bindings are generated per architecture of the kernel.
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH).as_str(),
        // BTF is made from debug information.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // 32-bit registers and jumps, and the atomic instructions that return a value.
        "-Ctarget-cpu=v3",
    ]
    .join("\x1f")
    .into()
}

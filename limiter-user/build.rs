//! Builds the eBPF object and tells the library where it is.
//!
//! The path arrives as `env!("LIMITER_BPF_OBJECT")`. Not aya-build: it overrides the compiler flags, and always
//! takes rustup's nightly.

#[path = "../limiter-ebpf/toolchain.rs"]
mod toolchain;

use std::{env, fs, path::Path, process::ExitCode};

/// What the object depends on, seen from this crate.
const INPUTS: [&str; 8] = [
    "../limiter-ebpf/src",
    "../limiter-ebpf/Cargo.toml",
    "../limiter-ebpf/Cargo.lock",
    "../limiter-ebpf/toolchain.rs",
    "../limiter-common/src",
    "../limiter-common/Cargo.toml",
    "../Cargo.toml",
    "../rust-toolchain.toml",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    for input in INPUTS {
        println!("cargo:rerun-if-changed={input}");
    }
    println!("cargo:rerun-if-env-changed={}", toolchain::SYSROOT_VARIABLE);

    let tools = toolchain::find()
        .map_err(|missing| format!("cannot build the eBPF object: {missing}; run: cargo xtask setup"))?;
    println!("cargo:rerun-if-changed={}", tools.linker.display());

    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run this through cargo")?;
    let out = Path::new(&out);
    // <target>/<profile>/build/<package>/out: one directory for all profiles, since the object is the same in each
    // and `core` takes most of the time.
    let shared = out.ancestors().nth(4).unwrap_or(out).join("ebpf");
    let built = tools.build(Path::new("../limiter-ebpf"), &shared).map_err(|error| {
        format!("{error}, with {} and {}", tools.sysroot.display(), tools.linker.display())
    })?;

    // A copy, since the shared one may be replaced while a later build of another profile runs.
    let built = built.join("limiter");
    let object = out.join("limiter.bpf.o");
    fs::copy(&built, &object).map_err(|error| format!("{}: {error}", built.display()))?;
    println!("cargo:rustc-env=LIMITER_BPF_OBJECT={}", object.display());
    Ok(())
}

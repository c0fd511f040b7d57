//! Builds the programs of `ebpf/` and tells the crate where they are, as `env!("BENCH_<NAME>_OBJECT")`.

#[path = "../limiter-ebpf/toolchain.rs"]
mod toolchain;

use std::{env, fs, path::Path, process::ExitCode};

/// The binaries of `ebpf/`.
const PROGRAMS: [&str; 8] = ["drop", "empty", "floor", "generator", "hash", "lpm", "lru", "mutator"];

/// What they depend on, seen from this crate.
const INPUTS: [&str; 5] = [
    "ebpf/src",
    "ebpf/Cargo.toml",
    "ebpf/Cargo.lock",
    "../limiter-ebpf/toolchain.rs",
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
        .map_err(|missing| format!("cannot build the eBPF programs: {missing}; run: cargo xtask setup"))?;
    println!("cargo:rerun-if-changed={}", tools.linker.display());

    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; run this through cargo")?;
    let out = Path::new(&out);
    // The directory that limiter's own object is built in, for the sake of the `core` that is there already.
    let shared = out.ancestors().nth(4).unwrap_or(out).join("ebpf");
    let built = tools.build(Path::new("ebpf"), &shared).map_err(|error| {
        format!("{error}, with {} and {}", tools.sysroot.display(), tools.linker.display())
    })?;
    for program in PROGRAMS {
        // A copy, since the shared one may be replaced while a later build of another profile runs.
        let object = out.join(format!("{program}.bpf.o"));
        let built = built.join(program);
        fs::copy(&built, &object).map_err(|error| format!("{}: {error}", built.display()))?;
        println!("cargo:rustc-env=BENCH_{}_OBJECT={}", program.to_uppercase(), object.display());
    }
    Ok(())
}

//! Where things are.

use std::{
    env,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    // At run time, since a clone may have moved since xtask was built.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("xtask lies in the root of the repository").to_path_buf()
}

/// Cargo's target directory: the one xtask itself was built in, however the user chose it.
pub(crate) fn target() -> Result<PathBuf> {
    let xtask = env::current_exe().context("finding the path of xtask")?;
    let target =
        xtask.ancestors().nth(2).context("xtask is not in a target directory; run it by `cargo xtask`")?;
    Ok(target.to_path_buf())
}

/// Where `cargo xtask build` leaves `limiterd` and `limiter`.
pub(crate) fn binaries() -> Result<PathBuf> {
    Ok(target()?.join("release"))
}

/// The pinned toolchain's cargo, to be run in the root of the repository.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", target()?);
    // `cargo run` sets them for xtask; build scripts would take them for their own.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// Whether xtask runs as root.
pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The first executable of this name on PATH or in `/usr/sbin`, which is not on everybody's PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

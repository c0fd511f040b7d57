//! A host to be protected and the network outside, ready to send packets from one to the other.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};

use crate::netns::Namespace;
use crate::scratch::Scratch;
use crate::veth::{self, End};
use crate::witness::Witness;

/// The protected host's end of the link.
pub const HOST: End = End {
    interface: "eth0",
    mac: [2, 0, 0, 0, 0, 1],
    v4: Ipv4Addr::new(10, 77, 0, 1),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1),
};

/// The end of everybody else.
pub const OUTSIDE: End = End {
    interface: "wire0",
    mac: [2, 0, 0, 0, 0, 2],
    v4: Ipv4Addr::new(10, 77, 0, 2),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2),
};

/// Two namespaces, a link between them, a witness, and a directory for files.
#[derive(Debug)]
pub struct Lab {
    pub host: Namespace,
    pub outside: Namespace,
    pub witness: Witness,
    pub scratch: Scratch,
    /// Where `limiterd` and `limiter` are.
    binaries: PathBuf,
    /// One lab at a time, since they measure.
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// With the binaries in `LIMITER_BIN_DIR`, else where `cargo build --release` puts them.
    ///
    /// # Errors
    ///
    /// If this is not root, or a tool is missing.
    pub fn new(purpose: &str) -> Result<Self> {
        let binaries = std::env::var_os("LIMITER_BIN_DIR").map_or_else(
            || {
                let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
                let target =
                    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
                workspace.join(target).join("release")
            },
            PathBuf::from,
        );
        Self::with_binaries(purpose, binaries)
    }

    /// With the binaries in this directory.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_binaries(purpose: &str, binaries: PathBuf) -> Result<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces and XDP need root: run this with sudo, or as root in a container with \
             --privileged"
        );
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = Scratch::new(purpose)?;
        let host = Namespace::new()?;
        let outside = Namespace::new()?;
        veth::create(&host, &HOST, &outside, &OUTSIDE)?;
        let witness = Witness::install(&host, HOST.interface)?;
        Ok(Self { host, outside, witness, scratch, binaries, _turn: turn })
    }

    /// One of the programs that are tested.
    ///
    /// # Errors
    ///
    /// If it was not built.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.binaries.join(name);
        ensure!(path.is_file(), "{} is missing: `cargo xtask build` makes it", path.display());
        Ok(path)
    }
}

/// Runs a test in a lab of its own. If it fails, what the daemons logged is printed.
///
/// # Panics
///
/// If the test fails.
pub fn in_lab(purpose: &str, test: impl FnOnce(&Lab) -> Result<()>) {
    let lab = Lab::new(purpose).unwrap_or_else(|error| panic!("{error:#}"));
    let outcome = catch_unwind(AssertUnwindSafe(|| test(&lab)));
    if let Ok(Ok(())) = outcome {
        return;
    }
    for (name, content) in lab.scratch.logs() {
        eprintln!("--- {name}\n{content}---");
    }
    drop(lab);
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{purpose}: {error:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

//! A host to be protected and the network outside, ready to send packets from one to the other.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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
    /// One lab at a time, since they measure.
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// # Errors
    ///
    /// If this is not root, or a tool is missing.
    pub fn new(purpose: &str) -> Result<Self> {
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
        Ok(Self { host, outside, witness, scratch, _turn: turn })
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

//! The hosts that floods and lists are tried on, with the daemon that was built together with this program.

use anyhow::{Context as _, Result};
use limiter_tests::Lab;

/// Two network namespaces and a directory. `LIMITER_BIN_DIR` says where another daemon is.
pub(crate) fn make(purpose: &str) -> Result<Lab> {
    if std::env::var_os("LIMITER_BIN_DIR").is_some() {
        return Lab::new(purpose);
    }
    let binaries = std::env::current_exe().context("where is this program?")?;
    let binaries = binaries.parent().context("this program is in no directory")?;
    Lab::with_binaries(purpose, binaries.to_owned())
}

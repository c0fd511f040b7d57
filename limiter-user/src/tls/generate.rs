//! First certificates: self-signed, for those who have no issuer and go by pins.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::pin::Pin;

/// Days that the certificate is good for. Pins do not go by it; those who give it to clients as an issuer do.
const DAYS: i64 = 3650;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub pin: Pin,
}

/// Makes a key (ECDSA on P-256) and a certificate for `names`, DNS names or addresses, in `directory`: `api.pem`, and
/// `api.key` for its owner alone.
///
/// # Errors
///
/// If a file is there already, or cannot be written, or a name is not one.
pub fn generate(names: &[String], directory: &Path) -> anyhow::Result<Generated> {
    let (certificate, key) = (directory.join("api.pem"), directory.join("api.key"));
    let pair = KeyPair::generate().context("cannot make a key")?;
    let mut params = CertificateParams::new(names.to_vec())
        .with_context(|| format!("{} cannot be names of a server", names.join(", ")))?;
    if let Some(name) = names.first() {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = jiff::Timestamp::now();
    let at = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds.unsigned_abs())
    };
    params.not_before = at(now.as_second() - 3600);
    params.not_after = at(now.as_second() + DAYS * 24 * 3600);
    let made = params.self_signed(&pair).context("cannot make a certificate")?;
    let pin = Pin::of(made.der()).context("cannot make a certificate")?;

    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    write(&key, 0o600, &pair.serialize_pem())?;
    if let Err(error) = write(&certificate, 0o644, &made.pem()) {
        // A key without its certificate is of no use, and would be in the way of the next attempt.
        let _ = fs::remove_file(&key);
        return Err(error);
    }
    Ok(Generated { certificate, key, pin })
}

/// Nothing is overwritten: it may be in use.
fn write(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.with_context(|| format!("cannot write {}", path.display()))
}

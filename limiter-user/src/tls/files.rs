//! Certificates and keys in files (PEM, RFC 7468). Errors name the file and the remedy, never what is in it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// More than any chain has.
const MAX_FILE: u64 = 1 << 20;
/// Bits of the mode that a key must not have: others may not touch it, and its group may at most read it.
const EXPOSED: u32 = 0o037;

/// At least one certificate.
pub(super) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let (text, _) = read(path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| anyhow::anyhow!("{}: {}", path.display(), told(&error)))?;
    ensure!(
        !found.is_empty(),
        "{} has no certificate; expected PEM, that is -----BEGIN CERTIFICATE-----",
        path.display()
    );
    Ok(found)
}

/// The certificates of issuers.
pub(super) fn roots(path: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .with_context(|| format!("{}: not a certificate of an issuer", path.display()))?;
    }
    Ok(Arc::new(roots))
}

/// The first key, if nobody else can read it.
pub(super) fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let (text, mode) = read(path)?;
    if mode & EXPOSED != 0 {
        bail!(
            "{} is a key with mode {:o}, so others can use it; run: chmod 600 {0}",
            path.display(),
            mode & 0o7777
        );
    }
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), told(&error)))
}

/// The content of a regular file, and its mode.
fn read(path: &Path) -> anyhow::Result<(Vec<u8>, u32)> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| {
        let hint = crate::privileges::hint(&error);
        anyhow::Error::new(error).context(format!("cannot read {shown}{hint}"))
    })?;
    let metadata = file.metadata().with_context(|| format!("cannot read {shown}"))?;
    ensure!(metadata.is_file(), "{shown} is not a file");
    ensure!(
        metadata.len() <= MAX_FILE,
        "{shown} has more than {} KiB: not a certificate or key",
        MAX_FILE >> 10
    );
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).with_context(|| format!("cannot read {shown}"))?;
    Ok((text, metadata.mode()))
}

/// Without the bytes that some of these errors repeat: they may be of a key.
fn told(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no end; was the file copied as a whole?",
        pem::Error::IllegalSectionStart { .. } => "a line with -----BEGIN is malformed",
        pem::Error::Base64Decode(_) => "a PEM section is not base64; was the file copied as a whole?",
        pem::Error::NoItemsFound => {
            "it has no key; expected PEM, that is -----BEGIN PRIVATE KEY-----, without a passphrase"
        }
        pem::Error::Io(_) | pem::Error::SectionTooLarge | _ => "cannot be understood as PEM",
    }
}

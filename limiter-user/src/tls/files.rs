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

/// The certificates of issuers in a bundle that others maintain, and how many of it were left out: one that cannot be
/// understood is no reason to do without all others.
pub(super) fn bundle(path: &Path) -> anyhow::Result<(Arc<RootCertStore>, usize)> {
    let (text, _) = read(path)?;
    let (mut certificates, mut left_out) = (Vec::new(), 0);
    for certificate in CertificateDer::pem_slice_iter(&text) {
        match certificate {
            Ok(certificate) => certificates.push(certificate),
            Err(_) => left_out += 1,
        }
    }
    let mut roots = RootCertStore::empty();
    let (used, odd) = roots.add_parsable_certificates(certificates);
    ensure!(used > 0, "{} has no certificate of an issuer that can be used", path.display());
    Ok((Arc::new(roots), left_out + odd))
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

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pem() -> String {
        let params = CertificateParams::new(["issuer".to_owned()]).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn odd(body: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn a_bundle_does_without_what_cannot_be_understood() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.pem");
        let parts = [
            pem(),
            odd("bm8gY2VydGlmaWNhdGU="),
            odd("!"),
            "# A comment\n".to_owned(),
            pem(),
            "-----BEGIN CERTIFICATE-----\nbm8=".to_owned(),
        ];
        std::fs::write(&path, parts.concat()).unwrap();
        let (roots, left_out) = bundle(&path).unwrap();
        assert_eq!((roots.len(), left_out), (2, 3));
        // An operator's own has to be right as a whole.
        assert!(super::roots(&path).is_err());
        for own in [parts[..2].concat(), parts[..3].concat()] {
            std::fs::write(&path, own).unwrap();
            assert!(super::roots(&path).is_err());
        }
        for nothing in [String::new(), parts[1..4].concat()] {
            std::fs::write(&path, nothing).unwrap();
            assert!(bundle(&path).unwrap_err().to_string().contains("no certificate of an issuer"));
        }
    }
}

//! By what a client knows the server: a pinned key, the issuer of its certificate, or both. There is no way to know it
//! by nothing.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::pin::{Pin, PinMismatch};
use super::{HTTP_1_1, SYSTEM_CA, VERSIONS, files, provider};

/// What proves that a server is the one that is meant.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// It has one of these keys. Name and dates of its certificate do not matter then, unless there is an issuer too.
    pub pins: &'a [Pin],
    /// A file of issuers, one of which vouches for its name. Of the system's, what cannot be understood is left out.
    pub ca: Option<&'a Path>,
    /// What this client shows: its certificate and key.
    pub identity: Option<(&'a Path, &'a Path)>,
}

/// A client that speaks HTTP/1.1 to a server that is known by `trust`.
///
/// # Errors
///
/// If there is neither pin nor issuer, or a file cannot be read.
pub fn client(trust: Trust<'_>) -> anyhow::Result<Arc<ClientConfig>> {
    client_and_left_out(trust).map(|(config, _)| config)
}

/// The same, and how many issuers of the system's were left out.
pub(crate) fn client_and_left_out(trust: Trust<'_>) -> anyhow::Result<(Arc<ClientConfig>, usize)> {
    ensure!(
        !trust.pins.is_empty() || trust.ca.is_some(),
        "nothing tells who the server is; say --pin, which `limiter api pin` on the server prints, or --ca"
    );
    let provider = provider();
    let (issuers, left_out) = match trust.ca {
        None => (None, 0),
        Some(path) => {
            let system = path == Path::new(SYSTEM_CA);
            let (roots, left_out) = if system { files::bundle(path)? } else { (files::roots(path)?, 0) };
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            (Some(verifier.build().with_context(|| path.display().to_string())?), left_out)
        }
    };
    let verifier = Verifier { pins: trust.pins.to_vec(), issuers, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(VERSIONS)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match trust.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(files::certificates(certificate)?, files::key(key)?)
            .with_context(|| format!("{} is not the key of {}", key.display(), certificate.display()))?,
    };
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok((Arc::new(config), left_out))
}

/// Asks for all that was given: the key if pinned, the issuer if named.
#[derive(Debug)]
struct Verifier {
    pins: Vec<Pin>,
    issuers: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pins.is_empty() {
            let seen = Pin::of(end_entity)?;
            if !self.pins.contains(&seen) {
                let mismatch = PinMismatch { expected: self.pins.clone(), seen };
                return Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into());
            }
        }
        match &self.issuers {
            Some(issuers) => {
                issuers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Not offered; see VERSIONS.
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

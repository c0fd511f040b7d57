//! What the server shows, and whom it lets in.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::pin::Pin;
use super::{H2, HTTP_1_1, VERSIONS, files, provider};
use crate::config::Api;

/// Sessions that can be resumed; older ones are forgotten.
const SESSIONS: usize = 256;

/// The server as its certificate and key make it.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    /// By which clients know it.
    pub pin: Pin,
}

/// The pin of the first certificate in a file.
///
/// # Errors
///
/// If there is none.
pub fn pin_of(path: &Path) -> anyhow::Result<Pin> {
    let chain = files::certificates(path)?;
    let own = chain.first().context("there is no certificate")?;
    Pin::of(own).with_context(|| format!("{} is no certificate", path.display()))
}

/// Reads the files that `api` names.
///
/// # Errors
///
/// If one cannot be read, the key is not that of the certificate, or others can read the key.
pub fn load(api: &Api) -> anyhow::Result<Identity> {
    let chain = files::certificates(&api.certificate)?;
    let key = files::key(&api.key)?;
    let own = chain.first().context("there is no certificate")?;
    let pin = Pin::of(own).with_context(|| format!("{} is no certificate", api.certificate.display()))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
    let builder = match &api.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(files::roots(path)?, provider());
            let verifier = verifier.build().with_context(|| format!("client_ca {}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .with_context(|| format!("{} is not the key of {}", api.key.display(), api.certificate.display()))?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
    config.send_tls13_tickets = 1;
    Ok(Identity { config: Arc::new(config), pin })
}

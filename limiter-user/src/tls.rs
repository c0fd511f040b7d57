//! TLS 1.3 for the API over TCP, both ends. Nothing older is spoken: who connects is a program that was told to.

mod client;
mod files;
pub mod generate;
mod pin;
mod server;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;

pub(crate) use client::client_and_left_out;
pub use client::{Trust, client};
pub use pin::{InvalidPin, Pin, PinMismatch};
pub use server::{Identity, load, pin_of};

/// The issuers that Debian and its relatives trust.
pub(crate) const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What both ends speak.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// Protocol names of ALPN (RFC 7301): HTTP/2.
pub(crate) const H2: &[u8] = b"h2";
/// HTTP/1.1 likewise.
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

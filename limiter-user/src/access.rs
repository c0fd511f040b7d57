//! Who may do what over the API: scopes, what they are held to, and the ways to prove who one is.
//!
//! A request comes from a [`Principal`]: an operator on the control socket, the bearer of a token, a client certificate
//! that the configuration names, or a JWT of an issuer that it names. Every endpoint states its [`Need`], and
//! [`Principal::may`] decides. Nothing is allowed by default: a certificate or JWT that is valid but not named may do
//! nothing. Secrets are compared as hashes, in constant time, and are never printed.

mod authenticator;
pub mod authorization;
mod backoff;
mod caps;
mod certificate;
mod digest;
mod fetch;
mod jwt;
mod keyring;
mod keys;
mod names;
mod principal;
mod quota;
mod recent;
mod scope;
pub mod tokens;

pub use authenticator::{Authenticator, Unauthenticated};
pub use caps::{Caps, InvalidPerMinute, PerMinute};
pub use certificate::{Certificate, InvalidCertificate};
pub use jwt::Rejected;
/// An issuer for tests.
#[cfg(test)]
pub(crate) use jwt::tests as issuer;
pub(crate) use principal::RESERVED;
pub use principal::{Denied, Entry, Kind, Need, Principal};
pub use quota::OverQuota;
pub(crate) use recent::Recent;
pub use scope::{InvalidScope, Scope, Scopes, Width};

//! Who may do what over the API: scopes, what they are held to, and the ways to prove who one is.
//!
//! A request comes from a [`Principal`]: an operator on the control socket, the bearer of a token, a client certificate
//! that the configuration names, or a JWT of an issuer that it names. Every endpoint states its [`Need`], and
//! [`Principal::may`] decides. Nothing is allowed by default: a certificate or JWT that is valid but not named may do
//! nothing.

mod caps;
mod names;
mod principal;
mod scope;

pub use caps::{Caps, InvalidPerMinute, PerMinute};
pub(crate) use principal::RESERVED;
pub use principal::{Denied, Entry, Kind, Need, Principal};
pub use scope::{InvalidScope, Scope, Scopes, Width};

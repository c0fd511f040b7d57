//! The control API: JSON over HTTP under `/v1`, on a Unix socket and over TCP.
//!
//! `docs/api.md` has all requests. It is made, as the description that the daemon serves, of the [routes](server) and of the
//! types of [`protocol`].
//!
//! Errors are [`protocol::Problem`]s (RFC 9457) with a status of 4xx or 5xx.

pub mod client;
pub mod peers;
pub mod protocol;
pub mod server;

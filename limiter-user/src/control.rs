//! The control API: JSON over HTTP/1.1 on a Unix socket, under `/v1`. Peer credentials decide who may do what.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/blocks`, `POST /v1/allows` ([`protocol::AddRequest`]) | [`protocol::AddResponse`] |
//! | `POST /v1/blocks/remove`, `POST /v1/allows/remove` ([`protocol::RemoveRequest`]) | [`protocol::RemoveResponse`] |
//! | `POST /v1/blocks/import?for=…&reason=…&force=…&size=…` (text, one prefix a line) | [`protocol::AddResponse`] |
//! | `GET /v1/blocks`, `GET /v1/allows` | a [`protocol::Claim`] per line (NDJSON), streamed |
//! | `GET /v1/blocks?limit=…&cursor=…&owner=…` | [`protocol::ClaimPage`] |
//! | `GET /v1/lookup/ADDRESS` | [`protocol::Explanation`], without a packet |
//! | `GET /healthz`, `GET /readyz` | 200, or 503; for anybody |
//! | `GET /v1/explain?address=…&protocol=…&port=…&interface=…` | [`protocol::Explanation`] |
//! | `GET /v1/status` | [`protocol::Status`] |
//! | `GET /v1/counters` | [`protocol::Counters`] |
//! | `POST /v1/config/check` (text, as in the file) | [`protocol::Checked`] |
//! | `POST /v1/reload` | [`protocol::Reloaded`] |
//! | `POST /v1/tokens` ([`protocol::TokenRequest`]) | [`protocol::NewToken`] |
//! | `GET /v1/tokens` | [`protocol::TokenList`] |
//! | `POST /v1/tokens/ID/revoke` | [`protocol::Token`] |
//! | `POST /v1/tokens/ID/rotate` ([`protocol::RotateRequest`]) | [`protocol::NewToken`] |
//! | `POST /v1/detach` ([`protocol::DetachRequest`]) | [`protocol::Detached`] |
//!
//! Errors are [`protocol::Problem`]s (RFC 9457) with a status of 4xx or 5xx.

pub mod client;
pub mod peers;
pub mod protocol;
pub mod server;

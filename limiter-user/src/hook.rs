//! Reports without a client: a Unix datagram socket that takes syslog frames with a JSON body, as stock nginx
//! (`access_log syslog:server=unix:…`) and HAProxy (`log … format rfc5424`) send them.
//!
//! What is before the body is not looked at; it says nothing that could be believed. Who may write to the socket may report
//! in its name: the file's owner and mode decide that.

mod frame;

pub use frame::{Body, Invalid, parse};

//! Reports without a client: a Unix datagram socket that takes syslog frames with a JSON body, as stock nginx
//! (`access_log syslog:server=unix:…`) and HAProxy (`log … format rfc5424`) send them.
//!
//! What is before the body is not looked at; it says nothing that could be believed. Who may write to the socket may report
//! in its name: the file's owner and mode decide that.
//!
//! Nobody is answered, so what is lost is lost quietly: when frames come faster than they can be counted, they wait in a
//! queue of bounded length, then in the kernel's, and then the kernel refuses them, which nginx and HAProxy take for a
//! reason to go on without.

mod counts;
mod frame;
mod intake;
mod listen;

pub use counts::{Counts, Outcome};
pub use frame::{Body, Invalid, parse};
pub use intake::{Backend, Hooks, Prepared, prepare};

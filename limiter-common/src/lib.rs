//! The packet path of limiter, as plain code.
//!
//! Everything that decides what happens to a frame lives here, without I/O, clock or allocation, so that the
//! kernel program, the unit tests, the fuzzers and `limiter explain` run the same lines:
//!
//! ```text
//! Frame ─parse─► Packet ─decide(transport, Tables, Clock)─► Reason ─► Action
//! ```
//!
//! The modules, in reading order: [`mod@frame`] gives bounded reads of bytes; [`mod@parse`] finds the IP header and
//! what lies behind it; [`packet`] is what was found; [`mod@decide`] is the policy; [`tables`] are the questions it
//! asks; [`lists`] are who is blocked and allowed; [`hits`] are which of
//! them still send; [`gcra`] and [`slots`] are the rate limit; [`reason`] is every outcome; [`abi`] is the layout of the BPF maps.

#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod address;
pub mod decide;
pub mod frame;
pub mod gcra;
mod hash;
pub mod hits;
pub mod lists;
pub mod nanos;
pub mod packet;
pub mod parse;
pub mod prefix;
pub mod reason;
pub mod slots;
pub mod tables;
#[cfg(feature = "testing")]
pub mod testing;

pub use address::Address;
pub use decide::{Listing, decide, judge};
pub use frame::Frame;
pub use nanos::{Clock, Nanos};
pub use packet::{Fragment, Packet, Transport};
pub use prefix::Prefix;
pub use reason::{Action, Reason};
pub use tables::Tables;

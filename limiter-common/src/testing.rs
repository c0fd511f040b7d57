//! What tests, fuzzers and the kernel agreement test share: frames, tables, named cases and properties.
//!
//! [`frames`] builds frames out of headers; [`framings`] are the ways to wrap a packet that a filter has to see
//! through; [`tables`] are [`crate::Tables`] in memory; [`vectors`] is the one list of named cases;
//! [`properties`] are plain functions that panic when what must always hold does not.

#![expect(clippy::missing_panics_doc, reason = "panicking is how test support reports")]

pub mod frames;
pub mod framings;
pub mod properties;
pub mod tables;
pub mod vectors;

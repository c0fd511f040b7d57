//! What tests, fuzzers and the kernel agreement test share. [`frames`] builds frames out of headers.

#![expect(clippy::missing_panics_doc, reason = "panicking is how test support reports")]

pub mod frames;

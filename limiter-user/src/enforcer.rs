//! The one writer: owns the blocklist, its store and the dataplane's [`crate::dataplane::Writer`].

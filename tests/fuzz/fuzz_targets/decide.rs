//! What the policy promises for any frame: above all that nothing rescues a blocked source.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limiter_common::testing::properties::{
    blocked_source_never_passes, blocked_source_whatever_follows, lists_come_first,
};

fuzz_target!(|bytes: &[u8]| {
    blocked_source_never_passes(bytes);
    blocked_source_whatever_follows(bytes);
    lists_come_first(bytes);
});

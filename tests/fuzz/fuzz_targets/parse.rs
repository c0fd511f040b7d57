//! What the parser promises for any frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limiter_common::testing::properties::{
    appended_bytes_change_nothing, parse_is_total, plain_frames_need_no_walk,
};

fuzz_target!(|bytes: &[u8]| {
    parse_is_total(bytes);
    appended_bytes_change_nothing(bytes);
    plain_frames_need_no_walk(bytes);
});

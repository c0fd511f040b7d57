//! What lists and rate limits promise for any sequence of additions and packets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use limiter_common::testing::properties::{
    a_gate_gives_no_more_and_takes_nothing, full_set_keeps_live_owners, never_more_bytes_than_burst_and_rate,
    never_more_than_burst_and_rate, prefixes_contain_what_they_should, sources_that_share_get_no_more,
    what_is_listed_is_the_union,
};

fuzz_target!(|bytes: &[u8]| {
    prefixes_contain_what_they_should(bytes);
    what_is_listed_is_the_union(bytes);
    never_more_than_burst_and_rate(bytes);
    never_more_bytes_than_burst_and_rate(bytes);
    full_set_keeps_live_owners(bytes);
    a_gate_gives_no_more_and_takes_nothing(bytes);
    sources_that_share_get_no_more(bytes);
});

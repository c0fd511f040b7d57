//! The properties, with random bytes and with mutations of the named vectors.

use limiter_common::testing::properties::{self as property, Property};
use limiter_common::testing::vectors::vectors;
use proptest::collection::vec;
use proptest::prelude::*;

/// Names the property and the input when one fails; proptest then looks for a smaller one.
fn check(cases: u32, property: Property, input: impl Strategy<Value = Vec<u8>>) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = proptest::test_runner::TestRunner::new(config).run(&input, |bytes| {
        property(&bytes);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..600)
}

/// A vector with a few bytes changed, and perhaps cut or lengthened.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let frames: Vec<Vec<u8>> = vectors().into_iter().map(|vector| vector.frame).collect();
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let ends = (any::<prop::sample::Index>(), vec(any::<u8>(), 0..24), 0..4_u8);
    (prop::sample::select(frames), changes, ends).prop_map(|(mut frame, changes, (cut, tail, end))| {
        for (at, value) in changes {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = value;
            }
        }
        match end {
            0 if !frame.is_empty() => frame.truncate(cut.index(frame.len())),
            1 => frame.extend(tail),
            _ => {}
        }
        frame
    })
}

fn frames(property: Property) {
    for vector in vectors() {
        property(&vector.frame);
    }
    check(4096, property, mutated());
    check(512, property, bytes());
}

#[test]
fn parse_is_total() {
    frames(property::parse_is_total);
}

#[test]
fn plain_frames_need_no_walk() {
    frames(property::plain_frames_need_no_walk);
}

#[test]
fn a_packet_in_one_buffer_needs_no_other() {
    frames(property::a_packet_in_one_buffer_needs_no_other);
}

#[test]
fn appended_bytes_change_nothing() {
    frames(property::appended_bytes_change_nothing);
}

#[test]
fn blocked_source_never_passes() {
    frames(property::blocked_source_never_passes);
}

#[test]
fn lists_come_first() {
    frames(property::lists_come_first);
}

#[test]
fn blocked_source_whatever_follows() {
    check(2048, property::blocked_source_whatever_follows, vec(any::<u8>(), 0..120));
}

#[test]
fn prefixes_contain_what_they_should() {
    check(2048, property::prefixes_contain_what_they_should, vec(any::<u8>(), 0..80));
}

#[test]
fn what_is_listed_is_the_union() {
    check(512, property::what_is_listed_is_the_union, vec(any::<u8>(), 0..400));
}

#[test]
fn never_more_than_burst_and_rate() {
    check(128, property::never_more_than_burst_and_rate, bytes());
}

#[test]
fn never_more_bytes_than_burst_and_rate() {
    check(128, property::never_more_bytes_than_burst_and_rate, bytes());
}

#[test]
fn full_set_keeps_live_owners() {
    check(512, property::full_set_keeps_live_owners, bytes());
}

#[test]
fn a_gate_gives_no_more_and_takes_nothing() {
    check(1024, property::a_gate_gives_no_more_and_takes_nothing, bytes());
}

#[test]
fn sources_that_share_get_no_more() {
    check(1024, property::sources_that_share_get_no_more, bytes());
}

#[test]
fn threads_share_one_bucket() {
    check(128, property::threads_share_one_bucket, vec(any::<u8>(), 40));
}

/// Whoever runs all of them, runs all of them.
#[test]
fn the_list_of_properties_is_complete() {
    assert_eq!(property::ALL.len(), 15);
    for (name, property) in property::ALL {
        property(name.as_bytes());
        property(&[]);
    }
}

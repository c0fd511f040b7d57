//! What must hold for all input: plain functions that take bytes and panic if it does not.
//!
//! Property tests and fuzzers call the same functions. Those about frames take the bytes as the frame, so the named
//! vectors are their seeds; the others read their input from the bytes, zeros when they run out.

pub use frames::{
    a_packet_in_one_buffer_needs_no_other, appended_bytes_change_nothing, blocked_source_never_passes,
    blocked_source_whatever_follows, lists_come_first, parse_is_total, plain_frames_need_no_walk,
};
pub use lists::{prefixes_contain_what_they_should, what_is_listed_is_the_union};
pub use rates::{
    a_gate_gives_no_more_and_takes_nothing, full_set_keeps_live_owners, never_more_bytes_than_burst_and_rate,
    never_more_than_burst_and_rate, sources_that_share_get_no_more, threads_share_one_bucket,
};

mod frames;
mod lists;
mod rates;

/// A property.
pub type Property = fn(&[u8]);

/// All of them, with names fit for files.
pub const ALL: &[(&str, Property)] = &[
    ("parse_is_total", parse_is_total),
    ("plain_frames_need_no_walk", plain_frames_need_no_walk),
    ("a_packet_in_one_buffer_needs_no_other", a_packet_in_one_buffer_needs_no_other),
    ("appended_bytes_change_nothing", appended_bytes_change_nothing),
    ("blocked_source_never_passes", blocked_source_never_passes),
    ("blocked_source_whatever_follows", blocked_source_whatever_follows),
    ("lists_come_first", lists_come_first),
    ("prefixes_contain_what_they_should", prefixes_contain_what_they_should),
    ("what_is_listed_is_the_union", what_is_listed_is_the_union),
    ("never_more_than_burst_and_rate", never_more_than_burst_and_rate),
    ("never_more_bytes_than_burst_and_rate", never_more_bytes_than_burst_and_rate),
    ("full_set_keeps_live_owners", full_set_keeps_live_owners),
    ("a_gate_gives_no_more_and_takes_nothing", a_gate_gives_no_more_and_takes_nothing),
    ("sources_that_share_get_no_more", sources_that_share_get_no_more),
    ("threads_share_one_bucket", threads_share_one_bucket),
];

/// Values out of bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            if let Some((first, rest)) = self.0.split_first() {
                *byte = *first;
                self.0 = rest;
            }
        }
        bytes
    }

    fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number from 1 to 2^`bits`, small ones as likely as large ones.
    fn magnitude(&mut self, bits: u32) -> u64 {
        let shift = u32::from(self.byte()) % bits;
        (self.u64() & ((2 << shift) - 1)).max(1)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

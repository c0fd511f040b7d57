//! Which prefix lengths are in use: a byte for each, 1 more than the length, in words that readers go through.

use core::sync::atomic::{AtomicU64, Ordering};

use super::store;

/// Adds a length, if it is not there. There must be as many bytes as lengths.
pub(super) fn use_length(words: &[AtomicU64], length: u32) {
    let byte = u64::from(length) + 1;
    let bytes = words.iter().flat_map(|word| (0..8).map(move |at| (word, at * 8)));
    let mut free = None;
    for (word, at) in bytes {
        match word.load(Ordering::Relaxed) >> at & 0xff {
            found if found == byte => return,
            0 if free.is_none() => free = Some((word, at)),
            _ => {}
        }
    }
    if let Some((word, at)) = free {
        word.store(word.load(Ordering::Relaxed) | byte << at, Ordering::Release);
    }
}

/// Takes out the lengths that are not `used`. The others stay where they are, so that no reader misses one; and something
/// stays in the first word for as long as there is something in the others, since readers ask it first.
pub(super) fn keep_lengths(words: &[AtomicU64], used: impl Fn(usize) -> bool) {
    let mut more = false;
    for word in words.iter().skip(1).chain(words.first()) {
        let old = word.load(Ordering::Relaxed);
        let first = words.first().is_some_and(|first| core::ptr::eq(first, word));
        let bytes = (0..8).map(|at| (old >> (at * 8) & 0xff, at * 8)).filter(|(byte, _)| *byte != 0);
        let kept = bytes
            .filter(|(byte, _)| used(usize::from(length_of(*byte))))
            .fold(0, |all, (byte, at)| all | byte << at);
        more |= kept != 0;
        store(word, if first && more && kept == 0 { old } else { kept });
    }
}

/// The length that a byte, which is not 0, stands for.
fn length_of(byte: u64) -> u8 {
    u8::try_from(byte - 1).unwrap_or(u8::MAX)
}

//! The SHA-256 of a secret: what is kept of it. A hash that is slow on purpose is for passwords; nobody guesses 256 random
//! bits, however fast.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::sha256;

/// Compared in a time that does not depend on where two differ.
#[derive(Clone, Copy)]
pub(super) struct Digest(pub(super) [u8; 32]);

impl Digest {
    /// That of no secret that anybody knows: compared with in place of one that does not exist.
    pub(super) const NOBODYS: Self = Self([0; 32]);

    pub(super) fn of(secret: &[u8; 32]) -> Self {
        Self(sha256::of(secret))
    }

    /// All 32 bytes are looked at, whatever the first ones are.
    pub(super) fn is(&self, other: &Self) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
}

/// Nothing to see: what is never printed is never logged.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_is_sha_256() {
        // FIPS 180-4 of 32 zeros, from `head -c 32 /dev/zero | sha256sum`.
        let digest = Digest::of(&[0; 32]);
        assert_eq!(digest.0[..4], [0x66, 0x68, 0x7a, 0xad]);
        assert!(bool::from(digest.is(&Digest::of(&[0; 32]))));
        assert!(!bool::from(digest.is(&Digest::NOBODYS)));
        for byte in 0..32 {
            for bit in 0..8 {
                let mut other = digest;
                other.0[byte] ^= 1 << bit;
                assert!(!bool::from(digest.is(&other)), "byte {byte}, bit {bit}");
            }
        }
    }

    /// What people write who do not think of it.
    fn naive(a: &[u8; 32], b: &[u8; 32]) -> bool {
        for (a, b) in a.iter().zip(b) {
            if black_box(*a) != black_box(*b) {
                return false;
            }
        }
        true
    }

    /// How much longer a comparison takes that differs in the last byte than one that differs in the first. The least of
    /// many short turns, taken by turns: what else runs on the machine only ever adds.
    fn last_to_first(equal: impl Fn(&[u8; 32], &[u8; 32]) -> bool) -> f64 {
        let right = [7; 32];
        let (mut first, mut last) = (right, right);
        first[0] ^= 1;
        last[31] ^= 1;
        let mut least = [Duration::MAX; 2];
        for _ in 0..200 {
            for (least, wrong) in least.iter_mut().zip([&first, &last]) {
                let begun = Instant::now();
                for _ in 0..1000 {
                    assert!(!equal(black_box(&right), black_box(wrong)));
                }
                *least = (*least).min(begun.elapsed());
            }
        }
        least[1].as_secs_f64() / least[0].as_secs_f64()
    }

    /// A byte at a time, an attacker would need 32 times 256 guesses instead of 2^256. The naive comparison shows that
    /// the test would see it.
    #[test]
    fn a_comparison_takes_the_same_time_wherever_two_differ() {
        let seen = last_to_first(naive);
        assert!(seen > 3.0, "the naive comparison should stand out, and takes {seen:.2} times as long");
        let ours = last_to_first(|a, b| Digest(*a).is(&Digest(*b)).into());
        assert!((0.8..1.25).contains(&ours), "the last byte takes {ours:.2} times as long as the first");
    }
}

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
    use std::time::Instant;

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

    fn ours(a: &[u8; 32], b: &[u8; 32]) -> bool {
        Digest(*a).is(&Digest(*b)).into()
    }

    /// Samples of a test, of both kinds.
    const SAMPLES: usize = 20_000;
    /// Comparisons in a sample: one alone takes less than the clock can tell.
    const COMPARISONS: usize = 20;
    /// By dudect's reckoning, what is beyond is a leak for sure (Reparaz, Balasch, Verbauwhede 2017: above 4.5 it is
    /// likely; the machines of builders do other things, too).
    const LEAK: f64 = 10.0;

    /// How sure it is that to compare with one takes another time than with the other: Welch's t, in the manner of dudect.
    /// The kinds come in random order from the same place in memory, so that nothing but their bytes is different; the
    /// slowest samples are those that something else disturbed, and are left out, more and more of them.
    fn t(equal: fn(&[u8; 32], &[u8; 32]) -> bool, one: [u8; 32], other: [u8; 32]) -> f64 {
        let mut samples: [Vec<f64>; 2] = Default::default();
        let (mut state, mut presented) = (0x9e37_79b9_7f4a_7c15_u64, one);
        for _ in 0..SAMPLES {
            // xorshift64
            for shift in [13_i32, -7, 17] {
                state ^= if shift > 0 { state << shift } else { state >> -shift };
            }
            let kind = usize::from(state >> 63 == 1);
            presented = black_box([one, other][kind]);
            let begun = Instant::now();
            for _ in 0..COMPARISONS {
                black_box(equal(black_box(&RIGHT), black_box(&presented)));
            }
            samples[kind].push(begun.elapsed().as_secs_f64() * 1e9);
        }
        black_box(presented);
        let mut all = samples.concat();
        all.sort_by(f64::total_cmp);
        let most = |percent: usize| all[all.len() * percent / 100];
        let cropped = [50, 75, 90, 99].map(|percent| {
            let below = |samples: &[f64]| {
                let most = most(percent);
                samples.iter().copied().filter(|sample| *sample <= most).collect::<Vec<_>>()
            };
            welch(&below(&samples[0]), &below(&samples[1])).abs()
        });
        cropped.into_iter().fold(0.0, f64::max)
    }

    fn welch(a: &[f64], b: &[f64]) -> f64 {
        let moments = |samples: &[f64]| {
            let number = samples.len() as f64;
            let mean = samples.iter().sum::<f64>() / number;
            let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
            (mean, squares / (number - 1.0) / number)
        };
        let ((mean_a, error_a), (mean_b, error_b)) = (moments(a), moments(b));
        // A clock that is coarse may see no variance at all.
        (mean_a - mean_b) / (error_a + error_b).sqrt().max(1e-3)
    }

    const RIGHT: [u8; 32] = [7; 32];

    fn wrong_at(byte: usize) -> [u8; 32] {
        let mut wrong = RIGHT;
        wrong[byte] ^= 1;
        wrong
    }

    /// A byte at a time, an attacker would need 32 times 256 guesses instead of 2^256. What leaks does so each time; what
    /// else runs on the machine does not.
    #[test]
    fn a_comparison_takes_the_same_time_wherever_two_differ() {
        let (early, late) = (wrong_at(0), wrong_at(31));
        for (what, one, other) in [
            ("early and late", early, late),
            ("early and equal", early, RIGHT),
            ("late and equal", late, RIGHT),
        ] {
            let least = (0..5).map(|_| t(ours, one, other)).fold(f64::MAX, f64::min);
            println!("{what}: t = {least:.1}");
            assert!(least < LEAK, "{what} can be told apart: t = {least:.1}");
        }
        for (what, one, other) in [("early and late", early, late), ("early and equal", early, RIGHT)] {
            let seen = t(naive, one, other);
            println!("{what}, naively: t = {seen:.1}");
            assert!(seen > 10.0 * LEAK, "{what} of the naive comparison should stand out: t = {seen:.1}");
        }
    }

    #[test]
    fn welch_knows_a_difference() {
        let around = |mean: f64| (0..1000).map(|n| mean + f64::from(n % 10)).collect::<Vec<_>>();
        assert!(welch(&around(100.0), &around(100.0)).abs() < 1e-9);
        // Two means of 1000 samples with a variance of 8.26 each.
        assert!((welch(&around(101.0), &around(100.0)) - 7.78).abs() < 0.1);
    }
}

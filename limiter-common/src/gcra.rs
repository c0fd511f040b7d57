//! The generic cell rate algorithm (ITU-T I.371), which is the token bucket seen as one moment in time.
//!
//! The whole state of a bucket is its theoretical arrival time (TAT): when the next packet would arrive if the source
//! sent exactly at its rate. A packet conforms if it comes no earlier than the tolerance before that time, and then
//! moves the TAT on by its increment. A TAT in the past carries no information: it is a full bucket.

use crate::nanos::Nanos;

/// Fraction bits of [`Quota::per_byte`].
const FRACTION_BITS: u32 = 16;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How much a bucket admits: a sustained rate, and a burst on top.
///
/// A cost of zero means no limit; [`Quota::UNLIMITED`] is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Quota {
    /// Nanoseconds that each packet takes up.
    per_packet: u64,
    /// Nanoseconds that each byte takes up, in units of 2^-16 ns.
    per_byte: u64,
    /// How far ahead of now the TAT of a conforming packet may be, in nanoseconds.
    tolerance: u64,
}

/// What happens to one packet, and the TAT after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The packet conforms; the bucket's TAT becomes this.
    Admit(Nanos),
    /// Over the limit; the bucket is left as it is.
    Refuse,
}

impl Quota {
    pub const UNLIMITED: Self = Self { per_packet: 0, per_byte: 0, tolerance: 0 };

    /// The highest packet rate whose increment is within 1 % of the truth in whole nanoseconds.
    pub const MAX_PACKETS_PER_SECOND: u64 = 10_000_000;
    /// 1 kbit/s: the cost of the largest frame stays far from the end of 64 bits.
    pub const MIN_BITS_PER_SECOND: u64 = 1_000;
    /// 1 Tbit/s: the increment per byte is still within 0.01 %.
    pub const MAX_BITS_PER_SECOND: u64 = 1_000_000_000_000;

    /// `rate` packets a second, and `burst` packets at once. `None` if one is 0 or the rate is above
    /// [`Self::MAX_PACKETS_PER_SECOND`].
    pub const fn packets(rate: u64, burst: u64) -> Option<Self> {
        if rate == 0 || burst == 0 || rate > Self::MAX_PACKETS_PER_SECOND {
            return None;
        }
        // Rounded up, so that the rate is never exceeded.
        let per_packet = NANOS_PER_SECOND.div_ceil(rate);
        Some(Self { per_packet, per_byte: 0, tolerance: (burst - 1).saturating_mul(per_packet) })
    }

    /// `rate` bits a second, and `burst` bytes at once. `None` if the burst is 0 or the rate is not within
    /// [`Self::MIN_BITS_PER_SECOND`] and [`Self::MAX_BITS_PER_SECOND`]. A frame larger than the burst passes when the
    /// bucket is full.
    pub const fn bits(rate: u64, burst: u64) -> Option<Self> {
        if burst == 0 || rate < Self::MIN_BITS_PER_SECOND || rate > Self::MAX_BITS_PER_SECOND {
            return None;
        }
        let per_byte = ((8 * NANOS_PER_SECOND) << FRACTION_BITS).div_ceil(rate);
        // Whole and fractional part apart, so that nothing overflows before it must.
        let whole = (per_byte >> FRACTION_BITS).saturating_mul(burst);
        let fraction = (per_byte & ((1 << FRACTION_BITS) - 1)).saturating_mul(burst) >> FRACTION_BITS;
        Some(Self { per_packet: 0, per_byte, tolerance: whole.saturating_add(fraction) })
    }

    #[inline(always)]
    pub const fn is_unlimited(&self) -> bool {
        self.per_packet == 0 && self.per_byte == 0
    }

    /// Nanoseconds that a packet of `bytes` takes up. Rounded up, so that the rate is never exceeded: 1 ns too much is
    /// 2 % for the smallest frames at 10 Gbit/s, but 1 ns too little would make them free at 500.
    #[inline(always)]
    const fn cost(&self, bytes: u32) -> u64 {
        let fraction = self.per_byte.wrapping_mul(bytes as u64);
        self.per_packet + (fraction.wrapping_add((1 << FRACTION_BITS) - 1) >> FRACTION_BITS)
    }

    /// Judges a packet of `bytes` against a bucket whose TAT is `tat`.
    ///
    /// Whatever the clock does, even run backwards, no window of length t admits more than the burst plus rate × t
    /// (for bits: plus one frame, since a frame is admitted whole).
    #[inline(always)]
    pub const fn step(&self, tat: Nanos, bytes: u32, now: Nanos) -> Step {
        if tat.0 > now.0 && tat.0 - now.0 > self.tolerance {
            return Step::Refuse;
        }
        let start = if tat.0 > now.0 { tat.0 } else { now.0 };
        Step::Admit(Nanos(start.saturating_add(self.cost(bytes))))
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! The generic cell rate algorithm (ITU-T I.371), which is the token bucket seen as one moment in time.
//!
//! The whole state of a bucket is its theoretical arrival time (TAT): when the next packet would arrive if the source
//! sent exactly at its rate. A packet conforms if it comes no earlier than the tolerance before that time, and then
//! moves the TAT on by its increment. A TAT in the past carries no information: it is a full bucket.

use crate::nanos::Nanos;

/// Fraction bits of [`Quota::per_byte`].
const FRACTION_BITS: u32 = 16;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A frame that a gate takes at least, if there is one: any that fits Ethernet's usual MTU, with a VLAN tag.
const USUAL_FRAME: u32 = 1_518;
/// Parts of the tolerance that [`Quota::slack`] is: half a percent.
const SLACK: u64 = 200;

/// How much a bucket admits: a sustained rate, and a burst on top.
///
/// A cost of zero means no limit, as in [`Quota::UNLIMITED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Quota {
    /// Nanoseconds that each packet takes up.
    per_packet: u64,
    /// Nanoseconds that each byte takes up, in units of 2^-16 ns.
    per_byte: u64,
    /// How far ahead of now the TAT of a conforming packet may be, in nanoseconds.
    tolerance: u64,
    /// Half a percent of the tolerance, since the kernel should not divide.
    slack: u64,
    /// Nanoseconds that a packet at the gate may take up; 0 if there is no gate. No more than `slack`.
    largest: u64,
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
    pub const UNLIMITED: Self =
        Self { per_packet: 0, per_byte: 0, tolerance: 0, slack: u64::MAX, largest: 0 };

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
        let tolerance = (burst - 1).saturating_mul(per_packet);
        Some(Self { per_packet, per_byte: 0, tolerance, slack: 0, largest: 0 }.with_gate(per_packet))
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
        let quota =
            Self { per_packet: 0, per_byte, tolerance: whole.saturating_add(fraction), slack: 0, largest: 0 };
        // Half of the slack for the size of a frame and half for their number, unless that is too little for a frame.
        let usual = quota.cost(USUAL_FRAME);
        let half = quota.tolerance / SLACK / 2;
        Some(quota.with_gate(if half > usual { half } else { usual }))
    }

    /// Adds the slack, and a gate for packets of this cost if there is enough for one: a burst of more than 200 packets,
    /// or of 200 of the usual frames.
    const fn with_gate(self, largest: u64) -> Self {
        let slack = self.tolerance / SLACK;
        Self { slack, largest: if largest <= slack { largest } else { 0 }, ..self }
    }

    /// The same limit, kept by slots alone.
    #[must_use]
    pub const fn without_gate(self) -> Self {
        Self { largest: 0, ..self }
    }

    #[inline(always)]
    pub const fn is_unlimited(&self) -> bool {
        self.per_packet == 0 && self.per_byte == 0
    }

    /// Half a percent of the time that the burst takes up, in nanoseconds: so much more than the burst may be admitted
    /// for the sake of a gate, and once more for a clock that is this far behind. `u64::MAX` without a limit.
    #[inline(always)]
    pub const fn slack(&self) -> u64 {
        self.slack
    }

    /// Whether packets may be charged to a gate, as [`crate::slots`] explains.
    #[inline(always)]
    pub const fn has_gate(&self) -> bool {
        self.largest != 0
    }

    /// Nanoseconds that a packet of `bytes` takes up. Rounded up, so that the rate is never exceeded: 1 ns too much is
    /// 2 % for the smallest frames at 10 Gbit/s, but 1 ns too little would make them free at 500.
    #[inline(always)]
    pub const fn cost(&self, bytes: u32) -> u64 {
        let fraction = self.per_byte.wrapping_mul(bytes as u64);
        self.per_packet + (fraction.wrapping_add((1 << FRACTION_BITS) - 1) >> FRACTION_BITS)
    }

    /// Judges a packet that costs this much against a bucket whose TAT is `tat`.
    ///
    /// Whatever the clock does, even run backwards, no window of length t admits more than the burst plus rate × t
    /// (for bits: plus one frame, since a frame is admitted whole).
    ///
    /// A clock that is behind by up to d, now more and now less, makes that window longer by d.
    #[inline(always)]
    pub const fn step(&self, tat: Nanos, cost: u64, now: Nanos) -> Step {
        step(tat, cost, self.tolerance, now)
    }

    /// Takes a stretch of this size at once for a packet of this cost and others: it must not end further ahead than that
    /// of the packet alone might. `size` is at least `cost`, and more than that by no more than the slack.
    #[inline(always)]
    pub const fn step_ahead(&self, tat: Nanos, cost: u64, size: u64, now: Nanos) -> Step {
        step(tat, size, self.tolerance.saturating_sub(size - cost), now)
    }

    /// Judges a packet that costs this much against a gate whose TAT is `tat`.
    #[inline(always)]
    pub const fn step_at_gate(&self, tat: Nanos, cost: u64, now: Nanos) -> Step {
        if cost > self.largest {
            return Step::Refuse;
        }
        step(tat, cost, self.slack - self.largest, now)
    }

    /// The least TAT of a gate, one of whose sources has this TAT.
    #[inline(always)]
    pub const fn gate_above(&self, tat: Nanos) -> Nanos {
        tat.saturating_add(Nanos(self.slack))
    }
}

#[inline(always)]
const fn step(tat: Nanos, cost: u64, tolerance: u64, now: Nanos) -> Step {
    if tat.0 > now.0 && tat.0 - now.0 > tolerance {
        return Step::Refuse;
    }
    let start = if tat.0 > now.0 { tat.0 } else { now.0 };
    Step::Admit(Nanos(start.saturating_add(cost)))
}

#[cfg(test)]
pub(crate) mod tests;

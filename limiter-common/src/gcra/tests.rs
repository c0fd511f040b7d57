use std::mem::offset_of;

use super::*;

/// The layout of what lies in maps, for the snapshot in [`crate::abi`].
pub(crate) fn layout() -> Vec<(&'static str, usize)> {
    vec![
        ("quota.per_packet", offset_of!(Quota, per_packet)),
        ("quota.per_byte", offset_of!(Quota, per_byte)),
        ("quota.tolerance", offset_of!(Quota, tolerance)),
        ("quota.slack", offset_of!(Quota, slack)),
        ("quota.largest", offset_of!(Quota, largest)),
    ]
}

const START: u64 = 1_000_000_000_000;
const MILLI: u64 = 1_000_000;

/// Feeds packets (nanoseconds after the start, bytes) to one bucket.
fn run<const N: usize>(quota: &Quota, packets: [(u64, u32); N]) -> [bool; N] {
    let mut tat = Nanos(0);
    packets.map(|(after, bytes)| match quota.step(tat, quota.cost(bytes), Nanos(START + after)) {
        Step::Admit(next) => {
            tat = next;
            true
        }
        Step::Refuse => false,
    })
}

#[test]
fn packets() {
    let ten = |burst| Quota::packets(10, burst).unwrap();
    let all = |times: [u64; 6]| times.map(|at| (at * MILLI, 60));
    for (name, burst, times, expected) in [
        ("burst of 1 at once", 1, [0, 0, 0, 0, 0, 0], [true, false, false, false, false, false]),
        ("burst of 3 at once", 3, [0, 0, 0, 0, 0, 0], [true, true, true, false, false, false]),
        ("exactly at the rate", 1, [0, 100, 200, 300, 400, 500], [true; 6]),
        ("a little too fast", 1, [0, 99, 100, 199, 200, 300], [true, false, true, false, true, true]),
        (
            "refused packets cost nothing",
            1,
            [0, 10, 20, 30, 40, 100],
            [true, false, false, false, false, true],
        ),
        ("the burst comes back", 2, [0, 0, 0, 200, 200, 200], [true, true, false, true, true, false]),
        ("half of it comes back", 2, [0, 0, 0, 100, 100, 100], [true, true, false, true, false, false]),
        (
            "a long silence saves no more than the burst",
            2,
            [0, 0, 9_000, 9_000, 9_000, 9_000],
            [true, true, true, true, false, false],
        ),
        ("time runs backwards", 1, [500, 0, 100, 499, 600, 599], [true, false, false, false, true, false]),
    ] {
        assert_eq!(run(&ten(burst), all(times)), expected, "{name}");
    }
}

#[test]
fn to_the_nanosecond() {
    let quota = Quota::packets(3, 2).unwrap();
    // A third of a second, rounded up.
    let increment = 333_333_334;
    assert_eq!(run(&quota, [(0, 0), (0, 0), (increment - 1, 0), (increment, 0)]), [true, true, false, true]);
}

#[test]
fn bits() {
    // 8 kbit/s: 1 ms for each byte.
    let quota = Quota::bits(8_000, 100).unwrap();
    assert_eq!(
        run(&quota, [(0, 100), (0, 50), (0, 1), (50 * MILLI - 1, 1), (50 * MILLI, 1)]),
        [true, true, false, false, true],
        "the frame that passes the burst is admitted whole"
    );
    assert_eq!(
        run(&quota, [(0, 1500), (1400 * MILLI - 1, 60), (1400 * MILLI, 60)]),
        [true, false, true],
        "a frame larger than the burst passes when the bucket is full"
    );
}

/// At the highest rates a frame takes up less than a nanosecond, but never nothing.
#[test]
fn no_frame_is_free() {
    let quota = Quota::bits(Quota::MAX_BITS_PER_SECOND, 1).unwrap();
    assert_eq!(run(&quota, [(0, 1), (0, 1), (1, 1), (1, 1)]), [true, false, true, false]);
}

#[test]
fn the_slowest_rate_and_the_largest_frame() {
    let quota = Quota::bits(Quota::MIN_BITS_PER_SECOND, 1).unwrap();
    let bytes = 1 << 20;
    let takes = u64::from(bytes) * 8 * MILLI;
    assert_eq!(quota.step(Nanos(0), quota.cost(bytes), Nanos(START)), Step::Admit(Nanos(START + takes)));
}

#[test]
fn impossible_quotas() {
    assert_eq!(Quota::packets(0, 1), None);
    assert_eq!(Quota::packets(1, 0), None);
    assert_eq!(Quota::packets(Quota::MAX_PACKETS_PER_SECOND + 1, 1), None);
    assert!(Quota::packets(Quota::MAX_PACKETS_PER_SECOND, u64::MAX).is_some());
    assert_eq!(Quota::bits(Quota::MIN_BITS_PER_SECOND - 1, 1), None);
    assert_eq!(Quota::bits(1_000, 0), None);
    assert_eq!(Quota::bits(Quota::MAX_BITS_PER_SECOND + 1, 1), None);
    assert!(Quota::bits(Quota::MAX_BITS_PER_SECOND, u64::MAX).is_some());
    assert!(Quota::UNLIMITED.is_unlimited());
    assert!(!Quota::packets(1, 1).unwrap().is_unlimited());
    assert!(!Quota::bits(1_000, 1).unwrap().is_unlimited());
}

/// No figure makes the sums overflow.
#[test]
fn extremes() {
    for quota in [
        Quota::packets(1, u64::MAX).unwrap(),
        Quota::bits(Quota::MIN_BITS_PER_SECOND, u64::MAX).unwrap(),
        Quota::UNLIMITED,
    ] {
        for tat in [0, 1, START, u64::MAX - 1, u64::MAX] {
            for now in [0, 1, START, u64::MAX - 1, u64::MAX] {
                if let Step::Admit(next) = quota.step(Nanos(tat), quota.cost(1 << 20), Nanos(now)) {
                    assert!(next.0 >= tat && next.0 >= now);
                }
            }
        }
    }
}

/// The rate that is kept is within 1 % of the one asked for, and never above it.
#[test]
fn rates_are_kept_within_one_percent() {
    for rate in [1, 3, 10, 1_000, 99_999, 100_000, 1_000_000, 7_777_777, Quota::MAX_PACKETS_PER_SECOND] {
        let quota = Quota::packets(rate, 1).unwrap();
        let Step::Admit(next) = quota.step(Nanos(0), quota.cost(60), Nanos(START)) else {
            panic!("the first packet passes");
        };
        let increment = next.0 - START;
        assert!(increment * rate >= 1_000_000_000, "{rate}/s is exceeded");
        assert!(increment * rate <= 1_010_000_000, "{rate}/s is missed by more than 1 %");
    }
}

//! What was reported of one subject in the last while.

use limiter_common::Nanos;

/// Moments that are told apart. Of more, neighbours are joined.
const MOMENTS: usize = 32;

/// Weights with the time at which they came, oldest first.
///
/// Up to [`MOMENTS`] of them are exact. When there are more, those that came within a 32nd of the window after another one
/// count as if they had come with it: a sum never holds anything older than the window, and may miss what is in the last
/// 32nd of it.
#[derive(Debug, Default)]
pub(super) struct Window {
    moments: Vec<(Nanos, u32)>,
}

impl Window {
    /// Adds `weight` and returns the sum of what came in the last `within`.
    pub(super) fn add(&mut self, weight: u32, now: Nanos, within: Nanos) -> u64 {
        let gone = self.moments.partition_point(|(at, _)| now.saturating_sub(*at) >= within);
        self.moments.drain(..gone);
        if self.moments.len() >= MOMENTS {
            self.join(Nanos(within.0 / MOMENTS as u64));
        }
        let full = self.moments.len() >= MOMENTS;
        match self.moments.last_mut().filter(|_| full) {
            // So many that are further apart fill the window: the last of them is that near.
            Some((_, last)) => *last = last.saturating_add(weight),
            None => self.moments.push((now, weight)),
        }
        self.moments.iter().map(|(_, weight)| u64::from(*weight)).sum()
    }

    /// Makes one of those that are at most `near` behind another one.
    fn join(&mut self, near: Nanos) {
        self.moments.dedup_by(|(at, weight), (first, sum)| {
            let joined = at.saturating_sub(*first) <= near;
            if joined {
                *sum = sum.saturating_add(*weight);
            }
            joined
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Nanos = Nanos::from_secs(60);

    fn second(seconds: u64) -> Nanos {
        Nanos::from_secs(1_000 + seconds)
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut window = Window::default();
        assert_eq!(window.add(1, second(0), WITHIN), 1);
        assert_eq!(window.add(2, second(30), WITHIN), 3);
        assert_eq!(window.add(1, second(59), WITHIN), 4);
        assert_eq!(window.add(1, second(60), WITHIN), 4);
        assert_eq!(window.add(1, second(90), WITHIN), 3);
        assert_eq!(window.add(1, second(300), WITHIN), 1);
    }

    /// However many come, in bounded memory: never more than came in the window, never less than came in 31/32 of it.
    #[test]
    fn many_are_counted_to_a_thirty_second() {
        for step in [1, 7, 100, 900, 2_000] {
            let mut window = Window::default();
            let mut all = Vec::new();
            for number in 0..5_000_u64 {
                let now = Nanos(second(0).0 + number * step * 1_000_000);
                all.push(now);
                let sum = window.add(1, now, WITHIN);
                let came = |within: u64| {
                    let young = all.iter().rev().take_while(|at| now.saturating_sub(**at).0 < within);
                    u64::try_from(young.count()).unwrap()
                };
                assert!(sum <= came(WITHIN.0), "{step} ms, {number}: {sum}");
                assert!(sum >= came(WITHIN.0 - WITHIN.0 / 32), "{step} ms, {number}: {sum}");
                assert!(window.moments.len() <= MOMENTS);
            }
        }
    }
}

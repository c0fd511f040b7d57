//! A bound on the records of those who could fill the trail.

use limiter_common::Nanos;

const MINUTE: Nanos = Nanos::from_secs(60);

/// So many a minute; the others are only counted.
#[derive(Debug)]
pub struct Budget {
    most: u32,
    begun: Nanos,
    told: u32,
    /// Not written down since the last that was.
    untold: u64,
}

impl Budget {
    #[must_use]
    pub fn a_minute(most: u32) -> Self {
        Self { most, begun: Nanos(0), told: 0, untold: 0 }
    }

    /// Whether another one is written down `now`; then how many before it were not.
    pub fn next(&mut self, now: Nanos) -> Option<u64> {
        if now.saturating_sub(self.begun) >= MINUTE {
            (self.begun, self.told) = (now, 0);
        }
        if self.told == self.most {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_no_trail() {
        let mut strangers = Budget::a_minute(60);
        let mut told = |second: u64| {
            (0..100).filter_map(|_| strangers.next(Nanos::from_secs(second))).collect::<Vec<_>>()
        };
        assert_eq!(told(1_000), [0; 60]);
        assert_eq!(told(1_059), [0; 0]);
        let later = told(1_060);
        assert_eq!((later.len(), later[0], later[1]), (60, 140, 0));
    }
}

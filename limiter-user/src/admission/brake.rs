//! The brake on ban storms: how many new blocks there may be in a minute of those who are no operators, all of them
//! together. A policy that is too eager, or an application that has gone mad, locks out a few that way, not everybody.
//!
//! Pure: the time is an argument. Exact to a second: what is younger than a minute counts.

use std::collections::VecDeque;
use std::time::Duration;

use limiter_common::Nanos;

use super::refused::Refused;

/// How long a block counts.
const WINDOW: u64 = 60;

/// New blocks of the last minute, and what was refused.
#[derive(Debug, Clone, Default)]
pub struct Brake {
    /// `None`: no brake.
    most: Option<u64>,
    /// Seconds with the blocks that came in each, the oldest first: at most one more than the window has.
    seconds: VecDeque<(u64, u64)>,
    /// Of `seconds`.
    sum: u64,
    refused: Refused,
}

/// Too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Braked {
    /// What there may be in a minute.
    pub most: u64,
    /// When there is room for as many; `None` if there never is.
    pub wait: Option<Duration>,
    /// The first that was refused for a while.
    pub begins: bool,
}

impl Brake {
    /// Lets `most` through in a minute; all if `None`.
    #[must_use]
    pub fn new(most: Option<u64>) -> Self {
        Self { most, ..Self::default() }
    }

    /// Lets another number through from now on. What was counted stays so.
    pub fn set(&mut self, most: Option<u64>) {
        self.most = most;
    }

    /// How many may come at `now`.
    pub fn left(&mut self, now: Nanos) -> u64 {
        self.forget(now);
        self.most.map_or(u64::MAX, |most| most.saturating_sub(self.sum))
    }

    /// Counts `blocks`: all or none.
    ///
    /// # Errors
    ///
    /// If they are too many at `now`.
    pub fn take(&mut self, blocks: u64, now: Nanos) -> Result<(), Braked> {
        if let Err(braked) = self.check(blocks, now) {
            return Err(Braked { begins: self.refused.count(blocks, now), ..braked });
        }
        if self.most.is_none() || blocks == 0 {
            return Ok(());
        }
        let second = second(now);
        match self.seconds.back_mut().filter(|(last, _)| *last >= second) {
            Some((_, count)) => *count += blocks,
            None => self.seconds.push_back((second, blocks)),
        }
        self.sum += blocks;
        Ok(())
    }

    /// Whether [`Self::take`] would count `blocks`. Nothing is.
    ///
    /// # Errors
    ///
    /// If they are too many at `now`.
    pub fn check(&mut self, blocks: u64, now: Nanos) -> Result<(), Braked> {
        let left = self.left(now);
        let Some(most) = self.most.filter(|_| blocks > left) else { return Ok(()) };
        let mut sum = self.sum;
        let enough = self.seconds.iter().find(|(_, count)| {
            sum -= count;
            sum.saturating_add(blocks) <= most
        });
        let wait = enough.map(|(then, _)| Duration::from_secs((then + WINDOW).saturating_sub(second(now))));
        Err(Braked { most, wait, begins: false })
    }

    /// How many were refused of late, if any, and what there may be in a minute.
    #[must_use]
    pub fn refused(&self, now: Nanos) -> Option<(u64, u64)> {
        self.refused.of_late(now).zip(self.most)
    }

    /// Takes out what does not count any more.
    fn forget(&mut self, now: Nanos) {
        while let Some((then, count)) = self.seconds.front().copied()
            && then + WINDOW <= second(now)
        {
            self.sum -= count;
            self.seconds.pop_front();
        }
    }
}

fn second(now: Nanos) -> u64 {
    now.0 / Nanos::from_secs(1).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    #[track_caller]
    fn refused(brake: &mut Brake, blocks: u64, now: u64, wait: Option<u64>) {
        let braked = brake.take(blocks, at(now)).unwrap_err();
        assert_eq!(braked.wait, wait.map(Duration::from_secs), "{brake:?}");
    }

    #[test]
    fn so_many_a_minute_and_no_more() {
        let mut brake = Brake::new(Some(100));
        assert_eq!(brake.take(60, at(1_000)), Ok(()));
        assert_eq!(brake.take(40, at(1_010)), Ok(()));
        assert_eq!(brake.left(at(1_059)), 0);
        // When the first are forgotten, and when all are.
        refused(&mut brake, 1, 1_059, Some(1));
        refused(&mut brake, 60, 1_059, Some(1));
        refused(&mut brake, 61, 1_059, Some(11));
        assert_eq!(brake.take(60, at(1_060)), Ok(()));
        assert_eq!(brake.left(at(1_060)), 0);
        assert_eq!(brake.left(at(2_000)), 100);
    }

    #[test]
    fn more_than_a_minute_has_never_fits() {
        let mut brake = Brake::new(Some(100));
        refused(&mut brake, 101, 1_000, None);
        assert_eq!(brake.take(100, at(1_000)), Ok(()));
        refused(&mut brake, 101, 1_000, None);
        brake.set(Some(201));
        assert_eq!(brake.take(101, at(1_000)), Ok(()));
        brake.set(None);
        assert_eq!(brake.take(u64::MAX, at(1_000)), Ok(()));
        assert_eq!(brake.left(at(1_000)), u64::MAX);
    }

    #[test]
    fn what_was_refused_is_told_for_an_hour() {
        let mut brake = Brake::new(Some(1));
        assert_eq!(brake.refused(at(1_000)), None);
        let begins = [1_000, 1_060, 1_121].map(|now| brake.take(5, at(now)).unwrap_err().begins);
        assert_eq!(begins, [true, false, true]);
        assert_eq!(brake.refused(at(1_121 + 3_600)), Some((15, 1)));
        assert_eq!(brake.refused(at(1_122 + 3_600)), None);
        assert!(brake.take(2, at(1_122 + 3_600)).unwrap_err().begins);
        assert_eq!(brake.refused(at(1_122 + 3_600)), Some((2, 1)));
    }

    /// Against the definition: nothing is let through that would make too many of any 60 seconds, and nothing refused that
    /// would not.
    #[test]
    fn no_minute_has_more() {
        let (mut brake, mut taken) = (Brake::new(Some(50)), Vec::<(u64, u64)>::new());
        let mut random = 1_u64;
        for second in 0..2_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let blocks = 1 + (random >> 33) % 20;
            let sum: u64 = taken.iter().filter(|(then, _)| then + 60 > second).map(|(_, count)| count).sum();
            let done = brake.take(blocks, at(second));
            assert_eq!(done.is_ok(), sum + blocks <= 50, "{second}");
            match done {
                Ok(()) => taken.push((second, blocks)),
                // The moment that is told is the first.
                Err(Braked { wait, .. }) => {
                    let then = second + wait.unwrap().as_secs();
                    assert!(brake.clone().take(blocks, at(then)).is_ok(), "{second}");
                    assert!(brake.clone().take(blocks, at(then - 1)).is_err(), "{second}");
                }
            }
            assert!(brake.seconds.len() <= 60);
        }
        assert!(taken.len() > 100);
    }
}

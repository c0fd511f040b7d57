//! What each principal has used of its quota: a token bucket (GCRA) for each, that holds what a minute gives.

use std::fmt;
use std::time::Duration;

use limiter_common::Nanos;
use limiter_common::gcra::{Quota, Step};

use super::caps::PerMinute;
use super::recent::Recent;

/// Principals that are remembered. Only subjects of JWTs can be more; who is forgotten has a full bucket.
const MOST: usize = 16_384;
/// The rate of [`Quota`] is per second and ours per minute, so its clock runs 60 times slower.
const SLOWER: u64 = 60;

#[derive(Debug)]
pub(super) struct Quotas {
    buckets: Recent<String, Nanos>,
}

/// More than the quota gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverQuota {
    pub quota: PerMinute,
    /// When it would be given; `None` if never, since it is more than a minute's at once.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the caller's quota is {}", self.quota)?;
        match self.retry_after {
            Some(wait) => {
                write!(f, "; try again in {} s", wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
            None => f.write_str(", and this is more than that at once; split it"),
        }
    }
}

impl std::error::Error for OverQuota {}

impl Quotas {
    pub(super) fn new() -> Self {
        Self { buckets: Recent::new(MOST) }
    }

    /// Takes `entries` from the bucket of `who`, all of them or none.
    pub(super) fn charge(
        &mut self,
        who: &str,
        quota: PerMinute,
        entries: u32,
        now: Nanos,
    ) -> Result<(), OverQuota> {
        let number = u64::from(quota.number());
        let over = |retry_after| Err(OverQuota { quota, retry_after });
        if entries == 0 {
            return Ok(());
        }
        let Some(bucket) = Quota::packets(number, number) else { return Ok(()) };
        if entries > quota.number() {
            return over(None);
        }
        let slow = Nanos(now.0 / SLOWER);
        let arrival = self.buckets.get(&who.to_owned(), slow).copied().unwrap_or(Nanos(0));
        let cost = bucket.cost(0);
        let size = cost.saturating_mul(entries.into());
        match bucket.step_ahead(arrival, cost, size, slow) {
            Step::Admit(arrival) => {
                // A time that has passed is a full bucket, as none is.
                self.buckets.put(who.to_owned(), arrival, arrival, slow);
                Ok(())
            }
            Step::Refuse => {
                let full = cost.saturating_mul(number);
                let wait = arrival.saturating_add(Nanos(size)).saturating_sub(slow).0.saturating_sub(full);
                over(Some(Duration::from_nanos(wait.saturating_add(1).saturating_mul(SLOWER))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn a_minute_at_once_and_then_at_the_rate() {
        let mut quotas = Quotas::new();
        let quota = PerMinute::new(60).unwrap();
        let mut charge = |entries, seconds| quotas.charge("token:a", quota, entries, at(seconds));
        assert_eq!(charge(60, 0), Ok(()));
        let wait = charge(1, 0).unwrap_err().retry_after.unwrap();
        assert!((Duration::from_millis(900)..=Duration::from_millis(1001)).contains(&wait), "{wait:?}");
        assert_eq!(charge(1, 1), Ok(()));
        let wait = charge(10, 1).unwrap_err().retry_after.unwrap();
        assert!((Duration::from_millis(9900)..=Duration::from_millis(10_001)).contains(&wait), "{wait:?}");
        assert_eq!(charge(10, 12), Ok(()));
        assert!(charge(2, 12).is_err());
        assert_eq!(charge(60, 200), Ok(()));
        assert_eq!(charge(61, 1000).unwrap_err().retry_after, None);
        assert_eq!(charge(0, 200), Ok(()));
        assert_eq!(quotas.charge("token:b", quota, 60, at(200)), Ok(()), "each has its own");
    }

    /// In any order of batches, no minute gives more than two quotas: the bucket and the rate.
    #[test]
    fn batches_are_charged_like_their_entries() {
        let quota = PerMinute::new(100).unwrap();
        let (mut batched, mut single) = (Quotas::new(), Quotas::new());
        let mut given = 0;
        for step in 0..600u32 {
            let (entries, now) = (1 + step * 7 % 13, at(u64::from(step / 10)));
            if batched.charge("x", quota, entries, now).is_ok() {
                given += entries;
                (0..entries).for_each(|_| assert_eq!(single.charge("x", quota, 1, now), Ok(())));
            }
        }
        assert!((180..=200).contains(&given), "{given}");
    }
}

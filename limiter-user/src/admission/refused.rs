//! What a brake on ban storms has refused of late, for the status, and when to say so.

use limiter_common::Nanos;

/// How long it is told that something was refused.
const TOLD: Nanos = Nanos::from_secs(3600);
/// Refusals with more than this between them are told as two events.
const PAUSE: Nanos = Nanos::from_secs(60);

/// Blocks that were refused, until none was for an hour.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused {
    blocks: u64,
    last: Option<Nanos>,
}

impl Refused {
    /// Counts `blocks`. Whether they are the first for a while.
    pub(super) fn count(&mut self, blocks: u64, now: Nanos) -> bool {
        if !self.is_within(TOLD, now) {
            self.blocks = 0;
        }
        let begins = !self.is_within(PAUSE, now);
        self.last = Some(now);
        self.blocks = self.blocks.saturating_add(blocks);
        begins
    }

    /// How many there were of late, if any.
    pub(super) fn of_late(&self, now: Nanos) -> Option<u64> {
        self.is_within(TOLD, now).then_some(self.blocks)
    }

    fn is_within(&self, time: Nanos, now: Nanos) -> bool {
        self.last.is_some_and(|last| now.saturating_sub(last) <= time)
    }
}

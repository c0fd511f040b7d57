//! The configuration that waits for being confirmed, or was not: what becomes of it while reloads, confirmations and its
//! rollback come in any order.

use std::time::Duration;

use limiter_common::Nanos;
use tokio::sync::watch;
use tokio::time::Instant;

use super::unconfirmed::Unconfirmed;
use crate::control::protocol::UnconfirmedChange;

/// Between two attempts to roll back: each pause is twice the one before, since all lists are read each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a reload means for what has to be confirmed, once it has succeeded.
#[derive(Debug)]
pub(super) enum Confirmation {
    /// Somebody has to confirm this one.
    Wanted(Unconfirmed),
    /// It is the same configuration: what was said of it counts, also what is said until the reload is done.
    AsBefore,
    /// It is another one, and stays.
    NotNeeded,
    /// Nobody confirmed what was in force: it is rolled back.
    Missed,
}

/// What the daemon knows of it.
pub(super) struct Pending {
    change: Option<Unconfirmed>,
    roll_back_at: Option<Instant>,
    /// After the next attempt that fails.
    pause: Duration,
    /// The rollback is under way.
    rolls_back: bool,
    /// For who lists what waits, with the end.
    awaited: watch::Sender<Option<(UnconfirmedChange, Nanos)>>,
}

/// Too late to confirm it, unless the rollback fails.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLate;

impl Pending {
    pub(super) fn new(awaited: watch::Sender<Option<(UnconfirmedChange, Nanos)>>) -> Self {
        Self { change: None, roll_back_at: None, pause: FIRST_PAUSE, rolls_back: false, awaited }
    }

    /// From here on this is what waits for being confirmed, or was not in time. `now` is by the clock of the boot.
    pub(super) fn set(&mut self, change: Option<Unconfirmed>, now: Nanos) {
        let waits = change.as_ref().filter(|change| !change.is_over);
        self.roll_back_at =
            waits.map(|change| Instant::now() + Duration::from_nanos(change.ends.saturating_sub(now).0));
        self.awaited.send_replace(waits.map(|change| (change.told(), change.ends)));
        self.change = change;
        self.pause = FIRST_PAUSE;
        self.rolls_back = false;
    }

    /// What waits, or was not confirmed in time.
    pub(super) fn change(&self) -> Option<&Unconfirmed> {
        self.change.as_ref()
    }

    /// What waits.
    pub(super) fn waits(&self) -> Option<&Unconfirmed> {
        self.change.as_ref().filter(|change| !change.is_over)
    }

    pub(super) fn was_missed(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.is_over)
    }

    /// Change `id`, if it is the one that waits.
    ///
    /// # Errors
    ///
    /// If it is being rolled back.
    pub(super) fn to_confirm(&self, id: u64) -> Result<Option<&Unconfirmed>, TooLate> {
        let change = self.waits().filter(|change| change.id == id);
        if change.is_some() && self.rolls_back { Err(TooLate) } else { Ok(change) }
    }

    /// A reload has succeeded. True if something had to be confirmed, and nothing has to be any more.
    pub(super) fn reloaded(&mut self, confirmation: Confirmation, now: Nanos) -> bool {
        let known = self.change.is_some();
        match confirmation {
            Confirmation::Wanted(change) => self.set(Some(change), now),
            Confirmation::AsBefore => {}
            Confirmation::NotNeeded => {
                self.set(None, now);
                return known;
            }
            Confirmation::Missed => {
                let mut over = self.change.take();
                if let Some(change) = &mut over {
                    change.is_over = true;
                }
                self.set(over, now);
            }
        }
        false
    }

    /// When its time is over, or another attempt is due.
    pub(super) fn roll_back_at(&self) -> Option<Instant> {
        self.roll_back_at
    }

    /// Something else is under way.
    pub(super) fn roll_back_later(&mut self) {
        self.roll_back_at = Some(Instant::now() + FIRST_PAUSE);
    }

    /// What is rolled back from here on: it cannot be confirmed until that [fails](Self::rollback_failed).
    pub(super) fn begin_rollback(&mut self) -> Option<Unconfirmed> {
        self.roll_back_at = None;
        let change = self.waits()?.clone();
        self.rolls_back = true;
        // Said once.
        if self.pause == FIRST_PAUSE {
            tracing::warn!("the configuration was not confirmed in time: the one before comes back");
        }
        Some(change)
    }

    pub(super) fn rollback_failed(&mut self) {
        self.rolls_back = false;
        self.roll_back_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::enforcer::Now;

    const NOW: Nanos = Nanos::from_secs(1_000);

    /// With a change that waits, and its number.
    fn pending() -> (Pending, u64, watch::Receiver<Option<(UnconfirmedChange, Nanos)>>) {
        let (awaited, awaits) = watch::channel(None);
        let mut pending = Pending::new(awaited);
        let now = Now { boot: NOW, wall: UNIX_EPOCH + Duration::from_secs(5_000) };
        let change = Unconfirmed::new("uid:0", 60, "former", "tried", now);
        let id = change.id;
        assert!(!pending.reloaded(Confirmation::Wanted(change), NOW));
        (pending, id, awaits)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_confirmed_while_lists_are_read_again_stays() {
        let (mut pending, id, awaits) = pending();
        assert_eq!(pending.roll_back_at(), Some(Instant::now() + Duration::from_secs(60)));
        assert!(awaits.borrow().is_some());
        // Lists are read again, and nobody says anything in between.
        assert!(!pending.reloaded(Confirmation::AsBefore, NOW) && pending.waits().is_some());
        assert_eq!(pending.to_confirm(id + 1), Ok(None));
        // Once more, and somebody does.
        assert!(pending.to_confirm(id).unwrap().is_some());
        pending.set(None, NOW);
        assert!(!pending.reloaded(Confirmation::AsBefore, NOW));
        assert!(pending.change().is_none() && pending.roll_back_at().is_none());
        assert!(awaits.borrow().is_none() && pending.begin_rollback().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_confirmed_while_it_is_rolled_back() {
        let (mut pending, id, awaits) = pending();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(pending.begin_rollback().map(|change| change.id), Some(id));
            assert!(pending.roll_back_at().is_none(), "it is tried twice at a time");
            assert_eq!(pending.to_confirm(id), Err(TooLate));
            assert_eq!(pending.to_confirm(id + 1), Ok(None));
            pending.rollback_failed();
            assert!(pending.to_confirm(id).unwrap().is_some(), "it is still in force");
            pauses.push((pending.roll_back_at().unwrap() - Instant::now()).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        pending.begin_rollback().unwrap();
        assert!(!pending.reloaded(Confirmation::Missed, NOW));
        assert!(pending.was_missed() && pending.waits().is_none() && awaits.borrow().is_none());
        assert_eq!((pending.to_confirm(id), pending.roll_back_at()), (Ok(None), None));
        assert!(pending.reloaded(Confirmation::NotNeeded, NOW), "its file has to go");
        assert!(!pending.reloaded(Confirmation::NotNeeded, NOW));
    }
}

//! When a stored claim ends, whatever became of the clocks meanwhile.

use limiter_common::Nanos;

/// A boot of the machine, and both clocks at one moment in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot {
    pub(super) id: [u8; 16],
    /// Nanoseconds since 1970.
    pub(super) wall: u64,
    pub(super) boot: Nanos,
}

/// When a stored claim ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    /// Time that was left when it was stored.
    pub(super) given: Nanos,
    /// Nanoseconds since 1970.
    pub(super) wall: u64,
    pub(super) boot: Nanos,
    pub(super) boot_id: [u8; 16],
}

impl Expiry {
    /// The end `until` as it is stored in `boot`.
    pub(super) fn new(until: Nanos, boot: Boot) -> Self {
        let given = until.saturating_sub(boot.boot);
        Self { given, wall: boot.wall.saturating_add(given.0), boot: until, boot_id: boot.id }
    }

    /// The end by the clock of `boot`; `None` if it has passed before.
    ///
    /// Within the boot that stored it, the wall clock does not count. In another one it has to, but never gives more
    /// time than there was at first.
    pub(super) fn until(self, boot: Boot) -> Option<Nanos> {
        if self.boot_id == boot.id {
            return Some(self.boot);
        }
        let left = self.wall.saturating_sub(boot.wall).min(self.given.0);
        (left > 0).then(|| boot.boot.saturating_add(Nanos(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_counts_only_in_another_boot() {
        let expiry = Expiry::new(Nanos(150), Boot { id: [1; 16], wall: 1_000, boot: Nanos(100) });
        let at = |id, wall, boot| {
            expiry.until(Boot { id: [id; 16], wall, boot: Nanos(boot) }).map(|until| until.0)
        };
        // The same boot, whatever the wall clock says.
        assert_eq!(at(1, 0, 120), Some(150));
        assert_eq!(at(1, 1_000_000, 120), Some(150));
        // Another one: 20 of the 50 are over.
        assert_eq!(at(2, 1_020, 7), Some(37));
        assert_eq!(at(2, 1_050, 7), None);
        // A clock that went back gives no more than there was.
        assert_eq!(at(2, 0, 7), Some(57));
    }
}

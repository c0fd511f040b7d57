//! Which blocks still have something to drop: what the kernel sampled by address, told by claim.

use limiter_common::Prefix;

use crate::config::Action;
use crate::control::protocol::Claim;
use crate::dataplane::Hit;
use crate::enforcer::Now;

/// What was sampled up to now.
pub(super) struct Hits {
    /// By address.
    sorted: Vec<Hit>,
    now: Now,
}

impl Hits {
    pub(super) fn new(mut hits: Vec<Hit>, now: Now) -> Self {
        hits.sort_unstable_by_key(|hit| hit.address);
        Self { sorted: hits, now }
    }

    /// Adds to the claims what was dropped of the addresses that they block.
    pub(super) fn tell(&self, claims: &mut [Claim]) {
        for claim in claims.iter_mut().filter(|claim| claim.action == Action::Block) {
            let Ok(prefix) = claim.prefix.parse() else { continue };
            let hits = self.within(prefix);
            if let Some(seen) = hits.iter().map(|hit| hit.seen).max() {
                claim.packets =
                    Some(hits.iter().fold(0_u64, |packets, hit| packets.saturating_add(hit.packets)));
                claim.last_seen = Some(self.now.past(seen));
            }
        }
    }

    /// Addresses are in order, so those of a prefix lie side by side.
    fn within(&self, prefix: Prefix) -> &[Hit] {
        let from = self.sorted.partition_point(|hit| hit.address < prefix.address());
        let rest = &self.sorted[from..];
        &rest[..rest.partition_point(|hit| hit.address <= prefix.last())]
    }
}

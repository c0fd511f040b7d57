//! What is asked without changing anything.

use limiter_common::{Address, Prefix};

use super::{LOOKED_AT, Worker};
use crate::blocklist::{Key, Offender, Owner, OwnerId};
use crate::config::Action;
use crate::enforcer::{Cursor, Lookup, Page, render};

impl Worker {
    pub(super) fn page(
        &self,
        action: Action,
        owner: Option<&Owner>,
        after: Option<Cursor>,
        limit: usize,
    ) -> Page {
        let now = (self.clock)();
        let mut page = Page::default();
        let owner = match owner.map(|owner| self.list.find_owner(owner)) {
            Some(None) => return page,
            Some(owner) => owner,
            None => None,
        };
        let after = after.map(|Cursor { prefix, owner }| match owner {
            // Of an owner that is not known any more, the prefix comes once more.
            Some(owner) => Key { prefix, action, owner: self.list.find_owner(&owner).unwrap_or_default() },
            None => Key { prefix, action: Action::Allow, owner: OwnerId::LAST },
        });
        let (mut looked_at, mut last) = (0, None);
        for claim in self.list.from(after) {
            let key = claim.key;
            if looked_at >= LOOKED_AT
                && let Some(prefix) = last.filter(|last| *last != key.prefix)
            {
                page.next = Some(Cursor { prefix, owner: None });
                break;
            }
            (looked_at, last) = (looked_at + 1, Some(key.prefix));
            if key.action != action
                || owner.is_some_and(|owner| owner != key.owner)
                || claim.terms.until <= now.boot
            {
                continue;
            }
            page.claims.push(render::claim(&self.list, claim, now));
            if page.claims.len() >= limit.max(1) {
                let owner = Some(self.list.owner_of(key.owner).clone());
                page.next = Some(Cursor { prefix: key.prefix, owner });
                break;
            }
        }
        page
    }

    pub(super) fn lookup(&self, address: Address) -> Lookup {
        let now = (self.clock)();
        let host = Prefix::host(address);
        let mut claims = self.list.covering(host);
        claims.retain(|claim| claim.terms.until > now.boot);
        let claims = claims.into_iter().map(|claim| render::claim(&self.list, claim, now)).collect();
        let entry = self.list.entry_of(host, |prefix| !self.kernel.is_missing(prefix));
        let offences = self.list.owners().filter_map(|(id, owner)| {
            let offender = Offender::new(host, id);
            let (offence, ladder) = (self.offences.get(offender)?, self.config.escalation.of(owner));
            render::offence(owner, offender, offence, ladder, now)
        });
        Lookup { now, entry, claims, offences: offences.collect() }
    }
}

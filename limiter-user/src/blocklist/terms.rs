//! What claims have in common: who asked when and why, each combination kept once however many claims have it.

use std::collections::HashMap;
use std::sync::Arc;

use limiter_common::Nanos;

use super::Terms;

/// Stands for everything of [`Terms`] but the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TermsId(u32);

/// All terms that claims hold.
#[derive(Debug, Default)]
pub(super) struct KnownTerms {
    kept: Vec<Kept>,
    ids: HashMap<Common, TermsId>,
    /// Without holders.
    free: Vec<TermsId>,
    /// Reasons and actors that are in use, each with the number of times that `kept` has it.
    texts: HashMap<Arc<str>, u32>,
    /// What was held last: most come in a row.
    last: Option<TermsId>,
}

#[derive(Debug)]
struct Kept {
    common: Common,
    holders: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Common {
    /// Seconds since 1970, enough until 2106.
    created: u32,
    actor: Option<Arc<str>>,
    reason: Option<Arc<str>>,
}

impl KnownTerms {
    /// The number of `terms`, held once more until it is [released](Self::release).
    pub(super) fn hold(&mut self, terms: &Terms) -> TermsId {
        let created = u32::try_from(terms.created).unwrap_or(u32::MAX);
        if let Some(last) = self.last
            && let Some(Kept { common, holders }) = self.kept.get_mut(last.0 as usize)
            && common.created == created
            && common.actor == terms.actor
            && common.reason == terms.reason
            && *holders > 0
        {
            *holders += 1;
            return last;
        }
        let mut common = Common { created, actor: terms.actor.clone(), reason: terms.reason.clone() };
        let id = match self.ids.get(&common) {
            Some(id) => *id,
            None => {
                for text in [&mut common.actor, &mut common.reason].into_iter().flatten() {
                    *text = self.share(text);
                }
                let id = self.place(common.clone());
                self.ids.insert(common, id);
                id
            }
        };
        if let Some(kept) = self.kept.get_mut(id.0 as usize) {
            kept.holders += 1;
        }
        self.last = Some(id);
        id
    }

    /// Holds `id`, which is held, so many times more.
    pub(super) fn hold_more(&mut self, id: TermsId, times: usize) {
        if let Some(kept) = self.kept.get_mut(id.0 as usize) {
            // Fewer than claims, of which memory holds no 4 billion.
            kept.holders = kept.holders.saturating_add(u32::try_from(times).unwrap_or(u32::MAX));
        }
    }

    /// The text that other terms with this one have.
    fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        let known = self.texts.get_key_value(text).map_or(text, |(known, _)| known).clone();
        *self.texts.entry(Arc::clone(&known)).or_default() += 1;
        known
    }

    fn place(&mut self, common: Common) -> TermsId {
        let kept = Kept { common, holders: 0 };
        if let Some(id) = self.free.pop() {
            self.kept[id.0 as usize] = kept;
            return id;
        }
        self.kept.push(kept);
        // Fewer than claims, of which memory holds no 4 billion.
        TermsId(u32::try_from(self.kept.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn release(&mut self, id: TermsId) {
        let Some(kept) = self.kept.get_mut(id.0 as usize) else { return };
        kept.holders = kept.holders.saturating_sub(1);
        if kept.holders > 0 {
            return;
        }
        let common = Common {
            created: kept.common.created,
            actor: kept.common.actor.take(),
            reason: kept.common.reason.take(),
        };
        self.ids.remove(&common);
        self.free.push(id);
        self.last = self.last.filter(|last| *last != id);
        for text in [common.actor, common.reason].into_iter().flatten() {
            if let Some(count) = self.texts.get_mut(&text) {
                *count -= 1;
                if *count == 0 {
                    self.texts.remove(&text);
                }
            }
        }
    }

    /// The terms `id`, until `until`.
    pub(super) fn get(&self, id: TermsId, until: Nanos) -> Terms {
        let common = self.kept.get(id.0 as usize).map(|kept| &kept.common);
        Terms {
            until,
            created: common.map_or(0, |common| common.created.into()),
            actor: common.and_then(|common| common.actor.clone()),
            reason: common.and_then(|common| common.reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(created: u64, reason: Option<&str>) -> Terms {
        Terms { until: Nanos(3), created, actor: Some(Arc::from("uid:0")), reason: reason.map(Arc::from) }
    }

    #[test]
    fn terms_are_kept_while_they_are_held() {
        let mut known = KnownTerms::default();
        let first = known.hold(&terms(1, Some("a")));
        assert_eq!(known.hold(&terms(1, Some("a"))), first);
        let second = known.hold(&terms(2, Some("a")));
        assert!(second != first);
        assert_eq!(known.hold(&terms(1, Some("a"))), first);
        assert_eq!(known.texts.len(), 2);
        for _ in 0..3 {
            assert_eq!(known.get(first, Nanos(3)), terms(1, Some("a")));
            known.release(first);
        }
        assert_eq!(known.hold(&terms(1, Some("b"))), first);
        assert_eq!(known.get(first, Nanos(3)), terms(1, Some("b")));
        assert_eq!(known.get(second, Nanos(3)), terms(2, Some("a")));
        known.release(first);
        known.release(second);
        assert!(known.ids.is_empty() && known.texts.is_empty());
        assert_eq!((known.kept.len(), known.free.len()), (2, 2));
        let none = known.hold(&terms(1, None));
        assert_eq!(known.get(none, Nanos(3)), terms(1, None));
    }

    /// The reason of many claims is one text, whoever wrote it how often.
    #[test]
    fn reasons_are_shared() {
        let mut known = KnownTerms::default();
        let ids: Vec<TermsId> = (0..10).map(|created| known.hold(&terms(created, Some("ssh")))).collect();
        let texts: Vec<Arc<str>> = ids.iter().filter_map(|id| known.get(*id, Nanos(1)).reason).collect();
        assert_eq!(texts.len(), 10);
        assert!(texts.iter().all(|text| Arc::ptr_eq(text, &texts[0])));
    }
}

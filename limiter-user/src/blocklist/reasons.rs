//! The texts of reasons, each kept once however many claims give it.

use std::collections::HashMap;
use std::sync::Arc;

/// Bytes that a reason may have.
pub const MAX_REASON: usize = 256;

/// What is kept of a reason that somebody wrote: no control characters, no white space at the ends, at most
/// [`MAX_REASON`] bytes. `None` if nothing is left.
#[must_use]
pub fn reason(text: &str) -> Option<Arc<str>> {
    let mut kept: String = text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
    let end = (0..=MAX_REASON.min(kept.len())).rev().find(|at| kept.is_char_boundary(*at));
    kept.truncate(end.unwrap_or(0));
    let kept = kept.trim();
    (!kept.is_empty()).then(|| Arc::from(kept))
}

/// Stands for a reason in claims; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReasonId(u32);

#[derive(Debug, Default)]
pub(super) struct Reasons {
    /// The reason `id` is at `id - 1`.
    kept: Vec<Kept>,
    ids: HashMap<Arc<str>, u32>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Kept {
    text: Arc<str>,
    holders: u32,
}

impl Reasons {
    /// The number of `reason`, held once more until it is [released](Self::release).
    pub(super) fn hold(&mut self, reason: Option<&Arc<str>>) -> ReasonId {
        let Some(reason) = reason else {
            return ReasonId(0);
        };
        if let Some(id) = self.ids.get(reason).copied() {
            if let Some(kept) = self.slot(id) {
                kept.holders += 1;
            }
            return ReasonId(id);
        }
        let kept = Kept { text: Arc::clone(reason), holders: 1 };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(slot) = self.slot(id) {
                    *slot = kept;
                }
                id
            }
            None => {
                self.kept.push(kept);
                u32::try_from(self.kept.len()).unwrap_or(0)
            }
        };
        self.ids.insert(Arc::clone(reason), id);
        ReasonId(id)
    }

    pub(super) fn release(&mut self, ReasonId(id): ReasonId) {
        let Some(kept) = self.slot(id) else {
            return;
        };
        kept.holders = kept.holders.saturating_sub(1);
        if kept.holders == 0 {
            let text = std::mem::replace(&mut kept.text, Arc::from(""));
            self.ids.remove(&text);
            self.free.push(id);
        }
    }

    pub(super) fn get(&self, ReasonId(id): ReasonId) -> Option<&Arc<str>> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        self.kept.get(at).map(|kept| &kept.text)
    }

    /// Counts the holders again.
    pub(super) fn recount(&mut self, held: impl Iterator<Item = ReasonId>) {
        for kept in &mut self.kept {
            kept.holders = 0;
        }
        for ReasonId(id) in held {
            if let Some(kept) = self.slot(id) {
                kept.holders += 1;
            }
        }
        let unheld = self.kept.iter().zip(1..).filter(|(kept, _)| kept.holders == 0);
        let unheld: Vec<u32> = unheld.map(|(_, id)| id).filter(|id| !self.free.contains(id)).collect();
        for id in unheld {
            self.release(ReasonId(id));
        }
    }

    fn slot(&mut self, id: u32) -> Option<&mut Kept> {
        let at = usize::try_from(id).ok()?.checked_sub(1)?;
        self.kept.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_reason() {
        assert_eq!(reason("  ssh\u{1b}[31m\nbrute\0force ").as_deref(), Some("ssh[31mbruteforce"));
        assert_eq!(reason(" \n\t"), None);
        assert_eq!(reason(&"ä".repeat(300)).map(|reason| reason.len()), Some(MAX_REASON));
        assert_eq!(reason(&format!("a{}", "ä".repeat(300))).map(|reason| reason.len()), Some(MAX_REASON - 1));
    }

    #[test]
    fn reasons_are_kept_while_they_are_held() {
        let mut reasons = Reasons::default();
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        let first = reasons.hold(Some(&a));
        assert_eq!(reasons.hold(Some(&a)), first);
        reasons.release(first);
        assert_eq!(reasons.get(first), Some(&a));
        reasons.release(first);
        assert_eq!(reasons.hold(Some(&b)), first);
        assert_eq!(reasons.get(first), Some(&b));
        assert_eq!(reasons.kept.len(), 1);
        let none = reasons.hold(None);
        assert_eq!(reasons.get(none), None);
        reasons.release(none);
    }
}

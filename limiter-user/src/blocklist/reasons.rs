//! What is kept of the texts that come with a claim: why, and who asked.

use std::sync::Arc;

use crate::excerpt;

/// Bytes that a reason may have.
pub const MAX_REASON: usize = excerpt::LONGEST;
/// Bytes that the name of an actor may have: `jwt:` and a subject of a reasonable length.
pub const MAX_ACTOR: usize = 128;

/// What is kept of a reason that somebody wrote: no control characters, no white space at the ends, at most
/// [`MAX_REASON`] bytes. `None` if nothing is left.
#[must_use]
pub fn reason(text: &str) -> Option<Arc<str>> {
    kept(text, MAX_REASON)
}

/// What is kept of who asked: the same, in at most [`MAX_ACTOR`] bytes.
#[must_use]
pub fn actor(text: &str) -> Option<Arc<str>> {
    kept(text, MAX_ACTOR)
}

fn kept(text: &str, longest: usize) -> Option<Arc<str>> {
    let kept = excerpt::of(text, longest);
    let kept = kept.trim();
    (!kept.is_empty()).then(|| Arc::from(kept))
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
}

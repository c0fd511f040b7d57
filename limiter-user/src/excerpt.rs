//! Texts of others, as far as they are kept.

use crate::secrets;

/// Bytes that a text of a caller may have: a reason, a category, an account.
pub(crate) const LONGEST: usize = 256;

/// What fits into `longest` bytes, at the boundary of a character, without control characters and secrets.
///
/// However long the text is, no more than its beginning is looked at. Control characters go first, so that none hides a secret
/// by standing in its middle.
pub(crate) fn of(text: &str, longest: usize) -> String {
    let begin: String = text.chars().filter(|c| !c.is_control()).take(4 * longest).collect();
    let mut kept = String::with_capacity(longest.min(text.len()));
    for c in secrets::hidden(&begin).chars() {
        if kept.len() + c.len_utf8() > longest {
            break;
        }
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_what_is_too_long_go() {
        assert_eq!(of("a\u{1b}[31m\nb\0", LONGEST), "a[31mb");
        assert_eq!(of(&"ä".repeat(300), LONGEST).len(), LONGEST);
        assert_eq!(of(&format!("a{}", "ä".repeat(300)), LONGEST).len(), LONGEST - 1);
        assert_eq!(of("ä", 1), "");
        assert_eq!(of(&format!("lmt_k3f7a2xq_{}", "5".repeat(64)), 20), "lmt_k3f7a2xq_…");
        assert_eq!(of(&format!("lmt_k3f7a2xq_55\n{}", "5".repeat(62)), 20), "lmt_k3f7a2xq_…");
    }
}

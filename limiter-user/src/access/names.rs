//! Names of principals as they appear in owners, logs and audits. Pure.

use crate::sha256;

/// The longest name.
pub(crate) const LONGEST: usize = 64;

/// Whether `name` may be that of an owner: 1 to 64 of `A-Z a-z 0-9 - _ .`.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_plain)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// A name for what may be any text, and no longer than `longest`: the text itself if it is a name, else what is left of it
/// and a hash of all of it, so that two texts have two names.
pub(super) fn name_of(text: &str, longest: usize) -> String {
    if text.len() <= longest && is_name(text) {
        return text.to_owned();
    }
    let hash = sha256::hex(&sha256::of(text.as_bytes())[..8]);
    let plain = text.chars().map(|c| if u8::try_from(c).is_ok_and(is_plain) { c } else { '-' });
    let mut name: String = plain.take(longest.saturating_sub(hash.len() + 1)).collect();
    name.push('.');
    name.push_str(&hash);
    name
}

/// `text` in one line without anything that a terminal takes for a command, and no longer than 128 bytes.
pub(super) fn shown(text: &str) -> String {
    const LONGEST_SHOWN: usize = 128;
    let mut shown = String::new();
    for c in text.chars() {
        let printable = c.is_ascii_graphic() || (c.is_alphanumeric() && !c.is_control());
        let escaped = if printable { c.to_string() } else { c.escape_unicode().to_string() };
        if shown.len() + escaped.len() > LONGEST_SHOWN {
            shown.push('…');
            break;
        }
        shown.push_str(&escaped);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_has_a_name_of_its_own() {
        assert_eq!(name_of("checkout-2.example", 64), "checkout-2.example");
        let texts =
            ["", "a b", "a-b", "a/b", "spiffe://example.org/web", "ü", &"x".repeat(65), &"x".repeat(66)];
        let names: std::collections::BTreeSet<_> = texts.iter().map(|text| name_of(text, 64)).collect();
        assert_eq!(names.len(), texts.len());
        assert!(names.iter().all(|name| is_name(name)), "{names:?}");
        assert!(name_of("a-much-longer-text-than-this", 24).len() <= 24);
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(shown("alice@example.org"), "alice@example.org");
        assert_eq!(shown("a\n\u{1b}[31m"), "a\\u{a}\\u{1b}[31m");
        assert_eq!(shown("a\u{202e}b c"), "a\\u{202e}b\\u{20}c");
        assert!(shown(&"\n".repeat(1000)).len() < 140);
    }
}

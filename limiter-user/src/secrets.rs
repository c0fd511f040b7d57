//! Tokens and JWTs in texts of others: who pastes one where it does not belong, into a path or a reason, shall not find it in
//! a log.

use std::borrow::Cow;

/// In place of what is secret.
const HIDDEN: &str = "…";
/// Fewer characters are no secret.
const SHORTEST: usize = 8;

/// `text`, with the secret of each token, and the signature of each JWT, left out. It takes time in proportion to the text, whatever
/// is in it.
pub(crate) fn hidden(text: &str) -> Cow<'_, str> {
    // Tokens first, since one may be in what looks like a part of a JWT.
    match without(text, TOKEN, token) {
        Cow::Borrowed(text) => without(text, JWT, signature),
        Cow::Owned(text) => Cow::Owned(without(&text, JWT, signature).into_owned()),
    }
}

/// `lmt_ID_SECRET`, see [`crate::access`].
const TOKEN: &str = "lmt_";
/// `{"` in base64: how the header of a JWT begins.
const JWT: &str = "eyJ";

/// Where the secret is in a text that begins with a mark; or how far behind the mark's beginning the next one may be that is
/// worth a look.
type Found = Result<(usize, usize), usize>;

/// `text` without what `find` finds at each `mark`.
fn without<'a>(text: &'a str, mark: &str, find: fn(&[u8]) -> Found) -> Cow<'a, str> {
    let (mut kept, mut rest, mut from) = (String::new(), text, 0);
    while let Some(at) = rest[from..].find(mark).map(|at| from + at) {
        match find(&rest.as_bytes()[at..]) {
            Ok((begin, end)) => {
                kept.push_str(&rest[..at + begin]);
                kept.push_str(HIDDEN);
                (rest, from) = (&rest[at + end..], 0);
            }
            // At the end of a run of ASCII.
            Err(behind) => from = at + behind,
        }
    }
    if kept.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

fn token(text: &[u8]) -> Found {
    let id = run(text, TOKEN.len(), u8::is_ascii_alphanumeric);
    let begin = point(text, id, b'_').ok_or(TOKEN.len())?;
    long_enough(text, begin).ok_or(TOKEN.len())
}

fn signature(text: &[u8]) -> Found {
    let header = run(text, 0, is_base64);
    // Whatever else begins in these runs ends as they do.
    let claims = point(text, header, b'.').ok_or(header)?;
    let end = run(text, claims, is_base64);
    let begin = point(text, end, b'.').ok_or(end)?;
    long_enough(text, begin).ok_or(claims)
}

/// The end of the bytes from `from` on that fit.
fn run(text: &[u8], from: usize, fits: fn(&u8) -> bool) -> usize {
    text[from..].iter().position(|byte| !fits(byte)).map_or(text.len(), |length| from + length)
}

/// Behind `mark`, if it is at `at`.
fn point(text: &[u8], at: usize, mark: u8) -> Option<usize> {
    (text.get(at) == Some(&mark)).then_some(at + 1)
}

/// The secret that begins at `begin`.
fn long_enough(text: &[u8], begin: usize) -> Option<(usize, usize)> {
    let end = run(text, begin, is_base64);
    (end - begin >= SHORTEST).then_some((begin, end))
}

/// The alphabet for URLs (RFC 4648 section 5).
fn is_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_left_out() {
        let secret = "0123456789abcdef".repeat(4);
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0";
        for (text, expected) in [
            (String::new(), ""),
            ("GET /v1/status".to_owned(), "GET /v1/status"),
            (format!("lmt_k3f7a2xq_{secret}"), "lmt_k3f7a2xq_…"),
            (format!("GET /v1/lookup/lmt_k3f7a2xq_{secret}/x"), "GET /v1/lookup/lmt_k3f7a2xq_…/x"),
            (format!("ü lmt_a_{secret} and lmt_b_{secret}."), "ü lmt_a_… and lmt_b_…."),
            (format!("Bearer {jwt}.c2lnbmF0dXJl_-!"), "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.…!"),
            // Nothing of this is one.
            ("lmt_ lmt__ lmt_k3f7a2xq_ eyJ eyJ. eyJ..".to_owned(), "lmt_ lmt__ lmt_k3f7a2xq_ eyJ eyJ. eyJ.."),
            (format!("lmt_lmt_{secret}"), "lmt_lmt_…"),
            ("lmt_ä_eyJä.ö.ü".to_owned(), "lmt_ä_eyJä.ö.ü"),
            // One within the other.
            (format!("eyJa.lmt_b_{secret}.12345678"), "eyJa.lmt_b_….12345678"),
            (format!("eyJa.eyJb.short.{secret}"), "eyJa.eyJb.short.…"),
        ] {
            assert_eq!(hidden(&text), expected);
        }
    }

    /// A mebibyte of marks is gone through as quickly as any: at the square of it, this would take minutes.
    #[test]
    fn no_text_takes_long() {
        let begun = std::time::Instant::now();
        for text in ["eyJ", "lmt_", "lmt_a", "eyJ.", "eyJ.eyJ.a.", "lmt_-eyJ", "eyJlmt_a."] {
            let text = text.repeat((1 << 20) / text.len());
            assert!(hidden(&text).len() <= text.len());
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

//! Tokens and JWTs in texts of others: who pastes one where it does not belong, into a path or a reason, shall not find it in
//! a log.

use std::borrow::Cow;

/// In place of what is secret.
const HIDDEN: &str = "…";
/// Fewer characters are no secret.
const SHORTEST: usize = 8;

/// `text`, with the secret of each token, and the signature of each JWT, left out.
pub(crate) fn hidden(text: &str) -> Cow<'_, str> {
    let mut kept = String::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = first(&rest[from..]).map(|at| from + at) {
        match secret(&rest[at..]) {
            Some((begin, end)) => {
                kept.push_str(&rest[..at + begin]);
                kept.push_str(HIDDEN);
                rest = &rest[at + end..];
                from = 0;
            }
            // Both marks are ASCII.
            None => from = at + 1,
        }
    }
    if kept.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

/// Where something begins that may be one.
fn first(text: &str) -> Option<usize> {
    [text.find(TOKEN), text.find(JWT)].into_iter().flatten().min()
}

/// `lmt_ID_SECRET`, see [`crate::access`].
const TOKEN: &str = "lmt_";
/// `{"` in base64: how the header of a JWT begins.
const JWT: &str = "eyJ";

/// Where the secret is in a text that begins with a mark.
fn secret(text: &str) -> Option<(usize, usize)> {
    let run = |from: usize, fits: fn(u8) -> bool| {
        text.as_bytes()[from..].iter().take_while(|byte| fits(**byte)).count()
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric();
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let point = |at: usize, mark: u8| (text.as_bytes().get(at) == Some(&mark)).then_some(at + 1);
    let begin = if text.starts_with(TOKEN) {
        point(TOKEN.len() + run(TOKEN.len(), word), b'_')?
    } else {
        let claims = point(run(0, base64), b'.')?;
        point(claims + run(claims, base64), b'.')?
    };
    let length = run(begin, base64);
    (length >= SHORTEST).then_some((begin, begin + length))
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
        ] {
            assert_eq!(hidden(&text), expected);
        }
    }
}

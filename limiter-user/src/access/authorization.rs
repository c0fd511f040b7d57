//! The `Authorization` header: `Bearer` with a token of limiter's own, or with a JWT (RFC 6750 section 2.1). Pure; whatever
//! it is given, nothing of it is repeated in an error or by `Debug`.

use std::fmt;

use crate::sha256::from_hex;

/// The longest header that is looked at. A JWT with many claims has some kilobytes.
pub const LONGEST: usize = 8 << 10;
/// What limiter's own tokens begin with, so that scanners of leaked secrets know them.
pub(super) const MARK: &str = "lmt_";
/// Characters of a token's identifier.
pub(super) const ID: usize = 8;

/// What a caller shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    Token(Presented<'a>),
    /// Three parts with points between them; nothing of it was checked.
    Jwt(&'a str),
}

/// A token as it is shown: `lmt_ID_SECRET`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Presented<'a> {
    /// Eight of `a-z 2-7`.
    pub id: &'a str,
    pub secret: [u8; 32],
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(presented) => presented.fmt(f),
            Self::Jwt(_) => f.write_str("Jwt(…)"),
        }
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presented({}, …)", self.id)
    }
}

/// The header is not one that limiter knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads a header.
///
/// # Errors
///
/// If it is neither of both.
pub fn parse(header: &str) -> Result<Credential<'_>, Malformed> {
    if header.len() > LONGEST {
        return Err(Malformed);
    }
    let (scheme, rest) = header.split_once(' ').ok_or(Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Malformed);
    }
    let text = rest.trim_matches(' ');
    if text.starts_with(MARK) {
        return Presented::parse(text).map(Credential::Token);
    }
    let in_base64 = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let parts = text.split('.');
    if parts.clone().count() == 3 && parts.clone().all(in_base64) {
        return Ok(Credential::Jwt(text));
    }
    Err(Malformed)
}

impl<'a> Presented<'a> {
    /// # Errors
    ///
    /// If it is no token.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let (id, secret) = text.strip_prefix(MARK).and_then(|rest| rest.split_once('_')).ok_or(Malformed)?;
        if !is_id(id) {
            return Err(Malformed);
        }
        Ok(Self { id, secret: from_hex(secret).ok_or(Malformed)? })
    }
}

pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let secret = "0123456789abcdef".repeat(4);
        let id = "k3f7a2xq";
        let token = format!("lmt_{id}_{secret}");
        let expected = Presented { id, secret: from_hex(&secret).unwrap() };
        for header in [format!("Bearer {token}"), format!("bearer {token}"), format!("BEARER   {token} ")] {
            assert_eq!(parse(&header), Ok(Credential::Token(expected)), "{header}");
        }
        assert_eq!(crate::sha256::hex(&expected.secret), secret);
        assert_eq!(parse("Bearer aa.b-_.c0"), Ok(Credential::Jwt("aa.b-_.c0")));
        for header in [
            String::new(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            token.clone(),
            format!("Basic {token}"),
            format!("Bearer\t{token}"),
            format!("Bearer {token}0"),
            format!("Bearer {}", &token[..token.len() - 1]),
            format!("Bearer {}", token.to_uppercase()),
            format!("Bearer {}", token.replace("k3f7", "k3f1")),
            format!("Bearer {}", token.replace("k3f7", "k3f")),
            format!("Bearer {}", token.replace("0123", "0x23")),
            format!("Bearer {}", token.replace("0123", "01é")),
            format!("Bearer {token}, Bearer {token}"),
            "Bearer a.b".to_owned(),
            "Bearer a.b.c.d".to_owned(),
            "Bearer a..c".to_owned(),
            "Bearer a.b.c=".to_owned(),
            "Bearer a.b.é".to_owned(),
            format!("Bearer a.b.{}", "c".repeat(LONGEST)),
        ] {
            assert_eq!(parse(&header), Err(Malformed), "{header:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let header = format!("Bearer lmt_k3f7a2xq_{}", "ab".repeat(32));
        let told = format!("{:?}", parse(&header));
        assert!(told.contains("k3f7a2xq") && !told.contains("abab") && !told.contains("171"), "{told}");
        let told = format!("{:?}", parse("Bearer aaaa.bbbb.cccc"));
        assert!(!told.contains("bbbb"), "{told}");
    }
}

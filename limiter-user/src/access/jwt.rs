//! JSON Web Tokens of an issuer (RFC 7519, RFC 7515): the signature first, then who it is from, whom it is for and when.
//! Pure: the time is an argument.
//!
//! Written on ring instead of taken from a library: it is little, each algorithm that a library knows is one that somebody
//! can ask for, and dates that are no numbers must refuse a token instead of being left out.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::keys::{Algorithm, Keys, NotSigned};

/// What clocks may differ by.
const LEEWAY: Duration = Duration::from_secs(60);
/// The longest subject.
const MAX_SUBJECT: usize = 256;

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// It cannot be read.
    Malformed,
    /// Neither RS256 nor ES256 nor EdDSA.
    Algorithm,
    /// It asks for what limiter does not know (`crit`).
    Critical,
    /// The set has no key for it, and it does not even say that it is from the issuer.
    NoKey,
    /// The set has no key for it, and it says that it is from the issuer, who may have a new one.
    NewKey,
    /// There is no set yet, and it says that it is from the issuer: it cannot be told whether it is.
    NoKeys,
    Signature,
    /// From somebody else.
    Issuer,
    /// For somebody else.
    Audience,
    Expired,
    NotYet,
    /// It names nobody.
    Subject,
}

impl Rejected {
    /// Whether it may have been a guess: not if the issuer has signed it, or nobody could tell. When an issuer has a new key,
    /// a host that makes many requests must not have to wait because of those that came before it was fetched.
    pub(super) fn is_a_guess(self) -> bool {
        match self {
            Self::Malformed | Self::Algorithm | Self::Critical | Self::NoKey | Self::Signature => true,
            Self::NewKey
            | Self::NoKeys
            | Self::Issuer
            | Self::Audience
            | Self::Expired
            | Self::NotYet
            | Self::Subject => false,
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the JWT cannot be read",
            Self::Algorithm => "the JWT is not signed with RS256, ES256 or EdDSA",
            Self::Critical => "the JWT asks for an extension that is not known",
            Self::NoKey | Self::NewKey => "the JWT is signed with a key that is not known",
            Self::NoKeys => "JWTs cannot be checked at the moment; try again in a moment",
            Self::Signature => "the signature of the JWT is wrong",
            Self::Issuer => "the JWT is of another issuer",
            Self::Audience => "the JWT is for another audience",
            Self::Expired => "the JWT has expired",
            Self::NotYet => "the JWT is not valid yet",
            Self::Subject => "the JWT has no subject of 1 to 256 bytes",
        })
    }
}

impl std::error::Error for Rejected {}

/// What a token says that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) subject: String,
    /// The words of `scope`, and of `scp`, as some issuers call it.
    pub(super) scopes: Vec<String>,
    pub(super) expires: SystemTime,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// Claims that are not known are ignored, as RFC 7519 section 4 asks for. One that is there twice is an error.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: OneOrMany,
    exp: f64,
    nbf: Option<f64>,
    sub: Option<String>,
    scope: Option<OneOrMany>,
    scp: Option<OneOrMany>,
}

/// What a token says of itself that was not checked.
#[derive(Deserialize)]
struct Said {
    iss: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
        .iter()
        .map(String::as_str)
    }
}

/// Checks a token of three parts.
///
/// # Errors
///
/// The first thing that is wrong.
pub(super) fn verify(
    jwt: &str,
    keys: &Keys,
    issuer: &str,
    audience: &str,
    now: SystemTime,
) -> Result<Verified, Rejected> {
    let (message, signature) = jwt.rsplit_once('.').ok_or(Rejected::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(Rejected::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).or(Err(Rejected::Malformed));
    let header: Header = serde_json::from_slice(&decode(header)?).or(Err(Rejected::Malformed))?;
    let algorithm = Algorithm::named(&header.alg).ok_or(Rejected::Algorithm)?;
    if header.crit.is_some() {
        return Err(Rejected::Critical);
    }
    let (signature, claims) = (decode(signature)?, decode(claims)?);
    keys.verify(algorithm, header.kid.as_deref(), message.as_bytes(), &signature).map_err(|why| {
        let of_issuer = || serde_json::from_slice(&claims).is_ok_and(|Said { iss }| iss == issuer);
        match why {
            NotSigned::NoKey if !of_issuer() => Rejected::NoKey,
            NotSigned::NoKey if keys.is_empty() => Rejected::NoKeys,
            NotSigned::NoKey => Rejected::NewKey,
            NotSigned::Wrong => Rejected::Signature,
        }
    })?;

    let claims: Claims = serde_json::from_slice(&claims).or(Err(Rejected::Malformed))?;
    if claims.iss != issuer {
        return Err(Rejected::Issuer);
    }
    if !claims.aud.iter().any(|aud| aud == audience) {
        return Err(Rejected::Audience);
    }
    let expires = time(claims.exp)?;
    if expires + LEEWAY <= now {
        return Err(Rejected::Expired);
    }
    if let Some(nbf) = claims.nbf
        && time(nbf)? > now + LEEWAY
    {
        return Err(Rejected::NotYet);
    }
    let subject = claims.sub.filter(|sub| (1..=MAX_SUBJECT).contains(&sub.len())).ok_or(Rejected::Subject)?;
    let words = [&claims.scope, &claims.scp].into_iter().flatten().flat_map(OneOrMany::iter);
    let scopes = words.flat_map(str::split_whitespace).map(str::to_owned).collect();
    Ok(Verified { subject, scopes, expires })
}

/// Seconds since 1970, with a fraction if the issuer likes. Not beyond what fits many thousand years.
fn time(date: f64) -> Result<SystemTime, Rejected> {
    const LATEST: f64 = 1e12;
    if !(0.0..=LATEST).contains(&date) {
        return Err(Rejected::Malformed);
    }
    Ok(UNIX_EPOCH + Duration::from_secs_f64(date))
}

#[cfg(test)]
pub(crate) mod tests;

//! An issuer's public keys: a JWK set (RFC 7517), and signatures by them (RFC 7518 section 3, RFC 8037). A key says by itself
//! which algorithm it is for; what a token says is only compared with that.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

/// Keys that are looked at. Issuers have a handful.
const MOST: usize = 100;

/// How a signature is made. There is no `none`, and no HMAC: its key is no secret of the issuer alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    /// Modulus and exponent, big endian.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point of P-256: 4, x, y (SEC 1 section 2.3.3).
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// The keys of a set that limiter can use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Keys(Vec<Key>);

/// A text that is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InvalidKeys(String);

impl fmt::Display for InvalidKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidKeys {}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

/// Members that are not known are ignored, as RFC 7517 section 4 asks for.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a set. Keys of other kinds are left out.
    ///
    /// # Errors
    ///
    /// If it is no set, or no key of it can be used.
    pub(super) fn parse(json: &[u8]) -> Result<Self, InvalidKeys> {
        let set: Set = serde_json::from_slice(json)
            .map_err(|error| InvalidKeys(format!("it is no JWK set: {error}")))?;
        let keys: Vec<Key> = set.keys.into_iter().take(MOST).filter_map(Jwk::key).collect();
        if keys.is_empty() {
            return Err(InvalidKeys("no key of it is for RS256, ES256 or EdDSA".to_owned()));
        }
        Ok(Self(keys))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys has made this signature. A token that names a key is held to it.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), NotSigned> {
        let named = |key: &&Key| match (id, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            // A set of one key often has no names.
            (_, None) | (None, _) => true,
        };
        let mut keys =
            self.0.iter().filter(named).filter(|key| key.material.algorithm() == algorithm).peekable();
        if keys.peek().is_none() {
            return Err(NotSigned::NoKey);
        }
        if keys.any(|key| key.material.has_signed(message, signature)) {
            Ok(())
        } else {
            Err(NotSigned::Wrong)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotSigned {
    NoKey,
    Wrong,
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            // No key below 2048 bits: ring refuses them.
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        verified.is_ok()
    }
}

impl Jwk {
    /// `None` if it is of another kind, or for something else than signatures.
    fn key(self) -> Option<Key> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let decode = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let coordinate = |text: &Option<String>| decode(text).filter(|bytes| bytes.len() == 32);
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                // Some write a zero in front, for the sign.
                let number = |text: &Option<String>| {
                    let bytes = decode(text)?;
                    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                    Some(bytes[zeros..].to_vec())
                };
                Material::Rsa { n: number(&self.n)?, e: number(&self.e)? }
            }
            ("EC", Some("P-256")) => {
                Material::P256([vec![4], coordinate(&self.x)?, coordinate(&self.y)?].concat())
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(coordinate(&self.x)?),
            _ => return None,
        };
        let intended = self.alg.as_deref().map(Algorithm::named);
        let fits = intended.is_none_or(|algorithm| algorithm == Some(material.algorithm()));
        fits.then_some(Key { id: self.kid, material })
    }
}

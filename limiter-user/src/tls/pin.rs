//! Pins: a server is known by the SHA-256 of its public key, which outlives its certificates (RFC 7469 section 2.4; as
//! `--pinnedpubkey` of curl, which writes `sha256//`).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

/// The SHA-256 of a SubjectPublicKeyInfo in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

/// It is not a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPin;

/// A server has another key than the pinned one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinMismatch {
    pub expected: Vec<Pin>,
    pub seen: Pin,
}

impl Pin {
    /// Of the key in a certificate.
    ///
    /// # Errors
    ///
    /// If it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let key = parsed.subject_public_key_info();
        Ok(Self(crate::sha256::of(key.as_ref())))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let digest =
            text.strip_prefix("sha256//").or_else(|| text.strip_prefix("sha256:")).ok_or(InvalidPin)?;
        let digest = BASE64_STANDARD.decode(digest).ok().and_then(|digest| digest.try_into().ok());
        digest.map(Self).ok_or(InvalidPin)
    }
}

impl fmt::Display for InvalidPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no pin; expected sha256: and 44 characters of base64, as `limiter api pin` prints it")
    }
}

impl std::error::Error for InvalidPin {}

impl fmt::Display for PinMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's key is {}, but pinned is", self.seen)?;
        for (pin, separator) in
            self.expected.iter().zip(std::iter::once(" ").chain(std::iter::repeat(" or ")))
        {
            write!(f, "{separator}{pin}")?;
        }
        f.write_str(
            "; either it was given a new key, which `limiter api pin` on the server tells, or this is another server",
        )
    }
}

impl std::error::Error for PinMismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_written_in_two_ways() {
        let pin = Pin([0xA5; 32]);
        let text = pin.to_string();
        assert_eq!(text.parse(), Ok(pin));
        assert_eq!(text.replace("sha256:", "sha256//").parse(), Ok(pin));
        for wrong in ["", "sha256:", "sha256:AAAA", &text[7..], &format!("{text}A"), "sha1:AAAA"] {
            assert_eq!(wrong.parse::<Pin>(), Err(InvalidPin), "{wrong}");
        }
    }
}

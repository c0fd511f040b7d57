//! The names in a client's certificate. Whether the certificate is genuine was TLS's business.

use webpki::EndEntityCert;

use crate::config::{Client, ClientName};

/// Whom a certificate names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// DNS names and URIs of the subject's alternative names.
    names: Vec<String>,
    common: Option<String>,
}

/// It cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCertificate;

impl Certificate {
    /// Reads what the client has shown first, in DER.
    ///
    /// # Errors
    ///
    /// If it is no certificate of X.509 version 3.
    pub fn parse(der: &[u8]) -> Result<Self, InvalidCertificate> {
        let der = rustls::pki_types::CertificateDer::from(der);
        let Ok(certificate) = EndEntityCert::try_from(&der) else { return Err(InvalidCertificate) };
        let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
        let names = names.map(str::to_owned).collect();
        Ok(Self { names, common: common_name(certificate.subject()) })
    }

    /// The first of `clients` that this one is.
    #[must_use]
    pub fn find<'c>(&self, clients: &'c [Client]) -> Option<&'c Client> {
        clients.iter().find(|client| match &client.name {
            // DNS names know no case, and nobody gives out URIs that differ by it alone.
            ClientName::Alternative(wanted) => {
                self.names.iter().any(|name| name.eq_ignore_ascii_case(wanted))
            }
            ClientName::Common(wanted) => self.common.as_ref() == Some(wanted),
        })
    }
}

/// The common name of a subject (RFC 5280 section 4.1.2.4): a sequence of sets of pairs of a type and a value. `None` if
/// there is none, if there are several, or if it is no UTF-8: it must not depend on who reads it whom a certificate names.
fn common_name(subject: &[u8]) -> Option<String> {
    /// id-at-commonName, 2.5.4.3.
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const OBJECT: u8 = 0x06;
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    let mut found = None;
    let mut sets = subject;
    while !sets.is_empty() {
        let (SET, mut pairs, rest) = value(sets)? else { return None };
        sets = rest;
        while !pairs.is_empty() {
            let (SEQUENCE, pair, rest) = value(pairs)? else { return None };
            pairs = rest;
            let (OBJECT, kind, text) = value(pair)? else { return None };
            if kind != COMMON_NAME {
                continue;
            }
            let (UTF8 | PRINTABLE, text, []) = value(text)? else { return None };
            let text = str::from_utf8(text).ok().filter(|text| !text.is_empty())?;
            if found.replace(text.to_owned()).is_some() {
                return None;
            }
        }
    }
    found
}

/// Tag, contents, and what follows (X.690 section 8.1). Lengths as DER has them, of up to 65,535 bytes.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;
    use crate::access::{Caps, Scopes};

    fn certificate(alternative: &[SanType], common: &[&str]) -> Certificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = alternative.to_vec();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        for name in common {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let key = KeyPair::generate().unwrap();
        Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn client(name: ClientName) -> Client {
        Client { owner: name.text().to_owned(), name, scopes: Scopes::default(), caps: Caps::default() }
    }

    #[test]
    fn names_are_found_where_they_were_asked_for() {
        let dns = SanType::DnsName("checkout.example.net".try_into().unwrap());
        let uri = SanType::URI("spiffe://example.net/edge".try_into().unwrap());
        let wildcard = SanType::DnsName("*.example.net".try_into().unwrap());
        let alternative = |name: &str| client(ClientName::Alternative(name.to_owned()));
        let clients = [
            alternative("checkout.example.net"),
            alternative("spiffe://example.net/edge"),
            client(ClientName::Common("old".to_owned())),
        ];
        let owner = |alternative: &[SanType], common: &[&str]| {
            certificate(alternative, common).find(&clients).map(|client| client.owner.as_str())
        };
        assert_eq!(owner(std::slice::from_ref(&dns), &[]), Some("checkout.example.net"));
        assert_eq!(
            owner(&[SanType::DnsName("Checkout.Example.NET".try_into().unwrap())], &[]),
            Some("checkout.example.net")
        );
        assert_eq!(owner(std::slice::from_ref(&uri), &["x"]), Some("spiffe://example.net/edge"));
        assert_eq!(
            owner(&[uri, dns], &[]),
            Some("checkout.example.net"),
            "in the order of the configuration"
        );
        assert_eq!(owner(&[], &["old"]), Some("old"));
        // A name where nobody asked for it, or that stands for many.
        assert_eq!(owner(&[], &["checkout.example.net"]), None);
        assert_eq!(owner(&[SanType::DnsName("old".try_into().unwrap())], &[]), None);
        assert_eq!(owner(&[wildcard], &[]), None);
        assert_eq!(owner(&[SanType::DnsName("a.checkout.example.net".try_into().unwrap())], &[]), None);
        assert_eq!(owner(&[], &[]), None);
    }

    #[test]
    fn what_is_no_certificate() {
        let key = KeyPair::generate().unwrap();
        let good = CertificateParams::default().self_signed(&key).unwrap();
        assert!(Certificate::parse(good.der()).is_ok());
        for end in 0..good.der().len() {
            assert_eq!(Certificate::parse(&good.der()[..end]), Err(InvalidCertificate));
        }
        for name in [
            &[0x31u8, 3, 0x30] as &[u8],
            &[0x31, 0x83, 0, 0, 0],
            &[0x31, 0x82, 0xff, 0xff],
            &[0x30, 0],
            &[0x31],
        ] {
            assert_eq!(common_name(name), None, "{name:?}");
        }
        let one = [0x31, 12, 0x30, 10, 0x06, 3, 0x55, 4, 3, 0x0c, 3, b'o', b'l', b'd'];
        assert_eq!(common_name(&one).as_deref(), Some("old"));
        assert_eq!(common_name(&[one, one].concat()), None, "two names are no name");
    }
}

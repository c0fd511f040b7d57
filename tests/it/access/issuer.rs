//! Issuers of credentials: of client certificates, and of JWTs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// Issues certificates of clients.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key of `name`, in files.
    pub(crate) fn issue(&self, name: &str, directory: &Path) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.0)?;
        let files = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        fs::write(&files.0, certificate.pem())?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&files.1);
        file?.write_all(key.serialize_pem().as_bytes())?;
        Ok(files)
    }
}

/// Issues JWTs.
pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    /// `kid` of the key.
    id: String,
}

impl Issuer {
    pub(crate) const NAME: &str = "https://login.example.net";
    pub(crate) const AUDIENCE: &str = "limiter";

    pub(crate) fn new(id: &str) -> Result<Self> {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let failed = |what| move |_| anyhow!("no {what}");
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(failed("key"))?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        Ok(Self { key: key.map_err(|error| anyhow!("no key: {error}"))?, id: id.to_owned() })
    }

    /// As a JWK (RFC 7517).
    pub(crate) fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y})
    }

    /// A JWT of somebody with these words as scope; `odd` replaces claims.
    pub(crate) fn jwt(&self, scope: &str, odd: &Value) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let mut claims = json!({"iss": Self::NAME, "aud": Self::AUDIENCE, "sub": "alice", "exp": now + 3600, "scope": scope});
        for (name, value) in odd.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.id})), part(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|error| anyhow!("no signature: {error}"))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

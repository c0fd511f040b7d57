use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;

pub(crate) const ISSUER: &str = "https://login.example.net";
pub(crate) const AUDIENCE: &str = "limiter";

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOON)
}
pub(crate) const NOON: u64 = 1_767_268_800;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of two kinds.
pub(crate) struct Issuer {
    elliptic: EcdsaKeyPair,
    edwards: Ed25519KeyPair,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let elliptic = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let edwards = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            elliptic: EcdsaKeyPair::from_pkcs8(algorithm, elliptic.as_ref(), &random).unwrap(),
            edwards: Ed25519KeyPair::from_pkcs8(edwards.as_ref()).unwrap(),
        }
    }

    fn jwks(&self) -> Vec<Value> {
        let point = self.elliptic.public_key().as_ref();
        vec![
            json!({"kty": "EC", "crv": "P-256", "kid": "e", "use": "sig", "alg": "ES256",
                "x": encode(&point[1..33]), "y": encode(&point[33..])}),
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "d", "x": encode(self.edwards.public_key())}),
            json!({"kty": "oct", "kid": "s", "k": encode("secret")}),
        ]
    }

    pub(crate) fn set(&self) -> String {
        json!({"keys": self.jwks()}).to_string()
    }

    fn keys(&self) -> Keys {
        Keys::parse(self.set().as_bytes()).unwrap()
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = match header["alg"].as_str() {
            Some("ES256") => {
                self.elliptic.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            _ => self.edwards.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(signature))
    }

    /// With these claims in place of, or beside, good ones; `null` takes one away.
    pub(crate) fn jwt(&self, odd: &Value) -> String {
        let mut claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOON + 600,
            "scope": "openid limiter:report"});
        for (name, value) in odd.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.signed(&json!({"alg": "ES256", "kid": "e"}), &claims)
    }
}

fn judged(issuer: &Issuer, jwt: &str) -> Result<Verified, Rejected> {
    verify(jwt, &issuer.keys(), ISSUER, AUDIENCE, noon())
}

#[test]
fn claims() {
    let issuer = Issuer::new();
    let check = |odd: Value, expected: Result<(), Rejected>| {
        assert_eq!(judged(&issuer, &issuer.jwt(&odd)).map(drop), expected, "{odd}");
    };
    check(json!({}), Ok(()));
    check(json!({"iss": "https://login.example.net/"}), Err(Rejected::Issuer));
    check(json!({"iss": null}), Err(Rejected::Malformed));
    check(json!({"aud": "other"}), Err(Rejected::Audience));
    check(json!({"aud": "limiter2"}), Err(Rejected::Audience));
    check(json!({"aud": ["other", "limiter"]}), Ok(()));
    check(json!({"aud": []}), Err(Rejected::Audience));
    check(json!({"aud": null}), Err(Rejected::Malformed));
    check(json!({"exp": NOON - 59}), Ok(()));
    check(json!({"exp": NOON - 60}), Err(Rejected::Expired));
    check(json!({"exp": 0.5}), Err(Rejected::Expired));
    check(json!({"exp": NOON as f64 + 0.5}), Ok(()));
    check(json!({"exp": null}), Err(Rejected::Malformed));
    check(json!({"exp": (NOON + 600).to_string()}), Err(Rejected::Malformed));
    check(json!({"exp": -1}), Err(Rejected::Malformed));
    check(json!({"exp": 1e300}), Err(Rejected::Malformed));
    check(json!({"nbf": NOON + 60}), Ok(()));
    check(json!({"nbf": NOON + 61}), Err(Rejected::NotYet));
    check(json!({"nbf": (NOON + 61).to_string()}), Err(Rejected::Malformed));
    check(json!({"sub": null}), Err(Rejected::Subject));
    check(json!({"sub": ""}), Err(Rejected::Subject));
    check(json!({"sub": "x".repeat(257)}), Err(Rejected::Subject));
    check(json!({"scope": 7}), Err(Rejected::Malformed));

    let verified = judged(&issuer, &issuer.jwt(&json!({"scp": ["a", "b c"]}))).unwrap();
    assert_eq!(verified.subject, "alice");
    assert_eq!(verified.scopes, ["openid", "limiter:report", "a", "b", "c"]);
    assert_eq!(verified.expires, noon() + Duration::from_secs(600));
    assert_eq!(judged(&issuer, &issuer.jwt(&json!({"scope": null}))).unwrap().scopes, Vec::<String>::new());
}

#[test]
fn headers_and_signatures() {
    let issuer = Issuer::new();
    let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOON + 600});
    let check = |header: Value, expected: Result<(), Rejected>| {
        let jwt = issuer.signed(&header, &claims);
        assert_eq!(judged(&issuer, &jwt).map(drop), expected, "{header}");
    };
    check(json!({"alg": "ES256", "kid": "e", "typ": "at+jwt"}), Ok(()));
    check(json!({"alg": "EdDSA", "kid": "d"}), Ok(()));
    check(json!({"alg": "EdDSA"}), Ok(()));
    check(json!({"alg": "EdDSA", "kid": "e"}), Err(Rejected::NewKey));
    check(json!({"alg": "EdDSA", "kid": "x"}), Err(Rejected::NewKey));
    for algorithm in ["none", "None", "", "HS256", "HS512", "ES384", "RS512", "PS256", "es256"] {
        check(json!({"alg": algorithm, "kid": "e"}), Err(Rejected::Algorithm));
    }
    check(json!({"kid": "e"}), Err(Rejected::Malformed));
    check(json!({"alg": "ES256", "kid": "e", "crit": ["b64"], "b64": false}), Err(Rejected::Critical));
    check(json!({"alg": "RS256", "kid": "e"}), Err(Rejected::NewKey));

    let stranger = Issuer::new();
    assert_eq!(judged(&issuer, &stranger.jwt(&json!({}))), Err(Rejected::Signature));
    let good = issuer.jwt(&json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let none = format!("{}.{}.", encode("{\"alg\":\"none\"}"), message.split_once('.').unwrap().1);
    assert_eq!(judged(&issuer, &none), Err(Rejected::Algorithm));
    assert_eq!(judged(&issuer, &format!("{message}.")), Err(Rejected::Signature));
    assert_eq!(judged(&issuer, &format!("{message}.{}", encode([0; 64]))), Err(Rejected::Signature));
    let raised = encode(claims.to_string().replace("alice", "root"));
    let header = message.split_once('.').unwrap().0;
    assert_eq!(judged(&issuer, &format!("{header}.{raised}.{signature}")), Err(Rejected::Signature));
    // Each bit of the signature counts, and none is left over.
    for at in 0..signature.len() {
        let other = if signature.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{message}.{}{other}{}", &signature[..at], &signature[at + 1..]);
        assert!(judged(&issuer, &changed).is_err(), "{at}");
    }
    for text in ["", ".", "..", "a.b.c", &"a".repeat(100), "e30.e30.e30"] {
        assert!(judged(&issuer, text).is_err(), "{text}");
    }
    // Twice the same claim, of which two readers may take different ones.
    let twice = claims.to_string().replacen('{', "{\"sub\":\"root\",", 1);
    let message = format!("{}.{}", encode("{\"alg\":\"EdDSA\"}"), encode(twice));
    let twice = format!("{message}.{}", encode(issuer.edwards.sign(message.as_bytes())));
    assert_eq!(judged(&issuer, &twice), Err(Rejected::Malformed));
}

/// RFC 7515 appendix A.2: a token that others have signed with RSA.
#[test]
fn the_example_of_the_rfc() {
    let set = br#"{"keys":[{"kty":"RSA",
        "n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e":"AQAB"}]}"#;
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let keys = Keys::parse(set).unwrap();
    // It has no audience, which is found out only behind the signature.
    assert_eq!(verify(jwt, &keys, "joe", "limiter", noon()), Err(Rejected::Malformed));
    let changed = jwt.replace(".cC4h", ".cC4i");
    assert_eq!(verify(&changed, &keys, "joe", "limiter", noon()), Err(Rejected::Signature));
}

#[test]
fn sets_of_keys() {
    let issuer = Issuer::new();
    assert!(Keys::parse(issuer.set().as_bytes()).is_ok());
    let refused = |set: Value| Keys::parse(set.to_string().as_bytes()).unwrap_err().to_string();
    assert!(refused(json!({})).contains("no JWK set"));
    assert!(refused(json!({"keys": []})).contains("no key of it"));
    let change = |name: &str, value: Value| {
        let mut key = issuer.jwks()[0].clone();
        key[name] = value;
        json!({"keys": [key]})
    };
    assert!(Keys::parse(change("key_ops", json!(["verify"])).to_string().as_bytes()).is_ok());
    for (name, value) in [
        ("use", json!("enc")),
        ("alg", json!("HS256")),
        ("alg", json!("EdDSA")),
        ("crv", json!("P-384")),
        ("kty", json!("oct")),
        ("x", json!("AAAA")),
        ("y", json!("not base64")),
    ] {
        assert!(refused(change(name, value)).contains("no key of it"), "{name}");
    }
    assert!(Keys::parse(b"").is_err() && Keys::parse(&[b'['; 100_000]).is_err());
}

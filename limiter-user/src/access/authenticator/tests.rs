use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use limiter_common::Nanos;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::*;
use crate::access::issuer::{AUDIENCE, ISSUER, Issuer, NOON};
use crate::access::tokens::Wanted;
use crate::access::{Need, PerMinute, Scope};
use crate::config::{Client, ClientName, KeysUrl, Role};

fn at(seconds: u64) -> Now {
    let wall: SystemTime = UNIX_EPOCH + Duration::from_secs(NOON + seconds);
    Now { boot: Nanos::from_secs(1000 + seconds), wall }
}

fn peer(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const HERE: &str = "192.0.2.1";

fn certificate(name: &str) -> Certificate {
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    Certificate::parse(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

fn scopes(words: &str) -> Scopes {
    words.split_whitespace().map(|word| word.parse::<Scope>().unwrap()).collect()
}

struct Fixture {
    directory: tempfile::TempDir,
    issuer: Issuer,
    authenticator: Authenticator,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let issuer = Issuer::new();
        let authenticator = Authenticator::open(&directory.path().join("tokens.json"));
        let fixture = Self { directory, issuer, authenticator };
        std::fs::write(fixture.jwks(), fixture.issuer.set()).unwrap();
        fixture.authenticator.configure(&fixture.access(), &["198.51.100.0/24".parse().unwrap()]);
        assert_eq!(fixture.authenticator.warnings(), Vec::<String>::new());
        fixture
    }

    fn jwks(&self) -> PathBuf {
        self.directory.path().join("jwks.json")
    }

    fn access(&self) -> Access {
        let client = |name: &str, caps| Client {
            name: ClientName::Alternative(name.to_owned()),
            owner: "edge".to_owned(),
            scopes: scopes("block:host"),
            caps,
        };
        let here = Caps { from: vec!["192.0.2.0/24".parse().unwrap()], ..Caps::default() };
        let role =
            |scope: &str, words: &str, caps| Role { scope: scope.to_owned(), scopes: scopes(words), caps };
        let ten_minutes = Caps { max_ttl: Some(Duration::from_secs(600)), ..Caps::default() };
        Access {
            clients: vec![client("edge.example.net", here.clone())],
            oauth: Some(OAuth {
                issuer: ISSUER.to_owned(),
                audience: AUDIENCE.to_owned(),
                jwks: Jwks::File(self.jwks()),
                roles: vec![
                    role("limiter:report", "report", ten_minutes),
                    role(
                        "limiter:block",
                        "block:prefix/24",
                        Caps { quota: PerMinute::new(10), ..Caps::default() },
                    ),
                    role("limiter:admin", "admin", here),
                ],
            }),
        }
    }

    fn token(&self, words: &str, caps: Caps) -> String {
        let wanted =
            Wanted { name: "checkout".to_owned(), scopes: scopes(words), caps, by: "uid:0".to_owned() };
        self.authenticator.tokens().create(wanted, at(0).wall).unwrap().token
    }

    fn bearer(&self, from: &str, credential: &str, now: Now) -> Result<Principal, Unauthenticated> {
        self.authenticator.authenticate(peer(from), None, Some(&format!("Bearer {credential}")), now)
    }
}

#[test]
fn each_way_in() {
    let fixture = Fixture::new();
    let token = fixture.token("read", Caps::default());
    let principal = fixture.bearer(HERE, &token, at(0)).unwrap();
    assert_eq!((principal.owner_name(), principal.scopes), ("app:checkout".to_owned(), scopes("read")));
    let by_certificate = |name: &str, from: &str| {
        fixture.authenticator.authenticate(peer(from), Some(&certificate(name)), None, at(0))
    };
    let principal = by_certificate("edge.example.net", HERE).unwrap();
    assert_eq!(
        (principal.owner_name(), principal.actor()),
        ("app:edge".to_owned(), "cert:edge.example.net".to_owned())
    );
    let principal = fixture.bearer(HERE, &fixture.issuer.jwt(&json!({})), at(0)).unwrap();
    assert_eq!(
        (principal.owner_name(), principal.actor()),
        ("app:jwt.alice".to_owned(), "jwt:alice".to_owned())
    );
    assert_eq!(principal.scopes, scopes("report"));

    // Genuine, but nobody said what for; or not from there.
    assert_eq!(by_certificate("other.example.net", HERE), Err(Unauthenticated::NoRole));
    assert_eq!(by_certificate("edge.example.net", "203.0.113.1"), Err(Unauthenticated::NoRole));
    let jwt = |scope: &str| fixture.issuer.jwt(&json!({"scope": scope}));
    assert_eq!(fixture.bearer(HERE, &jwt("openid"), at(0)), Err(Unauthenticated::NoRole));
    assert!(fixture.bearer(HERE, &jwt("limiter:admin"), at(0)).is_ok());
    assert_eq!(fixture.bearer("203.0.113.1", &jwt("limiter:admin"), at(0)), Err(Unauthenticated::NoRole));
    assert_eq!(
        fixture.authenticator.authenticate(peer(HERE), None, None, at(0)),
        Err(Unauthenticated::Missing)
    );
    // A wrong header is not made good by a certificate.
    let both = |header: &str| {
        let certificate = certificate("edge.example.net");
        fixture.authenticator.authenticate(peer(HERE), Some(&certificate), Some(header), at(0))
    };
    assert_eq!(both("Basic eDp5"), Err(Unauthenticated::Malformed));
    assert_eq!(both(&format!("Bearer {token}")).unwrap().owner_name(), "app:checkout");
}

#[test]
fn several_roles_add_scopes_and_keep_the_strictest_caps() {
    let fixture = Fixture::new();
    let jwt = fixture.issuer.jwt(&json!({"scope": "limiter:report limiter:block"}));
    let principal = fixture.bearer(HERE, &jwt, at(0)).unwrap();
    assert_eq!(principal.scopes, scopes("report block:prefix/24"));
    assert_eq!(principal.caps.max_ttl, Some(Duration::from_secs(600)));
    assert_eq!(principal.caps.quota, PerMinute::new(10));
    assert!(principal.may(&Need::Read).is_err());
}

#[test]
fn statuses() {
    let fixture = Fixture::new();
    let expires = Some(at(60).wall);
    let from = vec!["10.0.0.0/8".parse().unwrap()];
    let short = fixture.token("read", Caps { expires, ..Caps::default() });
    let elsewhere = fixture.token("read", Caps { from, ..Caps::default() });
    let status = |credential: &str, now| {
        fixture.bearer(HERE, credential, now).map_err(|error| error.status()).map(drop)
    };
    assert_eq!(status(&short, at(59)), Ok(()));
    assert_eq!(status(&short, at(60)), Err(401));
    assert_eq!(status(&elsewhere, at(0)), Err(403));
    assert_eq!(status("nonsense", at(0)), Err(401));
    assert_eq!(status(&fixture.issuer.jwt(&json!({"aud": "other"})), at(0)), Err(401));
    assert_eq!(status(&Issuer::new().jwt(&json!({})), at(0)), Err(401));
    fixture.authenticator.configure(&Access::default(), &[]);
    assert_eq!(status(&fixture.issuer.jwt(&json!({})), at(0)), Err(401));
    assert_eq!(fixture.bearer(HERE, &fixture.issuer.jwt(&json!({})), at(0)), Err(Unauthenticated::NoIssuer));
}

#[test]
fn guesses_have_to_wait_and_mistakes_do_not() {
    let fixture = Fixture::new();
    let good = fixture.token("read", Caps::default());
    let expired = fixture.token("read", Caps { expires: Some(at(1).wall), ..Caps::default() });
    let wrong = format!("{}{}", &good[..good.len() - 64], "0".repeat(64));
    for _ in 0..20 {
        assert_eq!(fixture.bearer(HERE, &expired, at(2)), Err(Unauthenticated::Token(TokenRefused::Expired)));
    }
    for _ in 0..6 {
        assert_eq!(fixture.bearer(HERE, &wrong, at(2)), Err(Unauthenticated::Token(TokenRefused::Wrong)));
    }
    let refused = fixture.bearer(HERE, &good, at(2)).unwrap_err();
    assert_eq!((refused.status(), &refused), (429, &Unauthenticated::Wait(Duration::from_secs(1))));
    assert_eq!(refused.to_string(), "too many wrong credentials from this address; try again in 1 s");
    assert!(fixture.bearer("192.0.2.2", &good, at(2)).is_ok(), "the neighbour");
    let shown = certificate("edge.example.net");
    assert!(fixture.authenticator.authenticate(peer(HERE), Some(&shown), None, at(2)).is_ok());
    assert!(fixture.bearer(HERE, &good, at(3)).is_ok(), "the time is over");
    assert!(fixture.bearer(HERE, &wrong, at(3)).is_err());
    assert!(fixture.bearer(HERE, &good, at(3)).is_ok(), "and all is forgotten");
    // From where the operators are, nobody waits.
    for _ in 0..100 {
        assert!(fixture.bearer("198.51.100.7", &wrong, at(3)).is_err());
        assert!(fixture.bearer("198.51.100.7", &good, at(3)).is_ok());
    }
    for _ in 0..100 {
        assert_eq!(fixture.bearer("198.51.100.7", "x", at(3)), Err(Unauthenticated::Malformed));
    }
}

#[test]
fn keys_that_cannot_be_read_leave_those_of_before() {
    let fixture = Fixture::new();
    let jwt = fixture.issuer.jwt(&json!({}));
    std::fs::write(fixture.jwks(), "{").unwrap();
    fixture.authenticator.tend();
    let [warning] = <[String; 1]>::try_from(fixture.authenticator.warnings()).unwrap();
    assert!(warning.contains("jwks.json") && warning.contains("those of before"), "{warning}");
    assert!(fixture.bearer(HERE, &jwt, at(0)).is_ok());
    // The issuer has new keys.
    let other = Issuer::new();
    std::fs::write(fixture.jwks(), other.set()).unwrap();
    fixture.authenticator.tend();
    assert_eq!(fixture.authenticator.warnings(), Vec::<String>::new());
    assert_eq!(fixture.bearer(HERE, &jwt, at(0)), Err(Unauthenticated::Jwt(Rejected::Signature)));
    assert!(fixture.bearer(HERE, &other.jwt(&json!({})), at(0)).is_ok());
    // Keys of one issuer are not those of another.
    std::fs::remove_file(fixture.jwks()).unwrap();
    let mut access = fixture.access();
    access.oauth.as_mut().unwrap().issuer = "https://elsewhere".to_owned();
    fixture.authenticator.configure(&access, &[]);
    assert!(fixture.authenticator.warnings()[0].contains("no JWT is accepted"));
    let jwt = other.jwt(&json!({"iss": "https://elsewhere"}));
    assert_eq!(fixture.bearer(HERE, &jwt, at(0)), Err(Unauthenticated::Jwt(Rejected::NoKeys)));
}

/// Nobody has to wait because the issuer is down, and who is nobody learns nothing by that.
#[test]
fn before_the_keys_are_there_nobody_guesses_who_names_the_issuer() {
    let fixture = Fixture::new();
    let url = KeysUrl::new("https://127.0.0.1/jwks.json", "/ca.pem".into()).unwrap();
    let mut access = fixture.access();
    let oauth = access.oauth.as_mut().unwrap();
    (oauth.issuer, oauth.jwks) = ("https://new.example.net".to_owned(), Jwks::Url(url.clone()));
    fixture.authenticator.configure(&access, &[]);
    let jwt = fixture.issuer.jwt(&json!({"iss": "https://new.example.net"}));
    for _ in 0..20 {
        let refused = fixture.bearer(HERE, &jwt, at(0)).unwrap_err();
        assert_eq!(refused, Unauthenticated::Jwt(Rejected::NoKeys));
        assert_eq!((refused.status(), refused.retry_after()), (503, Some(SOON)));
        assert!(!refused.to_string().contains("example.net"), "{refused}");
    }
    // Of others, and what is no JWT, is refused as ever.
    for other in [
        fixture.issuer.jwt(&json!({})),
        fixture.issuer.jwt(&json!({"iss": null})),
        fixture.issuer.jwt(&json!({"iss": ["https://new.example.net"]})),
    ] {
        assert_eq!(fixture.bearer("192.0.2.9", &other, at(0)), Err(Unauthenticated::Jwt(Rejected::NoKey)));
    }
    for _ in 0..3 {
        let odd = fixture.bearer("192.0.2.9", "a.b.c", at(0));
        assert_eq!(odd, Err(Unauthenticated::Jwt(Rejected::Malformed)));
    }
    assert!(matches!(fixture.bearer("192.0.2.9", &jwt, at(0)), Err(Unauthenticated::Wait(_))));
    let keys = Keys::parse(fixture.issuer.set().as_bytes()).unwrap();
    fixture.authenticator.take(&url, Ok(keys));
    assert!(fixture.bearer(HERE, &jwt, at(0)).is_ok());
}

/// An issuer has a new key, and many requests come before it was fetched.
#[test]
fn nobody_has_to_wait_for_a_key_that_is_new() {
    let fixture = Fixture::new();
    let (old, new, jwt) = (Issuer::new(), &fixture.issuer, fixture.issuer.jwt(&json!({})));
    let mut set: serde_json::Value = serde_json::from_str(&old.set()).unwrap();
    set["keys"].as_array_mut().unwrap().retain(|key| key["kid"] == "d");
    std::fs::write(fixture.jwks(), set.to_string()).unwrap();
    fixture.authenticator.tend();
    for _ in 0..100 {
        let refused = fixture.bearer(HERE, &jwt, at(0)).unwrap_err();
        assert_eq!((refused.status(), refused), (401, Unauthenticated::Jwt(Rejected::NewKey)));
    }
    std::fs::write(fixture.jwks(), new.set()).unwrap();
    fixture.authenticator.tend();
    assert!(fixture.bearer(HERE, &jwt, at(0)).is_ok());
    // Those of others guess.
    let other = new.jwt(&json!({"iss": "https://elsewhere"}));
    std::fs::write(fixture.jwks(), set.to_string()).unwrap();
    fixture.authenticator.tend();
    for _ in 0..6 {
        assert_eq!(fixture.bearer(HERE, &other, at(0)), Err(Unauthenticated::Jwt(Rejected::NoKey)));
    }
    assert!(matches!(fixture.bearer(HERE, &other, at(0)), Err(Unauthenticated::Wait(_))));
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_names_another_place_leaves_the_keys_for_a_while() {
    let fixture = Fixture::new();
    let moved = |url: &str| {
        let url = KeysUrl::new(url, "/ca.pem".into()).unwrap();
        let mut access = fixture.access();
        access.oauth.as_mut().unwrap().jwks = Jwks::Url(url.clone());
        fixture.authenticator.configure(&access, &[]);
        url
    };
    let url = moved("https://127.0.0.1/jwks.json");
    let (jwt, other) = (fixture.issuer.jwt(&json!({})), Issuer::new());
    assert!(fixture.bearer(HERE, &jwt, at(0)).is_ok());
    fixture.authenticator.take(&url, Ok(Keys::parse(other.set().as_bytes()).unwrap()));
    assert_eq!(fixture.bearer(HERE, &jwt, at(0)), Err(Unauthenticated::Jwt(Rejected::Signature)));

    let new = moved("https://127.0.0.2/jwks.json");
    fixture.authenticator.take(&url, Ok(Keys::parse(fixture.issuer.set().as_bytes()).unwrap()));
    assert!(fixture.bearer(HERE, &jwt, at(0)).is_err(), "what comes from the former place is too late");
    fixture.authenticator.take(&new, Err("it is down".to_owned()));
    let jwt = other.jwt(&json!({}));
    assert!(fixture.bearer(HERE, &jwt, at(0)).is_ok());
    assert!(fixture.authenticator.warnings()[0].contains("5 min at most"));
    tokio::time::advance(Duration::from_secs(5 * 60)).await;
    fixture.authenticator.tend();
    assert_eq!(fixture.bearer(HERE, &jwt, at(0)), Err(Unauthenticated::Jwt(Rejected::NoKeys)));
    assert!(fixture.authenticator.warnings()[0].ends_with("it is down; no JWT is accepted"));
}

#[test]
fn quotas_are_each_principals_own() {
    let fixture = Fixture::new();
    let caps = Caps { quota: PerMinute::new(10), ..Caps::default() };
    let [a, b] =
        [(); 2].map(|()| fixture.bearer(HERE, &fixture.token("report", caps.clone()), at(0)).unwrap());
    let charge =
        |principal: &Principal, entries| fixture.authenticator.charge(principal, entries, at(0)).is_ok();
    assert!(charge(&a, 10) && !charge(&a, 1) && charge(&b, 10));
    // Two who differ only where the log has cut them off.
    let jwt = |last: &str| {
        let odd = json!({"sub": format!("{}{last}", "x".repeat(200)), "scope": "limiter:block"});
        fixture.bearer(HERE, &fixture.issuer.jwt(&odd), at(0)).unwrap()
    };
    assert!(charge(&jwt("a"), 10) && !charge(&jwt("a"), 1) && charge(&jwt("b"), 10));
    let operator = Principal::operator(0);
    assert!((0..100).all(|_| charge(&operator, u32::MAX)));
}

#[test]
fn nothing_that_was_shown_is_repeated() {
    let fixture = Fixture::new();
    let secret = "5ec4e7".repeat(11);
    for credential in [
        format!("lmt_aaaaaaaa_{}", &secret[..64]),
        format!("lmt_aaaaaaaa_{secret}"),
        secret.clone(),
        format!("{secret}.{secret}.{secret}"),
    ] {
        let error = fixture.bearer(HERE, &credential, at(0)).unwrap_err();
        assert!(!format!("{error} {error:?} {:?}", fixture.authenticator).contains("5ec4e7"), "{error:?}");
    }
}

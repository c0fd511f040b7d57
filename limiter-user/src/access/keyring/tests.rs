use super::*;
use crate::access::issuer::{AUDIENCE, ISSUER, Issuer};
use crate::config::KeysUrl;

fn issuer(name: &str, jwks: Jwks) -> OAuth {
    OAuth { issuer: name.to_owned(), audience: AUDIENCE.to_owned(), jwks, roles: Vec::new() }
}

fn at(url: &str, ca: &str) -> OAuth {
    issuer(ISSUER, Jwks::Url(KeysUrl::new(url, ca.into()).unwrap()))
}

fn keys() -> Keys {
    Keys::parse(Issuer::new().set().as_bytes()).unwrap()
}

/// What the configuration says, when keys were there.
fn known(oauth: &OAuth, keys: &Keys, now: Instant) -> Keyring {
    Keyring::default().configured(Some(oauth), now).read(Ok(keys.clone()), now)
}

const URL: &str = "https://login.example.net/jwks.json";
const ELSEWHERE: &str = "https://keys.example.net/jwks.json";

/// Whoever has taken over the former place is not believed for long, and nobody waits for the new one before.
#[test]
fn keys_serve_until_those_of_a_new_place_are_there_but_not_for_long() {
    let (now, own, new) = (Instant::now(), keys(), keys());
    let ring = known(&at(URL, "/ca.pem"), &own, now);
    for moved in [
        at(ELSEWHERE, "/ca.pem"),
        at(URL, "/other.pem"),
        issuer(ISSUER, Jwks::File("/etc/limiter/jwks.json".into())),
    ] {
        let ring = ring.configured(Some(&moved), now);
        assert_eq!(ring.keys(), &own, "{moved:?}");
        let problem = ring.problem().unwrap();
        assert!(problem.contains("not read yet") && problem.contains("5 min at most"), "{problem}");
        let there = ring.read(Ok(new.clone()), now);
        assert_eq!((there.keys(), there.problem()), (&new, None));

        let (nearly, over) = (now + MOVE - Duration::from_secs(1), now + MOVE);
        let missed = ring.read(Err("it is down".to_owned()), nearly);
        assert_eq!(missed.keys(), &own, "{moved:?}");
        let problem = missed.problem().unwrap();
        assert!(problem.contains("it is down; those at https://login.example.net/jwks.json"), "{problem}");
        // Whether or not it was tried again, and however often the configuration was read.
        for ring in [missed.read(Err("it is down".to_owned()), over), missed.configured(Some(&moved), over)] {
            assert!(ring.keys().is_empty(), "{moved:?}");
            assert!(ring.problem().unwrap().ends_with("it is down; no JWT is accepted"), "{ring:?}");
        }
        let further = at("https://third.example.net/", "/ca.pem");
        assert!(missed.configured(Some(&further), over).keys().is_empty(), "another move gives no more time");
        // Back where they are from.
        let back = missed.configured(Some(&at(URL, "/ca.pem")), over);
        assert_eq!(back.keys(), &own);
        assert_eq!(back.configured(Some(&moved), over).keys(), &own, "the time begins anew");
    }
}

#[test]
fn keys_of_a_place_that_is_down_stay() {
    let (now, own) = (Instant::now(), keys());
    let ring = known(&at(URL, "/ca.pem"), &own, now);
    let later = now + 100 * MOVE;
    let ring = ring.read(Err("it is down".to_owned()), later).configured(Some(&at(URL, "/ca.pem")), later);
    assert_eq!(ring.keys(), &own);
    assert!(ring.problem().unwrap().ends_with("it is down; those of before are used"), "{ring:?}");
}

#[test]
fn keys_of_one_issuer_are_not_those_of_another() {
    let now = Instant::now();
    let ring = known(&at(URL, "/ca.pem"), &keys(), now);
    let other = OAuth { issuer: "https://other.example.net".to_owned(), ..at(URL, "/ca.pem") };
    assert!(ring.configured(Some(&other), now).keys().is_empty());
    let none = ring.configured(None, now);
    assert!(none.keys().is_empty() && none.problem().is_none());
    assert!(
        none.configured(Some(&at(URL, "/ca.pem")), now).keys().is_empty(),
        "taken out, they are forgotten"
    );
}

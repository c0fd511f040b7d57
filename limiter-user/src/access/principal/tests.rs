use super::*;
use crate::access::{PerMinute, Scope};

fn token(scopes: &str, caps: Caps) -> Principal {
    let scopes = scopes.split_whitespace().map(|word| word.parse::<Scope>().unwrap()).collect();
    Principal { kind: Kind::Token { id: "abcdefgh".to_owned(), name: "checkout".to_owned() }, scopes, caps }
}

fn entry(prefix: &str, seconds: Option<u64>) -> Option<Entry> {
    Some(Entry { prefix: prefix.parse().unwrap(), ttl: seconds.map(Duration::from_secs) })
}

/// Every scope by itself against every need.
#[test]
fn scopes_and_needs() {
    let needs = [
        Need::Read,
        Need::Report,
        Need::Block(None),
        Need::Block(entry("192.0.2.1", None)),
        Need::Block(entry("2001:db8::/64", None)),
        Need::Block(entry("192.0.2.0/24", None)),
        Need::Block(entry("2001:db8::/48", None)),
        Need::Block(entry("192.0.0.0/16", None)),
        Need::Block(entry("0.0.0.0/0", None)),
        Need::Allow(None),
        Need::Allow(entry("192.0.0.0/16", None)),
        Need::Config,
        Need::Admin,
    ];
    let table = [
        ("", ". . . . . . . . . . . . ."),
        ("read", "x . . . . . . . . . . . ."),
        ("report", ". x . . . . . . . . . . ."),
        ("report:host", ". x . . . . . . . . . . ."),
        ("block:host", ". . x x x . . . . . . . ."),
        ("block:prefix/24", ". . x x x x x . . . . . ."),
        ("block:prefix/16", ". . x x x x x x . . . . ."),
        ("allow", ". . . . . . . . . x x . ."),
        ("config", ". . . . . . . . . . . x ."),
        ("admin", "x x x x x x x x x x x x x"),
        ("read report block:host", "x x x x x . . . . . . . ."),
    ];
    for (scopes, row) in table {
        let principal = token(scopes, Caps::default());
        let marks: Vec<&str> = row.split(' ').collect();
        assert_eq!(marks.len(), needs.len());
        for (need, mark) in needs.iter().zip(marks) {
            assert_eq!(principal.may(need).is_ok(), mark == "x", "{scopes:?} and {need:?}");
        }
    }
}

#[test]
fn caps_hold_whatever_the_scopes() {
    let caps = Caps {
        max_ttl: Some(Duration::from_secs(3600)),
        max_prefix: Width::new(24),
        quota: PerMinute::new(10),
        ..Caps::default()
    };
    for scopes in ["block:prefix/8 allow", "admin"] {
        let principal = token(scopes, caps.clone());
        for need in [Need::Block, Need::Allow] {
            let may = |prefix, seconds| principal.may(&need(entry(prefix, seconds)));
            assert_eq!(may("192.0.2.0/24", Some(3600)), Ok(()));
            assert_eq!(may("2001:db8::/48", Some(1)), Ok(()));
            let longest = Duration::from_secs(3600);
            assert_eq!(may("192.0.2.0/24", Some(3601)), Err(Denied::TooLong { longest }));
            assert_eq!(may("192.0.2.0/24", None), Err(Denied::TooLong { longest }));
            assert!(matches!(may("192.0.2.0/23", Some(60)), Err(Denied::TooWide { .. })));
            assert!(matches!(may("2001:db8::/47", Some(60)), Err(Denied::TooWide { .. })));
            assert_eq!(principal.may(&need(None)), Ok(()));
        }
    }
    // The narrower of scope and cap.
    let host = token("block:host", caps);
    let denied = host.may(&Need::Block(entry("192.0.2.0/24", Some(1)))).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "192.0.2.0/24 is wider than the caller may ask for, which is /32 (IPv6: /64)"
    );
}

#[test]
fn owners_and_actors() {
    let named = |kind| {
        let principal = Principal { kind, scopes: Scopes::default(), caps: Caps::default() };
        (principal.owner_name(), principal.actor())
    };
    let text = str::to_owned;
    assert_eq!(named(Kind::Socket { uid: 0 }), (text("operator"), text("uid:0")));
    assert_eq!(
        named(Kind::Token { id: text("k3f9a2xq"), name: text("checkout") }),
        (text("app:checkout"), text("token:k3f9a2xq"))
    );
    assert_eq!(
        named(Kind::Certificate { name: text("spiffe://example.org/web"), owner: text("web") }),
        (text("app:web"), text("cert:spiffe://example.org/web"))
    );
    let jwt = |subject: &str| named(Kind::Jwt { issuer: text("https://issuer"), subject: text(subject) });
    assert_eq!(jwt("checkout"), (text("app:jwt.checkout"), text("jwt:checkout")));
    let (owner, actor) = jwt(&format!("evil\n\u{1b}[2J{}", "x".repeat(500)));
    assert!(names::is_name(&owner["app:".len()..]), "{owner}");
    assert!(actor.starts_with("jwt:evil\\u{a}\\u{1b}[2Jx") && actor.len() < 140, "{actor}");
    assert_ne!(jwt("a/b").0, jwt("a-b").0);
}

#[test]
fn who_is_an_operator() {
    assert!(Principal::operator(0).is_operator());
    assert!(!Principal::reader(0).is_operator());
    assert!(!token("admin", Caps::default()).is_operator());
    assert!(Principal::reader(1000).may(&Need::Read).is_ok());
    assert!(Principal::reader(1000).may(&Need::Block(None)).is_err());
}

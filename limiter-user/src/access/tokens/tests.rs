use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::access::{PerMinute, Scope};

const HOUR: Duration = Duration::from_secs(3600);

fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_268_800)
}

fn peer(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wanted(name: &str, caps: Caps) -> Wanted {
    let scopes = [Scope::Report].into_iter().collect();
    Wanted { name: name.to_owned(), scopes, caps, by: "uid:0".to_owned() }
}

fn caps() -> Caps {
    Caps {
        max_ttl: Some(HOUR),
        max_prefix: crate::access::Width::new(32),
        quota: PerMinute::new(1000),
        from: vec!["10.0.0.0/8".parse().unwrap()],
        expires: Some(noon() + 90 * 24 * HOUR),
    }
}

struct Fixture {
    directory: tempfile::TempDir,
    tokens: Tokens,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (tokens, warning) = Tokens::open(&directory.path().join("tokens.json"));
        assert_eq!(warning, None);
        Self { directory, tokens }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("tokens.json")
    }

    /// As after a restart.
    fn again(&self) -> Tokens {
        let (tokens, warning) = Tokens::open(&self.path());
        assert_eq!(warning, None);
        tokens
    }
}

fn verify(tokens: &Tokens, token: &str, at: SystemTime) -> Result<String, TokenRefused> {
    let presented = Presented::parse(token).unwrap();
    tokens.verify(&presented, peer("10.1.2.3"), at).map(|principal| principal.owner_name())
}

#[test]
fn a_token_is_good_until_it_expires() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    for tokens in [&fixture.tokens, &fixture.again()] {
        assert_eq!(verify(tokens, &created.token, noon()), Ok("app:checkout".to_owned()));
        assert_eq!(verify(tokens, &created.token, noon() + 90 * 24 * HOUR), Err(TokenRefused::Expired));
        let presented = Presented::parse(&created.token).unwrap();
        let principal = tokens.verify(&presented, peer("::ffff:10.0.0.1"), noon()).unwrap();
        assert_eq!(principal.caps, caps());
        assert_eq!(principal.scopes.to_string(), "report");
        assert_eq!(principal.actor(), format!("token:{}", created.listed.id));
        assert_eq!(tokens.verify(&presented, peer("11.0.0.1"), noon()), Err(TokenRefused::Elsewhere));
    }
    // The wrong secret says nothing of the token.
    let wrong = format!("lmt_{}_{}", created.listed.id, "0".repeat(64));
    let unknown = created.token.replacen(&created.listed.id, "aaaaaaaa", 1);
    for (token, at) in [(&wrong, noon()), (&unknown, noon()), (&wrong, noon() + 90 * 24 * HOUR)] {
        assert_eq!(verify(&fixture.tokens, token, at), Err(TokenRefused::Wrong));
    }
    assert_eq!(fixture.tokens.list(noon() + 119 * 24 * HOUR).len(), 1);
    assert_eq!(fixture.tokens.list(noon() + 121 * 24 * HOUR).len(), 0);
}

#[test]
fn what_cannot_be_a_token() {
    let fixture = Fixture::new();
    let refused = |wanted: Wanted| match fixture.tokens.create(wanted, noon()) {
        Err(TokenError::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(wanted("", Caps::default())).contains("name"));
    assert!(refused(wanted("a b", Caps::default())).contains("name"));
    assert!(refused(wanted("jwt.alice", Caps::default())).contains("jwt."));
    assert!(refused(Wanted { scopes: Scopes::default(), ..wanted("a", caps()) }).contains("scope"));
    assert!(refused(wanted("a", Caps { expires: Some(noon()), ..caps() })).contains("expired"));
    assert!(!fixture.path().exists());
}

#[test]
fn a_revoked_token_stays_revoked() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    let other = fixture.tokens.create(wanted("other", caps()), noon()).unwrap();
    let listed = fixture.tokens.revoke(&created.listed.id, noon() + HOUR).unwrap();
    assert_eq!(listed.revoked, Some(noon() + HOUR));
    for tokens in [&fixture.tokens, &fixture.again()] {
        assert_eq!(verify(tokens, &created.token, noon() + HOUR), Err(TokenRefused::Revoked));
        assert!(verify(tokens, &other.token, noon() + HOUR).is_ok());
        assert!(matches!(
            tokens.rotate(&created.listed.id, HOUR, noon() + HOUR),
            Err(TokenError::Invalid(_))
        ));
    }
    // Again is the same, with the time of the first.
    assert_eq!(fixture.tokens.revoke(&created.listed.id, noon() + 2 * HOUR).unwrap().revoked, listed.revoked);
    assert!(matches!(fixture.tokens.revoke("aaaaaaaa", noon()), Err(TokenError::NotFound(_))));
}

#[test]
fn the_former_secret_lives_on_for_the_overlap() {
    let fixture = Fixture::new();
    let first = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    let id = &first.listed.id;
    let second = fixture.tokens.rotate(id, HOUR, noon()).unwrap();
    assert_eq!(second.listed.former_until, Some(noon() + HOUR));
    let before_the_end = noon() + HOUR - Duration::from_secs(1);
    for tokens in [&fixture.tokens, &fixture.again()] {
        assert!(verify(tokens, &first.token, before_the_end).is_ok());
        assert_eq!(verify(tokens, &first.token, noon() + HOUR), Err(TokenRefused::Wrong));
        assert!(verify(tokens, &second.token, noon() + HOUR).is_ok());
    }
    let third = fixture.tokens.rotate(id, HOUR, noon()).unwrap();
    assert_eq!(verify(&fixture.tokens, &first.token, noon()), Err(TokenRefused::Wrong), "one former at most");
    assert!(verify(&fixture.tokens, &second.token, noon()).is_ok());
    let fourth = fixture.tokens.rotate(id, Duration::ZERO, noon()).unwrap();
    assert_eq!(verify(&fixture.tokens, &third.token, noon()), Err(TokenRefused::Wrong));
    assert!(verify(&fixture.tokens, &fourth.token, noon()).is_ok());
    assert!(fixture.tokens.rotate(id, LONGEST_OVERLAP + HOUR, noon()).is_err());
    // No former secret must not mean that any will do, or that of nobody.
    let nobodys = format!("lmt_{id}_{}", "0".repeat(64));
    assert_eq!(verify(&fixture.tokens, &nobodys, noon()), Err(TokenRefused::Wrong));
    // A revocation ends both.
    let fifth = fixture.tokens.rotate(id, HOUR, noon()).unwrap();
    fixture.tokens.revoke(id, noon()).unwrap();
    assert_eq!(verify(&fixture.tokens, &fifth.token, noon()), Err(TokenRefused::Revoked));
    assert_eq!(verify(&fixture.tokens, &fourth.token, noon()), Err(TokenRefused::Wrong));
}

#[test]
fn the_last_use_is_kept_to_the_minute() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    let used = |tokens: &Tokens| tokens.find(&created.listed.id, noon()).unwrap().used;
    assert_eq!(used(&fixture.tokens), None);
    let written = std::fs::metadata(fixture.path()).unwrap().modified().unwrap();
    fixture.tokens.flush().unwrap();
    assert_eq!(std::fs::metadata(fixture.path()).unwrap().modified().unwrap(), written, "nothing new");
    verify(&fixture.tokens, &created.token, noon() + Duration::from_secs(90)).unwrap();
    assert_eq!(used(&fixture.tokens), Some(noon() + Duration::from_secs(60)));
    assert_eq!(used(&fixture.again()), None);
    fixture.tokens.flush().unwrap();
    assert_eq!(used(&fixture.again()), Some(noon() + Duration::from_secs(60)));
}

#[test]
fn secrets_are_neither_kept_nor_printed() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    let secret = created.token.rsplit('_').next().unwrap();
    let rotated = fixture.tokens.rotate(&created.listed.id, HOUR, noon()).unwrap();
    let hash = sha256::hex(&Digest::of(&sha256::from_hex(secret).unwrap()).0);
    let file = std::fs::read_to_string(fixture.path()).unwrap();
    assert!(!file.contains(secret) && file.contains(&hash));
    let told = format!("{:?} {rotated:?} {:?} {created:?}", fixture.tokens, fixture.tokens.list(noon()));
    for secret in [secret, rotated.token.rsplit('_').next().unwrap(), &hash, &hash[..8], &secret[..8]] {
        assert!(!told.contains(secret), "{told}");
    }
    let mode = std::fs::metadata(fixture.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Whatever happens to the file, the daemon starts, nobody gets in, and it says so.
#[test]
fn damage_at_any_byte_is_noticed() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    fixture.tokens.rotate(&created.listed.id, HOUR, noon()).unwrap();
    let good = std::fs::read(fixture.path()).unwrap();
    assert!(file::parse(&good).is_ok());
    for at in 0..good.len() {
        assert!(file::parse(&good[..at]).is_err(), "cut off at {at}");
        for change in [1, 0x20, 0x80, 0xff] {
            let mut damaged = good.clone();
            damaged[at] ^= change;
            assert!(file::parse(&damaged).is_err(), "byte {at} by {change}");
        }
    }
    assert!(file::parse(&[&good[..], b"\n"].concat()).is_err());

    for (number, damaged) in [&good[..good.len() / 2], b"", b"{}\n", &[0; 1000]].into_iter().enumerate() {
        std::fs::write(fixture.path(), damaged).unwrap();
        let (tokens, warning) = Tokens::open(&fixture.path());
        assert!(warning.unwrap().contains("is damaged"));
        assert_eq!(verify(&tokens, &created.token, noon()), Err(TokenRefused::Wrong));
        let aside = fixture.directory.path().join(format!("tokens.json.corrupt-{}", number + 1));
        assert_eq!(std::fs::read(aside).unwrap(), damaged);
        // And it goes on.
        let new = tokens.create(wanted("checkout", caps()), noon()).unwrap();
        assert!(verify(&fixture.again(), &new.token, noon()).is_ok());
    }
}

/// A file from a later version is not guessed at.
#[test]
fn what_is_not_known_is_refused() {
    let write = |json: &str| {
        let sum = sha256::hex(&sha256::of(json.as_bytes()));
        file::parse(format!("{json}\nsha256:{sum}\n").as_bytes()).map(|tokens| tokens.len())
    };
    let digest = "ab".repeat(32);
    let token = |more: &str| {
        format!(
            "{{\"version\":1,\"tokens\":[{{\"id\":\"aaaaaaaa\",\"name\":\"a\",\"sha256\":\"{digest}\",\"scopes\":[\"read\"],\"created\":1,\"created_by\":\"uid:0\"{more}}}]}}"
        )
    };
    assert_eq!(write(&token("")), Ok(1));
    assert!(write(&token(",\"new_restriction\":1")).is_err());
    assert!(write(&token(",\"former_sha256\":\"00\"")).is_err());
    assert!(write(&token("").replace("\"read\"", "\"write\"")).is_err());
    assert!(write(&token("").replace("\"version\":1", "\"version\":2")).is_err());
    assert!(write(&token(",\"expires\":18446744073709551615")).is_err());
}

/// As on a full or read-only disk.
#[test]
fn what_cannot_be_written() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("checkout", caps()), noon()).unwrap();
    let id = &created.listed.id;
    // A directory in the way of the new file, which nobody can write through, not even root.
    let beside = fixture.directory.path().join("tokens.json.new");
    std::fs::create_dir(&beside).unwrap();
    let not_durable = |outcome: Result<(), TokenError>| matches!(outcome, Err(TokenError::NotDurable { .. }));
    assert!(not_durable(fixture.tokens.create(wanted("b", caps()), noon()).map(drop)));
    assert!(not_durable(fixture.tokens.rotate(id, HOUR, noon()).map(drop)));
    assert_eq!(fixture.tokens.list(noon()).len(), 1);
    assert!(verify(&fixture.tokens, &created.token, noon()).is_ok(), "the secret is as before");
    assert!(not_durable(fixture.tokens.revoke(id, noon()).map(drop)));
    assert_eq!(verify(&fixture.tokens, &created.token, noon()), Err(TokenRefused::Revoked), "at once");
    std::fs::remove_dir(&beside).unwrap();
    fixture.tokens.flush().unwrap();
    assert_eq!(
        verify(&fixture.again(), &created.token, noon()),
        Err(TokenRefused::Revoked),
        "later for good"
    );
}

/// Whoever reads meanwhile sees all of one state or the other.
#[test]
fn many_at_once() {
    let fixture = Fixture::new();
    let created = fixture.tokens.create(wanted("steady", caps()), noon()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let tokens = &fixture.tokens;
            scope.spawn(move || {
                for number in 0..5 {
                    let created =
                        tokens.create(wanted(&format!("t{thread}-{number}"), caps()), noon()).unwrap();
                    assert!(verify(tokens, &created.token, noon()).is_ok());
                    tokens.revoke(&created.listed.id, noon()).unwrap();
                }
            });
        }
        for _ in 0..1000 {
            assert!(verify(&fixture.tokens, &created.token, noon()).is_ok());
        }
    });
    assert_eq!(fixture.again().list(noon()).len(), 21);
}

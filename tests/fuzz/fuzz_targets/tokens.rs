//! Any `Authorization` header is a token, a JWT or neither; a token has one form, and no secret is printed.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The source: it is not public.
#[expect(dead_code, reason = "the daemon uses what this target does not")]
#[path = "../../../limiter-user/src/access/authorization.rs"]
mod authorization;
#[expect(dead_code, reason = "likewise")]
#[path = "../../../limiter-user/src/sha256.rs"]
mod sha256;

use authorization::{Credential, LONGEST, Presented, parse};

fuzz_target!(|header: &str| {
    let Ok(credential) = parse(header) else { return };
    assert!(header.len() <= LONGEST, "too long, and read");
    match credential {
        Credential::Token(presented) => {
            let secret: String = presented.secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let token = format!("lmt_{}_{secret}", presented.id);
            assert_eq!(header.split_once(' ').map(|(_, rest)| rest.trim_matches(' ')), Some(token.as_str()));
            assert_eq!(Presented::parse(&token), Ok(presented), "another form of the same");
            assert!(!format!("{credential:?}").contains(&secret), "the secret is printed");
        }
        Credential::Jwt(jwt) => {
            assert_eq!(jwt.split('.').count(), 3);
            assert!(jwt.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
            assert!(!format!("{credential:?}").contains(jwt), "the JWT is printed");
        }
    }
});

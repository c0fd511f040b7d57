//! One datagram: a syslog header of either form (RFC 3164 section 4.1, RFC 5424 section 6) or none, then a JSON object.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de};

use crate::excerpt;

/// The longest datagram that is read.
pub(super) const MAX_FRAME: usize = 16 << 10;
/// Bytes of a header: of RFC 5424 at most 5 fields of 255 with what is between them. Behind them a body begins or not at all.
const MAX_HEADER: usize = 2 << 10;

/// What is reported. Fields that are not known are left alone: the log format is somebody else's too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Body {
    #[serde(alias = "ip", alias = "client_ip")]
    pub address: IpAddr,
    /// The hook's own if absent.
    #[serde(default)]
    pub category: Option<String>,
    /// A number, or a text that is one, since log formats quote everything.
    #[serde(default = "one", deserialize_with = "number")]
    pub weight: u32,
    #[serde(default, alias = "user")]
    pub account: Option<String>,
    #[serde(default)]
    pub device: Option<String>,
}

fn one() -> u32 {
    1
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<'a> {
        Number(u32),
        Text(&'a str),
    }
    match Written::deserialize(from)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) => text.parse().map_err(de::Error::custom),
    }
}

/// Why a datagram is no report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    TooLong,
    /// There is no `{` where the body should begin.
    NoBody,
    /// The body is not JSON as expected; says where.
    Json(String),
    /// A text is longer than 256 bytes.
    Text(&'static str),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {MAX_FRAME} bytes"),
            Self::NoBody => f.write_str("there is no JSON object behind the syslog header"),
            Self::Json(error) => write!(f, "the JSON object is not as expected: {error}"),
            Self::Text(field) => write!(f, "{field} is longer than {} bytes", excerpt::LONGEST),
        }
    }
}

impl std::error::Error for Invalid {}

/// Reads a datagram.
///
/// # Errors
///
/// Why it is no report.
pub fn parse(frame: &[u8]) -> Result<Body, Invalid> {
    if frame.len() > MAX_FRAME {
        return Err(Invalid::TooLong);
    }
    let begin = frame.iter().take(MAX_HEADER).position(|byte| *byte == b'{').ok_or(Invalid::NoBody)?;
    // HAProxy ends its frames with a line feed, others with a NUL.
    let body = frame[begin..].trim_ascii_end();
    let body = body.strip_suffix(b"\0").unwrap_or(body);
    let mut body: Body = serde_json::from_slice(body).map_err(|error| Invalid::Json(error.to_string()))?;
    for (field, text) in
        [("category", &mut body.category), ("account", &mut body.account), ("device", &mut body.device)]
    {
        // What a variable of a log format has when there is nothing.
        if text.as_deref().is_some_and(|text| matches!(text, "" | "-")) {
            *text = None;
        }
        if text.as_deref().is_some_and(|text| text.len() > excerpt::LONGEST) {
            return Err(Invalid::Text(field));
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(frame: &str) -> String {
        parse(frame.as_bytes()).unwrap().address.to_string()
    }

    #[test]
    fn frames_of_servers() {
        let nginx = r#"<29>Nov 21 20:47:39 limiter: {"ip":"203.0.113.7","category":"rate_limit","weight":"3","account":"-"}"#;
        let expected = Body {
            address: "203.0.113.7".parse().unwrap(),
            category: Some("rate_limit".to_owned()),
            weight: 3,
            account: None,
            device: None,
        };
        assert_eq!(parse(nginx.as_bytes()), Ok(expected));
        let haproxy = "<30>1 2026-11-21T20:47:39.000000+00:00 - haproxy 4711 - - {\"ip\":\"2001:db8::7\"}\n";
        assert_eq!(address(haproxy), "2001:db8::7");
        assert_eq!(address(r#"{"address":"192.0.2.1","status":429,"user":"alice"}"#), "192.0.2.1");
        let user = parse(br#"<1>x: {"client_ip":"192.0.2.1","user":"alice"}"#).unwrap();
        assert_eq!((user.account.as_deref(), user.weight), (Some("alice"), 1));
        assert_eq!(address("<13>a: {\"ip\":\"192.0.2.1\"}\0"), "192.0.2.1");
    }

    #[test]
    fn what_is_no_report_says_why() {
        let why = |frame: &str| parse(frame.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            why("<29>Nov 21 20:47:39 limiter: 203.0.113.7"),
            "there is no JSON object behind the syslog header"
        );
        assert_eq!(
            why(&format!("{}{{", " ".repeat(MAX_HEADER))),
            "there is no JSON object behind the syslog header"
        );
        assert!(
            why("{\"ip\":\"gateway\"}").contains("the JSON object is not as expected: invalid IP address")
        );
        assert!(why("{}").contains("missing field"));
        assert!(why("{\"ip\":\"192.0.2.1\",\"weight\":-1}").contains("not as expected"));
        assert!(why("{\"ip\":\"192.0.2.1\",\"ip\":\"192.0.2.2\"}").contains("duplicate field"));
        let long = format!("{{\"ip\":\"192.0.2.1\",\"account\":\"{}\"}}", "a".repeat(257));
        assert_eq!(why(&long), "account is longer than 256 bytes");
        assert_eq!(why(&"x".repeat(MAX_FRAME + 1)), "longer than 16384 bytes");
    }

    /// Not the first byte of a header may be believed, nor stop the daemon.
    #[test]
    fn any_bytes_have_an_answer() {
        let mut seed = 7_u64;
        let whole = br#"<29>Nov 21 20:47:39 limiter: {"ip":"203.0.113.7","weight":"3","account":"a\u0041"}"#;
        for _ in 0..20_000 {
            let mut frame = whole.to_vec();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(seed >> 33).unwrap() % frame.len();
                frame[at] = seed.to_be_bytes()[0];
            }
            let _ = parse(&frame);
        }
        for depth in [10, 10_000] {
            assert!(parse("{\"ip\":[".repeat(depth).as_bytes()).is_err());
        }
    }
}

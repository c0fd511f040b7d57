//! What somebody may be allowed to do, as words: `read`, `report`, `block:host`, `block:prefix/24`, `allow`, `config`,
//! `admin`. Pure.

use std::fmt;
use std::str::FromStr;

use limiter_common::{Address, Prefix};

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `read`: lists, lookups, status, counters, events.
    Read,
    /// `report`, also written `report:host`: say what an address did. A report is about one host, never about a network;
    /// what follows from it is for the policies of the configuration.
    Report,
    /// `block:host` and `block:prefix/N`: block, and take back blocks of one's own.
    Block(Width),
    /// `allow`: allow, and take back allows of one's own. An allow wins over every block and limit.
    Allow,
    /// `config`: check the configuration, and have it read again.
    Config,
    /// `admin`: everything, tokens too. Only `force` is for operators on the control socket alone.
    Admin,
}

/// How wide a prefix may be. Written as the shortest length for IPv4; that for IPv6 is twice it, so that the same word
/// means about the same everywhere: a host is an IPv4 address or an IPv6 /64, as it is for limits, and a /24 goes with a /48.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Width(u8);

impl Width {
    /// An IPv4 address, or an IPv6 /64.
    pub const HOST: Self = Self(32);
    /// What the guards let anybody block at most: /8, and /16 for IPv6.
    pub const WIDEST: Self = Self(8);

    /// `None` if the length is not within 8 and 32.
    #[must_use]
    pub fn new(shortest_v4: u64) -> Option<Self> {
        let length = u8::try_from(shortest_v4).ok()?;
        (Self::WIDEST.0..=Self::HOST.0).contains(&length).then_some(Self(length))
    }

    /// The shortest length of an IPv4 prefix.
    #[must_use]
    pub fn v4(self) -> u8 {
        self.0
    }

    /// The shortest length of an IPv6 prefix.
    #[must_use]
    pub fn v6(self) -> u8 {
        2 * self.0
    }

    #[must_use]
    pub fn includes(self, prefix: Prefix) -> bool {
        prefix.length()
            >= match prefix.address() {
                Address::V4(_) => self.v4(),
                Address::V6(_) => self.v6(),
            }
    }

    /// Whether all that `other` includes is included.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.0 <= other.0
    }

    /// What both include.
    #[must_use]
    pub fn narrower(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}

/// `/24 (IPv6: /48)`.
impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{} (IPv6: /{})", self.v4(), self.v6())
    }
}

impl Scope {
    /// Whether whoever has this scope has `other` too.
    #[must_use]
    pub fn implies(self, other: Self) -> bool {
        match (self, other) {
            (Self::Admin, _) => true,
            (Self::Block(mine), Self::Block(other)) => mine.covers(other),
            (
                Self::Read | Self::Report | Self::Allow | Self::Config | Self::Block(_),
                Self::Read | Self::Report | Self::Allow | Self::Config | Self::Block(_) | Self::Admin,
            ) => self == other,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Report => f.write_str("report"),
            Self::Block(Width::HOST) => f.write_str("block:host"),
            Self::Block(width) => write!(f, "block:prefix/{}", width.v4()),
            Self::Allow => f.write_str("allow"),
            Self::Config => f.write_str("config"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

/// A word that is no scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidScope;

impl fmt::Display for InvalidScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected read, report, block:host, block:prefix/N with N from 8 to 32, allow, config or admin",
        )
    }
}

impl std::error::Error for InvalidScope {}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        Ok(match text {
            "read" => Self::Read,
            "report" | "report:host" => Self::Report,
            "block:host" => Self::Block(Width::HOST),
            "allow" => Self::Allow,
            "config" => Self::Config,
            "admin" => Self::Admin,
            _ => {
                let length = text.strip_prefix("block:prefix/").ok_or(InvalidScope)?;
                // Not what else `parse` takes: a sign, or zeros in front.
                let plain = length.bytes().all(|byte| byte.is_ascii_digit()) && !length.starts_with('0');
                let length = if plain { length.parse().ok() } else { None };
                Self::Block(length.and_then(Width::new).ok_or(InvalidScope)?)
            }
        })
    }
}

/// Some scopes: sorted, none of which is implied by another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Whether one of them implies `scope`.
    #[must_use]
    pub fn imply(&self, scope: Scope) -> bool {
        self.0.iter().any(|mine| mine.implies(scope))
    }

    /// Whether they imply all of `others`.
    #[must_use]
    pub fn imply_all(&self, others: &Self) -> bool {
        others.iter().all(|other| self.imply(other))
    }

    /// How wide what may be blocked is; `None` if nothing may.
    #[must_use]
    pub fn width(&self) -> Option<Width> {
        let width = |scope: &Scope| match scope {
            Scope::Block(width) => Some(*width),
            Scope::Admin => Some(Width::WIDEST),
            Scope::Read | Scope::Report | Scope::Allow | Scope::Config => None,
        };
        self.0.iter().filter_map(width).min()
    }

    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let mut all: Vec<Scope> = scopes.into_iter().collect();
        all.sort_unstable();
        all.dedup();
        let needed = |scope: &Scope| !all.iter().any(|other| other != scope && other.implies(*scope));
        Self(all.iter().copied().filter(needed).collect())
    }
}

/// As the `scope` of OAuth is written (RFC 6749 section 3.3): words with spaces between them.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{scope}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn words_and_back() {
        for text in
            ["read", "report", "block:host", "block:prefix/8", "block:prefix/31", "allow", "config", "admin"]
        {
            assert_eq!(scope(text).to_string(), text);
        }
        assert_eq!(scope("report:host"), scope("report"));
        assert_eq!(scope("block:prefix/32"), scope("block:host"));
        for text in [
            "",
            "Read",
            "read ",
            "block",
            "block:",
            "block:prefix",
            "block:prefix/",
            "block:prefix/0",
            "block:prefix/7",
            "block:prefix/33",
            "block:prefix/024",
            "block:prefix/+24",
            "block:prefix/-24",
            "block:prefix/280",
            "block:prefix/99999999999999999999",
            "report:prefix/24",
            "admin,read",
            "*",
        ] {
            assert_eq!(text.parse::<Scope>(), Err(InvalidScope), "{text:?}");
        }
    }

    /// The whole table: each row has the scopes that it implies.
    #[test]
    fn what_implies_what() {
        let all = [
            "read",
            "report",
            "block:host",
            "block:prefix/24",
            "block:prefix/16",
            "allow",
            "config",
            "admin",
        ];
        let implied = [
            ("read", &["read"] as &[&str]),
            ("report", &["report"]),
            ("block:host", &["block:host"]),
            ("block:prefix/24", &["block:host", "block:prefix/24"]),
            ("block:prefix/16", &["block:host", "block:prefix/24", "block:prefix/16"]),
            ("allow", &["allow"]),
            ("config", &["config"]),
            ("admin", &all),
        ];
        for (mine, expected) in implied {
            for other in all {
                let implies = scope(mine).implies(scope(other));
                assert_eq!(implies, expected.contains(&other), "{mine} and {other}");
            }
        }
    }

    #[test]
    fn widths_go_for_both_families() {
        let include = |scope: &str, prefix: &str| {
            let width = Scopes::from_iter([self::scope(scope)]).width().unwrap();
            width.includes(prefix.parse().unwrap())
        };
        for (scope, inside, outside) in [
            ("block:host", ["192.0.2.1", "2001:db8::/64"], ["192.0.2.0/31", "2001:db8::/63"]),
            ("block:prefix/24", ["192.0.2.0/24", "2001:db8::/48"], ["192.0.2.0/23", "2001:db8::/47"]),
            ("block:prefix/8", ["10.0.0.0/8", "2001::/16"], ["10.0.0.0/7", "2000::/15"]),
        ] {
            assert!(inside.iter().all(|prefix| include(scope, prefix)), "{scope} {inside:?}");
            assert!(!outside.iter().any(|prefix| include(scope, prefix)), "{scope} {outside:?}");
        }
        assert!(include("block:host", "2001:db8::1"));
    }

    #[test]
    fn what_is_implied_is_left_out() {
        let scopes = |words: &[&str]| words.iter().map(|word| scope(word)).collect::<Scopes>();
        assert_eq!(
            scopes(&["allow", "block:host", "block:prefix/24", "read", "read"]).to_string(),
            "read block:prefix/24 allow"
        );
        assert_eq!(scopes(&["read", "admin", "block:prefix/9"]).to_string(), "admin");
        assert_eq!(scopes(&["block:host", "block:prefix/24"]).width(), Width::new(24));
        assert_eq!(scopes(&["admin"]).width(), Some(Width::WIDEST));
        assert_eq!(scopes(&["read", "report", "allow", "config"]).width(), None);
    }
}

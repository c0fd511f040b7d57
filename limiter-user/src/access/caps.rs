//! What somebody is held to beside the scopes: how long, how wide, how often, from where, until when. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use limiter_common::{Address, Prefix};

use super::scope::Width;

/// Limits of a principal. What is `None` or empty is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caps {
    /// The longest that a block or allow may last. With it, nothing may be for good.
    pub max_ttl: Option<Duration>,
    /// The widest prefix that may be blocked or allowed, whatever the scopes say.
    pub max_prefix: Option<Width>,
    /// Blocks, allows and reports together, each entry of a batch by itself.
    pub quota: Option<PerMinute>,
    /// Networks that requests may come from.
    pub from: Vec<Prefix>,
    /// From then on, nothing is allowed.
    pub expires: Option<SystemTime>,
}

impl Caps {
    /// Whether requests may come from `peer`.
    #[must_use]
    pub fn admit(&self, peer: Address) -> bool {
        let peer = peer.canonical();
        self.from.is_empty() || self.from.iter().any(|network| network.contains(peer))
    }

    #[must_use]
    pub fn have_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether whoever is held to `self` is held to all that these say: what somebody gives away must not be more than
    /// they have.
    #[must_use]
    pub fn are_within(&self, outer: &Self) -> bool {
        fn bounded<T>(mine: Option<T>, outer: Option<T>, within: impl Fn(T, T) -> bool) -> bool {
            match (mine, outer) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(mine), Some(outer)) => within(mine, outer),
            }
        }
        let covered = |network: &Prefix| outer.from.iter().any(|outer| outer.covers(*network));
        bounded(self.max_ttl, outer.max_ttl, |mine, outer| mine <= outer)
            && bounded(self.max_prefix, outer.max_prefix, |mine, outer| outer.covers(mine))
            && bounded(self.quota, outer.quota, |mine, outer| mine <= outer)
            && bounded(self.expires, outer.expires, |mine, outer| mine <= outer)
            && (outer.from.is_empty() || (!self.from.is_empty() && self.from.iter().all(covered)))
    }

    /// What is within both. The networks are not looked at: they are those of `self`.
    #[must_use]
    pub fn strictest(self, other: &Self) -> Self {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.into_iter().chain(b).min()
        }
        let max_prefix = match (self.max_prefix, other.max_prefix) {
            (Some(mine), Some(other)) => Some(mine.narrower(other)),
            (mine, other) => mine.or(other),
        };
        Self {
            max_ttl: least(self.max_ttl, other.max_ttl),
            max_prefix,
            quota: least(self.quota, other.quota),
            from: self.from,
            expires: least(self.expires, other.expires),
        }
    }
}

/// How many a minute, at least one: `1000/min`, `10k/min`, `20/s`. As many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMinute(u32);

impl PerMinute {
    /// More than the daemon can take.
    const MOST: u32 = 10_000_000;

    /// `None` if it is 0 or more than ten million.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        let number = u32::try_from(number).ok()?;
        (1..=Self::MOST).contains(&number).then_some(Self(number))
    }

    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PerMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/min", self.0)
    }
}

/// A text that is no quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPerMinute;

impl fmt::Display for InvalidPerMinute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a quota of at most 10M/min, like 1000/min, 10k/min or 20/s")
    }
}

impl std::error::Error for InvalidPerMinute {}

impl FromStr for PerMinute {
    type Err = InvalidPerMinute;

    fn from_str(text: &str) -> Result<Self, InvalidPerMinute> {
        let (number, unit) = text.split_once('/').ok_or(InvalidPerMinute)?;
        let per = match unit {
            "min" => 1,
            "s" => 60,
            _ => return Err(InvalidPerMinute),
        };
        let (digits, thousands) = match number.as_bytes().last() {
            Some(b'k') => (&number[..number.len() - 1], 1_000),
            Some(b'M') => (&number[..number.len() - 1], 1_000_000),
            _ => (number, 1),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidPerMinute);
        }
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(per * thousands));
        number.and_then(Self::new).ok_or(InvalidPerMinute)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn quotas() {
        for (text, expected) in [
            ("1000/min", Some(1000)),
            ("10k/min", Some(10_000)),
            ("10M/min", Some(10_000_000)),
            ("20/s", Some(1200)),
            ("1/min", Some(1)),
            ("0/min", None),
            ("11M/min", None),
            ("1000", None),
            ("/min", None),
            ("k/min", None),
            ("+1/min", None),
            ("1.5k/min", None),
            ("1000/h", None),
            ("1000/ min", None),
            ("99999999999999999999/s", None),
            ("9999999999999M/s", None),
        ] {
            assert_eq!(text.parse().ok().map(PerMinute::number), expected, "{text:?}");
        }
    }

    fn caps() -> Caps {
        Caps {
            max_ttl: Some(Duration::from_secs(3600)),
            max_prefix: Width::new(24),
            quota: PerMinute::new(100),
            from: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            expires: Some(UNIX_EPOCH + Duration::from_secs(1000)),
        }
    }

    #[test]
    fn where_from_and_until_when() {
        let from = |text: &str| caps().admit(text.parse().unwrap());
        assert!(from("10.1.2.3") && from("2001:db8::1") && from("::ffff:10.1.2.3"));
        assert!(!from("11.0.0.1") && !from("2001:db9::1") && !from("::ffff:11.0.0.1"));
        assert!(Caps::default().admit("11.0.0.1".parse().unwrap()));
        let at = |seconds| caps().have_expired(UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(!at(999) && at(1000));
        assert!(!Caps::default().have_expired(SystemTime::now()));
    }

    #[test]
    fn nobody_gives_away_more_than_they_have() {
        let outer = caps();
        assert!(outer.are_within(&outer));
        assert!(outer.are_within(&Caps::default()));
        assert!(!Caps::default().are_within(&outer));
        let changes: [fn(&mut Caps); 9] = [
            |caps| caps.max_ttl = None,
            |caps| caps.max_ttl = Some(Duration::from_secs(3601)),
            |caps| caps.max_prefix = None,
            |caps| caps.max_prefix = Width::new(23),
            |caps| caps.quota = None,
            |caps| caps.quota = PerMinute::new(101),
            |caps| caps.from.clear(),
            |caps| caps.from.push("10.0.0.0/7".parse().unwrap()),
            |caps| caps.expires = None,
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let mut more = caps();
            change(&mut more);
            assert!(!more.are_within(&outer), "change {i}");
        }
        let mut less = caps();
        less.max_prefix = Some(Width::HOST);
        less.from = vec!["10.2.0.0/16".parse().unwrap()];
        assert!(less.are_within(&outer));
    }

    #[test]
    fn the_strictest_of_both() {
        assert_eq!(caps().strictest(&Caps::default()), caps());
        let unlimited = Caps { from: caps().from, ..Caps::default() };
        assert_eq!(unlimited.strictest(&caps()), caps());
        let other = Caps {
            max_ttl: Some(Duration::from_secs(60)),
            max_prefix: Width::new(16),
            quota: PerMinute::new(7),
            from: Vec::new(),
            expires: None,
        };
        let both = caps().strictest(&other);
        assert!(both.are_within(&caps()) && both.are_within(&other));
    }
}

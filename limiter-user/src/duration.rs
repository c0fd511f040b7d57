//! How long something lasts: `30s`, `10m`, `4h`, `7d`, `permanent`; and the way back for people.

use std::fmt;
use std::str::FromStr;

/// The longest time that can be said: 100 years. What is meant to last longer is permanent.
const LONGEST_SECONDS: u64 = 100 * 365 * 24 * 3600;

/// For a time, or for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    Seconds(u64),
    Permanent,
}

impl Lifetime {
    /// As in the protocol: absent for good.
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::Permanent => None,
        }
    }
}

/// Why a text is not a lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidLifetime {
    Zero,
    Negative,
    TooLong,
    Syntax,
}

impl fmt::Display for InvalidLifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "it must be at least one second",
            Self::Negative => "it cannot be negative",
            Self::TooLong => "longer than 100 years; write permanent",
            Self::Syntax => "expected 30s, 10m, 4h, 7d or permanent",
        })
    }
}

impl std::error::Error for InvalidLifetime {}

impl FromStr for Lifetime {
    type Err = InvalidLifetime;

    fn from_str(text: &str) -> Result<Self, InvalidLifetime> {
        if text == "permanent" {
            return Ok(Self::Permanent);
        }
        if text.trim_start().starts_with('-') {
            return Err(InvalidLifetime::Negative);
        }
        match humantime::parse_duration(text) {
            Ok(duration) if duration.as_secs() > LONGEST_SECONDS => Err(InvalidLifetime::TooLong),
            Ok(duration) if duration.as_secs() == 0 => Err(InvalidLifetime::Zero),
            Ok(duration) => Ok(Self::Seconds(duration.as_secs())),
            Err(humantime::DurationError::NumberOverflow) => Err(InvalidLifetime::TooLong),
            Err(
                humantime::DurationError::InvalidCharacter(_)
                | humantime::DurationError::NumberExpected(_)
                | humantime::DurationError::UnknownUnit { .. }
                | humantime::DurationError::Empty,
            ) => Err(InvalidLifetime::Syntax),
        }
    }
}

/// Two units at most: `3h 12m`, `6d 1h`, `42s`.
pub fn rough(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (1..365, _, _) => format!("{days}d {hours}h"),
        (_, _, _) => format!("{}y {}d", days / 365, days % 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_refused_texts() {
        for (text, expected) in [
            ("30s", Ok(Lifetime::Seconds(30))),
            ("10m", Ok(Lifetime::Seconds(600))),
            ("4h", Ok(Lifetime::Seconds(14_400))),
            ("7d", Ok(Lifetime::Seconds(604_800))),
            ("1h 30m", Ok(Lifetime::Seconds(5400))),
            ("permanent", Ok(Lifetime::Permanent)),
            ("0", Err(InvalidLifetime::Zero)),
            ("0s", Err(InvalidLifetime::Zero)),
            ("10ms", Err(InvalidLifetime::Zero)),
            ("-1h", Err(InvalidLifetime::Negative)),
            (" -1h", Err(InvalidLifetime::Negative)),
            ("101y", Err(InvalidLifetime::TooLong)),
            ("18446744073709551615s", Err(InvalidLifetime::TooLong)),
            ("18446744073709551616s", Err(InvalidLifetime::TooLong)),
            ("999999999999999w", Err(InvalidLifetime::TooLong)),
            ("1e300s", Err(InvalidLifetime::Syntax)),
            ("10", Err(InvalidLifetime::Syntax)),
            ("h", Err(InvalidLifetime::Syntax)),
            ("", Err(InvalidLifetime::Syntax)),
            ("forever", Err(InvalidLifetime::Syntax)),
        ] {
            assert_eq!(text.parse::<Lifetime>(), expected, "{text:?}");
        }
    }

    #[test]
    fn two_units_are_shown() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (11_520, "3h 12m"),
            (86_400, "1d 0h"),
            (604_799, "6d 23h"),
            (366 * 86_400, "1y 1d"),
        ] {
            assert_eq!(rough(seconds), text);
        }
    }
}

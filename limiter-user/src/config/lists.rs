//! Lists as text: one address or prefix a line, comments behind `#` or `;`. Used for list files and for imports.

use std::fmt;

use limiter_common::{Address, Prefix};

/// Problems that are told one by one; the others are only counted.
const TOLD: usize = 100;
/// Of a line that is not understood, this much is shown.
const SHOWN: usize = 60;

/// What a text holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// In the order of the text, with duplicates.
    pub prefixes: Vec<Prefix>,
    /// The first lines that are not understood, at most 100.
    pub problems: Vec<LineProblem>,
    /// Lines that are not understood.
    pub bad_lines: usize,
}

/// A line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineProblem {
    /// From 1.
    pub line: usize,
    /// The beginning of what is written there.
    pub text: String,
    pub why: limiter_common::prefix::InvalidPrefix,
}

impl fmt::Display for LineProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {:?}: {}", self.line, self.text, self.why)
    }
}

/// Reads a list. LF and CRLF end lines, a byte order mark is skipped, and what stands behind the prefix and white space
/// is refused unless it is a comment.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut parsed = Parsed::default();
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
        let entry = line.get(..end).unwrap_or(line).trim_ascii();
        if entry.is_empty() {
            continue;
        }
        match prefix(entry) {
            Ok(prefix) => parsed.prefixes.push(prefix),
            Err(why) => {
                parsed.bad_lines += 1;
                if parsed.problems.len() < TOLD {
                    let shown = entry.get(..SHOWN).unwrap_or(entry);
                    let text = String::from_utf8_lossy(shown).into_owned();
                    parsed.problems.push(LineProblem { line: i + 1, text, why });
                }
            }
        }
    }
    parsed
}

fn prefix(entry: &[u8]) -> Result<Prefix, limiter_common::prefix::InvalidPrefix> {
    // Most lines of long lists are plain IPv4 addresses.
    if let Some(octets) = octets(entry) {
        return Ok(Prefix::host(Address::V4(octets)));
    }
    match std::str::from_utf8(entry) {
        Ok(text) => text.parse(),
        Err(_) => Err(limiter_common::prefix::InvalidPrefix::Address),
    }
}

/// Four decimal numbers without leading zeros, and nothing else. What this refuses is tried again by the general
/// parser.
fn octets(entry: &[u8]) -> Option<[u8; 4]> {
    let mut octets = [0; 4];
    let mut parts = entry.split(|byte| *byte == b'.');
    for octet in &mut octets {
        let digits = parts.next()?;
        let number = match digits {
            [a] => digit(*a)?,
            [a @ b'1'..=b'9', b] => digit(*a)? * 10 + digit(*b)?,
            [a @ b'1'..=b'9', b, c] => digit(*a)? * 100 + digit(*b)? * 10 + digit(*c)?,
            _ => return None,
        };
        *octet = u8::try_from(number).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

fn digit(byte: u8) -> Option<u16> {
    byte.is_ascii_digit().then(|| u16::from(byte - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[u8]) -> Vec<String> {
        parse(list).prefixes.iter().map(Prefix::to_string).collect()
    }

    #[test]
    fn comments_blank_lines_and_line_ends() {
        let list = b"\xef\xbb\xbf192.0.2.1\r\n# all of it\r\n\r\n  10.1.2.3/8 ; ten\n\t2001:db8::1 # six\n;\n198.51.100.255";
        assert_eq!(texts(list), ["192.0.2.1", "10.0.0.0/8", "2001:db8::1", "198.51.100.255"]);
        assert_eq!(parse(list).bad_lines, 0);
    }

    #[test]
    fn bad_lines_are_told_with_their_number() {
        let parsed = parse(
            b"192.0.2.1\n192.0.2.256\n<html>\n10.0.0.0/33\n192.0.2.1 192.0.2.2\n\xff\xfe1\n010.0.0.1\n",
        );
        assert_eq!(parsed.prefixes.len(), 1);
        assert_eq!(parsed.bad_lines, 6);
        let told: Vec<String> = parsed.problems.iter().map(LineProblem::to_string).collect();
        assert_eq!(told[0], "line 2: \"192.0.2.256\": not an IPv4 or IPv6 address or prefix");
        assert!(told[2].starts_with("line 4: \"10.0.0.0/33\": the prefix length"), "{}", told[2]);
    }

    #[test]
    fn many_bad_lines_and_long_ones_stay_bounded() {
        let mut list = b"x\n".repeat(100_000);
        list.extend(b"y".repeat(1_000_000));
        let parsed = parse(&list);
        assert_eq!(parsed.bad_lines, 100_001);
        assert_eq!(parsed.problems.len(), TOLD);
        assert_eq!(parse(&b"y".repeat(1_000_000)).problems[0].text.len(), SHOWN);
    }

    /// The short cut for IPv4 must agree with the parser of `limiter-common`.
    #[test]
    fn the_short_cut_agrees() {
        let numbers = [
            "0", "00", "1", "01", "9", "10", "99", "099", "100", "199", "255", "256", "999", "1000", "", "+1",
        ];
        for a in numbers {
            for b in numbers {
                let text = format!("{a}.{b}.{a}.{b}");
                let expected = text.parse::<Prefix>().ok();
                assert_eq!(parse(text.as_bytes()).prefixes.first().copied(), expected, "{text}");
            }
        }
    }
}

//! Lists as text: one address or prefix a line, comments behind `#` or `;`. Used for list files and for imports.

use std::fmt;

use limiter_common::prefix::InvalidPrefix;
use limiter_common::{Address, Prefix};

use crate::prefixes::Prefixes;

/// Problems that are told one by one; the others are only counted.
const TOLD: usize = 100;
/// Of a line that is not understood, this much is shown.
const SHOWN: usize = 60;
/// Bytes of a line in which its entry, or the comment, must have begun and ended.
const MAX_LINE: usize = 4096;

/// What a text holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Sorted, without duplicates.
    pub prefixes: Prefixes,
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
    pub why: InvalidPrefix,
}

impl fmt::Display for LineProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {:?}: {}", self.line, self.text, self.why)
    }
}

/// Reads a list.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut parser = Parser::default();
    parser.feed(bytes);
    parser.finish()
}

/// Reads a list that comes in pieces. LF and CRLF end lines, a byte order mark is skipped, and what stands behind the
/// prefix and white space is refused unless it is a comment.
#[derive(Debug, Default)]
pub struct Parser {
    /// The beginning of a line whose end has not come yet: at most [`MAX_LINE`] bytes, and one more if there were more.
    begun: Vec<u8>,
    /// Complete lines so far.
    lines: usize,
    parsed: Parsed,
}

impl Parser {
    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        if !self.begun.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, behind) = rest.split_at(end.unwrap_or(rest.len()));
            self.keep(line);
            rest = behind;
            if end.is_none() {
                return;
            }
            let mut line = std::mem::take(&mut self.begun);
            self.line(&line);
            line.clear();
            self.begun = line;
            rest = rest.get(1..).unwrap_or_default();
        }
        let end = rest.iter().rposition(|byte| *byte == b'\n');
        let (lines, begun) = rest.split_at(end.map_or(0, |end| end + 1));
        if let Some(lines) = lines.strip_suffix(b"\n") {
            lines.split(|byte| *byte == b'\n').for_each(|line| self.line(line));
        }
        self.keep(begun);
    }

    /// Prefixes so far, by family.
    #[must_use]
    pub fn families(&self) -> [usize; 2] {
        self.parsed.prefixes.families()
    }

    /// Keeps more of a line.
    fn keep(&mut self, more: &[u8]) {
        let room = (MAX_LINE + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(more.get(..room).unwrap_or(more));
    }

    /// What all pieces together hold.
    #[must_use]
    pub fn finish(mut self) -> Parsed {
        let last = std::mem::take(&mut self.begun);
        self.line(&last);
        self.parsed.prefixes.sort();
        self.parsed
    }

    fn line(&mut self, line: &[u8]) {
        self.lines += 1;
        let line = if self.lines == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        // Most lines of long lists are plain IPv4 addresses.
        if let Some(octets) = octets(line) {
            self.parsed.prefixes.push(Prefix::host(Address::V4(octets)));
            return;
        }
        let seen = line.get(..MAX_LINE).unwrap_or(line);
        let comment = seen.iter().position(|byte| matches!(byte, b'#' | b';'));
        let entry = seen.get(..comment.unwrap_or(seen.len())).unwrap_or(seen).trim_ascii();
        let cut = comment.is_none() && seen.len() < line.len();
        if entry.is_empty() && !cut {
            return;
        }
        match prefix(entry) {
            Ok(prefix) if !cut => self.parsed.prefixes.push(prefix),
            Ok(_) => self.refuse(entry, InvalidPrefix::Address),
            Err(why) => self.refuse(entry, why),
        }
    }

    fn refuse(&mut self, entry: &[u8], why: InvalidPrefix) {
        self.parsed.bad_lines += 1;
        if self.parsed.problems.len() < TOLD {
            let shown = entry.get(..SHOWN).unwrap_or(entry);
            let text = String::from_utf8_lossy(shown).into_owned();
            self.parsed.problems.push(LineProblem { line: self.lines, text, why });
        }
    }
}

fn prefix(entry: &[u8]) -> Result<Prefix, InvalidPrefix> {
    if let Some(octets) = octets(entry) {
        return Ok(Prefix::host(Address::V4(octets)));
    }
    match std::str::from_utf8(entry) {
        Ok(text) => text.parse(),
        Err(_) => Err(InvalidPrefix::Address),
    }
}

/// Four decimal numbers without leading zeros, and nothing else. What this refuses is tried again by the general
/// parser.
fn octets(entry: &[u8]) -> Option<[u8; 4]> {
    let mut octets = [0; 4];
    let mut rest = entry;
    for (i, octet) in octets.iter_mut().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let (number, behind) = match rest {
            [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', behind @ ..] => {
                (digit(*a) * 100 + digit(*b) * 10 + digit(*c), behind)
            }
            [a @ b'1'..=b'9', b @ b'0'..=b'9', behind @ ..] => (digit(*a) * 10 + digit(*b), behind),
            [a @ b'0'..=b'9', behind @ ..] => (digit(*a), behind),
            _ => return None,
        };
        *octet = u8::try_from(number).ok()?;
        rest = behind;
    }
    rest.is_empty().then_some(octets)
}

/// The value of an ASCII digit.
fn digit(byte: u8) -> u16 {
    u16::from(byte - b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[u8]) -> Vec<String> {
        parse(list).prefixes.iter().map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn comments_blank_lines_and_line_ends() {
        let list = b"\xef\xbb\xbf192.0.2.1\r\n# all of it\r\n\r\n  10.1.2.3/8 ; ten\n\t2001:db8::1 # six\n;\n198.51.100.255";
        assert_eq!(texts(list), ["10.0.0.0/8", "192.0.2.1", "198.51.100.255", "2001:db8::1"]);
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

    /// However a text is cut into pieces, it says the same.
    #[test]
    fn pieces_of_any_size_say_the_same() {
        let mut list =
            b"\xef\xbb\xbf192.0.2.1\r\n# \xef\xbb\xbf\n\n10.0.0.0/8;x\n2001:db8::1\nbad\n\n 192.0.2.2 # y"
                .to_vec();
        list.extend(b"z".repeat(2 * MAX_LINE));
        list.extend(b"\n192.0.2.3".iter().chain(&b" ".repeat(MAX_LINE)).chain(b"\n192.0.2.4"));
        let whole = parse(&list);
        assert_eq!(whole.prefixes.len(), 5);
        assert_eq!(whole.problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [6, 9]);
        for size in (1..40).chain([MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, 3 * MAX_LINE]) {
            let mut parser = Parser::default();
            list.chunks(size).for_each(|piece| parser.feed(piece));
            assert!(parser.begun.capacity() <= 4 * MAX_LINE);
            assert_eq!(parser.finish(), whole, "in pieces of {size}");
        }
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
                assert_eq!(parse(text.as_bytes()).prefixes.iter().next(), expected, "{text}");
            }
        }
    }
}

//! Reads TOML values and collects what is wrong with them, so that all problems are reported at once.
//!
//! Not serde's derive: it stops at the first problem, and forgets the place of half of them.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Report {
    found: RefCell<Vec<Found>>,
}

#[derive(Debug)]
struct Found {
    at: usize,
    key: String,
    text: String,
}

impl Report {
    pub(super) fn add(&self, at: usize, key: impl Into<String>, text: impl Into<String>) {
        self.found.borrow_mut().push(Found { at, key: key.into(), text: text.into() });
    }

    /// The problems in the order of the file; `None` if there are none.
    pub(super) fn into_problems(self, text: &str, file: &Path) -> Option<Problems> {
        let mut found = self.found.into_inner();
        if found.is_empty() {
            return None;
        }
        found.sort_by_key(|found| found.at);
        let mut lines = Lines { text, line: 1, start: 0 };
        let problems = found
            .into_iter()
            .map(|Found { at, key, text }| {
                let (line, column) = lines.place(at);
                Problem { line, column, key, text }
            })
            .collect();
        Some(Problems { file: file.to_owned(), problems })
    }
}

/// Turns rising offsets into lines and columns in one pass.
struct Lines<'t> {
    text: &'t str,
    line: usize,
    start: usize,
}

impl Lines<'_> {
    fn place(&mut self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let bytes = self.text.as_bytes();
        for (i, byte) in bytes.iter().enumerate().take(at).skip(self.start) {
            if *byte == b'\n' {
                self.line += 1;
                self.start = i + 1;
            }
        }
        let is_start = |byte: &&u8| (**byte as i8) >= -0x40;
        (self.line, 1 + bytes[self.start..at].iter().filter(is_start).count())
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Value<'a> {
    pub(super) key: String,
    pub(super) at: usize,
    value: &'a DeValue<'a>,
    report: &'a Report,
}

impl<'a> Value<'a> {
    fn new(key: String, value: &'a Spanned<DeValue<'a>>, report: &'a Report) -> Self {
        Self { key, at: value.span().start, value: value.get_ref(), report }
    }

    /// Reports what is wrong with this value.
    pub(super) fn problem(&self, text: impl Into<String>) {
        self.report.add(self.at, self.key.clone(), text);
    }

    fn expected(&self, what: &str) {
        self.problem(format!("expected {what}, found {}", kind(self.value)));
    }

    /// `what` describes the string, with an example.
    pub(super) fn string(&self, what: &str) -> Option<&'a str> {
        let found = self.as_string();
        if found.is_none() {
            self.expected(what);
        }
        found
    }

    pub(super) fn as_string(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    pub(super) fn is_false(&self) -> bool {
        matches!(self.value, DeValue::Boolean(false))
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    pub(super) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    pub(super) fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let what = || format!("a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.as_integer() else {
            self.expected(&what());
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(format!("{integer} is out of bounds: expected {}", what()));
                None
            }
        }
    }

    /// `what` describes the elements.
    pub(super) fn array(&self, what: &str) -> Option<Vec<Value<'a>>> {
        let DeValue::Array(array) = self.value else {
            self.expected(&format!("an array of {what}"));
            return None;
        };
        let element = |(i, value)| Value::new(format!("{}[{i}]", self.key), value, self.report);
        Some(array.iter().enumerate().map(element).collect())
    }

    /// `what` is an example of the table.
    pub(super) fn table(&self, what: &str) -> Option<Table<'a>> {
        let DeValue::Table(table) = self.value else {
            self.expected(&format!("a table like {what}"));
            return None;
        };
        Some(Table { key: self.key.clone(), at: self.at, table, known: Vec::new(), report: self.report })
    }
}

/// A table whose keys are asked for one by one; [`Table::finish`] reports those that nobody asked for.
#[derive(Debug)]
pub(super) struct Table<'a> {
    key: String,
    pub(super) at: usize,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
    report: &'a Report,
}

impl<'a> Table<'a> {
    pub(super) fn root(table: &'a Spanned<DeTable<'a>>, report: &'a Report) -> Self {
        Self { key: String::new(), at: 0, table: table.get_ref(), known: Vec::new(), report }
    }

    pub(super) fn path(&self, key: &str) -> String {
        if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) }
    }

    pub(super) fn optional(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        self.table.get(key).map(|value| Value::new(self.path(key), value, self.report))
    }

    /// `what` describes the value, with an example.
    pub(super) fn required(&mut self, key: &'static str, what: &str) -> Option<Value<'a>> {
        let value = self.optional(key);
        if value.is_none() {
            self.problem(key, format!("missing: {what}"));
        }
        value
    }

    /// Reports a problem of the table's `key`, at the table.
    pub(super) fn problem(&self, key: &str, text: impl Into<String>) {
        self.report.add(self.at, self.path(key), text);
    }

    /// The tables of `[[key]]`; none if it is absent.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.optional(key) else {
            return Vec::new();
        };
        if let DeValue::Table(_) = value.value {
            value.problem(format!("there can be several of these: write [[{key}]] instead of [{key}]"));
            return Vec::new();
        }
        let elements = value.array(&format!("tables, each under [[{key}]]")).unwrap_or_default();
        elements.iter().filter_map(|element| element.table(&format!("[[{key}]]"))).collect()
    }

    /// The table `[key]`; as if it were empty when it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Table<'a> {
        static EMPTY: std::sync::LazyLock<DeTable<'static>> = std::sync::LazyLock::new(DeTable::new);
        let found = self.optional(key).and_then(|value| value.table(&format!("[{key}]")));
        found.unwrap_or_else(|| Table {
            key: self.path(key),
            at: self.at,
            table: &EMPTY,
            known: Vec::new(),
            report: self.report,
        })
    }

    /// Reports the keys that were not asked for.
    pub(super) fn finish(&self) {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let text = match nearest(name, &self.known) {
                Some(near) => format!("unknown key; did you mean `{near}`?"),
                None => format!("unknown key; expected one of: {}", self.known.join(", ")),
            };
            self.report.add(key.span().start, self.path(&printable(name)), text);
        }
    }
}

/// `name` as it can be shown in one line of a reasonable length.
fn printable(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_debug).collect()
}

fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", printable(text)),
        DeValue::Integer(number) => format!("the number {}", printable(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", printable(&number.to_string())),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a time".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The one of `known` that `name` was probably meant to be.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 64 {
        return None;
    }
    let close = |candidate: &&'k str| {
        let distance = distance(name, candidate);
        (distance <= 1 + candidate.len() / 5).then_some((distance, *candidate))
    };
    known.iter().filter_map(close).min().map(|(_, candidate)| candidate)
}

/// The edit distance in which a swap of neighbours counts as one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Reports the errors of syntax: the first of each line, since the others mostly follow from it.
pub(super) fn syntax(errors: &[toml::de::Error], text: &str, report: &Report) {
    let mut errors: Vec<&toml::de::Error> = errors.iter().collect();
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let mut reported = None;
    for error in errors {
        let span: Range<usize> = error.span().unwrap_or_default();
        let line = text.get(..span.start).map(|before| before.bytes().filter(|byte| *byte == b'\n').count());
        if reported.replace(line) == Some(line) {
            continue;
        }
        let there = text.get(span.clone()).unwrap_or_default().trim();
        let there = if there.is_empty() { String::new() } else { format!(": `{}`", printable(there)) };
        report.add(span.start, "", format!("{}{there}", error.message()));
    }
}

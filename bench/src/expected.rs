//! What the ratios of the short form are expected to be, so that CI notices when the data path gets slower. Ratios of
//! programs on one machine hardly depend on the machine; how much worse they may be is said with each.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use crate::report::{Bound, Target, figure};

/// As kept in the repository.
const EXPECTED: &str = include_str!("../expected.json");

/// Ratios by what they are of.
type Ratios = BTreeMap<String, f64>;

/// Ratios that are clearly worse than expected, as sentences.
pub(crate) fn regressions(targets: &[Target]) -> anyhow::Result<Vec<String>> {
    let expected: Ratios = serde_json::from_str(EXPECTED).context("bench/expected.json")?;
    Ok(worse(targets, &expected))
}

fn worse(targets: &[Target], expected: &Ratios) -> Vec<String> {
    let mut sentences = Vec::new();
    for Target { what, measured, bound, slack, .. } in targets {
        let Some(expected) = expected.get(what) else {
            println!("nothing is expected of: {what}; see --keep");
            continue;
        };
        // Only if the whole interval is worse.
        let (is_worse, seen) = match bound {
            Bound::AtMost(_) => (measured.low > expected * slack, measured.low),
            Bound::AtLeast(_) => (measured.high < expected / slack, measured.high),
        };
        if is_worse {
            let (seen, expected) = (figure(seen), figure(*expected));
            sentences.push(format!("{what} is {seen} at best, and {expected} is expected"));
        }
    }
    sentences
}

/// Makes the measured ratios the expected ones.
pub(crate) fn keep(targets: &[Target]) -> anyhow::Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("expected.json");
    let rounded = |value: f64| (value * 1e4).round() / 1e4;
    let ratios: Ratios =
        targets.iter().map(|target| (target.what.clone(), rounded(target.measured.median))).collect();
    let text = serde_json::to_string_pretty(&ratios).context("ratios as JSON")? + "\n";
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Spread;

    fn check(low: f64, high: f64, bound: Bound, is_worse: bool) {
        let measured = Spread { median: f64::midpoint(low, high), low, high };
        let target = Target { id: "R1", what: "a / b".into(), measured, bound, slack: 1.5 };
        let expected = Ratios::from([("a / b".to_owned(), 1.0)]);
        assert_eq!(worse(&[target], &expected).len(), usize::from(is_worse), "{measured:?} {bound:?}");
    }

    #[test]
    fn only_what_is_surely_worse_is_a_regression() {
        check(1.4, 2.0, Bound::AtMost(1.0), false);
        check(1.6, 2.0, Bound::AtMost(1.0), true);
        check(0.1, 0.2, Bound::AtMost(1.0), false);
        check(0.6, 0.7, Bound::AtLeast(1.0), false);
        check(0.5, 0.6, Bound::AtLeast(1.0), true);
        check(5.0, 6.0, Bound::AtLeast(1.0), false);
    }

    #[test]
    fn what_is_expected_can_be_read() {
        let expected: Ratios = serde_json::from_str(EXPECTED).unwrap();
        assert!(expected.values().all(|ratio| *ratio > 0.0), "{expected:?}");
    }
}

//! What an operator should know of what happened, for a day; then it is history, which the log has.

use std::collections::VecDeque;

use limiter_common::Nanos;

/// How long each is told.
const TOLD: Nanos = Nanos::from_secs(24 * 3600);
/// As many are told; the oldest go.
const MOST: usize = 100;

/// Sentences with the time of each, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Warnings(VecDeque<(Nanos, String)>);

impl Warnings {
    /// Tells `warning` from `now` on. What is told already is told for longer.
    pub(super) fn push(&mut self, warning: String, now: Nanos) {
        self.0.retain(|(_, known)| *known != warning);
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back((now, warning));
    }

    pub(super) fn told(&self, now: Nanos) -> impl Iterator<Item = &str> {
        let recent = self.0.iter().filter(move |(then, _)| now.saturating_sub(*then) <= TOLD);
        recent.map(|(_, warning)| warning.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_for_a_day_and_so_many_at_a_time() {
        let hour = |hours: u64| Nanos::from_secs(hours * 3600);
        let mut warnings = Warnings::default();
        warnings.push("a".to_owned(), hour(1));
        warnings.push("b".to_owned(), hour(2));
        warnings.push("a".to_owned(), hour(3));
        let told = |warnings: &Warnings, hours| warnings.told(hour(hours)).collect::<Vec<_>>().join(" ");
        assert_eq!([4, 26].map(|hours| told(&warnings, hours)), ["b a", "b a"]);
        assert_eq!(told(&warnings, 27), "a");
        assert_eq!(told(&warnings, 28), "");
        for number in 0..MOST {
            warnings.push(number.to_string(), hour(3));
        }
        assert_eq!(warnings.told(hour(3)).count(), MOST);
        assert_eq!(warnings.told(hour(3)).next(), Some("0"));
    }
}

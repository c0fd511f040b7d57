//! `[escalation]`: how long those are blocked who come back.

use super::reader::{Table, Value};
use crate::blocklist::{Ladder, MAX_STEPS, Owner};
use crate::duration::Lifetime;

/// How long blocks last that get longer each time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Escalation {
    /// Of all owners that are not named.
    pub default: Ladder,
    pub owners: Vec<(Owner, Ladder)>,
}

impl Escalation {
    #[must_use]
    pub fn of(&self, owner: &Owner) -> &Ladder {
        let named = self.owners.iter().find(|(named, _)| named == owner);
        named.map_or(&self.default, |(_, ladder)| ladder)
    }
}

/// Reads `[escalation]`, which may be absent.
pub(super) fn read(mut table: Table<'_>) -> Escalation {
    let default = ladder(&mut table, &Ladder::default());
    let mut owners: Vec<(Owner, Ladder)> = Vec::new();
    for mut table in table.tables("owner") {
        let what = "whose blocks these are, like \"fail2ban:sshd\"";
        let value = table.required("owner", what);
        let owner = value.as_ref().and_then(|value| owner(value, what));
        let ladder = ladder(&mut table, &default);
        table.finish();
        let (Some(value), Some(owner)) = (value, owner) else { continue };
        if owners.iter().any(|(named, _)| *named == owner) {
            value.problem(format!("{owner} is there twice"));
        }
        owners.push((owner, ladder));
    }
    table.finish();
    Escalation { default, owners }
}

fn owner(value: &Value<'_>, what: &str) -> Option<Owner> {
    let text = value.string(what)?;
    match text.parse::<Owner>() {
        Ok(owner) if owner.is_stored() => Some(owner),
        Ok(owner) => {
            value.problem(format!("{owner} is a file, whose entries do not expire"));
            None
        }
        Err(error) => {
            value.problem(format!("{text:?} is no owner: {error}"));
            None
        }
    }
}

/// The keys that are absent are those of `default`.
fn ladder(table: &mut Table<'_>, default: &Ladder) -> Ladder {
    let what = "times, like [\"10m\", \"1h\", \"1d\", \"7d\"]";
    let steps = table.optional("steps").and_then(|value| {
        let written = value.array(what)?;
        if !(1..=MAX_STEPS).contains(&written.len()) {
            value.problem(format!("{} steps; expected 1 to {MAX_STEPS}", written.len()));
        }
        let steps: Vec<u64> =
            written.iter().filter_map(|step| seconds(step, "a time, like \"10m\"")).collect();
        if !steps.is_sorted() {
            value.problem("each step has to be at least as long as the one before");
        }
        (!steps.is_empty()).then_some(steps)
    });
    let forget = table.optional("forget").and_then(|value| seconds(&value, "a time, like \"30d\""));
    Ladder { steps: steps.unwrap_or_else(|| default.steps.clone()), forget: forget.unwrap_or(default.forget) }
}

fn seconds(value: &Value<'_>, what: &str) -> Option<u64> {
    let text = value.string(what)?;
    match text.parse::<Lifetime>() {
        Ok(Lifetime::Seconds(seconds)) => Some(seconds),
        Ok(Lifetime::Permanent) => {
            value.problem(format!("for good is no step; expected {what}"));
            None
        }
        Err(error) => {
            value.problem(format!("{text:?} is not {what}: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(text: &str) -> Result<Escalation, String> {
        let text = format!("[[interface]]\nname = \"eth0\"\n{text}");
        let config = crate::config::parse(&text, Path::new("x")).map_err(|problems| problems.to_string())?;
        Ok(config.escalation)
    }

    #[test]
    fn owners_have_what_is_not_said_otherwise() {
        assert_eq!(parsed(""), Ok(Escalation::default()));
        let escalation = parsed(
            "[escalation]\nsteps = [\"1m\", \"1h\"]\n[[escalation.owner]]\nowner = \"crowdsec\"\nforget = \"2h\"\n",
        );
        let escalation = escalation.unwrap();
        let forget = Ladder::default().forget;
        assert_eq!(*escalation.of(&Owner::Operator), Ladder { steps: vec![60, 3600], forget });
        assert_eq!(*escalation.of(&Owner::Crowdsec), Ladder { steps: vec![60, 3600], forget: 7200 });
    }

    #[test]
    fn what_is_refused() {
        for (text, why) in [
            ("steps = []", "expected 1 to 32"),
            ("steps = [\"1h\", \"1m\"]", "at least as long"),
            ("steps = [\"permanent\"]", "no step"),
            ("steps = [\"soon\"]", "is not a time"),
            ("steps = \"1h\"", "expected an array"),
            ("forget = 5", "expected a time"),
            ("[[escalation.owner]]\nowner = \"list:drop\"", "do not expire"),
            ("[[escalation.owner]]\nowner = \"nobody\"", "is no owner"),
            ("[[escalation.owner]]\nsteps = [\"1h\"]", "missing"),
            (
                "[[escalation.owner]]\nowner = \"crowdsec\"\n[[escalation.owner]]\nowner = \"crowdsec\"",
                "twice",
            ),
        ] {
            let problems = parsed(&format!("[escalation]\n{text}")).unwrap_err();
            assert!(problems.contains(why), "{text}: {problems}");
        }
    }
}

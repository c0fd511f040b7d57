//! Changes that nobody has confirmed yet, one in a row: the key is the number, big-endian; the value a CRC-32C of the key and
//! of the rest, little-endian, and the rest JSON. A damaged row is left out: what it would roll back stays.

use std::sync::Arc;

use limiter_common::{Nanos, Prefix};
use redb::{TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::crc::checksum;
use super::expiry::{Boot, Expiry};
use crate::blocklist::{Owner, Terms};
use crate::config::Action;

/// The version of the form is in the name.
pub(super) const UNCONFIRMED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("unconfirmed-1");

/// A change that is rolled back unless somebody confirms it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    pub id: u64,
    /// When it is rolled back, by the clock of the boot.
    pub ends: Nanos,
    /// Whose request it was.
    pub owner: Owner,
    pub actor: Arc<str>,
    /// `block.add`.
    pub what: Arc<str>,
    pub undo: Vec<Undo>,
}

/// What was claimed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undo {
    pub prefix: Prefix,
    pub action: Action,
    pub owner: Owner,
    /// `None`: nothing.
    pub former: Option<Terms>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    boot: [u8; 16],
    ends: Times,
    owner: String,
    actor: String,
    what: String,
    undo: Vec<Former>,
}

/// An [`Expiry`] but for the boot: given, by the wall clock, by the clock of the boot.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Times(u64, u64, u64);

#[derive(Serialize, Deserialize)]
struct Former {
    prefix: String,
    action: Action,
    owner: String,
    terms: Option<Said>,
}

#[derive(Serialize, Deserialize)]
struct Said {
    /// Absent for good.
    until: Option<Times>,
    created: u64,
    actor: Option<String>,
    reason: Option<String>,
}

impl Times {
    fn new(until: Nanos, boot: Boot) -> Self {
        let Expiry { given, wall, boot, .. } = Expiry::new(until, boot);
        Self(given.0, wall, boot.0)
    }

    /// `None` if it has passed.
    fn until(self, written: [u8; 16], boot: Boot) -> Option<Nanos> {
        let Self(given, wall, until) = self;
        Expiry { given: Nanos(given), wall, boot: Nanos(until), boot_id: written }.until(boot)
    }
}

impl Unconfirmed {
    fn key(id: u64) -> [u8; 8] {
        id.to_be_bytes()
    }

    fn encode(&self, boot: Boot) -> Vec<u8> {
        let said = |terms: &Terms| Said {
            until: (terms.until != Nanos::NEVER).then(|| Times::new(terms.until, boot)),
            created: terms.created,
            actor: terms.actor.as_deref().map(str::to_owned),
            reason: terms.reason.as_deref().map(str::to_owned),
        };
        let former = |undo: &Undo| Former {
            prefix: undo.prefix.to_string(),
            action: undo.action,
            owner: undo.owner.to_string(),
            terms: undo.former.as_ref().map(said),
        };
        let row = Row {
            boot: boot.id,
            ends: Times::new(self.ends, boot),
            owner: self.owner.to_string(),
            actor: self.actor.to_string(),
            what: self.what.to_string(),
            undo: self.undo.iter().map(former).collect(),
        };
        // Strings and numbers can always be written.
        let rest = serde_json::to_vec(&row).unwrap_or_default();
        let mut value = checksum([&Self::key(self.id), &rest]).to_le_bytes().to_vec();
        value.extend(rest);
        value
    }

    /// `None` if it is damaged.
    pub(super) fn decode(key: &[u8], value: &[u8], boot: Boot) -> Option<Self> {
        let (sum, rest) = value.split_first_chunk()?;
        if u32::from_le_bytes(*sum) != checksum([key, rest]) {
            return None;
        }
        let row: Row = serde_json::from_slice(rest).ok()?;
        let terms = |said: Said| {
            let until = match said.until {
                None => Nanos::NEVER,
                Some(times) => times.until(row.boot, boot)?,
            };
            Some(Terms {
                until,
                created: said.created,
                actor: said.actor.map(Arc::from),
                reason: said.reason.map(Arc::from),
            })
        };
        let undo = |former: Former| {
            let (prefix, owner) = (former.prefix.parse().ok()?, former.owner.parse().ok()?);
            Some(Undo { prefix, action: former.action, owner, former: former.terms.and_then(terms) })
        };
        Some(Self {
            id: u64::from_be_bytes(key.try_into().ok()?),
            ends: row.ends.until(row.boot, boot).unwrap_or(Nanos(0)),
            owner: row.owner.parse().ok()?,
            actor: row.actor.into(),
            what: row.what.into(),
            undo: row.undo.into_iter().map(undo).collect::<Option<_>>()?,
        })
    }
}

/// Makes these the rows of the table: those with a value are written, the others taken out.
pub(super) fn write(
    transaction: &WriteTransaction,
    changes: &[(u64, Option<&Unconfirmed>)],
    boot: Boot,
) -> Result<(), redb::Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(UNCONFIRMED)?;
    for (id, change) in changes {
        let key = Unconfirmed::key(*id);
        match change {
            Some(change) => drop(table.insert(key.as_slice(), change.encode(boot).as_slice())?),
            None => drop(table.remove(key.as_slice())?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_survives_a_boot_and_every_flipped_bit_is_noticed() {
        let boot = |id: u8, wall, boot| Boot { id: [id; 16], wall, boot: Nanos(boot) };
        let terms = |until| Terms {
            until: Nanos(until),
            created: 7,
            actor: Some("uid:0".into()),
            reason: Some("\"x\"".into()),
        };
        let undo = |text: &str, former| Undo {
            prefix: text.parse().unwrap(),
            action: Action::Block,
            owner: Owner::Fail2ban("sshd".into()),
            former,
        };
        let change = Unconfirmed {
            id: 1_700_000,
            ends: Nanos(1_060),
            owner: Owner::Operator,
            actor: "uid:0".into(),
            what: "block.remove".into(),
            undo: vec![
                undo("192.0.2.0/24", None),
                undo("2001:db8::1", Some(terms(u64::MAX))),
                undo("192.0.2.1", Some(terms(1_030))),
            ],
        };
        let (key, value) = (Unconfirmed::key(change.id), change.encode(boot(1, 5_000, 1_000)));
        assert_eq!(Unconfirmed::decode(&key, &value, boot(1, 0, 1_050)), Some(change.clone()));
        let later = Unconfirmed::decode(&key, &value, boot(2, 5_040, 3)).unwrap();
        assert_eq!(
            (later.ends, &later.undo[2].former, &later.undo[1].former),
            (Nanos(23), &None, &Some(terms(u64::MAX)))
        );
        assert_eq!(Unconfirmed::decode(&key, &value, boot(2, 5_060, 3)).unwrap().ends, Nanos(0));
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Unconfirmed::decode(&key, &damaged, boot(1, 0, 1_050)), None, "bit {bit}");
        }
    }
}

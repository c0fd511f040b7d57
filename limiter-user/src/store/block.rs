//! Claims on disk, in blocks of up to [`FULL`] neighbours, which share what they have in common. Numbers are
//! little-endian.
//!
//! A block holds the claims from its key on, up to the key of the next block.
//!
//! | key | of the first claim |
//! |---|---|
//! | 1 | family: 4 or 6 |
//! | 4 or 16 | address |
//! | 1 | length |
//! | 1 | 0 (block) or 1 (allow) |
//! | 1 | owner: 0 (operator), 1 (list), 2 (feed), 3 (CrowdSec), 4 (jail of fail2ban), 5 (application) |
//! | rest | name of the owner, if it has one |
//!
//! | value | |
//! |---|---|
//! | 4 | CRC-32C of the key and of the rest of the value |
//! | 1 | number of terms, then for each: |
//! | 2 | bytes of the terms |
//! | 8 | created, seconds since 1970 |
//! | 1 | bytes of the actor; 0 if none |
//! | 1 | 1 if it expires, then: |
//! | 8 | time it was given when it was stored, in nanoseconds |
//! | 8 | expiry by the wall clock, in nanoseconds since 1970 |
//! | 8 | expiry by the clock of the boot, in nanoseconds, and |
//! | 16 | the identifier of that boot |
//! | … | actor, as text |
//! | rest | reason |
//! | … | then for each claim: |
//! | 1 | number of its terms |
//! | 1 | bytes of the name of the owner |
//! | … | its key |
//!
//! Blocks of version 2 differ in their terms alone, see `from_version_2`.

use std::sync::Arc;

use limiter_common::{Address, Nanos, Prefix};

use super::crc::checksum;
use super::expiry::{Boot, Expiry};
use super::{Record, Write};
use crate::blocklist::{Owner, Terms};
use crate::config::Action;

/// Claims in a full block. What is damaged is lost as a whole, and what changes is written as a whole, so not too many.
pub(super) const FULL: usize = 32;
/// Stands for no actor in version 2.
const NO_ACTOR_2: u32 = u32::MAX;
/// Bytes of an expiry: how long, by both clocks, and the boot.
const EXPIRY: usize = 8 + 8 + 8 + 16;
/// Bytes in front of everything else that terms may hold: when they were made.
const CREATED: usize = 8;

/// What a claim is about, and whose it is. Sorts as the bytes of its [key](Self::bytes) do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    prefix: Prefix,
    action: Action,
    owner: Owner,
}

impl Id {
    /// `None` if it is not about a claim.
    pub(super) fn of(write: &Write) -> Option<Self> {
        let (prefix, action, owner) = match write {
            Write::Put(Record { prefix, action, owner, .. }) => (prefix, action, owner),
            Write::Delete { prefix, action, owner } => (prefix, action, owner),
            Write::Repeat(_) | Write::Unconfirmed(_) | Write::Confirmed(_) => return None,
        };
        Some(Self::new(*prefix, *action, owner.clone()))
    }

    pub(super) fn new(prefix: Prefix, action: Action, owner: Owner) -> Self {
        Self { prefix, action, owner }
    }

    pub(super) fn prefix_and_owner(self) -> (Prefix, Owner) {
        (self.prefix, self.owner)
    }

    /// The way back from [`Self::bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let address = match bytes.first()? {
            4 => 4,
            6 => 16,
            _ => return None,
        };
        // Family, address, length, action, owner.
        let name = bytes.len().checked_sub(1 + address + 3)?;
        let mut rest = bytes;
        decode_id(&mut rest, name)
    }

    /// The key of a block that begins with it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        self.write(&mut bytes);
        bytes
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self.prefix.address() {
            Address::V4(address) => {
                bytes.push(4);
                bytes.extend(address);
            }
            Address::V6(address) => {
                bytes.push(6);
                bytes.extend(address);
            }
        }
        bytes.push(self.prefix.length());
        bytes.push(u8::from(self.action == Action::Allow));
        bytes.push(match self.owner {
            Owner::Operator => 0,
            Owner::List(_) => 1,
            Owner::Feed(_) => 2,
            Owner::Crowdsec => 3,
            Owner::Fail2ban(_) => 4,
            Owner::App(_) => 5,
        });
        bytes.extend(self.name().as_bytes());
    }

    fn name(&self) -> &str {
        self.owner.name()
    }
}

/// Some claims, sorted, each with the number of its terms.
#[derive(Debug, Default)]
pub(super) struct Block {
    claims: Vec<(Id, usize)>,
    /// Encoded, since the deadlines of those that are stored already stay what they are.
    terms: Vec<Vec<u8>>,
}

impl Block {
    /// Brings in `writes`, which are sorted by [`Id`]; of those with the same, the last counts.
    pub(super) fn merge(&mut self, writes: &[(Id, &Write)], boot: Boot) {
        let mut merged = Vec::with_capacity(self.claims.len() + writes.len());
        let mut claims = std::mem::take(&mut self.claims).into_iter().peekable();
        // Terms that were there are looked for; new ones are alike in a row.
        let known = self.terms.len();
        let mut last: Option<(&Terms, usize)> = None;
        for (at, (id, write)) in writes.iter().enumerate() {
            while let Some(before) = claims.next_if(|(other, _)| other < id) {
                merged.push(before);
            }
            claims.next_if(|(other, _)| other == id);
            if writes.get(at + 1).is_some_and(|(next, _)| next == id) {
                continue;
            }
            if let Write::Put(Record { terms, .. }) = write {
                let number = match last {
                    Some((same, number)) if same == terms => number,
                    Some(_) | None => self.number_of(encode_terms(terms, boot), known),
                };
                last = Some((terms, number));
                merged.push((id.clone(), number));
            }
        }
        merged.extend(claims);
        self.claims = merged;
    }

    /// The number of `terms`, which are new unless they are among the first `known`.
    fn number_of(&mut self, terms: Vec<u8>, known: usize) -> usize {
        let known = self.terms.get(..known).unwrap_or_default();
        known.iter().position(|other| *other == terms).unwrap_or_else(|| {
            self.terms.push(terms);
            self.terms.len() - 1
        })
    }

    /// The keys and values of blocks with these claims, of about the same size.
    pub(super) fn encode(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let blocks = self.claims.len().div_ceil(FULL).max(1);
        let size = self.claims.len().div_ceil(blocks).max(1);
        self.claims.chunks(size).map(|claims| self.encode_block(claims))
    }

    fn encode_block(&self, claims: &[(Id, usize)]) -> (Vec<u8>, Vec<u8>) {
        let key = claims.first().map(|(id, _)| id.bytes()).unwrap_or_default();
        let mut used: Vec<usize> = Vec::new();
        let mut behind = Vec::with_capacity(claims.len() * 12);
        for (id, terms) in claims {
            let number = used.iter().rposition(|other| other == terms).unwrap_or_else(|| {
                used.push(*terms);
                used.len() - 1
            });
            // Neither is more than a block can have, or a name.
            behind.push(u8::try_from(number).unwrap_or(u8::MAX));
            behind.push(u8::try_from(id.name().len()).unwrap_or(u8::MAX));
            id.write(&mut behind);
        }
        let mut value = vec![0; 4];
        value.push(u8::try_from(used.len()).unwrap_or(u8::MAX));
        for number in used {
            let terms = self.terms.get(number).map(Vec::as_slice).unwrap_or_default();
            value.extend(u16::try_from(terms.len()).unwrap_or(u16::MAX).to_le_bytes());
            value.extend(terms);
        }
        value.append(&mut behind);
        let sum = value.get(4..).map_or(0, |rest| checksum([&key, rest])).to_le_bytes();
        value.iter_mut().zip(sum).for_each(|(byte, sum)| *byte = sum);
        (key, value)
    }

    /// The value that a block of version 2 with this value has now, under the same key: the actor was the number of a
    /// user, and is a text. Deadlines stay what they are. `None` if it is damaged.
    pub(super) fn from_version_2(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let mut block = Self::decode(key, value)?;
        for terms in &mut block.terms {
            let (created, rest) = terms.split_at_checked(CREATED)?;
            let (actor, rest) = rest.split_first_chunk()?;
            let actor = match u32::from_le_bytes(*actor) {
                NO_ACTOR_2 => String::new(),
                uid => format!("uid:{uid}"),
            };
            let expiry = if *rest.first()? == 0 { 1 } else { 1 + EXPIRY };
            let (expiry, reason) = rest.split_at_checked(expiry)?;
            let length = u8::try_from(actor.len()).ok()?;
            *terms = [created, &[length], expiry, actor.as_bytes(), reason].concat();
        }
        let mut blocks = block.encode();
        // No claim is added, so it is one block, which begins with the same claim.
        blocks.next().filter(|(same, _)| same == key).map(|(_, value)| value)
    }

    /// `None` if it is damaged.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (sum, mut rest) = value.split_first_chunk()?;
        if u32::from_le_bytes(*sum) != checksum([key, rest]) {
            return None;
        }
        let mut block = Self::default();
        for _ in 0..*take(&mut rest, 1)?.first()? {
            let [low, high] = *take(&mut rest, 2)?.first_chunk()?;
            let terms = take(&mut rest, u16::from_le_bytes([low, high]).into())?;
            block.terms.push(terms.to_vec());
        }
        while !rest.is_empty() {
            let [terms, name] = *take(&mut rest, 2)?.first_chunk()?;
            let id = decode_id(&mut rest, name.into())?;
            block.claims.push((id, terms.into()));
        }
        Some(block)
    }

    /// What is in it, but for what has expired. `None` if something cannot be understood.
    pub(super) fn records(self, boot: Boot) -> Option<Vec<Record>> {
        let terms: Vec<(Terms, Option<Expiry>)> =
            self.terms.iter().map(|terms| decode_terms(terms)).collect::<Option<_>>()?;
        let mut records = Vec::with_capacity(self.claims.len());
        for (Id { prefix, action, owner }, number) in self.claims {
            let (terms, expiry) = terms.get(number)?;
            if let Some(until) = expiry.map_or(Some(Nanos::NEVER), |expiry| expiry.until(boot)) {
                records.push(Record { prefix, action, owner, terms: Terms { until, ..terms.clone() } });
            }
        }
        Some(records)
    }
}

/// The first `count` bytes of `rest`, which are left out of it.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(count)?;
    *rest = behind;
    Some(taken)
}

fn decode_id(rest: &mut &[u8], name: usize) -> Option<Id> {
    let address = match take(rest, 1)? {
        [4] => Address::V4(*take(rest, 4)?.first_chunk()?),
        [6] => Address::V6(*take(rest, 16)?.first_chunk()?),
        _ => return None,
    };
    let [length, action, owner] = *take(rest, 3)?.first_chunk()?;
    let action = match action {
        0 => Action::Block,
        1 => Action::Allow,
        _ => return None,
    };
    let owner = match (owner, std::str::from_utf8(take(rest, name)?).ok()?) {
        (0, "") => Owner::Operator,
        (1, name) => Owner::List(Arc::from(name)),
        (2, name) => Owner::Feed(Arc::from(name)),
        (3, "") => Owner::Crowdsec,
        (4, name) => Owner::Fail2ban(Arc::from(name)),
        (5, name) => Owner::App(Arc::from(name)),
        _ => return None,
    };
    Some(Id { prefix: Prefix::new(address, length)?, action, owner })
}

fn encode_terms(terms: &Terms, boot: Boot) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(terms.created.to_le_bytes());
    let actor = terms.actor.as_deref().unwrap_or_default().as_bytes();
    let actor = actor.get(..usize::from(u8::MAX)).unwrap_or(actor);
    bytes.push(u8::try_from(actor.len()).unwrap_or(u8::MAX));
    bytes.push(u8::from(terms.until != Nanos::NEVER));
    if terms.until != Nanos::NEVER {
        let expiry = Expiry::new(terms.until, boot);
        bytes.extend(expiry.given.0.to_le_bytes());
        bytes.extend(expiry.wall.to_le_bytes());
        bytes.extend(expiry.boot.0.to_le_bytes());
        bytes.extend(expiry.boot_id);
    }
    bytes.extend(actor);
    bytes.extend(terms.reason.as_deref().unwrap_or_default().as_bytes());
    bytes
}

/// The deadline is not in the terms but beside them.
fn decode_terms(bytes: &[u8]) -> Option<(Terms, Option<Expiry>)> {
    let (created, rest) = bytes.split_first_chunk()?;
    let (actor, rest) = rest.split_first()?;
    let (expires, mut rest) = rest.split_first()?;
    let expiry = match expires {
        0 => None,
        1 => {
            let (given, behind) = rest.split_first_chunk()?;
            let (wall, behind) = behind.split_first_chunk()?;
            let (boot, behind) = behind.split_first_chunk()?;
            let (boot_id, behind) = behind.split_first_chunk()?;
            rest = behind;
            Some(Expiry {
                given: Nanos(u64::from_le_bytes(*given)),
                wall: u64::from_le_bytes(*wall),
                boot: Nanos(u64::from_le_bytes(*boot)),
                boot_id: *boot_id,
            })
        }
        _ => return None,
    };
    let actor = std::str::from_utf8(take(&mut rest, usize::from(*actor))?).ok()?;
    let reason = std::str::from_utf8(rest).ok()?;
    let text = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let terms = Terms {
        until: Nanos::NEVER,
        created: u64::from_le_bytes(*created),
        actor: text(actor),
        reason: text(reason),
    };
    Some((terms, expiry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = Boot { id: [7; 16], wall: 1_000, boot: Nanos(100) };

    fn put(text: &str, owner: Owner, until: Nanos, reason: Option<&str>) -> Write {
        let terms =
            Terms { until, created: 5, actor: Some(Arc::from("uid:0")), reason: reason.map(Arc::from) };
        Write::Put(Record { prefix: text.parse().unwrap(), action: Action::Block, owner, terms })
    }

    fn merged(block: &mut Block, writes: &[Write]) {
        let mut writes: Vec<(Id, &Write)> =
            writes.iter().map(|write| (Id::of(write).unwrap(), write)).collect();
        writes.sort_by(|(a, _), (b, _)| a.cmp(b));
        block.merge(&writes, BOOT);
    }

    #[test]
    fn blocks_survive_and_every_flipped_bit_is_noticed() {
        let writes = [
            put("192.0.2.1", Owner::Operator, Nanos(150), Some("why")),
            put("192.0.2.2", Owner::Operator, Nanos(150), Some("why")),
            put("192.0.2.3", Owner::Operator, Nanos::NEVER, None),
            put("198.51.100.7", Owner::Crowdsec, Nanos(160), None),
            put("198.51.100.7", Owner::Fail2ban(Arc::from("sshd")), Nanos(170), Some("why")),
            put("198.51.100.7", Owner::App(Arc::from("shop")), Nanos::NEVER, None),
            put("2001:db8::/32", Owner::Feed(Arc::from("drop")), Nanos::NEVER, Some("ä")),
        ];
        let mut block = Block::default();
        merged(&mut block, &writes);
        let (key, value) = block.encode().next().unwrap();
        let records = Block::decode(&key, &value).unwrap().records(BOOT).unwrap();
        assert!(
            records
                .iter()
                .zip(&writes)
                .all(|(record, write)| matches!(write, Write::Put(put) if put == record))
        );
        assert_eq!(records.len(), writes.len());
        assert!(value.len() < 7 * 16 + 6 * 60, "what they share is there once: {}", value.len());
        let bytes = [key.clone(), value].concat();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (key, value) = damaged.split_at(key.len());
            assert!(Block::decode(key, value).is_none(), "bit {bit}");
        }
        for cut in 0..bytes.len() - key.len() {
            assert!(Block::decode(&key, &bytes[key.len()..key.len() + cut]).is_none(), "{cut}");
        }
    }

    /// A block as version 2 wrote it.
    fn version_2(claims: &[(&str, u8)], terms: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let ids = claims.iter().map(|(prefix, number)| {
            let prefix = prefix.parse().unwrap();
            (Id { prefix, action: Action::Block, owner: Owner::Operator }, usize::from(*number))
        });
        Block { claims: ids.collect(), terms: terms.to_vec() }.encode().next().unwrap()
    }

    #[test]
    fn blocks_of_version_2_are_understood() {
        let by = |actor: u32| [&5_u64.to_le_bytes()[..], &actor.to_le_bytes()].concat();
        let until = |until: u64| {
            let given = until - BOOT.boot.0;
            let times = [given, BOOT.wall + given, until].map(u64::to_le_bytes).concat();
            [&[1][..], &times, &BOOT.id].concat()
        };
        let terms = [
            [by(1000), vec![0], b"why".to_vec()].concat(),
            [by(0), until(150)].concat(),
            [by(NO_ACTOR_2), until(160), "ä".as_bytes().to_vec()].concat(),
        ];
        let (key, old) = version_2(&[("192.0.2.1", 0), ("192.0.2.2", 1), ("192.0.2.3", 2)], &terms);
        let value = Block::from_version_2(&key, &old).unwrap();
        let records = Block::decode(&key, &value).unwrap().records(BOOT).unwrap();
        let found: Vec<_> = records
            .iter()
            .map(|record| {
                let Terms { until, created, actor, reason } = &record.terms;
                assert_eq!((*created, &record.owner), (5, &Owner::Operator));
                (until.0, actor.as_deref(), reason.as_deref())
            })
            .collect();
        assert_eq!(
            found,
            [(u64::MAX, Some("uid:1000"), Some("why")), (150, Some("uid:0"), None), (160, None, Some("ä"))]
        );
        for bit in 0..old.len() * 8 {
            let mut damaged = old.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::from_version_2(&key, &damaged).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn keys_sort_as_claims_do() {
        let mut ids = Vec::new();
        for text in ["10.0.0.0/8", "10.0.0.0/9", "10.0.0.0", "255.255.255.255", "::/0", "::", "2001:db8::/33"]
        {
            for action in [Action::Block, Action::Allow] {
                let owners =
                    ["operator", "list:a", "list:ab", "feed:a", "crowdsec", "fail2ban:a", "app:a", "app:b"];
                for owner in owners.map(|owner| owner.parse().unwrap()) {
                    ids.push(Id { prefix: text.parse().unwrap(), action, owner });
                }
            }
        }
        for a in &ids {
            for b in &ids {
                assert_eq!(a.cmp(b), a.bytes().cmp(&b.bytes()), "{a:?} {b:?}");
            }
            assert_eq!(decode_id(&mut a.bytes().as_slice(), a.name().len()).as_ref(), Some(a));
        }
    }

    #[test]
    fn the_later_word_counts_and_deadlines_that_are_stored_stay() {
        let mut block = Block::default();
        merged(&mut block, &[put("192.0.2.1", Owner::Operator, Nanos(150), None)]);
        let (key, value) = block.encode().next().unwrap();
        let mut block = Block::decode(&key, &value).unwrap();
        let gone = |text: &str| Write::Delete {
            prefix: text.parse().unwrap(),
            action: Action::Block,
            owner: Owner::Operator,
        };
        let again = put("192.0.2.2", Owner::Operator, Nanos::NEVER, Some("again"));
        merged(
            &mut block,
            &[put("192.0.2.2", Owner::Operator, Nanos(9), None), gone("192.0.2.2"), again, gone("192.0.2.9")],
        );
        let (key, value) = block.encode().next().unwrap();
        // Another boot, 20 ns later.
        let records =
            Block::decode(&key, &value).unwrap().records(Boot { id: [8; 16], wall: 1_020, boot: Nanos(0) });
        let found: Vec<_> =
            records.unwrap().iter().map(|record| (record.prefix.to_string(), record.terms.until)).collect();
        assert_eq!(found, [("192.0.2.1".to_owned(), Nanos(30)), ("192.0.2.2".to_owned(), Nanos::NEVER)]);
        merged(&mut block, &[gone("192.0.2.1"), gone("192.0.2.2")]);
        assert_eq!(block.encode().count(), 0);
    }
}

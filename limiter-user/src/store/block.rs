//! Claims on disk, in blocks of up to [`FULL`] neighbours, which share what they have in common. Numbers are
//! little-endian.
//!
//! A block holds the claims from its key on, up to the key of the next block. The key is the [id](super::id) of the first.
//!
//! | value | |
//! |---|---|
//! | 4 | CRC-32C of the key and of the rest of the value |
//! | 1 | number of terms, then for each: |
//! | 2 | bytes of the terms |
//! | … | [terms] |
//! | … | then for each claim: |
//! | 1 | number of its terms |
//! | 1 | bytes of the name of the owner |
//! | … | its id |
//!
//! Blocks are changed as the bytes that they are, since most of what is in them stays.

use limiter_common::Nanos;

use super::changes::Change;
use super::crc::checksum;
use super::expiry::{Boot, Expiry};
use super::id::Id;
use super::{Record, terms};
use crate::blocklist::Terms;

/// Claims in a full block. What is damaged is lost as a whole, and what changes is written as a whole, so not too many.
pub(super) const FULL: usize = 32;
/// Bytes of a checksum.
const SUM: usize = 4;

/// Some claims, sorted: the id of each, and the number of its terms.
#[derive(Debug, Default)]
pub(super) struct Block<'a> {
    claims: Vec<(&'a [u8], usize)>,
    terms: Vec<&'a [u8]>,
}

impl<'a> Block<'a> {
    /// Brings in `changes`, which are sorted, each about another claim.
    pub(super) fn merge(&mut self, changes: &[Change<'a>]) {
        let mut merged = Vec::with_capacity(self.claims.len() + changes.len());
        let mut claims = std::mem::take(&mut self.claims).into_iter().peekable();
        // Terms that were there are looked for; new ones are alike in a row.
        let known = self.terms.len();
        let mut last: Option<(&[u8], usize)> = None;
        for Change { id, terms } in changes {
            while let Some(before) = claims.next_if(|(other, _)| other < id) {
                merged.push(before);
            }
            claims.next_if(|(other, _)| other == id);
            if let Some(terms) = terms {
                let number = match last {
                    Some((same, number)) if same == *terms => number,
                    Some(_) | None => self.number_of(terms, known),
                };
                last = Some((terms, number));
                merged.push((*id, number));
            }
        }
        merged.extend(claims);
        self.claims = merged;
    }

    /// The number of `terms`, which are new unless they are among the first `known`.
    fn number_of(&mut self, terms: &'a [u8], known: usize) -> usize {
        let known = self.terms.get(..known).unwrap_or_default();
        known.iter().position(|other| *other == terms).unwrap_or_else(|| {
            self.terms.push(terms);
            self.terms.len() - 1
        })
    }

    /// The blocks that these claims make, of about the same size.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let blocks = self.claims.len().div_ceil(FULL).max(1);
        let size = self.claims.len().div_ceil(blocks).max(1);
        self.claims.chunks(size).map(|claims| Part { claims, terms: &self.terms })
    }

    /// The value that a block of version 2 with this value has now, under the same key: it differs in its
    /// [terms](terms::from_version_2) alone. `None` if it is damaged.
    pub(super) fn from_version_2(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let Block { claims, terms } = Block::decode(key, value)?;
        // Else the sum would be of another key.
        claims.first().filter(|(id, _)| *id == key)?;
        let terms = terms.iter().map(|terms| terms::from_version_2(terms)).collect::<Option<Vec<_>>>()?;
        let terms: Vec<&[u8]> = terms.iter().map(Vec::as_slice).collect();
        let mut value = Vec::new();
        // As one block, however full.
        Part { claims: &claims, terms: &terms }.write(&mut value);
        Some(value)
    }

    /// `None` if it is damaged.
    pub(super) fn decode(key: &[u8], value: &'a [u8]) -> Option<Self> {
        let (sum, mut rest) = value.split_first_chunk()?;
        if u32::from_le_bytes(*sum) != checksum([key, rest]) {
            return None;
        }
        let [count] = *take(&mut rest)?;
        let mut block = Self { claims: Vec::with_capacity(FULL), terms: Vec::with_capacity(count.into()) };
        for _ in 0..count {
            let bytes = u16::from_le_bytes(*take(&mut rest)?);
            let (terms, behind) = rest.split_at_checked(bytes.into())?;
            block.terms.push(terms);
            rest = behind;
        }
        while !rest.is_empty() {
            let [terms, name] = *take(&mut rest)?;
            let (id, behind) = rest.split_at_checked(Id::nameless(*rest.first()?)? + usize::from(name))?;
            block.claims.push((id, terms.into()));
            rest = behind;
        }
        Some(block)
    }

    /// Whether [`Self::records`] understands all of it.
    pub(super) fn is_understood(&self) -> bool {
        self.terms.iter().all(|terms| terms::are_understood(terms))
            && self.claims.iter().all(|(id, number)| Id::are_understood(id) && *number < self.terms.len())
    }

    /// What is in it, but for what has expired. `None` if something cannot be understood.
    pub(super) fn records(&self, boot: Boot) -> Option<Vec<Record>> {
        let terms: Vec<(Terms, Option<Expiry>)> =
            self.terms.iter().map(|terms| terms::read(terms)).collect::<Option<_>>()?;
        let mut records = Vec::with_capacity(self.claims.len());
        for (id, number) in &self.claims {
            let (prefix, action, owner) = Id::from_bytes(id)?.into_parts();
            let (terms, expiry) = terms.get(*number)?;
            if let Some(until) = expiry.map_or(Some(Nanos::NEVER), |expiry| expiry.until(boot)) {
                records.push(Record { prefix, action, owner, terms: Terms { until, ..terms.clone() } });
            }
        }
        Some(records)
    }
}

/// The claims of one block, and terms, those of others among them.
#[derive(Debug)]
pub(super) struct Part<'b> {
    claims: &'b [(&'b [u8], usize)],
    terms: &'b [&'b [u8]],
}

impl Part<'_> {
    /// The key of the block.
    pub(super) fn key(&self) -> &[u8] {
        self.claims.first().map(|(id, _)| *id).unwrap_or_default()
    }

    /// Makes `value` the value of the block.
    pub(super) fn write(&self, value: &mut Vec<u8>) {
        let mut used: Vec<usize> = Vec::with_capacity(self.terms.len().min(self.claims.len()));
        let mut behind = Vec::with_capacity(self.claims.len() * 12);
        for (id, terms) in self.claims {
            let number = used.iter().rposition(|other| other == terms).unwrap_or_else(|| {
                used.push(*terms);
                used.len() - 1
            });
            let nameless = id.first().and_then(|family| Id::nameless(*family)).unwrap_or_default();
            // Neither is more than a block can have, or a name.
            behind.push(u8::try_from(number).unwrap_or(u8::MAX));
            behind.push(u8::try_from(id.len() - nameless).unwrap_or(u8::MAX));
            behind.extend(*id);
        }
        value.clear();
        value.extend([0; SUM]);
        value.push(u8::try_from(used.len()).unwrap_or(u8::MAX));
        for number in used {
            let terms = self.terms.get(number).copied().unwrap_or_default();
            value.extend(u16::try_from(terms.len()).unwrap_or(u16::MAX).to_le_bytes());
            value.extend(terms);
        }
        value.append(&mut behind);
        if let Some((sum, rest)) = value.split_first_chunk_mut() {
            *sum = checksum([self.key(), rest]).to_le_bytes();
        }
    }
}

/// The first bytes of `rest`, which are left out of it.
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::changes::Changes;
    use super::super::{Boot, Write};
    use super::*;
    use crate::blocklist::Owner;
    use crate::config::Action;

    const BOOT: Boot = Boot { id: [7; 16], wall: 1_000, boot: Nanos(100) };

    fn put(text: &str, owner: Owner, until: Nanos, reason: Option<&str>) -> Write {
        let terms =
            Terms { until, created: 5, actor: Some(Arc::from("uid:0")), reason: reason.map(Arc::from) };
        Write::Put(Record { prefix: text.parse().unwrap(), action: Action::Block, owner, terms })
    }

    /// The blocks of what there is after `writes`, keys and values.
    fn merged(before: Option<(&[u8], &[u8])>, writes: &[Write]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let changes = Changes::of(writes, BOOT);
        let mut block = before.map_or_else(Block::default, |(key, value)| Block::decode(key, value).unwrap());
        block.merge(&changes.sorted());
        let encoded = |part: Part<'_>| {
            let mut value = b"of another block".to_vec();
            part.write(&mut value);
            (part.key().to_vec(), value)
        };
        block.parts().map(encoded).collect()
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
        let (key, value) = merged(None, &writes).remove(0);
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
        assert!(Block::decode(&key, &bytes[key.len()..]).unwrap().is_understood());
        for cut in 0..bytes.len() - key.len() {
            assert!(Block::decode(&key, &bytes[key.len()..key.len() + cut]).is_none(), "{cut}");
        }
    }

    /// As a later build may write them: whole, but with an owner, terms or a number that is not known here.
    #[test]
    fn what_is_whole_may_not_be_understood() {
        let id = Id::new("192.0.2.1".parse().unwrap(), Action::Block, Owner::Operator).bytes();
        let (stranger, terms) = ([&id[..id.len() - 1], &[6]].concat(), [0; 10]);
        let of_later = [&terms[..9], &[2]].concat();
        for (id, number, terms, understood) in
            [(&id, 0, &terms[..], true), (&stranger, 0, &terms, false), (&id, 0, &of_later, false)]
        {
            let (mut value, claims) = (Vec::new(), [(id.as_slice(), number)]);
            Part { claims: &claims, terms: &[terms] }.write(&mut value);
            let block = Block::decode(id, &value).unwrap();
            assert_eq!((block.is_understood(), block.records(BOOT).is_some()), (understood, understood));
        }
        let without_terms = Block { claims: vec![(&id, 0)], terms: Vec::new() };
        assert!(!without_terms.is_understood() && without_terms.records(BOOT).is_none());
    }

    /// Those of version 2 held up to 64 claims.
    #[test]
    fn blocks_of_version_2_are_understood() {
        let by = |actor: u32| [&5_u64.to_le_bytes()[..], &actor.to_le_bytes(), &[0], b"why"].concat();
        let terms = [by(1000), by(0)];
        let ids: Vec<Vec<u8>> = (0..64)
            .map(|n| Id::new(format!("192.0.2.{n}").parse().unwrap(), Action::Block, Owner::Operator).bytes())
            .collect();
        let claims: Vec<(&[u8], usize)> = ids.iter().map(Vec::as_slice).zip((0..2).cycle()).collect();
        let mut old = Vec::new();
        Part { claims: &claims, terms: &[&terms[0], &terms[1]] }.write(&mut old);
        let value = Block::from_version_2(&ids[0], &old).unwrap();
        let records = Block::decode(&ids[0], &value).unwrap().records(BOOT).unwrap();
        assert_eq!(records.len(), ids.len());
        for (n, Record { prefix, action, owner, terms }) in records.into_iter().enumerate() {
            assert_eq!(Id::new(prefix, action, owner).bytes(), ids[n]);
            let actor = if n % 2 == 0 { "uid:1000" } else { "uid:0" };
            assert_eq!((terms.actor.as_deref(), terms.reason.as_deref()), (Some(actor), Some("why")));
        }
        for bit in 0..old.len() * 8 {
            let mut damaged = old.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::from_version_2(&ids[0], &damaged).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn the_later_word_counts_and_deadlines_that_are_stored_stay() {
        let before = merged(None, &[put("192.0.2.1", Owner::Operator, Nanos(150), None)]);
        let gone = |text: &str| Write::Delete {
            prefix: text.parse().unwrap(),
            action: Action::Block,
            owner: Owner::Operator,
        };
        let again = put("192.0.2.2", Owner::Operator, Nanos::NEVER, Some("again"));
        let writes =
            [put("192.0.2.2", Owner::Operator, Nanos(9), None), gone("192.0.2.2"), again, gone("192.0.2.9")];
        let (key, value) = merged(Some((&before[0].0, &before[0].1)), &writes).remove(0);
        // Another boot, 20 ns later.
        let records =
            Block::decode(&key, &value).unwrap().records(Boot { id: [8; 16], wall: 1_020, boot: Nanos(0) });
        let found: Vec<_> =
            records.unwrap().iter().map(|record| (record.prefix.to_string(), record.terms.until)).collect();
        assert_eq!(found, [("192.0.2.1".to_owned(), Nanos(30)), ("192.0.2.2".to_owned(), Nanos::NEVER)]);
        let nothing = merged(Some((&key, &value)), &[gone("192.0.2.1"), gone("192.0.2.2")]);
        assert!(nothing.is_empty());
    }

    /// However many there are, each is there once, in blocks that are not too large.
    #[test]
    fn many_claims_make_many_blocks() {
        let writes: Vec<Write> = (0..2 * FULL + 2)
            .map(|n| put(&format!("10.0.0.{n}"), Owner::Operator, Nanos(150 + n as u64), None))
            .collect();
        let blocks = merged(None, &writes);
        let found = blocks.iter().map(|(key, value)| {
            let records = Block::decode(key, value).unwrap().records(BOOT).unwrap();
            assert!(records.len() <= FULL);
            records
        });
        let found: Vec<Record> = found.flatten().collect();
        assert_eq!((blocks.len(), found.len()), (3, writes.len()));
        assert!(
            found
                .iter()
                .zip(&writes)
                .all(|(record, write)| matches!(write, Write::Put(put) if put == record))
        );
    }
}

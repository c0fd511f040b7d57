//! Offenders on disk, one in a row. Numbers are little-endian.
//!
//! | key | |
//! |---|---|
//! | … | that of a claim of the owner to block the offender, see [`super::id`] |
//!
//! | value | |
//! |---|---|
//! | 4 | CRC-32C of the key and of the rest of the value |
//! | 1 | level |
//! | 8 | end of the last block, seconds since 1970 |
//!
//! A damaged row is left out: somebody is blocked for a shorter time then, and nobody for a longer one.

use limiter_common::Prefix;
use redb::{TableDefinition, WriteTransaction};

use super::crc::checksum;
use super::id::Id;
use crate::blocklist::{Offence, Owner};
use crate::config::Action;

/// The version of the form is in the name.
pub(super) const OFFENCES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("offences-1");

/// What is kept of an offender: like [`crate::blocklist::Offender`], but it knows the owner by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    pub offender: Prefix,
    pub owner: Owner,
    /// `None`: forgotten.
    pub offence: Option<Offence>,
}

impl Repeat {
    fn key(&self) -> Vec<u8> {
        Id::new(self.offender, Action::Block, self.owner.clone()).bytes()
    }

    /// `None` if it is damaged.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (sum, rest) = value.split_first_chunk()?;
        if u32::from_le_bytes(*sum) != checksum([key, rest]) {
            return None;
        }
        let (level, ends) = rest.split_first()?;
        let ends = u64::from_le_bytes(*ends.split_first_chunk()?.0);
        let (offender, _, owner) = Id::from_bytes(key)?.into_parts();
        Some(Self { offender, owner, offence: Some(Offence { level: *level, ends }) })
    }
}

/// Writes all of `repeats`; of those with the same offender, the last counts.
pub(super) fn write(transaction: &WriteTransaction, repeats: &[&Repeat]) -> Result<(), redb::Error> {
    if repeats.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(OFFENCES)?;
    for repeat in repeats {
        let key = repeat.key();
        match repeat.offence {
            None => drop(table.remove(key.as_slice())?),
            Some(Offence { level, ends }) => {
                let mut rest = vec![level];
                rest.extend(ends.to_le_bytes());
                let mut value = checksum([&key, &rest]).to_le_bytes().to_vec();
                value.append(&mut rest);
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let owner = Owner::Fail2ban("sshd".into());
        let id = Id::new("2001:db8::/64".parse().unwrap(), Action::Block, owner);
        assert_eq!(Id::from_bytes(&id.bytes()), Some(id.clone()));
        let key = id.bytes();
        let rest = [&[3][..], &7_u64.to_le_bytes()].concat();
        let value = [&checksum([&key, &rest]).to_le_bytes()[..], &rest].concat();
        let bytes = [key.clone(), value].concat();
        let decode = |bytes: &[u8]| {
            let (key, value) = bytes.split_at(key.len());
            Repeat::decode(key, value)
        };
        assert_eq!(decode(&bytes).unwrap().offence, Some(Offence { level: 3, ends: 7 }));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit}");
        }
    }
}

//! The bytes of a claim on disk. Numbers are little-endian.
//!
//! | key | |
//! |---|---|
//! | 1 | family: 4 or 6 |
//! | 4 or 16 | address |
//! | 1 | length |
//! | 1 | `a` (allow) or `b` (block) |
//! | rest | owner |
//!
//! | value | |
//! |---|---|
//! | 4 | CRC-32C of the key and of the rest of the value |
//! | 8 | created, seconds since 1970 |
//! | 4 | user id of the actor, 2^32 - 1 if none |
//! | 1 | 1 if it expires, then: |
//! | 8 | time it was given when it was stored, in nanoseconds |
//! | 8 | expiry by the wall clock, in nanoseconds since 1970 |
//! | 8 | expiry in nanoseconds since boot, and |
//! | 16 | the identifier of that boot |
//! | rest | reason |

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use limiter_common::{Address, Nanos, Prefix};

use crate::blocklist::{Owner, Terms};
use crate::config::Action;
use crate::enforcer::Now;

const NO_ACTOR: u32 = u32::MAX;

/// A boot of the machine, and both clocks at one moment in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boot {
    pub(super) id: [u8; 16],
    /// Nanoseconds since 1970.
    pub(super) wall: u64,
    pub(super) boot: Nanos,
}

/// When a stored claim ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    given: Nanos,
    wall: u64,
    boot: Nanos,
    boot_id: [u8; 16],
}

impl Expiry {
    /// The end by the clock of `boot`; `None` if it has passed before.
    ///
    /// Within the boot that stored it, the wall clock does not count. In another one it has to, but never gives more
    /// time than there was at first.
    pub(super) fn until(self, boot: Boot) -> Option<Nanos> {
        if self.boot_id == boot.id {
            return Some(self.boot);
        }
        let left = self.wall.saturating_sub(boot.wall).min(self.given.0);
        (left > 0).then(|| boot.boot.saturating_add(Nanos(left)))
    }
}

/// Nanoseconds since 1970.
pub(super) fn wall_nanos(now: Now) -> u64 {
    let since = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn key(prefix: Prefix, action: Action, owner: &Owner) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    match prefix.address() {
        Address::V4(bytes) => {
            key.push(4);
            key.extend(bytes);
        }
        Address::V6(bytes) => {
            key.push(6);
            key.extend(bytes);
        }
    }
    key.push(prefix.length());
    key.push(match action {
        Action::Allow => b'a',
        Action::Block => b'b',
    });
    match owner {
        Owner::Operator => key.extend(b"operator"),
        Owner::Kernel => key.extend(b"kernel"),
        Owner::List(name) => {
            key.extend(b"list:");
            key.extend(name.as_bytes());
        }
    }
    key
}

pub(super) fn encode(key: &[u8], terms: &Terms, boot: Boot) -> Vec<u8> {
    let mut value = vec![0; 4];
    value.extend(terms.created.to_le_bytes());
    value.extend(terms.actor.unwrap_or(NO_ACTOR).to_le_bytes());
    value.push(u8::from(terms.until != Nanos::NEVER));
    if terms.until != Nanos::NEVER {
        let left = terms.until.saturating_sub(boot.boot);
        value.extend(left.0.to_le_bytes());
        value.extend(boot.wall.saturating_add(left.0).to_le_bytes());
        value.extend(terms.until.0.to_le_bytes());
        value.extend(boot.id);
    }
    if let Some(reason) = &terms.reason {
        value.extend(reason.as_bytes());
    }
    let sum = value.get(4..).map_or(0, |rest| checksum([key, rest])).to_le_bytes();
    value.iter_mut().zip(sum).for_each(|(byte, sum)| *byte = sum);
    value
}

/// `None` if it is damaged, or of a kind that is not known here. The deadline is not in the terms but beside them;
/// `None` there is for good.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(Prefix, Action, Owner, Terms, Option<Expiry>)> {
    let (sum, rest) = value.split_first_chunk()?;
    if u32::from_le_bytes(*sum) != checksum([key, rest]) {
        return None;
    }
    let (created, rest) = rest.split_first_chunk()?;
    let (actor, rest) = rest.split_first_chunk()?;
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
    let reason = std::str::from_utf8(rest).ok()?;
    let actor = u32::from_le_bytes(*actor);
    let terms = Terms {
        until: Nanos::NEVER,
        created: u64::from_le_bytes(*created),
        actor: (actor != NO_ACTOR).then_some(actor),
        reason: (!reason.is_empty()).then(|| Arc::from(reason)),
    };
    let (prefix, action, owner) = decode_key(key)?;
    Some((prefix, action, owner, terms, expiry))
}

fn decode_key(key: &[u8]) -> Option<(Prefix, Action, Owner)> {
    let (address, rest) = match key.split_first()? {
        (4, rest) => rest.split_first_chunk().map(|(bytes, rest)| (Address::V4(*bytes), rest))?,
        (6, rest) => rest.split_first_chunk().map(|(bytes, rest)| (Address::V6(*bytes), rest))?,
        _ => return None,
    };
    let ([length, action], owner) = rest.split_first_chunk()?;
    let action = match action {
        b'a' => Action::Allow,
        b'b' => Action::Block,
        _ => return None,
    };
    let owner = match (owner, owner.strip_prefix(b"list:")) {
        (b"operator", _) => Owner::Operator,
        (_, Some(name)) => Owner::List(Arc::from(std::str::from_utf8(name).ok()?)),
        _ => return None,
    };
    Some((Prefix::new(address, *length)?, action, owner))
}

/// CRC-32C (RFC 3385), which finds all errors of up to five bits in records of this size.
fn checksum(parts: [&[u8]; 2]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "below 256")]
            let mut sum = i as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
                bit += 1;
            }
            table[i] = sum;
            i += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| {
        let [low, ..] = sum.to_le_bytes();
        sum >> 8 ^ TABLE[usize::from(low ^ byte)]
    };
    !parts.into_iter().flatten().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 section B.4.
    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(checksum([b"1234", b"56789"]), 0xe306_9283);
        assert_eq!(checksum([&[0; 16], &[0; 16]]), 0x8a91_36aa);
    }

    #[test]
    fn records_survive_and_every_flipped_bit_is_noticed() {
        let boot = Boot { id: [7; 16], wall: 1_000, boot: Nanos(100) };
        for (prefix, owner, until) in [
            ("192.0.2.1", Owner::Operator, Nanos(150)),
            ("2001:db8::/32", Owner::List(Arc::from("drop")), Nanos::NEVER),
        ] {
            let prefix: Prefix = prefix.parse().unwrap();
            let terms = Terms { until, created: 5, actor: Some(0), reason: Some(Arc::from("why")) };
            let key = key(prefix, Action::Block, &owner);
            let value = encode(&key, &terms, boot);
            let (found, action, found_owner, found_terms, expiry) = decode(&key, &value).unwrap();
            assert_eq!((found, action, found_owner), (prefix, Action::Block, owner));
            assert_eq!(found_terms, Terms { until: Nanos::NEVER, ..terms });
            assert_eq!(expiry.map_or(Some(Nanos::NEVER), |expiry| expiry.until(boot)), Some(until));
            let bytes = [key.clone(), value].concat();
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let (key, value) = damaged.split_at(key.len());
                assert_eq!(decode(key, value), None, "bit {bit}");
            }
            for cut in 0..bytes.len() - key.len() {
                assert_eq!(decode(&key, &bytes[key.len()..key.len() + cut]), None);
            }
        }
    }

    #[test]
    fn the_wall_clock_counts_only_in_another_boot() {
        let stored = Boot { id: [1; 16], wall: 1_000, boot: Nanos(100) };
        let terms = Terms { until: Nanos(150), created: 0, actor: None, reason: None };
        let key = key("192.0.2.1".parse().unwrap(), Action::Block, &Owner::Operator);
        let expiry = decode(&key, &encode(&key, &terms, stored)).unwrap().4.unwrap();
        let at = |id, wall, boot| {
            expiry.until(Boot { id: [id; 16], wall, boot: Nanos(boot) }).map(|until| until.0)
        };
        // The same boot, whatever the wall clock says.
        assert_eq!(at(1, 0, 120), Some(150));
        assert_eq!(at(1, 1_000_000, 120), Some(150));
        // Another one: 20 of the 50 are over.
        assert_eq!(at(2, 1_020, 7), Some(37));
        assert_eq!(at(2, 1_050, 7), None);
        // A clock that went back gives no more than there was.
        assert_eq!(at(2, 0, 7), Some(57));
    }
}

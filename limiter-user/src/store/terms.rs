//! Terms as bytes. Numbers are little-endian.
//!
//! | | |
//! |---|---|
//! | 8 | created, seconds since 1970 |
//! | 1 | bytes of the actor; 0 if none |
//! | 1 | 1 if it expires, then: |
//! | 8 | time it was given when it was stored, in nanoseconds |
//! | 8 | expiry by the wall clock, in nanoseconds since 1970 |
//! | 8 | expiry by the clock of the boot, in nanoseconds, and |
//! | 16 | the identifier of that boot |
//! | … | actor, as text |
//! | rest | reason |
//!
//! Those of version 2 differ, see [`from_version_2`].

use std::sync::Arc;

use limiter_common::Nanos;

use super::expiry::{Boot, Expiry};
use crate::blocklist::Terms;

/// Stands for no actor in version 2.
const NO_ACTOR_2: u32 = u32::MAX;
/// Bytes of an expiry: how long, by both clocks, and the boot.
const EXPIRY: usize = 8 + 8 + 8 + 16;
/// Bytes in front of everything else: when they were made.
const CREATED: usize = 8;

/// Appends `terms` as they are stored in `boot`.
pub(super) fn write(terms: &Terms, boot: Boot, bytes: &mut Vec<u8>) {
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
}

/// The way back. The deadline is not in the terms but beside them. `None` if they cannot be understood.
pub(super) fn read(bytes: &[u8]) -> Option<(Terms, Option<Expiry>)> {
    let (created, expiry, actor, reason) = split(bytes)?;
    let text = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    let terms = Terms { until: Nanos::NEVER, created, actor: text(actor), reason: text(reason) };
    Some((terms, expiry))
}

/// Whether [`read`] understands them.
pub(super) fn are_understood(bytes: &[u8]) -> bool {
    split(bytes).is_some()
}

/// When they were made, when they end, by whom, and why.
fn split(bytes: &[u8]) -> Option<(u64, Option<Expiry>, &str, &str)> {
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
    let (actor, reason) = rest.split_at_checked(usize::from(*actor))?;
    let actor = std::str::from_utf8(actor).ok()?;
    let reason = std::str::from_utf8(reason).ok()?;
    Some((u64::from_le_bytes(*created), expiry, actor, reason))
}

/// What terms of version 2 are now: the actor was the number of a user, and is a text. Deadlines stay what they are.
pub(super) fn from_version_2(terms: &[u8]) -> Option<Vec<u8>> {
    let (created, rest) = terms.split_at_checked(CREATED)?;
    let (actor, rest) = rest.split_first_chunk()?;
    let actor = match u32::from_le_bytes(*actor) {
        NO_ACTOR_2 => String::new(),
        uid => format!("uid:{uid}"),
    };
    let expiry = if *rest.first()? == 0 { 1 } else { 1 + EXPIRY };
    let (expiry, reason) = rest.split_at_checked(expiry)?;
    let length = u8::try_from(actor.len()).ok()?;
    Some([created, &[length], expiry, actor.as_bytes(), reason].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = Boot { id: [7; 16], wall: 1_000, boot: Nanos(100) };

    #[test]
    fn terms_come_back() {
        for until in [Nanos::NEVER, Nanos(150)] {
            for (actor, reason) in
                [(None, None), (Some("uid:0"), None), (None, Some("ä")), (Some("é"), Some("why"))]
            {
                let terms =
                    Terms { until, created: 5, actor: actor.map(Arc::from), reason: reason.map(Arc::from) };
                let mut bytes = Vec::new();
                write(&terms, BOOT, &mut bytes);
                let (found, expiry) = read(&bytes).unwrap();
                let until = expiry.map_or(Some(Nanos::NEVER), |expiry| expiry.until(BOOT)).unwrap();
                assert_eq!(Terms { until, ..found }, terms);
            }
        }
    }

    #[test]
    fn those_of_version_2_are_understood() {
        let by = |actor: u32| [&5_u64.to_le_bytes()[..], &actor.to_le_bytes()].concat();
        let ends = |until: u64| {
            let given = until - BOOT.boot.0;
            let times = [given, BOOT.wall + given, until].map(u64::to_le_bytes).concat();
            [&[1][..], &times, &BOOT.id].concat()
        };
        for (old, actor, until, reason) in [
            ([by(1000), vec![0], b"why".to_vec()].concat(), Some("uid:1000"), None, Some("why")),
            ([by(0), ends(150)].concat(), Some("uid:0"), Some(Nanos(150)), None),
            (
                [by(NO_ACTOR_2), ends(160), "ä".as_bytes().to_vec()].concat(),
                None,
                Some(Nanos(160)),
                Some("ä"),
            ),
        ] {
            let new = from_version_2(&old).unwrap();
            let (terms, expiry) = read(&new).unwrap();
            assert_eq!((terms.created, terms.actor.as_deref(), terms.reason.as_deref()), (5, actor, reason));
            assert_eq!(expiry.and_then(|expiry| expiry.until(BOOT)), until);
        }
    }
}

//! The file of the tokens: a line of JSON, and a line with its SHA-256, so that no damage goes unnoticed: a digit that has
//! changed in a quota or a date is as bad as one in a hash. Written anew each time, beside the old one, which it replaces.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Token, seconds};
use crate::access::authorization::is_id;
use crate::access::caps::{Caps, PerMinute};
use crate::access::digest::Digest;
use crate::access::names;
use crate::access::scope::{Scope, Width};
use crate::replace::replace;
use crate::sha256::{self, from_hex, hex};

/// The form of the file.
const VERSION: u32 = 1;
/// All tokens that there may be, many times over.
const LONGEST: u64 = 64 << 20;
/// What stands in front of the hash.
const SUM: &str = "sha256:";

/// Why there are no tokens.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It may be there, and cannot be read now.
    Unreadable(io::Error),
    /// It is not as it was written, or by a version that knows more.
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    tokens: Vec<Record>,
}

/// A token; times are seconds since 1970.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    name: String,
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former_until: Option<u64>,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_ttl: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_prefix: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per_minute: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    created: u64,
    created_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<u64>,
    /// Minutes.
    #[serde(default)]
    used: u64,
}

/// Reads the file; no tokens if there is none.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Token>, ReadError> {
    match contents(path) {
        Ok(contents) => parse(&contents).map_err(ReadError::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(ReadError::Unreadable(error)),
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    // Neither a link to elsewhere, nor a pipe that never ends.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    file.take(LONGEST).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Reads what [`render`] has written.
pub(super) fn parse(contents: &[u8]) -> Result<BTreeMap<String, Token>, String> {
    let damaged = |what: &str| what.to_owned();
    let end = contents.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it is cut off"))?;
    let (json, sum) = contents.split_at(end);
    if sum != sum_of(json).as_bytes() {
        return Err(damaged("its hash does not fit"));
    }
    // What serde says could repeat a hash.
    let Ok(document) = serde_json::from_slice::<Document>(json) else {
        return Err(damaged("it is of another version of limiter"));
    };
    if document.version != VERSION {
        return Err(format!("it is of version {}, this daemon knows {VERSION}", document.version));
    }
    let token = |record| Token::try_from_record(record).ok_or_else(|| damaged("a token is not as expected"));
    document.tokens.into_iter().map(token).collect()
}

/// The form that is written.
pub(super) fn render(tokens: &BTreeMap<String, Token>) -> io::Result<Vec<u8>> {
    let tokens = tokens.iter().map(|(id, token)| token.record(id)).collect();
    let mut contents = serde_json::to_vec(&Document { version: VERSION, tokens })?;
    let sum = sum_of(&contents);
    contents.extend_from_slice(sum.as_bytes());
    Ok(contents)
}

/// From the end of the JSON to the end of the file.
fn sum_of(json: &[u8]) -> String {
    format!("\n{SUM}{}\n", hex(&sha256::of(json)))
}

/// Whether the file is what would be written.
pub(super) fn is_current(path: &Path, tokens: &BTreeMap<String, Token>) -> bool {
    matches!((contents(path), render(tokens)), (Ok(old), Ok(new)) if old == new)
}

/// Replaces the file, for good when this returns.
pub(super) fn write(path: &Path, tokens: &BTreeMap<String, Token>) -> io::Result<()> {
    replace(path, &render(tokens)?)
}

impl Token {
    fn record(&self, id: &str) -> Record {
        let former = self.former.as_ref();
        Record {
            id: id.to_owned(),
            name: self.name.clone(),
            sha256: hex(&self.digest.0),
            former_sha256: former.map(|(digest, _)| hex(&digest.0)),
            former_until: former.map(|(_, until)| seconds(*until)),
            scopes: self.scopes.iter().map(|scope| scope.to_string()).collect(),
            max_ttl: self.caps.max_ttl.map(|longest| longest.as_secs()),
            max_prefix: self.caps.max_prefix.map(Width::v4),
            per_minute: self.caps.quota.map(PerMinute::number),
            from: self.caps.from.iter().map(ToString::to_string).collect(),
            expires: self.caps.expires.map(seconds),
            created: seconds(self.created),
            created_by: self.created_by.clone(),
            revoked: self.revoked.map(seconds),
            used: self.used.load(Ordering::Relaxed),
        }
    }

    fn try_from_record(record: Record) -> Option<(String, Self)> {
        let Record { id, name, sha256, former_sha256, former_until, scopes, max_ttl, .. } = &record;
        let at = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let optional = |seconds: Option<u64>| -> Option<Option<SystemTime>> {
            match seconds {
                None => Some(None),
                Some(seconds) => at(seconds).map(Some),
            }
        };
        let former = match (former_sha256, former_until) {
            (None, None) => None,
            (Some(digest), Some(until)) => Some((Digest(from_hex(digest)?), at(*until)?)),
            (_, _) => return None,
        };
        let max_prefix = match record.max_prefix {
            None => None,
            Some(length) => Some(Width::new(length.into())?),
        };
        let quota = match record.per_minute {
            None => None,
            Some(number) => Some(PerMinute::new(number.into())?),
        };
        let caps = Caps {
            max_ttl: max_ttl.map(Duration::from_secs),
            max_prefix,
            quota,
            from: record.from.iter().map(|network| network.parse().ok()).collect::<Option<_>>()?,
            expires: optional(record.expires)?,
        };
        if !is_id(id) || !names::is_name(name) {
            return None;
        }
        let token = Self {
            name: name.clone(),
            scopes: scopes.iter().map(|scope| scope.parse::<Scope>().ok()).collect::<Option<_>>()?,
            caps,
            digest: Digest(from_hex(sha256)?),
            former,
            created: at(record.created)?,
            created_by: record.created_by.clone(),
            revoked: optional(record.revoked)?,
            used: Arc::new(AtomicU64::new(record.used)),
        };
        Some((record.id, token))
    }
}

//! Tokens: made by operators, shown once, kept as hashes in one small file.
//!
//! What was said is durable before it is answered. A revocation is in force first, also if it cannot be written, which is
//! then told. Readers never wait for the disk.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use limiter_common::Address;
use ring::rand::{SecureRandom, SystemRandom};

use super::authorization::{self, Presented};
use super::caps::Caps;
use super::digest::Digest;
use super::names;
use super::principal::{Kind, Principal, RESERVED};
use super::scope::Scopes;
use crate::sha256;

/// More than anybody gives out by hand.
const MOST: usize = 10_000;
/// For so long, revoked and expired tokens stay in the list, for whoever wonders.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest time that an old secret may live on.
const LONGEST_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);
/// How precise the time of the last use is, so that reading it tells little and writing it costs little.
const COARSE: u64 = 60;

/// All tokens of a daemon.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    /// The file is there and could not be read: it must not be written over.
    unreadable: bool,
    /// Held by the one who writes.
    writing: Mutex<()>,
    kept: RwLock<BTreeMap<String, Token>>,
    random: SystemRandom,
}

/// What is kept of a token.
#[derive(Debug, Clone)]
struct Token {
    name: String,
    scopes: Scopes,
    caps: Caps,
    digest: Digest,
    /// The former secret, which is good until then.
    former: Option<(Digest, SystemTime)>,
    created: SystemTime,
    /// The actor who made it.
    created_by: String,
    revoked: Option<SystemTime>,
    /// Minutes since 1970; 0 for never. Shared by the copies of what is otherwise replaced as a whole.
    used: Arc<AtomicU64>,
}

/// What may be known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub name: String,
    pub scopes: Scopes,
    pub caps: Caps,
    pub created: SystemTime,
    pub created_by: String,
    /// To the minute.
    pub used: Option<SystemTime>,
    pub revoked: Option<SystemTime>,
    /// Until then, the secret before the last rotation is good, too.
    pub former_until: Option<SystemTime>,
}

/// A token with its secret, which is nowhere else.
pub struct Created {
    pub listed: Listed,
    /// `lmt_ID_SECRET`.
    pub token: String,
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Created").field("listed", &self.listed).finish_non_exhaustive()
    }
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: String,
    pub scopes: Scopes,
    pub caps: Caps,
    /// The actor who wants it.
    pub by: String,
}

/// Why a token was not made, revoked or rotated.
#[derive(Debug)]
pub enum TokenError {
    /// It cannot be as it was asked for.
    Invalid(String),
    /// There is no such token.
    NotFound(String),
    TooMany,
    /// The file cannot be written. Only a revocation is in force nevertheless.
    NotDurable {
        path: PathBuf,
        error: io::Error,
    },
    /// The kernel gives no random numbers.
    NoRandom,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::NotFound(id) => write!(f, "there is no token {id}; see limiter token list"),
            Self::TooMany => write!(f, "there are {MOST} tokens already; revoke some"),
            Self::NotDurable { path, error } => write!(f, "cannot write {}: {error}", path.display()),
            Self::NoRandom => f.write_str("the kernel gives no random numbers"),
        }
    }
}

impl std::error::Error for TokenError {}

/// Why a token does not let its bearer in. What stands behind the first says something only to those who know the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRefused {
    /// Unknown, or with another secret: nobody learns which.
    Wrong,
    Revoked,
    Expired,
    /// Not from this address.
    Elsewhere,
}

impl Tokens {
    /// Reads the file. A file that is damaged is set aside, and then there are no tokens: never a failed start.
    ///
    /// The second value is a warning for operators.
    #[must_use]
    pub fn open(path: &Path) -> (Self, Option<String>) {
        let mut unreadable = false;
        let (kept, warning) = match file::read(path) {
            Ok(kept) => (kept, None),
            Err(file::ReadError::Unreadable(error)) => {
                unreadable = true;
                let path = path.display();
                let warning =
                    format!("cannot read {path}: {error}; no token is accepted until a restart can");
                (BTreeMap::new(), Some(warning))
            }
            Err(file::ReadError::Damaged(why)) => {
                let aside = match crate::store::set_aside(path) {
                    Ok(aside) => format!("it is now {}", aside.display()),
                    Err(error) => format!("it cannot be moved away: {error}"),
                };
                let path = path.display();
                (
                    BTreeMap::new(),
                    Some(format!(
                        "{path} is damaged ({why}), {aside}; no token of before is accepted, make new ones"
                    )),
                )
            }
        };
        let tokens = Self {
            path: path.to_owned(),
            unreadable,
            writing: Mutex::default(),
            kept: RwLock::new(kept),
            random: SystemRandom::new(),
        };
        (tokens, warning)
    }

    /// Makes a token.
    ///
    /// # Errors
    ///
    /// If it cannot be like that, or cannot be kept; then there is none.
    pub fn create(&self, wanted: Wanted, now: SystemTime) -> Result<Created, TokenError> {
        let Wanted { name, scopes, caps, by } = wanted;
        if !names::is_name(&name) || name.starts_with(RESERVED) {
            return Err(TokenError::Invalid(format!(
                "a token needs a name of 1 to {} of A-Z a-z 0-9 - _ . that does not begin with {RESERVED}",
                names::LONGEST
            )));
        }
        if scopes.is_empty() {
            return Err(TokenError::Invalid("a token needs a scope, like report".to_owned()));
        }
        if caps.have_expired(now) {
            return Err(TokenError::Invalid("the token would have expired already".to_owned()));
        }
        let writing = self.writing();
        let mut kept = self.kept().clone();
        kept.retain(|_, token| !token.is_over(now));
        if kept.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        let id = loop {
            let id = self.new_id()?;
            if !kept.contains_key(&id) {
                break id;
            }
        };
        let (digest, text) = self.new_secret(&id)?;
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds(now));
        let token = Token {
            name,
            scopes,
            caps,
            digest,
            former: None,
            created,
            created_by: by,
            revoked: None,
            used: Arc::default(),
        };
        let listed = token.listed(&id, now);
        kept.insert(id, token);
        self.write(&writing, kept)?;
        Ok(Created { listed, token: text })
    }

    /// All of them, without secrets.
    #[must_use]
    pub fn list(&self, now: SystemTime) -> Vec<Listed> {
        self.kept()
            .iter()
            .filter(|(_, token)| !token.is_over(now))
            .map(|(id, token)| token.listed(id, now))
            .collect()
    }

    #[must_use]
    pub fn find(&self, id: &str, now: SystemTime) -> Option<Listed> {
        self.kept().get(id).filter(|token| !token.is_over(now)).map(|token| token.listed(id, now))
    }

    /// From now on, nobody gets in with it.
    ///
    /// # Errors
    ///
    /// If there is none; or if it could not be written: it is revoked, and a restart would undo that.
    pub fn revoke(&self, id: &str, now: SystemTime) -> Result<Listed, TokenError> {
        let writing = self.writing();
        let mut kept = self.kept().clone();
        let token = kept.get_mut(id).filter(|token| !token.is_over(now));
        let token = token.ok_or_else(|| TokenError::NotFound(id.to_owned()))?;
        token.revoked.get_or_insert(now);
        token.former = None;
        let listed = token.listed(id, now);
        self.replace(kept.clone());
        self.write(&writing, kept)?;
        Ok(listed)
    }

    /// Gives it a new secret; the one of before is good for `overlap` still.
    ///
    /// # Errors
    ///
    /// If there is none, or it is revoked, or cannot be kept; then the former secret stays.
    pub fn rotate(&self, id: &str, overlap: Duration, now: SystemTime) -> Result<Created, TokenError> {
        if overlap > LONGEST_OVERLAP {
            let longest = LONGEST_OVERLAP.as_secs() / 86_400;
            return Err(TokenError::Invalid(format!(
                "the former secret may live on for {longest} days at most"
            )));
        }
        let writing = self.writing();
        let mut kept = self.kept().clone();
        let token = kept.get_mut(id).filter(|token| !token.is_over(now));
        let token = token.ok_or_else(|| TokenError::NotFound(id.to_owned()))?;
        if token.revoked.is_some() || token.caps.have_expired(now) {
            return Err(TokenError::Invalid(format!("token {id} is revoked or expired; make a new one")));
        }
        let (digest, text) = self.new_secret(id)?;
        token.former = (!overlap.is_zero()).then_some((token.digest, now + overlap));
        token.digest = digest;
        let listed = token.listed(id, now);
        self.write(&writing, kept)?;
        Ok(Created { listed, token: text })
    }

    /// Whose token this is.
    ///
    /// # Errors
    ///
    /// Why it does not let them in.
    pub fn verify(
        &self,
        presented: &Presented<'_>,
        peer: IpAddr,
        now: SystemTime,
    ) -> Result<Principal, TokenRefused> {
        let digest = Digest::of(&presented.secret);
        let kept = self.kept();
        let found = kept.get(presented.id);
        // The same two comparisons whether there is such a token or not, or a former secret or not.
        let current = found.map_or(Digest::NOBODYS, |token| token.digest);
        let former = found.and_then(|token| token.former.as_ref()).filter(|(_, until)| *until > now);
        let former = former.map_or(Digest::NOBODYS, |(digest, _)| *digest);
        let right = bool::from(digest.is(&current) | digest.is(&former));
        let Some(token) = found.filter(|_| right) else { return Err(TokenRefused::Wrong) };
        if token.revoked.is_some() {
            return Err(TokenRefused::Revoked);
        }
        if token.caps.have_expired(now) {
            return Err(TokenRefused::Expired);
        }
        if !token.caps.admit(Address::from(peer)) {
            return Err(TokenRefused::Elsewhere);
        }
        token.used.store(seconds(now) / COARSE, Ordering::Relaxed);
        Ok(Principal {
            kind: Kind::Token { id: presented.id.to_owned(), name: token.name.clone() },
            scopes: token.scopes.clone(),
            caps: token.caps.clone(),
        })
    }

    /// Writes when tokens were last used, if that has changed. To be called now and then, and at the end.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn flush(&self) -> Result<(), TokenError> {
        let writing = self.writing();
        let kept = self.kept().clone();
        if kept.is_empty() || file::is_current(&self.path, &kept) {
            return Ok(());
        }
        self.write(&writing, kept)
    }

    fn new_id(&self) -> Result<String, TokenError> {
        let mut bytes = [0; authorization::ID];
        self.random.fill(&mut bytes).map_err(|ring::error::Unspecified| TokenError::NoRandom)?;
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
    }

    /// A new secret for a token: what is kept of it, and what is shown.
    fn new_secret(&self, id: &str) -> Result<(Digest, String), TokenError> {
        let mut secret = [0; 32];
        self.random.fill(&mut secret).map_err(|ring::error::Unspecified| TokenError::NoRandom)?;
        let text = format!("{}{id}_{}", authorization::MARK, sha256::hex(&secret));
        Ok((Digest::of(&secret), text))
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Token>> {
        // What is behind the lock is only ever replaced as a whole.
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, kept: BTreeMap<String, Token>) {
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Writes `kept`, and then goes by it. Only one does so at a time.
    fn write(&self, _: &MutexGuard<'_, ()>, kept: BTreeMap<String, Token>) -> Result<(), TokenError> {
        let written = if self.unreadable {
            Err(io::Error::other("it could not be read at the start, and is not written over"))
        } else {
            file::write(&self.path, &kept)
        };
        match written {
            Ok(()) => {
                self.replace(kept);
                Ok(())
            }
            Err(error) => Err(TokenError::NotDurable { path: self.path.clone(), error }),
        }
    }
}

impl Token {
    /// Whether it need not be remembered any more.
    fn is_over(&self, now: SystemTime) -> bool {
        let ended = [self.revoked, self.caps.expires].into_iter().flatten().min();
        ended.is_some_and(|ended| ended + REMEMBERED <= now)
    }

    fn listed(&self, id: &str, now: SystemTime) -> Listed {
        let used = self.used.load(Ordering::Relaxed);
        Listed {
            id: id.to_owned(),
            name: self.name.clone(),
            scopes: self.scopes.clone(),
            caps: self.caps.clone(),
            created: self.created,
            created_by: self.created_by.clone(),
            used: (used > 0).then(|| UNIX_EPOCH + Duration::from_secs(used * COARSE)),
            revoked: self.revoked,
            former_until: self.former.as_ref().map(|(_, until)| *until).filter(|until| *until > now),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;

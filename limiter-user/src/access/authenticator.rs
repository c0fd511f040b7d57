//! From what a request shows to a [`Principal`]: the one entry for the server.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use limiter_common::{Address, Prefix};
use tokio::sync::Notify;

use super::authorization::{self, Credential};
use super::backoff::Backoff;
use super::caps::Caps;
use super::certificate::Certificate;
use super::fetch;
use super::jwt::{self, Rejected};
use super::keys::Keys;
use super::principal::{Kind, Principal};
use super::quota::{OverQuota, Quotas};
use super::scope::Scopes;
use super::tokens::{TokenRefused, Tokens};
use crate::config::{Access, Jwks, KeysUrl, OAuth};
use crate::enforcer::Now;

/// The largest set of keys, in bytes.
const LONGEST_KEYS: u32 = 1 << 20;
/// Keys behind a URL are fetched again after so long.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// And after so long if that failed.
const RETRY: Duration = Duration::from_secs(30);
/// Between two attempts in any case: anybody can show a JWT with a key that is not known.
const PAUSE: Duration = Duration::from_secs(5);

/// Knows all who may come, and what they have used of their quotas.
#[derive(Debug)]
pub struct Authenticator {
    tokens: Tokens,
    /// What was wrong with the file of the tokens.
    warning: Option<String>,
    roles: RwLock<Arc<Roles>>,
    /// Held by the one who changes the roles, from what they were to what they become.
    configuring: Mutex<()>,
    /// Somebody needs keys that are behind a URL.
    wanted: Notify,
    backoff: Mutex<Backoff>,
    quotas: Mutex<Quotas>,
}

/// What the configuration says.
#[derive(Debug, Default)]
struct Roles {
    access: Access,
    /// The keys of `access.oauth`, as they were last read without a mistake.
    keys: Keys,
    /// Why they are not as in their file.
    problem: Option<String>,
    /// From where nobody has to wait, whatever they get wrong.
    protected: Vec<Prefix>,
}

/// Why nobody was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unauthenticated {
    /// Neither a header nor a certificate.
    Missing,
    /// A header that limiter does not know.
    Malformed,
    Token(TokenRefused),
    Jwt(Rejected),
    /// The configuration has no issuer of JWTs.
    NoIssuer,
    /// Genuine, and the configuration does not say what it is good for (from this address).
    NoRole,
    /// Too many mistakes from this host: nothing was looked at.
    Wait(Duration),
}

impl Unauthenticated {
    /// The status of the answer: 401, 403 if it is known who it is, 429 if they have to wait.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Wait(_) => 429,
            Self::NoRole | Self::Token(TokenRefused::Elsewhere) => 403,
            Self::Missing | Self::Malformed | Self::NoIssuer | Self::Token(_) | Self::Jwt(_) => 401,
        }
    }

    /// Whether it may have been a guess. Who has the secret of a token that has expired does not guess.
    fn is_a_guess(&self) -> bool {
        match self {
            Self::Malformed | Self::NoIssuer | Self::Token(TokenRefused::Wrong) => true,
            Self::Jwt(rejected) => !rejected.is_signed(),
            Self::Missing | Self::NoRole | Self::Wait(_) => false,
            Self::Token(TokenRefused::Revoked | TokenRefused::Expired | TokenRefused::Elsewhere) => false,
        }
    }
}

/// For the caller. Nothing that was shown is repeated.
impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "no credentials: send Authorization: Bearer with a token, or show a client certificate"
            }
            Self::Malformed => "the Authorization header is not Bearer with a token or JWT",
            Self::Token(TokenRefused::Wrong) => "the token is not valid",
            Self::Token(TokenRefused::Revoked) => "the token was revoked",
            Self::Token(TokenRefused::Expired) => "the token has expired",
            Self::Token(TokenRefused::Elsewhere) => "the token is not valid from this address",
            Self::Jwt(rejected) => return rejected.fmt(f),
            Self::NoIssuer => "JWTs are not accepted here",
            Self::NoRole => "the configuration does not allow this caller anything",
            Self::Wait(wait) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                return write!(f, "too many wrong credentials from this address; try again in {seconds} s");
            }
        })
    }
}

impl std::error::Error for Unauthenticated {}

impl Authenticator {
    /// With the tokens in this file, and nobody else until [`Self::configure`] names them.
    #[must_use]
    pub fn open(tokens: &Path) -> Self {
        let (tokens, warning) = Tokens::open(tokens);
        Self {
            tokens,
            warning,
            roles: RwLock::default(),
            configuring: Mutex::default(),
            wanted: Notify::new(),
            backoff: Mutex::new(Backoff::new()),
            quotas: Mutex::new(Quotas::new()),
        }
    }

    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// What operators should know, as sentences.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warning.iter().cloned().chain(self.roles().problem.clone()).collect()
    }

    /// Goes by this configuration from now on, and reads the issuer's keys. If they cannot be read, those of before stay,
    /// if they were of the same issuer; [`Self::warnings`] says so.
    pub fn configure(&self, access: &Access, protected: &[Prefix]) {
        let configuring = self.configuring();
        self.replace(&configuring, access, protected);
        self.wanted.notify_one();
    }

    /// Fetches keys that are behind a URL: now and then, and when a JWT names one that is not known. Never ends.
    pub async fn fetch_keys(&self) {
        let mut patience = RETRY;
        loop {
            // An error means that nobody asked for it before.
            let _ = tokio::time::timeout(patience, self.wanted.notified()).await;
            let roles = self.roles();
            let Some(OAuth { jwks: Jwks::Url(url), .. }) = &roles.access.oauth else { continue };
            let fetched = fetch::fetch(url, LONGEST_KEYS as usize).await;
            let keys = fetched.and_then(|bytes| Keys::parse(&bytes).map_err(|error| error.to_string()));
            patience = if keys.is_ok() { FRESH } else { RETRY };
            self.take(url, keys.map_err(|why| format!("api.oauth: cannot use the keys at {url}: {why}")));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What was fetched from `url`, if that is where keys come from still.
    fn take(&self, url: &KeysUrl, fetched: Result<Keys, String>) {
        let _configuring = self.configuring();
        let former = self.roles();
        let Some(oauth) = &former.access.oauth else { return };
        if !matches!(&oauth.jwks, Jwks::Url(still) if still == url) {
            return;
        }
        let (keys, problem) = former.kept_unless(fetched, oauth);
        if let Some(problem) = problem.as_ref().filter(|problem| former.problem.as_ref() != Some(problem)) {
            tracing::warn!("{problem}");
        }
        if problem.is_none() && (former.problem.is_some() || former.keys != keys) {
            tracing::info!("the keys of {} were fetched from {url}", oauth.issuer);
        }
        let (access, protected) = (former.access.clone(), former.protected.clone());
        self.set(Roles { access, keys, problem, protected });
    }

    fn set(&self, roles: Roles) {
        *self.roles.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roles);
    }

    fn replace(&self, _: &MutexGuard<'_, ()>, access: &Access, protected: &[Prefix]) {
        let former = self.roles();
        let (keys, problem) = match &access.oauth {
            None => (Keys::default(), None),
            Some(oauth) => match &oauth.jwks {
                Jwks::File(path) => former.kept_unless(read_keys(path), oauth),
                // They come later.
                Jwks::Url(_)
                    if former.access.oauth.as_ref().is_some_and(|former| former.has_keys_of(oauth)) =>
                {
                    (former.keys.clone(), former.problem.clone())
                }
                Jwks::Url(url) => {
                    (Keys::default(), Some(format!("api.oauth: no JWT is accepted before {url} was fetched")))
                }
            },
        };
        self.set(Roles { access: access.clone(), keys, problem, protected: protected.to_vec() });
    }

    /// What is to be done every minute: the keys are read again, and what is known of the use of tokens is written.
    pub fn tend(&self) {
        let configuring = self.configuring();
        let roles = self.roles();
        if roles.access.oauth.is_some() {
            // Held since before: or a reload meanwhile would be undone.
            self.replace(&configuring, &roles.access, &roles.protected);
            let problem = self.roles().problem.clone();
            if let Some(problem) = problem.filter(|problem| Some(problem) != roles.problem.as_ref()) {
                tracing::warn!("{problem}");
            }
        }
        drop(configuring);
        if let Err(error) = self.tokens.flush() {
            // Also when they were used: nobody's word depends on it.
            tracing::warn!("{error}");
        }
    }

    /// Who asks. A header counts more than a certificate: who sends a wrong one is refused.
    ///
    /// # Errors
    ///
    /// If that is not known, or they may do nothing.
    pub fn authenticate(
        &self,
        peer: IpAddr,
        certificate: Option<&Certificate>,
        authorization: Option<&str>,
        now: Now,
    ) -> Result<Principal, Unauthenticated> {
        let roles = self.roles();
        let Some(header) = authorization else {
            // TLS has checked it, so there is nothing to guess.
            let certificate = certificate.ok_or(Unauthenticated::Missing)?;
            return roles.bearer_of(certificate, peer);
        };
        let address = Address::from(peer).canonical();
        let protected = roles.protected.iter().any(|prefix| prefix.contains(address));
        if !protected && let Some(wait) = self.backoff().wait(peer, now.boot) {
            return Err(Unauthenticated::Wait(wait));
        }
        let outcome = match authorization::parse(header) {
            Err(authorization::Malformed) => Err(Unauthenticated::Malformed),
            Ok(Credential::Token(presented)) => {
                self.tokens.verify(&presented, peer, now.wall).map_err(Unauthenticated::Token)
            }
            Ok(Credential::Jwt(jwt)) => roles.subject_of(jwt, peer, now),
        };
        if outcome == Err(Unauthenticated::Jwt(Rejected::NoKey)) {
            // The issuer may have a new one.
            self.wanted.notify_one();
        }
        match &outcome {
            Ok(_) => self.backoff().succeeded(peer),
            Err(error) if error.is_a_guess() && !protected => self.backoff().failed(peer, now.boot),
            Err(_) => {}
        }
        outcome
    }

    /// Takes so many blocks, allows or reports from the caller's quota: all of them or none.
    ///
    /// # Errors
    ///
    /// If there is not enough left.
    pub fn charge(&self, principal: &Principal, entries: u32, now: Now) -> Result<(), OverQuota> {
        let Some(quota) = principal.caps.quota else { return Ok(()) };
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        // The actor alone may be cut off, and the owner alone may have several credentials.
        let who = format!("{} {}", principal.actor(), principal.owner_name());
        quotas.charge(&who, quota, entries, now.boot)
    }

    fn roles(&self) -> Arc<Roles> {
        Arc::clone(&self.roles.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn configuring(&self) -> MutexGuard<'_, ()> {
        self.configuring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OAuth {
    /// Whether its keys are from where those of `other` are.
    fn has_keys_of(&self, other: &Self) -> bool {
        (&self.issuer, &self.jwks) == (&other.issuer, &other.jwks)
    }
}

impl Roles {
    /// The keys that were read; if they could not be, those of before, if they are of the same issuer. And what operators
    /// should know of it.
    fn kept_unless(&self, read: Result<Keys, String>, oauth: &OAuth) -> (Keys, Option<String>) {
        let same_issuer = self.access.oauth.as_ref().is_some_and(|former| former.issuer == oauth.issuer);
        match read {
            Ok(keys) => (keys, None),
            Err(why) if same_issuer && self.keys != Keys::default() => {
                (self.keys.clone(), Some(format!("{why}; those of before are used")))
            }
            Err(why) => (Keys::default(), Some(format!("{why}; no JWT is accepted"))),
        }
    }

    fn bearer_of(&self, certificate: &Certificate, peer: IpAddr) -> Result<Principal, Unauthenticated> {
        let client = certificate.find(&self.access.clients).ok_or(Unauthenticated::NoRole)?;
        if !client.caps.admit(Address::from(peer)) {
            return Err(Unauthenticated::NoRole);
        }
        Ok(Principal {
            kind: Kind::Certificate { name: client.name.text().to_owned(), owner: client.owner.clone() },
            scopes: client.scopes.clone(),
            caps: client.caps.clone(),
        })
    }

    /// A JWT may have several roles: it has the scopes of all of them, and is held to the strictest of their caps.
    fn subject_of(&self, jwt: &str, peer: IpAddr, now: Now) -> Result<Principal, Unauthenticated> {
        let OAuth { issuer, audience, roles, .. } =
            self.access.oauth.as_ref().ok_or(Unauthenticated::NoIssuer)?;
        let verified =
            jwt::verify(jwt, &self.keys, issuer, audience, now.wall).map_err(Unauthenticated::Jwt)?;
        let has = roles
            .iter()
            .filter(|role| verified.scopes.contains(&role.scope) && role.caps.admit(Address::from(peer)));
        let scopes: Scopes = has.clone().flat_map(|role| role.scopes.iter()).collect();
        if scopes.is_empty() {
            return Err(Unauthenticated::NoRole);
        }
        let until = Caps { expires: Some(verified.expires), ..Caps::default() };
        let caps = has.map(|role| role.caps.clone()).reduce(|all, role| all.strictest(&role));
        let caps = caps.unwrap_or_default().strictest(&until);
        Ok(Principal { kind: Kind::Jwt { issuer: issuer.clone(), subject: verified.subject }, scopes, caps })
    }
}

fn read_keys(path: &PathBuf) -> Result<Keys, String> {
    use std::io::Read;

    let failed =
        |why: &dyn fmt::Display| format!("api.oauth: cannot use the keys in {}: {why}", path.display());
    let mut contents = Vec::new();
    let file = std::fs::File::open(path)
        .map_err(|error| failed(&format_args!("{error}{}", crate::privileges::hint(&error))))?;
    file.take(LONGEST_KEYS.into()).read_to_end(&mut contents).map_err(|error| failed(&error))?;
    Keys::parse(&contents).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests;

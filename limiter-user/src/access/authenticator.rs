//! From what a request shows to a [`Principal`]: the one entry for the server.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use limiter_common::{Address, Prefix};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::authorization::{self, Credential};
use super::backoff::Backoff;
use super::caps::Caps;
use super::certificate::Certificate;
use super::fetch::Fetcher;
use super::jwt::{self, Rejected};
use super::keyring::Keyring;
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
/// Who shows a JWT when there are no keys is told to come again after so long: an attempt may be under way.
const SOON: Duration = Duration::from_secs(10);

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
    /// Of `access.oauth`.
    keys: Keyring,
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
    /// The status of the answer: 401, 403 if it is known who it is, 429 if they have to wait, 503 if it cannot be told who
    /// it is for now.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Wait(_) => 429,
            Self::Jwt(Rejected::NoKeys) => 503,
            Self::NoRole | Self::Token(TokenRefused::Elsewhere) => 403,
            Self::Missing | Self::Malformed | Self::NoIssuer | Self::Token(_) | Self::Jwt(_) => 401,
        }
    }

    /// When it may be worth another attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Wait(wait) => Some(*wait),
            Self::Jwt(Rejected::NoKeys) => Some(SOON),
            Self::Missing
            | Self::Malformed
            | Self::Token(_)
            | Self::Jwt(_)
            | Self::NoIssuer
            | Self::NoRole => None,
        }
    }

    /// Whether it may have been a guess. Who has the secret of a token that has expired does not guess, and of whom cannot
    /// be told whether they do, nothing was looked at that takes any work.
    fn is_a_guess(&self) -> bool {
        match self {
            Self::Malformed | Self::NoIssuer | Self::Token(TokenRefused::Wrong) => true,
            Self::Jwt(rejected) => rejected.is_a_guess(),
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
        self.warning.iter().cloned().chain(self.roles().keys.problem()).collect()
    }

    /// Goes by this configuration from now on, and reads the issuer's keys. If they cannot be read, those of before stay,
    /// if they were of the same issuer, and for some minutes if they were from elsewhere; [`Self::warnings`] says so.
    pub fn configure(&self, access: &Access, protected: &[Prefix]) {
        let configuring = self.configuring();
        self.replace(&configuring, access, protected);
        self.wanted.notify_one();
    }

    /// Fetches keys that are behind a URL: now and then, and when a JWT names one that is not known. Never ends.
    pub async fn fetch_keys(&self) {
        let (mut fetcher, mut patience) = (Fetcher::default(), RETRY);
        loop {
            // An error means that nobody asked for it before.
            let _ = tokio::time::timeout(patience, self.wanted.notified()).await;
            let roles = self.roles();
            let Some(OAuth { jwks: Jwks::Url(url), .. }) = &roles.access.oauth else { continue };
            let fetched = fetcher.fetch(url, LONGEST_KEYS as usize).await;
            let keys = fetched.and_then(|bytes| Keys::parse(&bytes).map_err(|error| error.to_string()));
            patience = if keys.is_ok() { FRESH } else { RETRY };
            self.take(url, keys);
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
        let keys = former.keys.read(fetched, Instant::now());
        tell(&former.keys, &keys);
        if keys.problem().is_none() && (former.keys.problem().is_some() || former.keys.keys() != keys.keys())
        {
            tracing::info!("the keys of {} were fetched from {url}", oauth.issuer);
        }
        let (access, protected) = (former.access.clone(), former.protected.clone());
        self.set(Roles { access, keys, protected });
    }

    fn set(&self, roles: Roles) {
        *self.roles.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roles);
    }

    fn replace(&self, _: &MutexGuard<'_, ()>, access: &Access, protected: &[Prefix]) {
        let now = Instant::now();
        let mut keys = self.roles().keys.configured(access.oauth.as_ref(), now);
        if let Some(OAuth { jwks: Jwks::File(path), .. }) = &access.oauth {
            keys = keys.read(read_keys(path), now);
        }
        self.set(Roles { access: access.clone(), keys, protected: protected.to_vec() });
    }

    /// What is to be done every minute: the keys are read again, and what is known of the use of tokens is written.
    pub fn tend(&self) {
        let configuring = self.configuring();
        let roles = self.roles();
        if roles.access.oauth.is_some() {
            // Held since before: or a reload meanwhile would be undone.
            self.replace(&configuring, &roles.access, &roles.protected);
            tell(&roles.keys, &self.roles().keys);
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
        if let Err(Unauthenticated::Jwt(Rejected::NewKey | Rejected::NoKeys)) = outcome {
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

/// Says in the log what has become a problem.
fn tell(former: &Keyring, keys: &Keyring) {
    if let Some(problem) = keys.problem().filter(|problem| Some(problem) != former.problem().as_ref()) {
        tracing::warn!("{problem}");
    }
}

impl Roles {
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
            jwt::verify(jwt, self.keys.keys(), issuer, audience, now.wall).map_err(Unauthenticated::Jwt)?;
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

fn read_keys(path: &Path) -> Result<Keys, String> {
    use std::io::Read;

    let mut contents = Vec::new();
    let file =
        std::fs::File::open(path).map_err(|error| format!("{error}{}", crate::privileges::hint(&error)))?;
    file.take(LONGEST_KEYS.into()).read_to_end(&mut contents).map_err(|error| error.to_string())?;
    Keys::parse(&contents).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;

//! Who asks, and whether they may.

use std::fmt;
use std::time::Duration;

use limiter_common::Prefix;

use super::caps::Caps;
use super::names;
use super::scope::{Scope, Scopes, Width};
use crate::sha256;

/// Somebody who has proved who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub kind: Kind,
    pub scopes: Scopes,
    pub caps: Caps,
}

/// How they have proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The kernel vouches for who is at the other end of the control socket.
    Socket { uid: u32 },
    /// By the secret of a token.
    Token { id: String, name: String },
    /// By the key of a client certificate, which has this name, and which the configuration has as the owner's.
    Certificate { name: String, owner: String },
    /// By a signature of this issuer (RFC 7519).
    Jwt { issuer: String, subject: String },
}

/// A block or allow that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub prefix: Prefix,
    /// `None`: for good.
    pub ttl: Option<Duration>,
}

/// What an endpoint asks of its callers. `None` in a block or allow is the endpoint itself, before it is known what is
/// asked for, and also the way to take back what is one's own; each entry is then asked for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Read,
    Report,
    Block(Option<Entry>),
    Allow(Option<Entry>),
    /// To keep a change of one's own, a block or an allow.
    Confirm,
    Config,
    Admin,
}

/// Why somebody may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// None of the scopes is this one.
    Scope(Scope),
    /// There is none to block or to allow.
    Change,
    /// Wider than the scopes or the cap say.
    TooWide { prefix: Prefix, widest: Width },
    /// Longer than the cap says.
    TooLong { longest: Duration },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(Scope::Block(_)) => f.write_str(
                "that needs the scope block:host or block:prefix/N, which the caller does not have",
            ),
            Self::Change => f.write_str(
                "that needs the scope block:host, block:prefix/N or allow, none of which the caller has",
            ),
            Self::Scope(scope) => write!(f, "that needs the scope {scope}, which the caller does not have"),
            Self::TooWide { prefix, widest } => {
                write!(f, "{prefix} is wider than the caller may ask for, which is {widest}")
            }
            Self::TooLong { longest } => {
                write!(f, "that is longer than the caller may ask for, which is {} s", longest.as_secs())
            }
        }
    }
}

impl std::error::Error for Denied {}

impl Principal {
    /// An operator on the control socket, who may do everything.
    #[must_use]
    pub fn operator(uid: u32) -> Self {
        let scopes = [Scope::Admin].into_iter().collect();
        Self { kind: Kind::Socket { uid }, scopes, caps: Caps::default() }
    }

    /// Somebody on the control socket who may only look.
    #[must_use]
    pub fn reader(uid: u32) -> Self {
        let scopes = [Scope::Read].into_iter().collect();
        Self { kind: Kind::Socket { uid }, scopes, caps: Caps::default() }
    }

    /// # Errors
    ///
    /// What is missing.
    pub fn may(&self, need: &Need) -> Result<(), Denied> {
        match need {
            Need::Read => self.have(Scope::Read),
            Need::Report => self.have(Scope::Report),
            Need::Confirm if self.scopes.width().is_some() => Ok(()),
            Need::Confirm => self.have(Scope::Allow).or(Err(Denied::Change)),
            Need::Config => self.have(Scope::Config),
            Need::Admin => self.have(Scope::Admin),
            Need::Block(entry) => {
                let Some(width) = self.scopes.width() else {
                    return Err(Denied::Scope(Scope::Block(Width::HOST)));
                };
                // How wide the widest may be is for the guards, which an operator may force.
                let width = (!self.scopes.imply(Scope::Admin)).then_some(width);
                self.may_ask_for(width, entry.as_ref())
            }
            Need::Allow(entry) => {
                self.have(Scope::Allow)?;
                self.may_ask_for(None, entry.as_ref())
            }
        }
    }

    fn have(&self, scope: Scope) -> Result<(), Denied> {
        if self.scopes.imply(scope) { Ok(()) } else { Err(Denied::Scope(scope)) }
    }

    /// Whether `entry` is within `width` and the caps.
    fn may_ask_for(&self, width: Option<Width>, entry: Option<&Entry>) -> Result<(), Denied> {
        let Some(Entry { prefix, ttl }) = entry else { return Ok(()) };
        let widest = match (width, self.caps.max_prefix) {
            (Some(width), Some(cap)) => Some(width.narrower(cap)),
            (width, cap) => width.or(cap),
        };
        if let Some(widest) = widest
            && !widest.includes(*prefix)
        {
            return Err(Denied::TooWide { prefix: *prefix, widest });
        }
        match (self.caps.max_ttl, ttl) {
            (None, _) => Ok(()),
            (Some(longest), Some(ttl)) if *ttl <= longest => Ok(()),
            (Some(longest), _) => Err(Denied::TooLong { longest }),
        }
    }

    /// Whether this is the machine's own operator, who may also act in the name of others, and is held to no quota.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self.kind, Kind::Socket { .. }) && self.scopes.imply(Scope::Admin)
    }

    /// Whose the claims are: `operator`, or `app:NAME`. A token and a certificate of one name own the same; subjects of
    /// JWTs, which others choose, have names that tokens and certificates cannot have.
    #[must_use]
    pub fn owner_name(&self) -> String {
        match &self.kind {
            Kind::Socket { .. } => "operator".to_owned(),
            Kind::Token { name, .. } => format!("app:{name}"),
            Kind::Certificate { owner, .. } => format!("app:{owner}"),
            Kind::Jwt { subject, .. } => {
                let longest = names::LONGEST - RESERVED.len();
                format!("app:{RESERVED}{}", names::name_of(subject, longest))
            }
        }
    }

    /// A hash of who it is, of all of it: no two callers have the same, whatever names they could choose.
    #[must_use]
    pub(crate) fn identity(&self) -> [u8; 32] {
        match &self.kind {
            Kind::Socket { uid } => sha256::of_parts(&[b"uid", &uid.to_le_bytes()]),
            Kind::Token { id, .. } => sha256::of_parts(&[b"token", id.as_bytes()]),
            // A common name may be like an alternative one of somebody else.
            Kind::Certificate { name, owner } => {
                sha256::of_parts(&[b"cert", name.as_bytes(), owner.as_bytes()])
            }
            Kind::Jwt { issuer, subject } => {
                sha256::of_parts(&[b"jwt", issuer.as_bytes(), subject.as_bytes()])
            }
        }
    }

    /// Who did it, for logs and audits: `uid:0`, `token:ID`, `cert:NAME` or `jwt:SUBJECT`. In one line, of at most some
    /// 130 bytes.
    #[must_use]
    pub fn actor(&self) -> String {
        match &self.kind {
            Kind::Socket { uid } => format!("uid:{uid}"),
            Kind::Token { id, .. } => format!("token:{id}"),
            Kind::Certificate { name, .. } => format!("cert:{}", names::shown(name)),
            Kind::Jwt { subject, .. } => format!("jwt:{}", names::shown(subject)),
        }
    }
}

/// What names of tokens and certificates' owners do not begin with.
pub(crate) const RESERVED: &str = "jwt.";

#[cfg(test)]
mod tests;

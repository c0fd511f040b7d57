//! Who can claim something.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name of an owner, in bytes.
const MAX_NAME: usize = 64;

/// Somebody with a word on the lists. As text `operator`, `crowdsec`, or `KIND:NAME`.
///
/// Names are 1 to 64 of `A-Z a-z 0-9 - _ .`: [parsing](Self::from_str) lets nothing else through, nor does the
/// configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// People, by the control socket.
    Operator,
    /// The file of a configured list, by the list's name. Its claims are in that file, and never in the store.
    List(Arc<str>),
    /// A feed that is fetched or sent, by its name.
    Feed(Arc<str>),
    Crowdsec,
    /// A jail of fail2ban, by its name.
    Fail2ban(Arc<str>),
    /// An application, by the name of its token, client certificate or subject.
    App(Arc<str>),
}

impl Owner {
    /// The name; empty if the kind says it all.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Operator | Self::Crowdsec => "",
            Self::List(name) | Self::Feed(name) | Self::Fail2ban(name) | Self::App(name) => name,
        }
    }

    /// Whether its claims are made durable by the store.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        !matches!(self, Self::List(_))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::List(name) => write!(f, "list:{name}"),
            Self::Feed(name) => write!(f, "feed:{name}"),
            Self::Crowdsec => f.write_str("crowdsec"),
            Self::Fail2ban(name) => write!(f, "fail2ban:{name}"),
            Self::App(name) => write!(f, "app:{name}"),
        }
    }
}

/// Why a text is no owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidOwner {
    Kind,
    Name,
}

impl fmt::Display for InvalidOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind => {
                f.write_str("expected operator, crowdsec, feed:NAME, fail2ban:JAIL, app:NAME or list:NAME")
            }
            Self::Name => write!(f, "the name must be 1 to {MAX_NAME} of A-Z a-z 0-9 - _ ."),
        }
    }
}

impl std::error::Error for InvalidOwner {}

impl FromStr for Owner {
    type Err = InvalidOwner;

    fn from_str(text: &str) -> Result<Self, InvalidOwner> {
        match text {
            "operator" => return Ok(Self::Operator),
            "crowdsec" => return Ok(Self::Crowdsec),
            _ => {}
        }
        let (kind, name) = text.split_once(':').ok_or(InvalidOwner::Kind)?;
        let owner = match kind {
            "list" => Self::List,
            "feed" => Self::Feed,
            "fail2ban" => Self::Fail2ban,
            "app" => Self::App,
            _ => return Err(InvalidOwner::Kind),
        };
        if is_name(name) { Ok(owner(Arc::from(name))) } else { Err(InvalidOwner::Name) }
    }
}

/// Whether `name` may be the name of an owner.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// Stands for an [`Owner`] in claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OwnerId(pub(super) u16);

impl OwnerId {
    pub(super) const FIRST: Self = Self(0);
    /// Behind all owners; nobody is given it.
    pub(crate) const LAST: Self = Self(u16::MAX);
}

/// There is no number left for another owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more than 65535 owners of claims since the start; restart the daemon")
    }
}

impl std::error::Error for TooMany {}

/// All owners ever seen, with the number of their claims. There are few.
#[derive(Debug, Default)]
pub(super) struct Owners(Vec<(Owner, u64)>);

impl Owners {
    pub(super) fn id(&mut self, owner: &Owner) -> Result<OwnerId, TooMany> {
        let known = self.0.iter().position(|(known, _)| known == owner);
        let at = known.unwrap_or(self.0.len());
        let id = u16::try_from(at).ok().filter(|id| *id < u16::MAX).ok_or(TooMany)?;
        if known.is_none() {
            self.0.push((owner.clone(), 0));
        }
        Ok(OwnerId(id))
    }

    pub(super) fn find(&self, owner: &Owner) -> Option<OwnerId> {
        let at = self.0.iter().position(|(known, _)| known == owner)?;
        u16::try_from(at).ok().map(OwnerId)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (OwnerId, &Owner)> {
        // There are no more than have a number.
        (0..u16::MAX).zip(&self.0).map(|(id, (owner, _))| (OwnerId(id), owner))
    }

    pub(super) fn get(&self, id: OwnerId) -> &Owner {
        self.0.get(usize::from(id.0)).map_or(&Owner::Operator, |(owner, _)| owner)
    }

    pub(super) fn count(&mut self, id: OwnerId, by: i64) {
        if let Some((_, count)) = self.0.get_mut(usize::from(id.0)) {
            *count = count.saturating_add_signed(by);
        }
    }

    pub(super) fn count_of(&self, id: OwnerId) -> u64 {
        self.0.get(usize::from(id.0)).map_or(0, |(_, count)| *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_as_they_are_written() {
        let longest = format!("app:{}", "x".repeat(MAX_NAME));
        for text in [
            "operator",
            "crowdsec",
            "list:drop",
            "feed:spamhaus.org",
            "fail2ban:sshd-ddos",
            "app:A_9",
            &longest,
        ] {
            let owner: Owner = text.parse().unwrap();
            assert_eq!(owner.to_string(), text);
            assert_eq!(owner.is_stored(), !text.starts_with("list:"));
            assert!(owner.name().is_empty() || text.ends_with(owner.name()));
        }
    }

    #[test]
    fn what_is_no_owner() {
        use InvalidOwner::{Kind, Name};

        let long = format!("feed:{}", "x".repeat(MAX_NAME + 1));
        for (text, why) in [
            ("", Kind),
            ("operator:", Kind),
            ("Operator", Kind),
            ("crowdsec:x", Kind),
            ("jail:sshd", Kind),
            ("app", Kind),
            (" app:a", Kind),
            ("app:", Name),
            ("app:a b", Name),
            ("app:ä", Name),
            ("fail2ban:a/b", Name),
            ("feed:a:b", Name),
            ("list:x\n", Name),
            (&long, Name),
        ] {
            assert_eq!(text.parse::<Owner>(), Err(why), "{text:?}");
        }
    }
}

//! Who can claim something.

use std::fmt;
use std::sync::Arc;

/// Somebody with a word on the lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// People, by the control socket.
    Operator,
    /// The file of a configured list, by the list's name.
    List(Arc<str>),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::List(name) => write!(f, "list:{name}"),
        }
    }
}

/// Stands for an [`Owner`] in claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OwnerId(pub(super) u16);

impl OwnerId {
    pub(super) const FIRST: Self = Self(0);
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

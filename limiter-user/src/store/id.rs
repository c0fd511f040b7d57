//! What a claim is about, as bytes: the key of a block, and what stands for each claim in it.
//!
//! | | |
//! |---|---|
//! | 1 | family: 4 or 6 |
//! | 4 or 16 | address |
//! | 1 | length |
//! | 1 | 0 (block) or 1 (allow) |
//! | 1 | owner: 0 (operator), 1 (list), 2 (feed), 3 (CrowdSec), 4 (jail of fail2ban), 5 (application) |
//! | rest | name of the owner, if it has one |

use std::sync::Arc;

use limiter_common::{Address, Prefix};

use super::{Record, Write};
use crate::blocklist::Owner;
use crate::config::Action;

/// What a claim is about, and whose it is. Sorts as the bytes of its [key](Self::bytes) do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    prefix: Prefix,
    action: Action,
    owner: Owner,
}

impl Id {
    /// `None` if it is not about a claim.
    pub(super) fn of(write: &Write) -> Option<Self> {
        let (prefix, action, owner) = match write {
            Write::Put(Record { prefix, action, owner, .. }) => (prefix, action, owner),
            Write::Delete { prefix, action, owner } => (prefix, action, owner),
            Write::Repeat(_) | Write::Unconfirmed(_) | Write::Confirmed(_) => return None,
        };
        Some(Self::new(*prefix, *action, owner.clone()))
    }

    pub(super) fn new(prefix: Prefix, action: Action, owner: Owner) -> Self {
        Self { prefix, action, owner }
    }

    pub(super) fn into_parts(self) -> (Prefix, Action, Owner) {
        (self.prefix, self.action, self.owner)
    }

    /// The way back from [`Self::bytes`]. `None` if they are none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (prefix, action, owner, name) = read(bytes)?;
        let owner = match owner {
            1 => Owner::List(Arc::from(name)),
            2 => Owner::Feed(Arc::from(name)),
            3 => Owner::Crowdsec,
            4 => Owner::Fail2ban(Arc::from(name)),
            5 => Owner::App(Arc::from(name)),
            _ => Owner::Operator,
        };
        Some(Self { prefix, action, owner })
    }

    /// Whether [`Self::from_bytes`] understands them.
    pub(super) fn are_understood(bytes: &[u8]) -> bool {
        read(bytes).is_some()
    }

    /// How many bytes an id has that begins with `family`, but for the name of the owner, which is at the end.
    pub(super) fn nameless(family: u8) -> Option<usize> {
        let address = match family {
            4 => 4,
            6 => 16,
            _ => return None,
        };
        // The family itself; length, action and owner.
        Some(1 + address + 3)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        self.write(&mut bytes);
        bytes
    }

    /// Appends its [bytes](Self::bytes).
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        match self.prefix.address() {
            Address::V4(address) => {
                bytes.push(4);
                bytes.extend(address);
            }
            Address::V6(address) => {
                bytes.push(6);
                bytes.extend(address);
            }
        }
        bytes.push(self.prefix.length());
        bytes.push(u8::from(self.action == Action::Allow));
        bytes.push(match self.owner {
            Owner::Operator => 0,
            Owner::List(_) => 1,
            Owner::Feed(_) => 2,
            Owner::Crowdsec => 3,
            Owner::Fail2ban(_) => 4,
            Owner::App(_) => 5,
        });
        bytes.extend(self.owner.name().as_bytes());
    }
}

/// What the bytes of an id say; of the owner the number of its kind, and its name.
fn read(bytes: &[u8]) -> Option<(Prefix, Action, u8, &str)> {
    let (family, rest) = bytes.split_first()?;
    let (address, rest) = match family {
        4 => rest.split_first_chunk().map(|(address, rest)| (Address::V4(*address), rest))?,
        6 => rest.split_first_chunk().map(|(address, rest)| (Address::V6(*address), rest))?,
        _ => return None,
    };
    let ([length, action, owner], name) = rest.split_first_chunk()?;
    let action = match action {
        0 => Action::Block,
        1 => Action::Allow,
        _ => return None,
    };
    let name = std::str::from_utf8(name).ok()?;
    match (owner, name) {
        (0 | 3, "") | (1 | 2 | 4 | 5, _) => Some((Prefix::new(address, *length)?, action, *owner, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_ids_do() {
        let mut ids = Vec::new();
        for text in ["10.0.0.0/8", "10.0.0.0/9", "10.0.0.0", "255.255.255.255", "::/0", "::", "2001:db8::/33"]
        {
            for action in [Action::Block, Action::Allow] {
                let owners =
                    ["operator", "list:a", "list:ab", "feed:a", "crowdsec", "fail2ban:a", "app:a", "app:b"];
                for owner in owners.map(|owner| owner.parse().unwrap()) {
                    ids.push(Id { prefix: text.parse().unwrap(), action, owner });
                }
            }
        }
        for a in &ids {
            for b in &ids {
                assert_eq!(a.cmp(b), a.bytes().cmp(&b.bytes()), "{a:?} {b:?}");
            }
            let bytes = a.bytes();
            assert_eq!(Id::from_bytes(&bytes).as_ref(), Some(a));
            assert!(Id::are_understood(&bytes));
            assert_eq!(Id::nameless(bytes[0]), Some(bytes.len() - a.owner.name().len()));
        }
    }
}

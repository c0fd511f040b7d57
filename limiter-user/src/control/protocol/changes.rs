//! Changes that are rolled back unless somebody confirms them.

use serde::{Deserialize, Serialize};

/// All changes that nobody has confirmed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ChangeList {
    pub changes: Vec<UnconfirmedChange>,
}

/// A change that is in force, and is rolled back unless it is confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct UnconfirmedChange {
    pub id: String,
    /// `block.add`, `block.remove`, `allow.add`, `allow.remove` or `config.reload`.
    pub what: String,
    /// Who asked for it, as with claims.
    pub owner: String,
    pub actor: String,
    /// Claims that would be rolled back: not those of which somebody has said something else since.
    pub claims: u64,
    pub seconds_left: u64,
}

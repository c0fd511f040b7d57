//! Who is blocked and who is allowed: tables in memory that the daemon writes and the packet path reads, without locks.
//!
//! What decides the cost of a lookup is how much cold memory it touches. So both families have two levels: a small one
//! that settles nearly every packet of a source that is not listed, and an *exact* table of all entries, of which one
//! cache line is read if the small one says so:
//!
//! ```text
//! IPv4  level: 64 bits per /19 ─┬─ hosts: 2 bits by hash for each ──────────────────────────────────► exact: the address
//!                               └─ prefixes: 2 bits per /24 ─┬─ nothing, all blocked, all allowed: settled
//!                                                            └─ look closer ─► exact: the address
//!                                                                               ─► if `wide`: each prefix length in use
//! IPv6  filter: 1 bit per hash of a /64 or shorter prefix ─► exact: each prefix length in use
//! ```
//!
//! An entry is one prefix with two deadlines, blocked until and allowed until. What is in force for an address is the
//! union of all entries that contain it, at any moment, so an expired entry neither lingers nor hides another one.
//!
//! **Writing** is for one writer, by plain stores of words of 64 bits, in an order that shows no reader a wrong state. An
//! entry that makes room for another one is in both of its places before it leaves the first; a place is taken again only by
//! writing a whole word. What is an entry comes before the small level that leads to it, and goes after it. The small
//! levels only ever err towards looking closer; `tidy` makes them precise again after removals. Growing means to fill
//! a larger exact table, and to swap the program.

#[cfg(target_has_atomic = "64")]
mod lengths;
pub mod v4;
pub mod v6;

use crate::abi::Entry;
use crate::nanos::Nanos;

/// Deadlines are kept in units of 2^28 ns, about a quarter of a second, rounded up: 29 bits of them last for 4 years of
/// uptime. Later ones are kept as [`FOR_GOOD`]; the daemon takes them out in time.
const UNIT_BITS: u32 = 28;
const DEADLINE_BITS: u32 = 29;
/// A deadline that does not pass.
const FOR_GOOD: u64 = (1 << DEADLINE_BITS) - 1;

/// What is listed of an address: the two deadlines of [`Entry`] in units, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listed(u64);

impl Listed {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Blocked for good, and not allowed.
    pub const BLOCKED: Self = Self(FOR_GOOD);
    /// Allowed for good.
    pub const ALLOWED: Self = Self(FOR_GOOD << 32);

    #[inline(always)]
    const fn new(block: u64, allow: u64) -> Self {
        Self(block | allow << 32)
    }

    #[inline(always)]
    const fn block(self) -> u64 {
        self.0 & FOR_GOOD
    }

    #[inline(always)]
    const fn allow(self) -> u64 {
        self.0 >> 32 & FOR_GOOD
    }

    /// What two entries say together.
    #[inline(always)]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        let block = if other.block() > self.block() { other.block() } else { self.block() };
        let allow = if other.allow() > self.allow() { other.allow() } else { self.allow() };
        Self::new(block, allow)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_allowed_for_good(self) -> bool {
        self.0 >> 32 == FOR_GOOD
    }

    /// As one number, for functions that can return nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & (FOR_GOOD << 32 | FOR_GOOD))
    }

    /// Rounds both deadlines up.
    #[must_use]
    pub const fn from_entry(entry: Entry) -> Self {
        Self::new(units(entry.block_until), units(entry.allow_until))
    }

    #[inline(always)]
    #[must_use]
    pub const fn entry(self) -> Entry {
        Entry { block_until: nanos(self.block()), allow_until: nanos(self.allow()) }
    }
}

impl Entry {
    /// What the tables keep of it: deadlines rounded up to their unit.
    #[must_use]
    pub const fn rounded(self) -> Self {
        Listed::from_entry(self).entry()
    }
}

const fn units(nanos: u64) -> u64 {
    let units = nanos.div_ceil(1 << UNIT_BITS);
    if units < FOR_GOOD { units } else { FOR_GOOD }
}

#[inline(always)]
const fn nanos(units: u64) -> u64 {
    if units == FOR_GOOD { Nanos::NEVER.0 } else { units << UNIT_BITS }
}

/// An exact table has no place for another entry; nothing was changed. A larger one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

/// Without dirtying the cache line of other CPUs if nothing changes.
#[cfg(target_has_atomic = "64")]
fn store(word: &core::sync::atomic::AtomicU64, new: u64) {
    use core::sync::atomic::Ordering;
    if word.load(Ordering::Relaxed) != new {
        word.store(new, Ordering::Release);
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests;

//! What the kernel side can be asked to do, in two halves: a [`Writer`] of lists, which only the Enforcer holds, and a
//! [`Reader`] of counters and fill levels, which anybody may hold.

pub mod kernel;
pub mod memory;

use std::fmt;

use limiter_common::abi::{Count, Entry};
use limiter_common::{Address, Nanos, Prefix, Reason};

use crate::config::Capacity;

/// One entry of the kernel's lists as it shall be; [`Entry::NONE`] takes it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub prefix: Prefix,
    pub entry: Entry,
}

/// The lists as people count them: hosts and prefixes of either family, each with a [`Capacity`] of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    AddressesV4,
    AddressesV6,
    PrefixesV4,
    PrefixesV6,
}

impl Table {
    pub const ALL: [Self; 4] = [Self::AddressesV4, Self::AddressesV6, Self::PrefixesV4, Self::PrefixesV6];

    /// The one that an entry for `prefix` counts for.
    pub const fn of(prefix: Prefix) -> Self {
        match (prefix.address(), prefix.is_host()) {
            (Address::V4(_), true) => Self::AddressesV4,
            (Address::V6(_), true) => Self::AddressesV6,
            (Address::V4(_), false) => Self::PrefixesV4,
            (Address::V6(_), false) => Self::PrefixesV6,
        }
    }

    /// The word in configuration, metrics, JSON and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AddressesV4 => "addresses_v4",
            Self::AddressesV6 => "addresses_v6",
            Self::PrefixesV4 => "prefixes_v4",
            Self::PrefixesV6 => "prefixes_v6",
        }
    }

    /// Entries that it may have.
    pub const fn capacity(self, capacity: &Capacity) -> u32 {
        match self {
            Self::AddressesV4 => capacity.addresses_v4,
            Self::AddressesV6 => capacity.addresses_v6,
            Self::PrefixesV4 => capacity.prefixes_v4,
            Self::PrefixesV6 => capacity.prefixes_v6,
        }
    }
}

/// Why changes were not made. What came before the failing change is in force; of what came after it, some may be.
#[derive(Debug)]
pub enum ApplyError {
    /// A table has no room: nothing was evicted, the entry is not in force.
    Full { table: &'static str, capacity: u32 },
    /// The kernel refused.
    Kernel { table: &'static str, error: std::io::Error },
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { table, capacity } => {
                write!(
                    f,
                    "the kernel table {table} is full ({capacity} entries); remove some, or raise {table} in \
                     [capacity] and restart the daemon"
                )
            }
            Self::Kernel { table, error } => write!(f, "the kernel refused a change of {table}: {error}"),
        }
    }
}

impl std::error::Error for ApplyError {}

/// Changes the kernel's lists.
pub trait Writer: Send {
    /// Makes `changes`: those that concern the same address in order. Idempotent.
    ///
    /// # Errors
    ///
    /// See [`ApplyError`].
    fn apply(&mut self, changes: &[Change]) -> Result<(), ApplyError>;

    /// Tells that about so many entries more are to come soon, by family: room for all of them is made at once.
    fn expect(&mut self, v4: usize, v6: usize) {
        let _ = (v4, v6);
    }

    /// Tells that a list of about so many entries is on its way, by family: what takes long is done while it comes. As
    /// much room is made as it needs if everything that is listed is in it, so that a list that comes every day does not
    /// double the tables.
    fn prepare(&mut self, v4: usize, v6: usize) {
        let _ = (v4, v6);
    }

    /// Does what can wait until nothing else is to be done.
    fn tidy(&mut self) {}

    /// Everything that is in the lists now, deadlines [rounded](Entry::rounded) as the kernel keeps them.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be read.
    fn installed(&mut self) -> Result<Vec<Change>, ApplyError>;
}

/// The counts of one interface, by reason, summed over CPUs. Every reason is there.
#[derive(Debug, Clone)]
pub struct InterfaceCounts {
    pub interface: String,
    pub counts: Vec<(Reason, Count)>,
}

/// How full a kernel table may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableCapacity {
    pub table: &'static str,
    pub capacity: u32,
}

/// A blocked source that still sends, see [`limiter_common::hits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    pub address: Address,
    /// Frames of it that were dropped: an estimate from samples.
    pub packets: u64,
    /// `CLOCK_MONOTONIC` of the last sample.
    pub seen: Nanos,
}

/// Reads what the kernel counted.
pub trait Reader: Send + Sync {
    /// # Errors
    ///
    /// If the kernel cannot be read.
    fn counts(&self) -> std::io::Result<Vec<InterfaceCounts>>;

    /// The blocked sources that were dropped most often of late, in no order; one may be there twice, each time with a
    /// part of its frames. Those that send little are not in it.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be read.
    fn hits(&self) -> std::io::Result<Vec<Hit>>;

    fn capacities(&self) -> Vec<TableCapacity>;
}

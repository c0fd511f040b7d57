//! The list of named cases: a frame, the tables around it, and the one right reason.
//!
//! The same list runs on the host, through `BPF_PROG_TEST_RUN` on the loaded object, and as seeds of the fuzzers. A
//! name starts with the number of the case in the project's catalogue of packet cases. What a case expects is what
//! the policy promises, where that leaves a choice (both verdicts are right if the stack would discard the frame
//! anyway) it states the choice made.
//!
//! Everything happens at [`NOW`], or at a few steps from it in [`sequences`], because the kernel program is loaded
//! anew for each moment.
//!
//! These cases of the catalogue are not frames, or not of this version:
//!
//! - P12 (a tag that the device has stripped) leaves an untagged frame, which is every other case. Rules cannot name a
//!   VLAN.
//! - P33 asks for "deny by default", which does not exist; its counterpart here is that later fragments are held to
//!   the limit of all packets.
//! - P38 asks that nothing is reassembled: fragments are judged one by one, by source and form.
//! - P39 asks for a budget of fragments per destination: limits are per source.
//! - P52 `embedded_v4`, P61 `pmtu_exempt` and P81 `inspect_tunnels` are switches that do not exist; the case states
//!   what happens without them.
//! - P74 (source is an own address): only the host knows its addresses, and its stack refuses such frames.
//! - P102 (a limit for a prefix under a block): limits are per source; the case here is a limited, blocked source.
//! - P104 (forms of text) is tested with [`crate::Prefix`], P105 (one claim of several is removed) with the daemon's
//!   block list; the cases here are what both lead to in the tables.
//! - P107 (two CPUs) is a property of [`crate::slots`].

use std::collections::BTreeSet;

use crate::{Nanos, Reason, judge};

mod fragments;
mod generated;
mod icmp;
mod ipv4;
mod ipv6;
mod limits;
mod link;
mod lists;
mod sets;
mod tunnels;
mod upper;

pub use sets::{
    ALLOWED_V4, ALLOWED_V6, BLOCKED_IN_PREFIX_V4, BLOCKED_IN_PREFIX_V6, BLOCKED_NEIGHBOUR, BLOCKED_V4,
    BLOCKED_V6, BURST, ONE_PER_SECOND, ONE_PER_SECOND_PROTOCOL, PATH_MTU_BURST, SLOW_PORT, TableSet,
};

/// When everything happens.
pub const NOW: Nanos = Nanos(372_529 * UNIT);
/// The unit of the lists' deadlines, see [`crate::lists`].
pub(crate) const UNIT: u64 = 1 << 28;

/// A frame and the one right reason.
#[derive(Debug, Clone)]
pub struct Vector {
    /// Unique, and fit for a file name.
    pub name: String,
    pub tables: TableSet,
    pub frame: Vec<u8>,
    /// At [`NOW`]. The verdict does not depend on rate state.
    pub expected: Reason,
}

/// Frames one after another, whose verdicts depend on each other.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Unique, and fit for a file name.
    pub name: String,
    pub tables: TableSet,
    /// Rate state is fresh before the first. No other sequence has the same sources, blocked and allowed ones aside,
    /// so all sequences may run one after another on one table that was fresh before the first.
    pub steps: Vec<Step>,
}

/// One frame of a sequence.
#[derive(Debug, Clone)]
pub struct Step {
    pub frame: Vec<u8>,
    pub now: Nanos,
    pub expected: Reason,
}

/// All single frames.
#[must_use]
pub fn vectors() -> Vec<Vector> {
    [
        link::vectors(),
        ipv4::vectors(),
        fragments::vectors(),
        ipv6::vectors(),
        icmp::vectors(),
        upper::vectors(),
        tunnels::vectors(),
        lists::vectors(),
        generated::vectors(),
    ]
    .concat()
}

/// All sequences: the cases about ports and rates, since whether a port was read shows only when its limit is reached.
#[must_use]
pub fn sequences() -> Vec<Sequence> {
    limits::sequences()
}

/// The moments at which something happens: the kernel program is loaded once for each, and they share their maps.
#[must_use]
pub fn moments() -> BTreeSet<Nanos> {
    let steps = sequences().into_iter().flat_map(|sequence| sequence.steps);
    steps.map(|step| step.now).chain([NOW]).collect()
}

impl Vector {
    /// The verdict of the code in this crate.
    #[must_use]
    pub fn judge(&self) -> Reason {
        judge(self.frame.as_slice(), &self.tables.in_memory(), &NOW)
    }
}

impl Sequence {
    /// The verdicts of the code in this crate, from fresh tables.
    #[must_use]
    pub fn judge(&self) -> Vec<Reason> {
        let tables = self.tables.in_memory();
        self.steps.iter().map(|step| judge(step.frame.as_slice(), &tables, &step.now)).collect()
    }
}

/// A vector of [`TableSet::Listed`].
fn listed(name: impl Into<String>, frame: Vec<u8>, expected: Reason) -> Vector {
    Vector { name: name.into(), tables: TableSet::Listed, frame, expected }
}

/// A vector of [`TableSet::SuperFrames`].
fn super_frames(name: impl Into<String>, frame: Vec<u8>, expected: Reason) -> Vector {
    Vector { name: name.into(), tables: TableSet::SuperFrames, frame, expected }
}

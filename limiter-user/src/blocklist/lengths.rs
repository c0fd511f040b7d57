//! How long the listed prefixes are: few lengths are in use, so what contains an address is found in a few lookups.

use limiter_common::{Address, Prefix};

/// The number of listed prefixes of each length, by family.
#[derive(Debug)]
pub(super) struct Lengths {
    v4: [u64; 33],
    v6: [u64; 129],
}

impl Default for Lengths {
    fn default() -> Self {
        Self { v4: [0; 33], v6: [0; 129] }
    }
}

impl Lengths {
    /// Counts a prefix that is listed now, or is not listed any more.
    pub(super) fn count(&mut self, prefix: Prefix, more: bool) {
        let lengths: &mut [u64] = match prefix.address() {
            Address::V4(_) => &mut self.v4,
            Address::V6(_) => &mut self.v6,
        };
        if let Some(count) = lengths.get_mut(usize::from(prefix.length())) {
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// The prefixes that contain `prefix`, and itself, as far as their length is in use; longest first.
    pub(super) fn covering(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        let lengths: &[u64] = match prefix.address() {
            Address::V4(_) => &self.v4,
            Address::V6(_) => &self.v6,
        };
        let in_use = |length: &u8| lengths.get(usize::from(*length)).is_some_and(|count| *count > 0);
        let lengths = (0..=prefix.length()).rev().filter(in_use);
        lengths.filter_map(move |length| Prefix::new(prefix.address(), length))
    }
}

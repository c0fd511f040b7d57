//! Many prefixes in little space: 8 bytes each for IPv4, which most long lists are made of, and 18 for IPv6.

use limiter_common::{Address, Prefix};

/// An IPv4 prefix: 32 bits of address, then 8 bits of length. Sorts as [`Prefix`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrefixV4(u64);

impl PrefixV4 {
    pub(crate) fn new(address: [u8; 4], length: u8) -> Self {
        let [a, b, c, d] = address;
        Self(u64::from_be_bytes([0, 0, 0, a, b, c, d, length]))
    }

    fn length(self) -> u8 {
        let [.., length] = self.0.to_be_bytes();
        length
    }

    pub(crate) fn prefix(self) -> Prefix {
        let [_, _, _, a, b, c, d, length] = self.0.to_be_bytes();
        let address = Address::V4([a, b, c, d]);
        // Hosts are the most, and have no bits to clear.
        if length == address.bits() {
            return Prefix::host(address);
        }
        Prefix::new(address, length).unwrap_or(Prefix::host(address))
    }
}

/// Prefixes in the order in which they came, those of IPv4 before those of IPv6, or [sorted](Self::sort).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    v4: Vec<PrefixV4>,
    v6: Vec<Prefix>,
}

impl Prefixes {
    pub fn push(&mut self, prefix: Prefix) {
        match prefix.address() {
            Address::V4(address) => self.v4.push(PrefixV4::new(address, prefix.length())),
            Address::V6(_) => self.v6.push(prefix),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are of IPv4, and of IPv6.
    #[must_use]
    pub fn families(&self) -> [usize; 2] {
        [self.v4.len(), self.v6.len()]
    }

    /// How many are single addresses of IPv4, and of IPv6.
    #[must_use]
    pub fn hosts(&self) -> [usize; 2] {
        let v4 = self.v4.iter().filter(|packed| packed.length() == 32).count();
        [v4, self.v6.iter().filter(|prefix| prefix.is_host()).count()]
    }

    /// Those that are shorter than `v4` bits of IPv4, or `v6` bits of IPv6.
    pub fn shorter(&self, v4: u8, v6: u8) -> impl Iterator<Item = Prefix> {
        let all_v4 = self.v4.iter().filter(move |packed| packed.length() < v4).map(|packed| packed.prefix());
        all_v4.chain(self.v6.iter().copied().filter(move |prefix| prefix.length() < v6))
    }

    pub fn iter(&self) -> impl Iterator<Item = Prefix> {
        self.part(0, self.len())
    }

    /// Up to `count` prefixes behind the first `skipped`.
    pub fn part(&self, skipped: usize, count: usize) -> impl Iterator<Item = Prefix> {
        let v4 = self.v4.get(skipped..).unwrap_or_default();
        let v6 = self.v6.get(skipped.saturating_sub(self.v4.len())..).unwrap_or_default();
        v4.iter().map(|packed| packed.prefix()).chain(v6.iter().copied()).take(count)
    }

    /// Sorts them, and leaves out duplicates and room that is not needed.
    pub fn sort(&mut self) {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v4.shrink_to_fit();
        self.v6.sort_unstable();
        self.v6.dedup();
        self.v6.shrink_to_fit();
    }

    /// Whether `prefix` is one of these, which are sorted.
    #[must_use]
    pub fn contains(&self, prefix: Prefix) -> bool {
        match prefix.address() {
            Address::V4(address) => self.v4.binary_search(&PrefixV4::new(address, prefix.length())).is_ok(),
            Address::V6(_) => self.v6.binary_search(&prefix).is_ok(),
        }
    }

    /// Those of these, which are sorted, that lie within `prefix`, or are it.
    pub fn within(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        let (v4, v6) = match prefix.address() {
            Address::V4(address) => {
                let first = PrefixV4::new(address, prefix.length());
                let start = self.v4.partition_point(|packed| *packed < first);
                (self.v4.get(start..).unwrap_or_default(), &[][..])
            }
            Address::V6(_) => {
                let start = self.v6.partition_point(|other| *other < prefix);
                (&[][..], self.v6.get(start..).unwrap_or_default())
            }
        };
        let all = v4.iter().map(|packed| packed.prefix()).chain(v6.iter().copied());
        // What a prefix contains sorts directly behind it.
        all.take_while(move |other| prefix.covers(*other))
    }

    pub fn retain(&mut self, mut keep: impl FnMut(Prefix) -> bool) {
        self.v4.retain(|packed| keep(packed.prefix()));
        self.v6.retain(|prefix| keep(*prefix));
    }
}

impl FromIterator<Prefix> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut all = Self::default();
        prefixes.into_iter().for_each(|prefix| all.push(prefix));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SORTED: [&str; 9] = [
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.0.0",
        "10.2.0.0",
        "255.255.255.255",
        "::/0",
        "2001:db8::/32",
        "2001:db8::1",
        "2001:db9::",
    ];

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn all() -> Prefixes {
        let mut all: Prefixes = SORTED.iter().rev().chain(&SORTED).map(|text| prefix(text)).collect();
        assert_eq!(all.len(), 2 * SORTED.len());
        all.sort();
        all
    }

    #[test]
    fn they_sort_and_are_found() {
        let all = all();
        assert!(all.iter().eq(SORTED.iter().map(|text| prefix(text))));
        for skipped in 0..=SORTED.len() {
            assert!(
                all.part(skipped, 3).eq(SORTED[skipped..].iter().take(3).map(|text| prefix(text))),
                "{skipped}"
            );
        }
        assert!(all.iter().all(|prefix| all.contains(prefix)));
        for other in ["10.0.0.0/9", "10.0.0.0", "2001:db8::", "ffff::", "0.0.0.0/0"] {
            assert!(!all.contains(prefix(other)), "{other}");
        }
    }

    #[test]
    fn what_lies_within() {
        let all = all();
        for outer in
            SORTED.iter().map(|text| prefix(text)).chain(["0.0.0.0/0", "10.1.0.0/24", "::1"].map(prefix))
        {
            let expected = SORTED.iter().map(|text| prefix(text)).filter(|inner| outer.covers(*inner));
            assert!(all.within(outer).eq(expected), "{outer}");
        }
        assert_eq!((all.families(), all.hosts()), ([5, 4], [3, 2]));
        assert!(all.shorter(9, 33).eq(["10.0.0.0/8", "::/0", "2001:db8::/32"].map(prefix)));
        let mut some = all;
        some.retain(|prefix| prefix.is_host());
        assert_eq!(some.len(), 5);
    }
}

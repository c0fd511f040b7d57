//! The other half of the brake on ban storms: how many of the peers that were seen of late those who are no operators may
//! cut off by wide prefixes, all of them together. One prefix of length 8 is a single block, and may be everybody.
//!
//! Single hosts do not count, however many: each is named for what it did, and how many there may be in a minute is
//! [the other brake's](super::brake). Else a flood from many hosts that are connected would protect itself.
//!
//! Pure: who is connected, and the time, are arguments. A peer is an IPv4 address or an IPv6 /64, since that is what one
//! host has.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use limiter_common::{Address, Nanos, Prefix};

use super::refused::Refused;

/// How long a peer is remembered after it was seen, or cut off.
const MEMORY: Nanos = Nanos::from_secs(600);
/// Peers that are remembered. More are looked at as a sample, which is as good for a share.
pub const MOST: usize = 1 << 14;
/// Of fewer than these, each is too large a share to say anything.
const FEWEST: usize = 20;
/// The network of one IPv6 host.
const HOST_V6: u8 = 64;

/// Peers of the last ten minutes, and which of them were cut off.
#[derive(Debug, Clone, Default)]
pub struct Share {
    /// In percent. `None`: everybody.
    most: Option<u8>,
    peers: BTreeMap<Prefix, Peer>,
    /// How many of them were cut off.
    cut: usize,
    forgotten: Nanos,
    refused: Refused,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    /// The address that was seen.
    address: Address,
    seen: Nanos,
    cut: Option<Nanos>,
}

impl Peer {
    fn last(self) -> Nanos {
        self.cut.map_or(self.seen, |cut| cut.max(self.seen))
    }
}

/// Too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// How many would be cut off that were not.
    pub more: usize,
    /// How many were within the last ten minutes.
    pub cut: usize,
    pub peers: usize,
    /// How many percent of them there may be.
    pub most: u8,
    /// After this, nobody of those who were cut off until now counts any more, and there is room; `None` if there never is.
    pub wait: Option<Duration>,
    /// The first that was refused for a while.
    pub begins: bool,
}

impl Share {
    /// Lets `most` percent of the peers be cut off; all if `None`.
    #[must_use]
    pub fn new(most: Option<u8>) -> Self {
        Self { most, ..Self::default() }
    }

    /// Another share counts from now on. Who was seen and cut off is not forgotten.
    pub fn set(&mut self, most: Option<u8>) {
        self.most = most;
    }

    /// Remembers who is connected at `now`.
    pub fn see(&mut self, connected: impl IntoIterator<Item = Address>, now: Nanos) {
        for address in connected {
            let peer = Peer { address, seen: now, cut: None };
            self.peers.entry(one_host(address)).and_modify(|peer| peer.seen = now).or_insert(peer);
        }
        self.forget(now);
        let Some(excess) = self.peers.len().checked_sub(MOST).filter(|excess| *excess > 0) else { return };
        // Who was cut off is not seen any more, and is to count as long as the others.
        let mut oldest: Vec<((bool, Nanos), Prefix)> =
            self.peers.iter().map(|(prefix, peer)| ((peer.cut.is_some(), peer.last()), *prefix)).collect();
        oldest.select_nth_unstable(excess - 1);
        for (_, prefix) in &oldest[..excess] {
            self.take_out(*prefix);
        }
    }

    /// Which peers the wide ones of `prefixes` would cut off, of those that were not and are not `spared`. Each is named
    /// once.
    #[must_use]
    pub fn hit(
        &self,
        prefixes: impl IntoIterator<Item = Prefix>,
        spared: impl Fn(Address) -> bool,
    ) -> Vec<Prefix> {
        if self.most.is_none() || self.peers.is_empty() {
            return Vec::new();
        }
        let mut hit = Vec::new();
        for prefix in prefixes.into_iter().filter(|prefix| is_wide(*prefix)) {
            // What lies within sorts directly behind.
            let within = self.peers.range(prefix..).take_while(|(peer, _)| prefix.covers(**peer));
            hit.extend(
                within.filter(|(_, peer)| peer.cut.is_none()).map(|(prefix, peer)| (*prefix, peer.address)),
            );
        }
        hit.sort_unstable();
        hit.dedup();
        hit.retain(|(_, address)| !spared(*address));
        hit.into_iter().map(|(prefix, _)| prefix).collect()
    }

    /// Whether [`Self::take`] would let these be cut off.
    ///
    /// # Errors
    ///
    /// If they are too many at `now`.
    pub fn check(&mut self, hit: &[Prefix], now: Nanos) -> Result<(), TooMany> {
        let Some(most) = self.most.filter(|_| !hit.is_empty()) else { return Ok(()) };
        self.forget(now);
        let (peers, more, cut) = (self.peers.len(), hit.len(), self.cut);
        if peers < FEWEST || (cut + more) * 100 <= peers * usize::from(most) {
            return Ok(());
        }
        let room = more * 100 <= peers * usize::from(most);
        let wait = room.then_some(Duration::from_nanos(MEMORY.0));
        Err(TooMany { more, cut, peers, most, wait, begins: false })
    }

    /// The same, and counts the refusal of `blocks` blocks.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub fn may(&mut self, hit: &[Prefix], blocks: u64, now: Nanos) -> Result<(), TooMany> {
        let Err(too_many) = self.check(hit, now) else { return Ok(()) };
        Err(TooMany { begins: self.refused.count(blocks, now), ..too_many })
    }

    /// Remembers that these are cut off from `now` on.
    pub fn take(&mut self, hit: &[Prefix], now: Nanos) {
        for prefix in hit {
            if let Some(peer) = self.peers.get_mut(prefix) {
                self.cut += usize::from(peer.cut.is_none());
                peer.cut = Some(now);
            }
        }
    }

    /// How many blocks were refused of late, if any, and which share of the peers there may be.
    #[must_use]
    pub fn refused(&self, now: Nanos) -> Option<(u64, u8)> {
        self.refused.of_late(now).zip(self.most)
    }

    /// Takes out who does not count any more; exact to a second.
    fn forget(&mut self, now: Nanos) {
        if now.saturating_sub(self.forgotten) < Nanos::from_secs(1) {
            return;
        }
        self.forgotten = now;
        let over = |then: Nanos| now.saturating_sub(then) > MEMORY;
        let cut = &mut self.cut;
        self.peers.retain(|_, peer| {
            if peer.cut.is_some_and(over) {
                peer.cut = None;
                *cut -= 1;
            }
            !over(peer.last())
        });
    }

    fn take_out(&mut self, prefix: Prefix) {
        if let Some(Peer { cut: Some(_), .. }) = self.peers.remove(&prefix) {
            self.cut -= 1;
        }
    }
}

/// Of these addresses, which are sorted, one of each host, and about [`MOST`]: by their hash, so that most of those who stay
/// connected are in the next sample, too.
#[must_use]
pub fn sample(mut addresses: Vec<Address>) -> Vec<Address> {
    static HASH: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    addresses.dedup_by_key(|address| one_host(*address));
    let one_of = addresses.len().div_ceil(MOST).max(1).next_power_of_two() as u64;
    addresses.retain(|address| HASH.hash_one(one_host(*address)).is_multiple_of(one_of));
    addresses
}

/// Whether it is more than one host.
#[must_use]
pub fn is_wide(prefix: Prefix) -> bool {
    prefix.length() < one_host(prefix.address()).length()
}

fn one_host(address: Address) -> Prefix {
    let length = if address.is_v4() { address.bits() } else { HOST_V6 };
    Prefix::new(address, length).unwrap_or(Prefix::host(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    fn v4(last: usize) -> Address {
        let [.., c, d] = last.to_be_bytes();
        Address::V4([198, 51, c, d])
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// How many `texts` would hit, and whether they may; then they do.
    #[track_caller]
    fn check(share: &mut Share, texts: &[&str], now: u64, expected: Result<usize, (usize, usize, usize)>) {
        let hit = share.hit(prefixes(texts), |_| false);
        match (share.may(&hit, 1, at(now)), expected) {
            (Ok(()), Ok(count)) => assert_eq!(hit.len(), count),
            (Err(TooMany { more, cut, peers, most, wait, .. }), Err(expected)) => {
                assert_eq!((more, cut, peers), expected);
                let fits = more * 100 <= peers * usize::from(most);
                assert_eq!(wait, fits.then_some(Duration::from_secs(600)));
            }
            (outcome, expected) => panic!("{outcome:?}, not {expected:?}"),
        }
        if expected.is_ok() {
            share.take(&hit, at(now));
        }
    }

    #[test]
    fn so_many_of_the_peers_and_no_more() {
        let mut share = Share::new(Some(25));
        share.see((0..40).map(v4), at(1_000));
        check(&mut share, &["198.51.0.0/29"], 1_001, Ok(8));
        // Once is enough, and nobody is nobody.
        check(&mut share, &["198.51.0.0/30", "203.0.113.0/24", "198.51.0.8/31"], 1_100, Ok(2));
        check(&mut share, &["198.51.0.10/31"], 1_100, Err((2, 10, 40)));
        check(&mut share, &["198.0.0.0/8", "198.51.0.0/24"], 1_100, Err((30, 10, 40)));
        check(&mut share, &["203.0.113.0/24", "198.51.0.8/31"], 1_100, Ok(0));
        // Hosts are.
        check(&mut share, &["198.51.0.10", "198.51.0.11"], 1_100, Ok(0));
        assert_eq!(share.refused(at(1_100)), Some((2, 25)));
        // They are remembered for as long as they might be back, and those who are still there.
        share.see((5..40).map(v4), at(1_590));
        check(&mut share, &["198.51.0.10/31"], 1_601, Err((2, 10, 40)));
        check(&mut share, &["198.51.0.10/31"], 1_602, Ok(2));
        check(&mut share, &["198.0.0.0/8"], 1_602, Err((31, 4, 35)));
        share.set(Some(99));
        check(&mut share, &["198.51.0.12/31"], 1_602, Ok(2));
        share.set(None);
        check(&mut share, &["198.0.0.0/8"], 1_602, Ok(0));
    }

    #[test]
    fn a_few_peers_say_nothing() {
        let mut share = Share::new(Some(1));
        check(&mut share, &["0.0.0.0/0"], 1_000, Ok(0));
        share.see((0..19).map(v4), at(1_000));
        check(&mut share, &["198.51.0.0/24"], 1_000, Ok(19));
        share.see([v4(19)], at(1_000));
        check(&mut share, &["198.51.0.18/31"], 1_000, Err((1, 19, 20)));
        // Nobody was seen for ten minutes.
        check(&mut share, &["198.51.0.18/31"], 1_601, Ok(1));
    }

    #[test]
    fn who_is_spared_is_not_hit() {
        let mut share = Share::new(Some(10));
        share.see((0..100).map(v4), at(1_000));
        let hit = share.hit(prefixes(&["198.51.0.0/24"]), |address| address != v4(7));
        assert_eq!(hit, prefixes(&["198.51.0.7"]));
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let mut share = Share::new(Some(10));
        let address = |net: u16, host: u16| {
            Address::from(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host))
        };
        let all: Vec<Address> =
            (0..40).flat_map(|net| (0..100).map(move |host| address(net, host))).collect();
        let one_each = sample(all);
        assert_eq!(one_each.len(), 40);
        share.see(one_each, at(1_000));
        check(&mut share, &["2001:db8:0:1::7", "2001:db8:0:1::/64"], 1_000, Ok(0));
        check(&mut share, &["2001:db8:0:2::/63", "2001:db8:0:2:8000::/65"], 1_000, Ok(2));
        check(&mut share, &["2001:db8::/32"], 1_000, Err((38, 2, 40)));
        check(&mut share, &["2001:db8:0:40::/58"], 1_000, Ok(0));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go() {
        let mut share = Share::new(Some(50));
        share.see((0..1_000).map(v4), at(1_000));
        check(&mut share, &["198.51.0.0/25"], 1_000, Ok(128));
        share.see((1_000..MOST + 500).map(v4), at(1_010));
        assert_eq!((share.peers.len(), share.cut), (MOST, 128), "who was cut off still counts");
        let oldest = share.peers.keys().nth(128).copied();
        assert_eq!(oldest, Some(Prefix::host(v4(628))));
        share.see((2_000..2 * MOST).map(v4), at(1_020));
        assert!(share.peers.len() <= MOST && share.cut <= share.peers.len());
        let all: Vec<Address> = (0..3 * MOST).map(v4).collect();
        let many = sample(all.clone());
        assert!((MOST / 2..=MOST).contains(&many.len()), "{}", many.len());
        assert_eq!(many, sample(all), "the same the next time");
    }

    #[test]
    fn what_was_refused_is_told_for_an_hour() {
        let mut share = Share::new(Some(10));
        assert_eq!(share.refused(at(1_000)), None);
        share.see((0..40).map(v4), at(1_000));
        let hit = share.hit(prefixes(&["198.51.0.0/24"]), |_| false);
        let begins = [1_000, 1_060, 1_121].map(|now| share.may(&hit, 5, at(now)).unwrap_err().begins);
        assert_eq!(begins, [true, false, true]);
        assert_eq!(share.refused(at(1_121 + 3_600)), Some((15, 10)));
        assert_eq!(share.refused(at(1_122 + 3_600)), None);
    }
}

//! Who may have a connection over TCP: so many at a time in all and for each peer, and so many new ones a second. Pure.
//!
//! When all places are taken, a connection makes room that has not proven to be anybody: of those from where nobody known
//! has come before, the one that has waited longest, of the peer with the most of them. Who fills the places with silence
//! pushes out silence, not those who work, nor those who come again. Without such a one it is the caller with the most
//! connections who makes room, if these are many: a token that got lost must not keep all others out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use limiter_common::gcra::{Quota, Step};
use limiter_common::{Address, Nanos, Prefix};
use tokio::time::Instant;

use crate::access::Recent;
use crate::http::Activity;

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Connections in all.
    pub(super) connections: usize,
    /// Connections of one peer: an IPv4 address, or an IPv6 /64.
    pub(super) per_peer: usize,
    /// Connections that a caller keeps when others want in, from wherever they are: as many as may have requests under way.
    pub(super) per_caller: usize,
    /// New connections of one peer: a second, and at once.
    pub(super) rate: (u64, u64),
    /// Peers that are remembered, and those of them from where somebody known has come.
    pub(super) peers: usize,
    pub(super) known: usize,
}

impl Room {
    pub(super) const API: Self = Self {
        connections: 256,
        per_peer: 16,
        per_caller: 32,
        rate: (50, 100),
        peers: 1 << 14,
        known: 1 << 12,
    };
}

/// So long it is remembered that somebody known has come from a peer.
const MEMORY: Nanos = Nanos::from_secs(24 * 3600);

/// Why somebody does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// All places are taken by those who have proven who they are.
    Full,
    /// The peer has as many as one may have.
    PeerFull,
    /// The peer comes too often.
    TooOften,
}

/// The places.
#[derive(Debug)]
pub(super) struct Doors {
    room: Room,
    quota: Quota,
    peers: HashMap<Prefix, Peer>,
    /// From where somebody has come who has proven to be somebody. Nobody else can fill it.
    known: Recent<Prefix, ()>,
    /// In the order of arrival.
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// That have not ended, turned out or not.
    connections: usize,
    /// That have a place. Looked at for all of them when one has to go, so each has it at hand.
    places: Arc<AtomicUsize>,
    /// Theoretical arrival time of its next connection.
    tat: Nanos,
}

#[derive(Debug)]
struct Connection {
    peer: Prefix,
    /// When it came, its peer was one from where somebody known had come.
    known: bool,
    places: Arc<AtomicUsize>,
    activity: Arc<Activity>,
}

impl Connection {
    fn is_proven(&self) -> bool {
        self.activity.proven().is_some()
    }
}

/// A place, to be given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    number: u64,
    peer: Prefix,
}

impl Doors {
    pub(super) fn new(room: Room) -> Self {
        let quota = Quota::packets(room.rate.0, room.rate.1).unwrap_or(Quota::UNLIMITED);
        let known = Recent::new(room.known);
        Self { room, quota, peers: HashMap::new(), known, connections: BTreeMap::new(), next: 0 }
    }

    /// A place for a connection from `address`. The second value says whether another connection was turned out for it.
    pub(super) fn enter(
        &mut self,
        address: IpAddr,
        activity: &Arc<Activity>,
        now: Nanos,
    ) -> Result<(Place, bool), Refused> {
        let peer = peer(address);
        if self.peers.len() >= self.room.peers && !self.peers.contains_key(&peer) {
            // Only those that say anything are kept.
            self.peers.retain(|_, peer| peer.connections > 0 || peer.tat > now);
            if self.peers.len() >= self.room.peers {
                return Err(Refused::Full);
            }
        }
        let own = self.peers.entry(peer).or_default();
        match self.quota.step(own.tat, self.quota.cost(0), now) {
            Step::Admit(tat) => own.tat = tat,
            Step::Refuse => return Err(Refused::TooOften),
        }
        if own.connections >= self.room.per_peer {
            return Err(Refused::PeerFull);
        }
        let of_peer = |one: &Connection| one.peer == peer && one.is_proven();
        let known = self.known.get(&peer, now).is_some() || self.connections.values().any(of_peer);
        let places = Arc::clone(&own.places);
        let turned_out = self.connections.len() >= self.room.connections;
        if turned_out {
            let number = self.makes_room(known).ok_or(Refused::Full)?;
            // Its place is free at once; what it gives back later is that of its peer alone.
            if let Some(out) = self.give_back(number) {
                out.activity.turn_out();
            }
        }
        self.peers.entry(peer).or_default().connections += 1;
        places.fetch_add(1, Ordering::Relaxed);
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, Connection { peer, known, places, activity: Arc::clone(activity) });
        Ok((Place { number, peer }, turned_out))
    }

    /// The connection that ends so that another one can begin, whose peer is `known` or not.
    fn makes_room(&self, known: bool) -> Option<u64> {
        let unproven = self.connections.iter().filter(|(_, one)| !one.is_proven());
        let first = unproven
            .min_by_key(|(number, one)| (one.known, Reverse(one.places.load(Ordering::Relaxed)), **number));
        match first {
            // A stranger does not push out those who are known.
            Some((_, one)) if one.known && !known => None,
            Some((number, _)) => Some(*number),
            None => quietest_of_the_greediest(&self.connections, self.room.per_caller),
        }
    }

    fn give_back(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        connection.places.fetch_sub(1, Ordering::Relaxed);
        Some(connection)
    }

    /// The connection has ended.
    pub(super) fn leave(&mut self, place: &Place, now: Nanos) {
        if self.give_back(place.number).is_some_and(|ended| ended.is_proven()) {
            self.known.put(place.peer, (), now.saturating_add(MEMORY), now);
        }
        if let Some(peer) = self.peers.get_mut(&place.peer) {
            peer.connections = peer.connections.saturating_sub(1);
            if peer.connections == 0 && peer.tat <= now {
                self.peers.remove(&place.peer);
            }
        }
    }

    pub(super) fn open(&self) -> usize {
        self.connections.len()
    }
}

/// Of the caller who has the most, and more than they keep, the one where nothing has happened for longest.
fn quietest_of_the_greediest(connections: &BTreeMap<u64, Connection>, keeps: usize) -> Option<u64> {
    let mut callers: HashMap<&str, Vec<(Instant, u64)>> = HashMap::new();
    for (number, Connection { activity, .. }) in connections {
        if let Some(who) = activity.proven() {
            callers.entry(who).or_default().push((activity.quiet_since(), *number));
        }
    }
    let most = callers.into_values().max_by_key(Vec::len).filter(|most| most.len() > keeps)?;
    most.into_iter().min().map(|(_, number)| number)
}

/// A peer is an IPv4 address or an IPv6 /64: who has one address of those has them all.
fn peer(address: IpAddr) -> Prefix {
    let address = Address::from(address).canonical();
    match address {
        Address::V4(_) => Prefix::host(address),
        Address::V6(_) => Prefix::new(address, 64).unwrap_or(Prefix::host(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Patience;

    const ROOM: Room = Room { connections: 4, per_peer: 2, per_caller: 2, rate: (1, 3), peers: 8, known: 4 };

    fn activity() -> Arc<Activity> {
        Activity::new(Patience::REMOTE)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_peer_has_so_many_places() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        let (first, _) = doors.enter(address("2001:db8::1"), &activity(), now).unwrap();
        doors.enter(address("2001:db8::2"), &activity(), now).unwrap();
        let refused = doors.enter(address("2001:db8::3"), &activity(), now);
        assert_eq!(refused, Err(Refused::PeerFull));
        assert!(doors.enter(address("2001:db8:0:1::"), &activity(), now).is_ok());
        doors.leave(&first, now);
        // The burst is used up by now.
        assert_eq!(doors.enter(address("2001:db8::3"), &activity(), now), Err(Refused::TooOften));
        let later = Nanos::from_secs(11);
        assert!(doors.enter(address("2001:db8::3"), &activity(), later).is_ok());
        assert_eq!(peer(address("::ffff:192.0.2.1")), peer(address("192.0.2.1")));
        assert_ne!(peer(address("192.0.2.1")), peer(address("192.0.2.2")));
    }

    #[tokio::test]
    async fn who_is_nobody_makes_room() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        let all: Vec<_> = (0..4).map(|_| activity()).collect();
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        all[0].prove(|| "0".to_owned());
        let mut places = Vec::new();
        for (n, one) in (0..).zip(&all) {
            let (place, turned_out) = doors.enter(from(n), one, now).unwrap();
            assert!(!turned_out);
            places.push(place);
        }
        let late = activity();
        assert!(doors.enter(from(9), &late, now).unwrap().1);
        // The second is gone: the first is somebody.
        all[1].turned_out().await;
        assert_eq!(doors.open(), 4);
        doors.leave(&places[1], now);
        assert_eq!(doors.open(), 4, "its place was taken already");
        all[2].prove(|| "2".to_owned());
        all[3].prove(|| "3".to_owned());
        late.prove(|| "9".to_owned());
        assert_eq!(doors.enter(from(10), &activity(), now), Err(Refused::Full));
        doors.leave(&places[0], now);
        assert!(doors.enter(from(10), &activity(), now).is_ok());
    }

    /// Whoever has many addresses turns out their own, and not who has come before and comes again.
    #[tokio::test]
    async fn who_has_come_before_is_not_turned_out_for_a_stranger() {
        let room = Room { peers: 100, ..ROOM };
        let mut doors = Doors::new(room);
        let now = Nanos::from_secs(10);
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        let worked = activity();
        let (place, _) = doors.enter(from(1), &worked, now).unwrap();
        worked.prove(|| "1".to_owned());
        doors.leave(&place, now);

        let (again, first, second, third) = (activity(), activity(), activity(), activity());
        doors.enter(from(1), &again, now).unwrap();
        doors.enter(from(2), &first, now).unwrap();
        doors.enter(from(3), &second, now).unwrap();
        doors.enter(from(3), &third, now).unwrap();
        let out = async |activity: &Activity| {
            tokio::time::timeout(std::time::Duration::from_millis(1), activity.turned_out()).await.is_ok()
        };
        // Strangers come and go: first one of the peer with two, then whoever came first.
        for (n, goes) in [(4, &second), (5, &first), (6, &third)] {
            assert!(doors.enter(from(n), &activity(), now).unwrap().1);
            assert!(out(goes).await, "{n}");
        }
        for n in 7..100 {
            assert!(doors.enter(from(n % 50 + 50), &activity(), now).unwrap().1, "{n}");
        }
        assert!(!out(&again).await, "who has come before had to go");
        // Those of whom somebody is there count as well.
        let (mut doors, mut places) = (Doors::new(room), Vec::new());
        for n in 1..3 {
            let worker = activity();
            places.push(doors.enter(from(n), &worker, now).unwrap());
            worker.prove(|| n.to_string());
            places.push(doors.enter(from(n), &activity(), now).unwrap());
        }
        assert_eq!(doors.enter(from(9), &activity(), now), Err(Refused::Full), "a stranger");
        let (place, _) = places.remove(2);
        doors.leave(&place, now);
        let stranger = activity();
        doors.enter(from(9), &stranger, now).unwrap();
        assert!(doors.enter(from(2), &activity(), now).unwrap().1);
        assert!(out(&stranger).await, "the stranger has to go for who is known");
        // It is not remembered for ever.
        assert!(doors.known.get(&peer(from(2)), now.saturating_add(Nanos(MEMORY.0 - 1))).is_some());
        assert!(doors.known.get(&peer(from(2)), now.saturating_add(MEMORY)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_does_not_keep_all_places() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        let all: Vec<_> = (0..4).map(|_| activity()).collect();
        for (n, one) in (0..).zip(&all) {
            doors.enter(from(n), one, now).unwrap();
            one.prove(|| if n == 0 { "token:work" } else { "token:lost" }.to_owned());
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        // Something is going on there.
        all[1].begin();
        let late = activity();
        assert!(doors.enter(from(8), &late, now).unwrap().1);
        let told = tokio::time::timeout(std::time::Duration::from_secs(1), all[2].turned_out()).await;
        assert!(told.is_ok(), "another one had to go");
        late.prove(|| "token:other".to_owned());
        assert_eq!(doors.enter(from(9), &activity(), now), Err(Refused::Full), "two are what one may keep");
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let mut doors = Doors::new(ROOM);
        let now = Nanos::from_secs(10);
        for n in 0..8 {
            let (place, _) = doors.enter(IpAddr::from([192, 0, 2, n]), &activity(), now).unwrap();
            doors.leave(&place, now);
        }
        assert_eq!(doors.enter(address("192.0.2.9"), &activity(), now), Err(Refused::Full));
        assert!(doors.enter(address("192.0.2.9"), &activity(), Nanos::from_secs(11)).is_ok());
        assert_eq!(doors.peers.len(), 1);
    }
}

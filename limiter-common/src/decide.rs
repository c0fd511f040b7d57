//! The policy, in order, on one page.

use crate::abi::{Limits, POLICY_ALL, POLICY_PATH_MTU};
use crate::frame::Frame;
use crate::lists::Listed;
use crate::nanos::{Clock, Nanos};
use crate::packet::{Packet, Transport};
use crate::parse::Network;
use crate::reason::Reason;
use crate::slots::{Charge, Policy};
use crate::tables::Tables;
use crate::{Address, parse};

/// The verdict on a frame: [`parse::find_network`], then [`judge_ipv4`] or [`judge_ipv6`]; or in other words
/// [`parse::network`], then [`decide()`].
#[inline(always)]
pub fn judge<F: Frame + ?Sized>(frame: &F, tables: &impl Tables, clock: &impl Clock) -> Reason {
    match parse::find_network(frame) {
        Ok(Network::V4 { at }) => judge_ipv4(frame, at, tables, clock),
        Ok(Network::V6 { at }) => judge_ipv6(frame, at, tables, clock),
        Err(reason) => reason,
    }
}

/// The verdict on a frame whose link header announces an IPv4 header at the offset `at`.
#[inline(always)]
pub fn judge_ipv4<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    let packet = match parse::ipv4::addresses(frame, at) {
        Ok((packet, _)) => packet,
        Err(reason) => return reason,
    };
    match by_source(&packet.source, tables, clock) {
        Some(listing) => rest_ipv4(frame, at, listing, tables, clock),
        None => Reason::Blocked,
    }
}

/// The second half of [`judge_ipv4`], of sources that are not blocked. The first one is [`by_source`].
#[inline(always)]
pub fn rest_ipv4<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    listing: Listing,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    // No closure with `?`: it would not be inlined where this is used twice.
    let (packet, header) = match parse::ipv4::addresses(frame, at) {
        Ok(found) => found,
        Err(reason) => return reason,
    };
    match parse::ipv4::transport(frame, &header, tables.lengths()) {
        Ok(transport) => by_transport(&packet, listing, &transport, tables, clock),
        Err(reason) => reason,
    }
}

/// [`rest_ipv4`] at [`parse::PLAIN`], of the packets that [`parse::find_plain_transport`] finds; `None` for all others.
#[inline(always)]
pub fn rest_plain_ipv4<F: Frame + ?Sized>(
    frame: &F,
    listing: Listing,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Option<Reason> {
    let (packet, transport) = parse::find_plain_transport(frame)?;
    Some(by_transport(&packet, listing, &transport, tables, clock))
}

/// The first part of [`judge_ipv4`]: what [`limit_ipv4`] needs.
///
/// # Errors
///
/// The verdict, if no limit matters.
#[inline(always)]
pub fn whole_ipv4<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Result<Transport, Reason> {
    let (packet, header) = parse::ipv4::addresses(frame, at)?;
    let listing = by_packet(&packet, tables, clock)?.forgotten(frame);
    let transport = parse::ipv4::transport(frame, &header, tables.lengths())?;
    match before_limits(&packet, listing) {
        Some(reason) => Err(reason),
        None if tables.limits().is_none() => Err(Reason::Passed),
        None => Ok(transport),
    }
}

/// The last part of [`judge_ipv4`].
#[inline(always)]
pub fn limit_ipv4<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    transport: &Transport,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    match parse::ipv4::addresses(frame, at) {
        Ok((packet, _)) => limit(&packet, transport, tables, clock),
        Err(reason) => reason,
    }
}

/// The verdict on a frame whose link header announces an IPv6 header at the offset `at`.
#[inline(always)]
pub fn judge_ipv6<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    match source_ipv6(frame, at, tables, clock) {
        Ok(listing) => {
            let transport = if parse::is_direct_ipv6(frame, at) {
                direct_ipv6(frame, at, listing, tables)
            } else {
                rest_ipv6(frame, at, listing, tables)
            };
            match transport {
                Ok(transport) => limit_ipv6(frame, at, &transport, tables, clock),
                Err(reason) => reason,
            }
        }
        Err(reason) => reason,
    }
}

/// The first half of [`judge_ipv6`].
///
/// # Errors
///
/// The verdict, if the source settles it, or if the addresses cannot be read.
#[inline(always)]
pub fn source_ipv6<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Result<Listing, Reason> {
    let (packet, _) = parse::ipv6::addresses(frame, at)?;
    by_packet(&packet, tables, clock)
}

/// The second part of [`judge_ipv6`]: what [`limit_ipv6`] needs.
///
/// # Errors
///
/// The verdict, if no limit matters.
#[inline(always)]
pub fn rest_ipv6<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    listing: Listing,
    tables: &impl Tables,
) -> Result<Transport, Reason> {
    let (packet, header) = parse::ipv6::addresses(frame, at)?;
    let transport = parse::ipv6::transport(frame, &header, tables.lengths())?;
    match before_limits(&packet, listing) {
        Some(reason) => Err(reason),
        None if tables.limits().is_none() => Err(Reason::Passed),
        None => Ok(transport),
    }
}

/// [`rest_ipv6`] for packets of which [`parse::is_direct_ipv6`] is true.
///
/// # Errors
///
/// As [`rest_ipv6`].
#[inline(always)]
pub fn direct_ipv6<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    listing: Listing,
    tables: &impl Tables,
) -> Result<Transport, Reason> {
    let (packet, header) = parse::ipv6::addresses(frame, at)?;
    let transport = parse::ipv6::direct_transport(frame, &header, tables.lengths())?;
    match before_limits(&packet, listing) {
        Some(reason) => Err(reason),
        None if tables.limits().is_none() => Err(Reason::Passed),
        None => Ok(transport),
    }
}

/// The last part of [`judge_ipv6`].
#[inline(always)]
pub fn limit_ipv6<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    transport: &Transport,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    match parse::ipv6::addresses(frame, at) {
        Ok((packet, _)) => limit(&packet, transport, tables, clock),
        Err(reason) => reason,
    }
}

/// The verdict on a packet. `transport` is asked only if the source does not settle the matter.
///
/// The source comes first: allowed sources skip everything but the checks of form, blocked sources are dropped
/// whatever follows. A later step may turn a pass into a drop, never a drop into a pass.
#[inline(always)]
pub fn decide(
    packet: &Packet,
    transport: impl FnOnce() -> Result<Transport, Reason>,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    let listing = match by_packet(packet, tables, clock) {
        Ok(listing) => listing,
        Err(reason) => return reason,
    };
    match transport() {
        Ok(transport) => by_transport(packet, listing, &transport, tables, clock),
        Err(reason) => reason,
    }
}

/// Nanoseconds that a deadline may pass late: more than any tick of a coarse clock, and nothing to anybody.
const DEADLINE_ERROR: u64 = 20_000_000;

/// What the lists say of a source that is not blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Allowed,
    Unlisted,
}

impl Listing {
    /// The same, without the verifier knowing by which of many ways it came about.
    #[inline(always)]
    #[must_use]
    pub fn forgotten<F: Frame + ?Sized>(self, frame: &F) -> Self {
        if frame.forget(usize::from(self == Self::Allowed)) == 0 { Self::Unlisted } else { Self::Allowed }
    }
}

/// The first half: what the source settles.
#[inline(always)]
fn by_packet(packet: &Packet, tables: &impl Tables, clock: &impl Clock) -> Result<Listing, Reason> {
    if packet.neighbour {
        return Err(Reason::Neighbour);
    }
    by_source(&packet.source, tables, clock).ok_or(Reason::Blocked)
}

/// What the lists say of a source; `None` if it is blocked.
#[inline(always)]
pub fn by_source(source: &Address, tables: &impl Tables, clock: &impl Clock) -> Option<Listing> {
    let listed = tables.listed(source);
    // Most entries are for good; they need no clock.
    if listed == Listed::BLOCKED {
        return None;
    }
    if listed.is_none() {
        return Some(Listing::Unlisted);
    }
    if listed.is_allowed_for_good() {
        return Some(Listing::Allowed);
    }
    let (entry, now) = (listed.entry(), clock.within(DEADLINE_ERROR));
    if entry.allows(now) {
        return Some(Listing::Allowed);
    }
    (!entry.blocks(now)).then_some(Listing::Unlisted)
}

/// The second half, for well-formed packets of sources that are not blocked.
#[inline(always)]
fn by_transport(
    packet: &Packet,
    listing: Listing,
    transport: &Transport,
    tables: &impl Tables,
    clock: &impl Clock,
) -> Reason {
    match before_limits(packet, listing) {
        Some(reason) => reason,
        None => limit(packet, transport, tables, clock),
    }
}

/// The same up to the limits.
#[inline(always)]
fn before_limits(packet: &Packet, listing: Listing) -> Option<Reason> {
    match listing {
        Listing::Allowed => Some(Reason::Allowed),
        Listing::Unlisted => impossible_addresses(&packet.source, &packet.destination),
    }
}

/// Addresses that no honest packet on the wire has. The stack would refuse most of them too, later.
#[inline(always)]
fn impossible_addresses(source: &Address, destination: &Address) -> Option<Reason> {
    match (source, destination) {
        (Address::V4(source), Address::V4(destination)) => match (source, destination) {
            // Loopback, multicast, reserved and broadcast (RFC 6890).
            ([127 | 224.., ..], _) => Some(Reason::ImpossibleSource),
            // "This network" may only speak to everybody, as DHCP clients do (RFC 1122 section 3.2.1.3).
            ([0, ..], [1..=223, ..]) => Some(Reason::ImpossibleSource),
            (_, [127, ..]) => Some(Reason::ImpossibleDestination),
            ([1..=255, ..], _) if source == destination => Some(Reason::Land),
            _ => None,
        },
        (Address::V6(source), Address::V6(destination)) => {
            const LOOPBACK: u128 = 1;
            let (source, destination) = (u128::from_be_bytes(*source), u128::from_be_bytes(*destination));
            if source >> 120 == 0xff || source == LOOPBACK {
                Some(Reason::ImpossibleSource)
            } else if destination == LOOPBACK {
                Some(Reason::ImpossibleDestination)
            } else if source == destination {
                Some(Reason::Land)
            } else {
                None
            }
        }
        (Address::V4(_), Address::V6(_)) | (Address::V6(_), Address::V4(_)) => None,
    }
}

/// The limits: the service's first, then the one for every packet. Path MTU messages have a budget of their own.
#[inline(always)]
fn limit(packet: &Packet, transport: &Transport, tables: &impl Tables, clock: &impl Clock) -> Reason {
    let Some(limits) = tables.limits() else {
        return Reason::Passed;
    };
    let error = |policy| limits.policies.get(policy).map_or(u64::MAX, Policy::clock_error);
    let general = if transport.is_path_mtu() { POLICY_PATH_MTU } else { POLICY_ALL };
    let service = if transport.is_path_mtu() { None } else { tables.service(limits, transport) };
    // No policy has this index, so nothing is charged to it. In the kernel nothing is undefined for lack of a service then.
    let service = service.unwrap_or(limits.policies.len());
    // Once for both, and as exactly as the more exact needs it; not at all if neither limits anything.
    let error = error(general).min(error(service));
    if error == u64::MAX {
        return Reason::Passed;
    }
    let now = clock.within(error);
    let verdict = charge(packet, limits, service, tables, now);
    if verdict != Reason::Passed {
        return verdict;
    }
    charge(packet, limits, general, tables, now)
}

#[inline(always)]
fn charge(packet: &Packet, limits: &Limits, policy: usize, tables: &impl Tables, now: Nanos) -> Reason {
    if limits.policies.get(policy).is_none_or(Policy::is_unlimited) {
        return Reason::Passed;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a frame has less than 4 GiB")]
    let bytes = packet.frame_len as u32;
    match tables.charge(&packet.source, policy, bytes, now) {
        Some(Charge::Conforms) => Reason::Passed,
        Some(Charge::OverPackets) => Reason::PacketRate,
        Some(Charge::OverBits) => Reason::BitRate,
        None => Reason::Internal,
    }
}

#[cfg(test)]
mod tests;

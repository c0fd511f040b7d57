//! Reads counters and who they belong to, and which blocked sources still send.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use limiter_common::abi::{self, Count, InterfaceName, MAX_INTERFACES, counter_index};
use limiter_common::hits::{self, BUSY};
use limiter_common::slots::Word;
use limiter_common::{Address, Nanos, Reason};

use super::bpf;
use super::mapped::Mapped;
use super::maps::Maps;
use crate::config::Capacity;
use crate::dataplane::{Hit, InterfaceCounts, Reader, Table, TableCapacity};

/// Reads the maps.
#[derive(Debug)]
pub(super) struct KernelReader {
    maps: Arc<Maps>,
    hits: Mapped,
    capacity: Capacity,
    cpus: usize,
}

impl KernelReader {
    pub(super) fn new(maps: Arc<Maps>, capacity: Capacity) -> io::Result<Self> {
        let hits = maps.get(&abi::HITS).mapped()?;
        Ok(Self { maps, hits, capacity, cpus: possible_cpus()? })
    }
}

impl Reader for KernelReader {
    fn counts(&self) -> io::Result<Vec<InterfaceCounts>> {
        let mut all = Vec::new();
        for slot in 0..MAX_INTERFACES {
            let name = interface(&self.maps, slot)?;
            if name.is_empty() {
                continue;
            }
            let counts = Reason::ALL
                .iter()
                .map(|reason| Ok((*reason, count(&self.maps, self.cpus, slot, *reason)?)))
                .collect::<io::Result<_>>()?;
            all.push(InterfaceCounts { interface: name, counts });
        }
        Ok(all)
    }

    fn hits(&self) -> io::Result<Vec<Hit>> {
        Ok(hits_in(self.hits.values()))
    }

    fn capacities(&self) -> Vec<TableCapacity> {
        Table::ALL
            .iter()
            .map(|table| TableCapacity { table: table.name(), capacity: table.capacity(&self.capacity) })
            .collect()
    }
}

/// All places that somebody has.
fn hits_in(sets: &[hits::Set<AtomicU64>]) -> Vec<Hit> {
    sets.iter().flatten().filter_map(hit).collect()
}

/// Who has this place; nobody while it changes hands.
fn hit(place: &hits::Hit<impl Word>) -> Option<Hit> {
    let taken = || {
        let packets = place.packets.load();
        (!matches!(packets, 0 | BUSY)).then(|| (packets, place.high.load(), place.low.load()))
    };
    let (_, high, low) = taken()?;
    let seen = Nanos(place.seen.load());
    // Once more: the halves are of one address only if both are still there, under a number that counts.
    let (packets, ..) = taken().filter(|(_, again, rest)| (*again, *rest) == (high, low))?;
    let address = u128::from(high) << 64 | u128::from(low);
    Some(Hit { address: Address::V6(address.to_be_bytes()).canonical(), packets, seen })
}

/// The counts of one reason in one slot, over all CPUs.
pub(super) fn count(maps: &Maps, cpus: usize, slot: u32, reason: Reason) -> io::Result<Count> {
    let mut values = vec![0; cpus * size_of::<Count>()];
    let key = counter_index(slot, reason.index()).to_ne_bytes();
    bpf::lookup(maps.get(&abi::COUNTERS).fd(), &key, &mut values)?;
    let mut sum = Count::default();
    for value in values.chunks_exact(size_of::<Count>()) {
        let (packets, bytes) = value.split_at(8);
        sum.packets += u64::from_ne_bytes(packets.try_into().unwrap_or_default());
        sum.bytes += u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    Ok(sum)
}

/// Sets all counts of a slot to zero.
pub(super) fn reset(maps: &Maps, cpus: usize, slot: u32) -> io::Result<()> {
    let zeros = vec![0; cpus * size_of::<Count>()];
    for reason in Reason::ALL {
        bpf::update(
            maps.get(&abi::COUNTERS).fd(),
            &counter_index(slot, reason.index()).to_ne_bytes(),
            &zeros,
        )?;
    }
    Ok(())
}

/// Name of the interface that holds a slot; empty if none does.
pub(super) fn interface(maps: &Maps, slot: u32) -> io::Result<String> {
    let mut name = InterfaceName::default();
    bpf::lookup(maps.get(&abi::INTERFACES).fd(), &slot.to_ne_bytes(), &mut name)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Gives a slot to an interface; to none if the name is empty.
pub(super) fn set_interface(maps: &Maps, slot: u32, interface: &str) -> io::Result<()> {
    let mut name = InterfaceName::default();
    let bytes = interface.as_bytes();
    name.get_mut(..bytes.len())
        .filter(|field| field.len() < size_of::<InterfaceName>())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"))?
        .copy_from_slice(bytes);
    map_update(maps.get(&abi::INTERFACES).fd(), slot, &name)
}

fn map_update(map: BorrowedFd<'_>, key: u32, value: &[u8]) -> io::Result<()> {
    bpf::update(map, &key.to_ne_bytes(), value)
}

/// CPUs that there can ever be: per-CPU maps have a value for each, also for those that are not there.
pub(super) fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    // "0-3" or "0,2-3": the highest number counts.
    let last = text.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<usize>().ok());
    match last {
        Some(last) => Ok(last + 1),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("possible CPUs: {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use limiter_common::hits::{SAMPLE, Set, record};

    use super::*;

    #[test]
    fn hits_of_free_and_busy_places_are_skipped() {
        let sets = [Set::<AtomicU64>::default(), Set::default()];
        record(&sets[0], 0, 0xffff_c000_0207, Nanos(5));
        record(&sets[0], 0, 0xffff_c000_0207, Nanos(6));
        record(&sets[1], 0x2001_0db8_0000_0000, 7, Nanos(8));
        record(&sets[1], 1, 1, Nanos(9));
        let last = &sets[1][1].packets;
        last.store(BUSY, std::sync::atomic::Ordering::Relaxed);
        let address = |text: &str| text.parse::<Address>().unwrap();
        assert_eq!(
            hits_in(&sets),
            [
                Hit { address: address("192.0.2.7"), packets: 2 * SAMPLE, seen: Nanos(6) },
                Hit { address: address("2001:db8::7"), packets: SAMPLE, seen: Nanos(8) },
            ]
        );
    }
}

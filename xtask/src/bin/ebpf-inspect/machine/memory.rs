//! What a program can reach, in pieces that lie far apart: an address that runs out of its piece reaches nothing.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};

/// Addresses of one region; the first ones belong to none, so that small numbers are not addresses.
const REGION_BITS: u32 = 40;

/// Where the first value of a region is: there is as much room before as behind.
const START: u64 = 1 << (REGION_BITS - 1);

/// Memory of one kind: an array of values, each bounded for itself.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Bytes of a value.
    pub(super) value: usize,
    pub(super) writable: bool,
}

impl Region {
    /// From one value's address to the next one's: there is a gap of the same size behind each.
    fn stride(&self) -> u64 {
        2 * (self.value as u64).next_power_of_two()
    }
}

/// The number of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(usize);

#[derive(Debug, Default)]
pub(super) struct Memory {
    regions: Vec<Region>,
}

impl Memory {
    pub(super) fn add(&mut self, region: Region) -> Id {
        self.regions.push(region);
        Id(self.regions.len() - 1)
    }

    pub(super) fn region(&self, Id(index): Id) -> &Region {
        &self.regions[index]
    }

    pub(super) fn region_mut(&mut self, Id(index): Id) -> &mut Region {
        &mut self.regions[index]
    }

    /// Where a value of a region begins; it need not exist.
    pub(super) fn address(&self, id: Id, value: usize) -> u64 {
        ((id.0 as u64 + 1) << REGION_BITS) + START + value as u64 * self.region(id).stride()
    }

    /// The region that an address points into, and how far from its first value; `None` if it is no address.
    pub(super) fn locate(&self, address: u64) -> Option<(Id, i64)> {
        let index = usize::try_from((address >> REGION_BITS).checked_sub(1)?).ok()?;
        let offset = (address & ((1 << REGION_BITS) - 1)).cast_signed() - START.cast_signed();
        (index < self.regions.len()).then_some((Id(index), offset))
    }

    /// The region, and which of its bytes `len` bytes at `address` are.
    fn find(&self, address: u64, len: usize) -> Result<(Id, Range<usize>)> {
        let (id, offset) = self.locate(address).with_context(|| format!("{address:#x} is not an address"))?;
        let region = self.region(id);
        let Region { name, value: size, .. } = region;
        let Ok(offset) = u64::try_from(offset) else {
            bail!("{len} bytes at {name} - {}", offset.unsigned_abs());
        };
        let (value, within) = (offset / region.stride(), offset % region.stride());
        let (value, within) = (usize::try_from(value)?, usize::try_from(within)?);
        let start = value.saturating_mul(*size).saturating_add(within);
        if within + len > *size || start + len > region.bytes.len() {
            let count = region.bytes.len().checked_div(*size).unwrap_or(0);
            bail!("{len} bytes at {name}[{value}] + {within}, but there are {count} of {size} bytes");
        }
        Ok((id, start..start + len))
    }

    pub(super) fn bytes(&self, address: u64, len: usize) -> Result<&[u8]> {
        let (id, range) = self.find(address, len)?;
        Ok(&self.region(id).bytes[range])
    }

    pub(super) fn bytes_mut(&mut self, address: u64, len: usize) -> Result<&mut [u8]> {
        let (id, range) = self.find(address, len)?;
        let region = self.region_mut(id);
        if !region.writable {
            bail!("a write to {}, which is read-only", region.name);
        }
        Ok(&mut region.bytes[range])
    }

    /// A number of `width` bytes, at most 8, in the order of this machine.
    pub(super) fn load(&self, address: u64, width: usize) -> Result<u64> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.bytes(address, width)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn store(&mut self, address: u64, width: usize, number: u64) -> Result<()> {
        self.bytes_mut(address, width)?.copy_from_slice(&number.to_le_bytes()[..width]);
        Ok(())
    }
}

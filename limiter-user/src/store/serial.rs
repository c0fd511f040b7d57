//! How many commits there were: in the file of the store, and beside it, in `claims.serial`.
//!
//! If the last commit is damaged, the library takes the one before, and says nothing; and somebody may have put a copy
//! of yesterday in the place of the file. Where the file knows of fewer commits than there were, something is lost.
//!
//! The number beside it is written after each commit, without waiting for the disk: after a power cut it may be too small, but
//! never too large. It is 8 bytes, little-endian, and their CRC-32C.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use redb::{ReadTransaction, TableDefinition, WriteTransaction};

use super::crc::checksum;

const SERIAL: TableDefinition<'_, (), u64> = TableDefinition::new("serial-1");

/// The number beside the store, and the last commit's.
#[derive(Debug)]
pub(super) struct Serial {
    /// `None`: it cannot be written, and so tells nothing the next time.
    file: Option<fs::File>,
    last: u64,
}

impl Serial {
    /// Opens the file at `path`, or makes one.
    pub(super) fn open(path: &Path) -> Self {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok();
        let mut bytes = [0; 12];
        let read = file.as_ref().is_some_and(|file| file.read_exact_at(&mut bytes, 0).is_ok());
        let last = if read { decode(bytes) } else { None };
        Self { file, last: last.unwrap_or(0) }
    }

    /// Lets go of the file, so that the disk can be taken away.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// How many commits are lost if the store knows of `stored`. Later ones have higher numbers.
    pub(super) fn lost(&mut self, stored: u64) -> u64 {
        let lost = self.last.saturating_sub(stored);
        self.last = self.last.max(stored);
        lost
    }

    /// The number of the next commit.
    pub(super) fn next(&self) -> u64 {
        self.last.saturating_add(1)
    }

    /// The commit with the [next](Self::next) number was made; `durable` if it is on the disk.
    pub(super) fn made(&mut self, durable: bool) {
        self.last = self.next();
        if let (true, Some(file)) = (durable, &self.file) {
            // Else less is noticed the next time, no more.
            let _ = file.write_all_at(&encode(self.last), 0);
        }
    }
}

fn encode(number: u64) -> [u8; 12] {
    let number = number.to_le_bytes();
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&checksum([&number, &[]]).to_le_bytes());
    bytes
}

/// `None` if it is damaged.
fn decode(bytes: [u8; 12]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (encode(number) == bytes).then_some(number)
}

/// The number of the last commit that the store knows of.
pub(super) fn read(transaction: &ReadTransaction) -> Result<u64, redb::Error> {
    match transaction.open_table(SERIAL) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
        table => Ok(table?.get(())?.map_or(0, |number| number.value())),
    }
}

pub(super) fn write(transaction: &WriteTransaction, number: u64) -> Result<(), redb::Error> {
    transaction.open_table(SERIAL)?.insert((), number)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(77);
        assert_eq!(decode(bytes), Some(77));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(damaged), None, "bit {bit}");
        }
    }
}

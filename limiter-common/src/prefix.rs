//! CIDR prefixes: an address and how many of its leading bits count.

use core::fmt;

use crate::address::{Address, InvalidAddress};

/// A canonical prefix: the bits behind the length are zero. A host is a prefix of full length.
///
/// The order is family, then address, then length, so a prefix sorts directly before everything it contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Address,
    len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that contains `address`; bits behind it are cleared. `None` if `len` is longer than
    /// the address.
    pub fn new(address: Address, len: u8) -> Option<Self> {
        (len <= address.bits()).then(|| Self { address: mask(address, len), len })
    }

    /// The prefix that is this one address.
    pub const fn host(address: Address) -> Self {
        Self { address, len: address.bits() }
    }

    /// The first address.
    pub const fn address(self) -> Address {
        self.address
    }

    /// Leading bits that count: 0 to 32, or 0 to 128.
    pub const fn length(self) -> u8 {
        self.len
    }

    pub const fn is_host(self) -> bool {
        self.len == self.address.bits()
    }

    /// The last address.
    pub fn last(self) -> Address {
        let fill = |bytes: &mut [u8]| {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte |= !byte_mask(self.len, i);
            }
        };
        let mut address = self.address;
        match &mut address {
            Address::V4(bytes) => fill(bytes),
            Address::V6(bytes) => fill(bytes),
        }
        address
    }

    pub fn contains(self, address: Address) -> bool {
        self.address.bits() == address.bits() && mask(address, self.len) == self.address
    }

    /// Whether every address of `other` is in this prefix; a prefix covers itself.
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// The bits of byte `index` that lie within the first `len` bits.
fn byte_mask(len: u8, index: usize) -> u8 {
    match usize::from(len).saturating_sub(index * 8) {
        0 => 0,
        bits @ 1..8 => !(0xff >> bits),
        _ => 0xff,
    }
}

fn mask(address: Address, len: u8) -> Address {
    let clear = |bytes: &mut [u8]| {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte &= byte_mask(len, i);
        }
    };
    let mut masked = address;
    match &mut masked {
        Address::V4(bytes) => clear(bytes),
        Address::V6(bytes) => clear(bytes),
    }
    masked
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.len) }
    }
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidPrefix {
    Address,
    /// The length is not a number, or longer than the address.
    Length,
}

impl fmt::Display for InvalidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "not an IPv4 or IPv6 address or prefix",
            Self::Length => "the prefix length is not a number from 0 to 32 (IPv4) or 128 (IPv6)",
        })
    }
}

impl core::error::Error for InvalidPrefix {}

impl From<InvalidAddress> for InvalidPrefix {
    fn from(InvalidAddress: InvalidAddress) -> Self {
        Self::Address
    }
}

/// `ADDRESS` or `ADDRESS/LENGTH`. Host bits are cleared; an IPv4-mapped prefix of at least 96 bits becomes IPv4.
impl core::str::FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let Some((address, length)) = text.split_once('/') else {
            return Ok(Self::host(text.parse()?));
        };
        let Ok(written) = address.parse::<core::net::IpAddr>() else {
            return Err(InvalidPrefix::Address);
        };
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|b| b.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| digits).ok_or(InvalidPrefix::Length)?;
        let written = Address::from(written);
        let address = written.canonical();
        // A mapped prefix shorter than /96 covers more than mapped addresses and stays what it is.
        match (written.is_v4() == address.is_v4(), length.checked_sub(96)) {
            (true, _) => Self::new(written, length),
            (false, Some(length)) => Self::new(address, length),
            (false, None) => Self::new(written, length),
        }
        .ok_or(InvalidPrefix::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn text_forms() {
        for (text, canonical) in [
            ("192.0.2.1", "192.0.2.1"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8::ffff/33", "2001:db8::/33"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0.0.0.0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(prefix(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refused_texts() {
        for text in [
            "",
            "/",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/-1",
            "::/129",
            "010.0.0.1",
            "0x7f.1",
            "1.2.3.4/0008",
            "fe80::1%eth0",
            "1.2.3.4/8/8",
            " 1.2.3.4",
            "1.2.3.4 ",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn containment_and_ends() {
        assert!(prefix("10.0.0.0/8").covers(prefix("10.255.0.0/16")));
        assert!(!prefix("10.255.0.0/16").covers(prefix("10.0.0.0/8")));
        assert!(!prefix("0.0.0.0/0").covers(prefix("::/0")));
        assert_eq!(prefix("10.0.0.0/9").last(), "10.127.255.255".parse().unwrap());
        assert_eq!(prefix("2001:db8::/127").last(), "2001:db8::1".parse().unwrap());
        assert!(prefix("10.0.0.0/8") < prefix("10.0.0.0/9"));
    }
}

//! IP addresses in network order.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address. Bytes are in network order, as on the wire and in map keys, so the derived order is the
/// numeric one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Address {
    /// Bits in an address of this family: 32 or 128.
    #[inline(always)]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4(_) => 32,
            Self::V6(_) => 128,
        }
    }

    pub const fn is_v4(self) -> bool {
        matches!(self, Self::V4(_))
    }

    /// The form under which lists know an address: an IPv4-mapped IPv6 address (`::ffff:a.b.c.d`, RFC 4291 section
    /// 2.5.5.2) is the IPv4 address, because that is what a socket means by it.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]) => Self::V4([a, b, c, d]),
            Self::V4(_) | Self::V6(_) => self,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::V4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::V6(address.octets())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(bytes) => Self::V4(bytes.into()),
            Address::V6(bytes) => Self::V6(bytes.into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// The text is not an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidAddress;

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an IPv4 or IPv6 address")
    }
}

impl core::error::Error for InvalidAddress {}

/// Strict text form: four decimal numbers, or RFC 4291 section 2.2. No octal, no short forms, no zones. The result
/// is [canonical](Address::canonical).
impl core::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self::from(address).canonical()),
            Err(_) => Err(InvalidAddress),
        }
    }
}

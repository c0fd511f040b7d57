//! Which address a packet comes from. The benchmark makes its lists with the same functions as the program that makes
//! the packets, so that a packet of a listed source needs no table of them: a lookup more would be measured too.
//!
//! All addresses are such as honest hosts have: IPv4 from 1.0.0.0 to 223.255.255.255 without 127.0.0.0/8, IPv6 from
//! 2000::/3 (RFC 6890).

/// The most listed addresses there can be; beyond it they repeat.
pub const MOST_LISTED: u32 = 1 << 24;

/// Random bits, one result for each number (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
#[inline(always)]
pub const fn random(number: u64) -> u64 {
    let x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A number below `bound`, evenly; of `random` the upper half is used.
#[inline(always)]
pub const fn below(random: u64, bound: u32) -> u32 {
    (((random >> 32) * bound as u64) >> 32) as u32
}

/// The IPv4 address (in host order) of listed source number `index`. Different up to [`MOST_LISTED`].
///
/// The lower 24 bits are a permutation of the index, so the first octet may be anything: a random one.
#[inline(always)]
pub const fn listed_v4(index: u32) -> u32 {
    const MASK: u32 = MOST_LISTED - 1;
    let x = index.wrapping_mul(0x9e37_79b1) & MASK;
    let x = (x ^ x >> 12).wrapping_mul(0x85eb_ca6b) & MASK;
    let lower = x ^ x >> 12;
    let mixed = ((index ^ 0x6a09_e667) as u64).wrapping_mul(0x9fb2_1c65_1e98_df25);
    honest((mixed >> 32) as u32) & !MASK | lower
}

/// The upper 64 bits (in host order) of listed IPv6 source number `index`. Different for all that matters.
#[inline(always)]
pub const fn listed_v6(index: u32) -> u64 {
    honest_v6(random(1 << 40 | index as u64))
}

/// Any IPv4 address, evenly.
#[inline(always)]
pub const fn any_v4(random: u64) -> u32 {
    honest((random >> 32) as u32)
}

/// Any /64.
#[inline(always)]
pub const fn any_v6(random: u64) -> u64 {
    honest_v6(random)
}

/// Source number `index` of a fixed population, which is not listed but by chance.
#[inline(always)]
pub const fn resident_v4(index: u32) -> u32 {
    any_v4(random(2 << 40 | index as u64))
}

/// Likewise for IPv6.
#[inline(always)]
pub const fn resident_v6(index: u32) -> u64 {
    any_v6(random(2 << 40 | index as u64))
}

/// Maps 32 bits evenly onto the addresses from 1.0.0.0 to 223.255.255.255, without loopback.
#[inline(always)]
const fn honest(bits: u32) -> u32 {
    const FIRST: u32 = 1 << 24;
    const COUNT: u32 = 223 << 24;
    let address = FIRST + ((bits as u64 * COUNT as u64) >> 32) as u32;
    // 127 becomes 63.
    if address >> 24 == 127 { address ^ 1 << 30 } else { address }
}

#[inline(always)]
const fn honest_v6(bits: u64) -> u64 {
    1 << 61 | bits >> 3
}

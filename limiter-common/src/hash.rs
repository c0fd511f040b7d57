//! The keyed hashes of all tables.

/// A keyed permutation of 64 bits: multiply and shift, with the secret before and between. Who does not know the secret
/// cannot aim at a place in a table.
#[inline(always)]
pub(crate) const fn mix(value: u64, [k0, k1]: [u64; 2]) -> u64 {
    let x = (value ^ k0).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let x = ((x ^ x >> 32) ^ k1).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 32
}

/// A keyed hash of keys of up to 33 bits, by one multiplication with a secret: the 32 bits that are the best.
///
/// Whatever two keys are chosen without knowing the secret, the chance that they share one of n places is at most 2 / n, for
/// up to 2^31 places (multiply-shift; Dietzfelbinger and others, 1997). Unlike [`mix`] it is linear: who finds out which
/// keys share a place knows of others that do. So it is for tables that strangers have no say in, as lists are.
#[inline(always)]
pub(crate) const fn multiply(key: u64, secret: u64) -> u64 {
    key.wrapping_mul(secret) >> 32
}

/// The low bits of `hash` as an index into a table of `count` places, a power of two.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "masked to less than `count`, which is 32 bits")]
pub(crate) const fn low_bits(hash: u64, count: u32) -> u32 {
    // Without places every index is out of bounds, which is noticed where it is used.
    (hash & (count as u64).wrapping_sub(1)) as u32
}

//! CRC-32C (RFC 3385), which finds every error of up to five bits in what is stored here.

/// The checksum of `parts` one behind the other.
pub(super) fn checksum(parts: [&[u8]; 2]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "below 256")]
            let mut sum = i as u32;
            let mut bit = 0;
            while bit < 8 {
                sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
                bit += 1;
            }
            table[i] = sum;
            i += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| {
        let [low, ..] = sum.to_le_bytes();
        sum >> 8 ^ TABLE[usize::from(low ^ byte)]
    };
    !parts.into_iter().flatten().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 section B.4.
    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(checksum([b"1234", b"56789"]), 0xe306_9283);
        assert_eq!(checksum([&[0; 16], &[0; 16]]), 0x8a91_36aa);
    }
}

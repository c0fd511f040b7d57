//! CRC-32C (RFC 3385), which finds every error of up to five bits in what is stored here.

/// How many bytes are taken in a step: each has a table of its own, and the look-ups do not wait for each other.
const STEP: usize = 8;

/// What byte `b`, with `n` more bytes behind it in the same step, adds to the checksum is in `TABLES[n][b]`.
static TABLES: [[u32; 256]; STEP] = tables();

const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut behind = 1;
    while behind < STEP {
        let mut byte = 0;
        while byte < 256 {
            let sum = tables[behind - 1][byte];
            tables[behind][byte] = sum >> 8 ^ tables[0][(sum & 0xff) as usize];
            byte += 1;
        }
        behind += 1;
    }
    tables
}

/// The checksum of `parts` one behind the other.
pub(super) fn checksum(parts: [&[u8]; 2]) -> u32 {
    !parts.into_iter().fold(u32::MAX, add)
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: The CPU has the instructions.
        return unsafe { add_by_instruction(sum, bytes) };
    }
    add_by_table(sum, bytes)
}

/// With the instructions that x86-64 CPUs since 2008 have for just this checksum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn add_by_instruction(sum: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};

    let (steps, rest) = bytes.as_chunks::<STEP>();
    let step = |sum: u64, step: &[u8; STEP]| _mm_crc32_u64(sum, u64::from_le_bytes(*step));
    #[expect(clippy::cast_possible_truncation, reason = "the upper half is 0")]
    let sum = steps.iter().fold(sum.into(), step) as u32;
    rest.iter().fold(sum, |sum, byte| _mm_crc32_u8(sum, *byte))
}

fn add_by_table(mut sum: u32, bytes: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let (steps, rest) = bytes.as_chunks::<STEP>();
    for [a, b, c, d, e, f, g, h] in steps {
        let [w, x, y, z] = (sum ^ u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes();
        let at = |table: &[u32; 256], byte: u8| table[usize::from(byte)];
        sum =
            at(t7, w) ^ at(t6, x) ^ at(t5, y) ^ at(t4, z) ^ at(t3, *e) ^ at(t2, *f) ^ at(t1, *g) ^ at(t0, *h);
    }
    rest.iter().fold(sum, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        sum >> 8 ^ t0[usize::from(low ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 section B.4.
    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(checksum([b"1234", b"56789"]), 0xe306_9283);
        assert_eq!(checksum([&[0; 16], &[0; 16]]), 0x8a91_36aa);
        let ascending: Vec<u8> = (0..32).collect();
        for cut in 0..=ascending.len() {
            let (before, behind) = ascending.split_at(cut);
            assert_eq!(checksum([before, behind]), 0x46dd_794e, "cut at {cut}");
            assert_eq!(!add_by_table(add_by_table(u32::MAX, before), behind), 0x46dd_794e, "cut at {cut}");
        }
    }
}

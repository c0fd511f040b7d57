//! Numbers: what one instruction makes of two of them.

use super::instruction::{
    ADD, ALU64, AND, ARSH, DIV, END, Instruction, JEQ, JGE, JGT, JLE, JLT, JMP, JNE, JSET, JSGE, JSGT, JSLE,
    JSLT, LSH, MOD, MOV, MUL, NEG, OR, RSH, SUB, XOR,
};

/// What arithmetic makes of its operands; `None` if there is no such instruction.
pub(super) fn calculate(instruction: Instruction, a: u64, b: u64) -> Option<u64> {
    let (operation, offset) = (instruction.operation(), instruction.offset);
    let wide = instruction.class() == ALU64;
    if operation == END {
        // The machine is little-endian, so the other order is big-endian; with 64 bits it is a swap anyway.
        return swapped(a, instruction.immediate, wide || instruction.has_source());
    }
    if wide {
        width::calculate_64(operation, offset, a, b)
    } else {
        width::calculate_32(operation, offset, width::low(a), width::low(b)).map(u64::from)
    }
}

/// Whether a conditional jump is taken; `None` if there is no such instruction.
pub(super) fn compare(instruction: Instruction, a: u64, b: u64) -> Option<bool> {
    let operation = instruction.operation();
    if instruction.class() == JMP {
        width::compare_64(operation, a, b)
    } else {
        width::compare_32(operation, width::low(a), width::low(b))
    }
}

/// The lower `width` bytes, at least 1 and at most 8, with their sign.
pub(super) fn sign_extended(number: u64, width: usize) -> u64 {
    let unused = 64 - 8 * width;
    (number.cast_signed() << unused >> unused).cast_unsigned()
}

/// The lower bits, in the other order if `swap`.
fn swapped(number: u64, bits: i32, swap: bool) -> Option<u64> {
    let unused = match bits {
        16 | 32 | 64 => 64 - bits,
        _ => return None,
    };
    Some(if swap { number.swap_bytes() >> unused } else { number << unused >> unused })
}

macro_rules! width {
    ($calculate:ident, $compare:ident, $unsigned:ident, $signed:ident) => {
        /// `None` for an operation that does not exist. Division by zero is 0, its remainder the dividend.
        pub(super) fn $calculate(
            operation: u8,
            offset: i16,
            a: $unsigned,
            b: $unsigned,
        ) -> Option<$unsigned> {
            let shift = b as u32 & ($unsigned::BITS - 1);
            let (signed_a, signed_b) = (a.cast_signed(), b.cast_signed());
            Some(match (operation, offset) {
                (ADD, 0) => a.wrapping_add(b),
                (SUB, 0) => a.wrapping_sub(b),
                (MUL, 0) => a.wrapping_mul(b),
                (DIV, 0) => a.checked_div(b).unwrap_or(0),
                (DIV, 1) if b == 0 => 0,
                (DIV, 1) => signed_a.wrapping_div(signed_b).cast_unsigned(),
                (MOD, 0) => a.checked_rem(b).unwrap_or(a),
                (MOD, 1) if b == 0 => a,
                (MOD, 1) => signed_a.wrapping_rem(signed_b).cast_unsigned(),
                (OR, 0) => a | b,
                (AND, 0) => a & b,
                (XOR, 0) => a ^ b,
                (LSH, 0) => a << shift,
                (RSH, 0) => a >> shift,
                (ARSH, 0) => (signed_a >> shift).cast_unsigned(),
                (NEG, 0) => a.wrapping_neg(),
                (MOV, 0) => b,
                (MOV, 8) => (b as i8 as $signed).cast_unsigned(),
                (MOV, 16) => (b as i16 as $signed).cast_unsigned(),
                (MOV, 32) => (b as i32 as $signed).cast_unsigned(),
                _ => return None,
            })
        }

        /// `None` for a comparison that does not exist.
        pub(super) fn $compare(operation: u8, a: $unsigned, b: $unsigned) -> Option<bool> {
            let (signed_a, signed_b) = (a.cast_signed(), b.cast_signed());
            Some(match operation {
                JEQ => a == b,
                JNE => a != b,
                JGT => a > b,
                JGE => a >= b,
                JLT => a < b,
                JLE => a <= b,
                JSET => a & b != 0,
                JSGT => signed_a > signed_b,
                JSGE => signed_a >= signed_b,
                JSLT => signed_a < signed_b,
                JSLE => signed_a <= signed_b,
                _ => return None,
            })
        }
    };
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_lossless,
    reason = "instructions take parts of registers, and one text is for both widths"
)]
mod width {
    use super::{
        ADD, AND, ARSH, DIV, JEQ, JGE, JGT, JLE, JLT, JNE, JSET, JSGE, JSGT, JSLE, JSLT, LSH, MOD, MOV, MUL,
        NEG, OR, RSH, SUB, XOR,
    };

    width!(calculate_64, compare_64, u64, i64);
    width!(calculate_32, compare_32, u32, i32);

    pub(super) fn low(number: u64) -> u32 {
        number as u32
    }
}

//! One BPF instruction (RFC 9669), and its text.

use std::fmt;

use aya_obj::generated::bpf_insn;

// Classes.
pub(super) const LD: u8 = 0;
pub(super) const LDX: u8 = 1;
pub(super) const ST: u8 = 2;
pub(super) const STX: u8 = 3;
pub(super) const ALU: u8 = 4;
pub(super) const JMP: u8 = 5;
pub(super) const JMP32: u8 = 6;
pub(super) const ALU64: u8 = 7;

// Modes of loads and stores.
pub(super) const IMMEDIATE: u8 = 0x00;
pub(super) const MEMORY: u8 = 0x60;
pub(super) const MEMORY_SIGNED: u8 = 0x80;
pub(super) const ATOMIC: u8 = 0xc0;

/// The second operand is a register, not the immediate.
pub(super) const REGISTER: u8 = 0x08;

// Operations of arithmetic.
pub(super) const ADD: u8 = 0x00;
pub(super) const SUB: u8 = 0x10;
pub(super) const MUL: u8 = 0x20;
pub(super) const DIV: u8 = 0x30;
pub(super) const OR: u8 = 0x40;
pub(super) const AND: u8 = 0x50;
pub(super) const LSH: u8 = 0x60;
pub(super) const RSH: u8 = 0x70;
pub(super) const NEG: u8 = 0x80;
pub(super) const MOD: u8 = 0x90;
pub(super) const XOR: u8 = 0xa0;
pub(super) const MOV: u8 = 0xb0;
pub(super) const ARSH: u8 = 0xc0;
pub(super) const END: u8 = 0xd0;

// Operations of jumps.
pub(super) const JA: u8 = 0x00;
pub(super) const JEQ: u8 = 0x10;
pub(super) const JGT: u8 = 0x20;
pub(super) const JGE: u8 = 0x30;
pub(super) const JSET: u8 = 0x40;
pub(super) const JNE: u8 = 0x50;
pub(super) const JSGT: u8 = 0x60;
pub(super) const JSGE: u8 = 0x70;
pub(super) const CALL: u8 = 0x80;
pub(super) const EXIT: u8 = 0x90;
pub(super) const JLT: u8 = 0xa0;
pub(super) const JLE: u8 = 0xb0;
pub(super) const JSLT: u8 = 0xc0;
pub(super) const JSLE: u8 = 0xd0;

// Atomic operations, in the immediate.
pub(super) const FETCH: i32 = 0x01;
pub(super) const EXCHANGE: i32 = 0xe1;
pub(super) const COMPARE_EXCHANGE: i32 = 0xf1;

// What the source register of a wide load says of its immediates.
pub(super) const MAP: u8 = 1;
pub(super) const MAP_VALUE: u8 = 2;

// What the source register of a call says of its immediate.
pub(super) const CALL_HELPER: u8 = 0;
pub(super) const CALL_FUNCTION: u8 = 1;

/// One slot of a program: an instruction, or the first or second half of a wide load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) destination: u8,
    pub(crate) source: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

impl From<&bpf_insn> for Instruction {
    fn from(instruction: &bpf_insn) -> Self {
        Self {
            code: instruction.code,
            destination: instruction.dst_reg(),
            source: instruction.src_reg(),
            offset: instruction.off,
            immediate: instruction.imm,
        }
    }
}

impl Instruction {
    pub(super) const fn class(self) -> u8 {
        self.code & 7
    }

    /// Of arithmetic and jumps.
    pub(super) const fn operation(self) -> u8 {
        self.code & 0xf0
    }

    /// Of loads and stores.
    pub(super) const fn mode(self) -> u8 {
        self.code & 0xe0
    }

    /// Bytes that a load or store moves.
    pub(super) const fn width(self) -> usize {
        match self.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        }
    }

    /// Whether this is the first half of a wide load.
    pub(super) const fn is_wide(self) -> bool {
        self.class() == LD && self.mode() == IMMEDIATE && self.width() == 8
    }

    /// Whether the second operand of arithmetic or a jump is a register.
    pub(super) const fn has_source(self) -> bool {
        self.code & REGISTER != 0
    }
}

/// As LLVM writes it, but jumps by the slots that they skip, and without the names of what is called.
impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let narrow = matches!(self.class(), ALU | JMP32);
        let register = |number: u8| format!("{}{number}", if narrow { 'w' } else { 'r' });
        let to = register(self.destination);
        let operand = if self.has_source() { register(self.source) } else { self.immediate.to_string() };
        let place = |base: u8| {
            let sign = if self.offset < 0 { '-' } else { '+' };
            format!("(r{base} {sign} {})", self.offset.unsigned_abs())
        };
        let unsigned = format!("u{}", self.width() * 8);
        match (self.class(), self.mode()) {
            (LD, IMMEDIATE) => write!(f, "{to} = {:#x} ll", self.immediate),
            (LDX, MEMORY) => write!(f, "{to} = *{unsigned} {}", place(self.source)),
            (LDX, MEMORY_SIGNED) => write!(f, "{to} = *s{} {}", self.width() * 8, place(self.source)),
            (ST, MEMORY) => write!(f, "*{unsigned} {} = {}", place(self.destination), self.immediate),
            (STX, MEMORY) => write!(f, "*{unsigned} {} = r{}", place(self.destination), self.source),
            (STX, ATOMIC) => {
                let (place, source) = (place(self.destination), self.source);
                match self.immediate {
                    COMPARE_EXCHANGE => write!(f, "r0 = cmpxchg {unsigned} {place}, r0, r{source}"),
                    EXCHANGE => write!(f, "r{source} = xchg {unsigned} {place}, r{source}"),
                    _ => write!(f, "lock *{unsigned} {place} op {:#x} r{source}", self.immediate),
                }
            }
            (ALU | ALU64, _) => {
                let operator = match self.operation() {
                    ADD => "+=",
                    SUB => "-=",
                    MUL => "*=",
                    DIV => "/=",
                    OR => "|=",
                    AND => "&=",
                    LSH => "<<=",
                    RSH => ">>=",
                    MOD => "%=",
                    XOR => "^=",
                    MOV if self.offset != 0 => return write!(f, "{to} = (s{}){operand}", self.offset),
                    MOV => "=",
                    ARSH => "s>>=",
                    NEG => return write!(f, "{to} = -{to}"),
                    END => {
                        let order = match (self.class(), self.has_source()) {
                            (ALU64, _) => "bswap",
                            (_, true) => "be",
                            (_, false) => "le",
                        };
                        let register = self.destination;
                        return write!(f, "r{register} = {order}{} r{register}", self.immediate);
                    }
                    _ => return write!(f, "unknown {:#04x}", self.code),
                };
                write!(f, "{to} {operator} {operand}")
            }
            (JMP | JMP32, _) => {
                let comparison = match self.operation() {
                    JA if narrow => return write!(f, "goto {:+}", self.immediate),
                    JA => return write!(f, "goto {:+}", self.offset),
                    CALL => return write!(f, "call {}", self.immediate),
                    EXIT => return f.write_str("exit"),
                    JEQ => "==",
                    JGT => ">",
                    JGE => ">=",
                    JSET => "&",
                    JNE => "!=",
                    JSGT => "s>",
                    JSGE => "s>=",
                    JLT => "<",
                    JLE => "<=",
                    JSLT => "s<",
                    JSLE => "s<=",
                    _ => return write!(f, "unknown {:#04x}", self.code),
                };
                write!(f, "if {to} {comparison} {operand} goto {:+}", self.offset)
            }
            _ => write!(f, "unknown {:#04x}", self.code),
        }
    }
}

//! Models of where packets come from.

use crate::sources::{any_v4, any_v6, below, listed_v4, listed_v6, random, resident_v4, resident_v6};

/// Sources in [`Model::Residents`], and of the listed ones in [`Model::SomeListed`].
pub const RESIDENTS: u32 = 1 << 16;
/// The source of a tenth of the packets in [`Model::Mixed`], by the numbers of residents.
pub const GREEDY: u32 = RESIDENTS;

/// What kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Model {
    /// One source, [`Parameters::hot`].
    Hot,
    /// [`RESIDENTS`] sources, drawn evenly.
    Residents,
    /// Any address, drawn afresh for every packet.
    Any,
    /// Any of the listed ones.
    Listed,
    /// [`RESIDENTS`] of the listed ones.
    SomeListed,
    /// 70 % of listed sources, 20 % of any, 10 % of one, [`GREEDY`].
    Mixed,
}

/// What a model needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// How many sources are listed; not 0 in models that use them.
    pub listed: u32,
    /// The source of [`Model::Hot`]: an IPv4 address, or the upper half of an IPv6 address; in host order.
    pub hot: u64,
}

impl Model {
    /// The reverse of `as u64`.
    #[inline(always)]
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Hot,
            1 => Self::Residents,
            2 => Self::Any,
            3 => Self::Listed,
            4 => Self::SomeListed,
            _ => Self::Mixed,
        }
    }

    /// Source of packet number `number`, in host order.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the hot source is an IPv4 address here")]
    pub fn source_v4(self, parameters: &Parameters, number: u64) -> u32 {
        match self.draw(parameters, number) {
            Draw::Hot => parameters.hot as u32,
            Draw::Resident(index) => resident_v4(index),
            Draw::Any(bits) => any_v4(bits),
            Draw::Listed(index) => listed_v4(index),
        }
    }

    /// Upper half of the source of packet number `number`, in host order.
    #[inline(always)]
    pub fn source_v6(self, parameters: &Parameters, number: u64) -> u64 {
        match self.draw(parameters, number) {
            Draw::Hot => parameters.hot,
            Draw::Resident(index) => resident_v6(index),
            Draw::Any(bits) => any_v6(bits),
            Draw::Listed(index) => listed_v6(index),
        }
    }

    #[inline(always)]
    fn draw(self, parameters: &Parameters, number: u64) -> Draw {
        match self {
            Self::Hot => Draw::Hot,
            Self::Residents => Draw::Resident(below(random(number), RESIDENTS)),
            Self::Any => Draw::Any(random(number)),
            Self::Listed => Draw::Listed(below(random(number), parameters.listed)),
            Self::SomeListed => Draw::Listed(below(random(number), parameters.listed.min(RESIDENTS))),
            Self::Mixed => {
                // The lower half says which kind, the upper which one; for any address all bits again.
                let bits = random(number);
                match below(bits << 32, 10) {
                    0..7 => Draw::Listed(below(bits, parameters.listed)),
                    7..9 => Draw::Any(random(bits)),
                    _ => Draw::Resident(GREEDY),
                }
            }
        }
    }
}

enum Draw {
    Hot,
    Resident(u32),
    Any(u64),
    Listed(u32),
}

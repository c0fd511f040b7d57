//! The lists, in BPF maps.

use limiter_common::abi::Lengths;
use limiter_common::lists::{Listed, v4, v6};
use limiter_common::slots::Word as _;

use crate::word::KernelWord;
use crate::{globals, maps};

/// The maps of IPv4.
struct V4;

/// Those of IPv6; what says which lengths are in use is looked up once.
struct V6 {
    lengths: &'static Lengths<KernelWord>,
}

impl V6 {
    #[inline(always)]
    fn new() -> Option<Self> {
        Some(Self { lengths: maps::LENGTHS.get(0)? })
    }
}

impl v4::Memory for V4 {
    type Word = KernelWord;

    #[inline(always)]
    fn level(&self, index: u32) -> Option<&KernelWord> {
        maps::LEVEL_V4.get(index)
    }

    #[inline(always)]
    fn wide(&self, index: u32) -> Option<&KernelWord> {
        maps::WIDE_V4.get(index)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&v4::Bucket<KernelWord>> {
        maps::EXACT_V4.get(index)
    }

    #[inline(always)]
    fn buckets(&self) -> u32 {
        globals::buckets_v4()
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        // The level has 4 MiB, so a program that was loaded with nothing listed asks for one word first. There is an entry.
        !globals::listed_v4() && maps::LENGTHS.get(0).is_none_or(|lengths| lengths.v4_any.load() == 0)
    }

    #[inline(always)]
    fn lengths(&self) -> Option<&[KernelWord; v4::LENGTH_WORDS]> {
        Some(&maps::LENGTHS.get(0)?.v4)
    }

    #[inline(always)]
    fn secret(&self, which: usize) -> u64 {
        globals::secret_word(which)
    }

    #[inline(always)]
    fn join(&self, key: u64, so_far: Listed) -> Listed {
        Listed::from_bits(join_v4(key, so_far.to_bits()))
    }
}

impl v6::Memory for V6 {
    type Word = KernelWord;

    #[inline(always)]
    fn filter(&self, index: u32) -> Option<&KernelWord> {
        maps::FILTER_V6.get(index)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&v6::Bucket<KernelWord>> {
        maps::EXACT_V6.get(index)
    }

    #[inline(always)]
    fn buckets(&self) -> u32 {
        globals::buckets_v6()
    }

    #[inline(always)]
    fn any(&self) -> Option<&KernelWord> {
        Some(&self.lengths.v6_any)
    }

    #[inline(always)]
    fn short(&self) -> Option<&[KernelWord; v6::LENGTH_WORDS]> {
        Some(&self.lengths.v6_short)
    }

    #[inline(always)]
    fn long(&self) -> Option<&[KernelWord; v6::LENGTH_WORDS + 1]> {
        Some(&self.lengths.v6_long)
    }

    #[inline(always)]
    fn secret(&self) -> [u64; 2] {
        globals::secret()
    }

    #[inline(always)]
    fn join(&self, key: v6::Key, so_far: Listed) -> Listed {
        Listed::from_bits(join_v6(key.high, key.low, key.length, so_far.to_bits()))
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn join_v4(key: u64, so_far: u64) -> u64 {
    Listed::from_bits(so_far).union(v4::probe(&V4, key)).to_bits()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn join_v6(high: u64, low: u64, length: u64, so_far: u64) -> u64 {
    // There is an entry for it; without it, nothing is listed.
    let Some(maps) = V6::new() else { return so_far };
    Listed::from_bits(so_far).union(v6::probe(&maps, v6::Key { high, low, length })).to_bits()
}

/// What is listed of an IPv4 source, in host order.
#[inline(always)]
pub(crate) fn v4(address: u32) -> Listed {
    match v4::quick(&V4, address) {
        Some(listed) => listed,
        None => Listed::from_bits(closer_v4(address)),
    }
}

/// The rare rest of it, as a function that the verifier checks once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn closer_v4(address: u32) -> u64 {
    v4::closer(&V4, address).to_bits()
}

/// What is listed of an IPv6 source.
#[inline(always)]
pub(crate) fn v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: &[u8; 16]) -> Listed {
    let high = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
    let low = u64::from_be_bytes([*i, *j, *k, *l, *m, *n, *o, *p]);
    match V6::new().and_then(|maps| v6::quick(&maps, high)) {
        Some(listed) => listed,
        None => Listed::from_bits(lookup_v6(high, low)),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lookup_v6(high: u64, low: u64) -> u64 {
    let Some(maps) = V6::new() else { return 0 };
    v6::lookup(&maps, high, low).to_bits()
}

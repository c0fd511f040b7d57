//! Single steps: what one access to a table of some size costs, one compare-and-swap there, and one look at each of the clocks.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "BPF has compare-and-swap, but core::sync::atomic does not know")
)]

#[cfg(target_arch = "bpf")]
mod program {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};

    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::btf_maps::Array;
    use aya_ebpf::helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    };
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::constant::Constant;
    use limiter_bench_ebpf::packet::{Source, source};

    /// Which step: 0 parsing alone, 1 an access to the table, 2 one to each of both tables, 3 to 6 the clocks, 7 a
    /// compare-and-swap in the table.
    #[unsafe(no_mangle)]
    static STEP: Constant = Constant::new(0);
    /// Words in each table less one; their number is a power of two.
    #[unsafe(no_mangle)]
    static MASK: Constant = Constant::new(0);
    #[unsafe(no_mangle)]
    static SECOND_MASK: Constant = Constant::new(0);

    #[btf_map(name = "table")]
    static TABLE: Array<u64, 1> = Array::new();

    #[btf_map(name = "second_table")]
    static SECOND_TABLE: Array<u64, 1> = Array::new();

    #[xdp(frags)]
    pub fn floor(ctx: XdpContext) -> u32 {
        // 1 is never there: only so that the word is needed.
        if word(&ctx) == 1 { XDP_DROP } else { XDP_PASS }
    }

    /// The same, but it drops: what no list can do with less.
    #[xdp(frags)]
    pub fn floor_drop(ctx: XdpContext) -> u32 {
        if word(&ctx) == 1 { XDP_PASS } else { XDP_DROP }
    }

    /// What the step yields; 0 if the packet is not IP.
    #[inline(always)]
    fn word(ctx: &XdpContext) -> u64 {
        let source = match source(ctx) {
            // SAFETY: `source` checked that the address is within the packet.
            Some(Source::V4(address)) => u64::from(unsafe { address.read_unaligned() }),
            // SAFETY: likewise.
            Some(Source::V6(address)) => unsafe { address.read_unaligned() },
            None => return 0,
        };
        match STEP.get() {
            0 => source,
            1 => TABLE.get(index(source, MASK.get())).copied().unwrap_or(1),
            // The second one only after the first: what is there is zero.
            2 => match TABLE.get(index(source, MASK.get())) {
                Some(0) => SECOND_TABLE.get(index(!source, SECOND_MASK.get())).copied().unwrap_or(1),
                _ => 1,
            },
            7 => match TABLE.get_ptr_mut(index(source, MASK.get())) {
                // What is there is even, so it is not 1. SAFETY: the pointer is valid and aligned, being the map's.
                Some(word) => unsafe {
                    const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
                    let current = word.read_volatile();
                    atomic_cxchg::<u64, ORDER, ORDER>(word, current, current.wrapping_add(2)).0
                },
                None => 1,
            },
            // SAFETY: the clocks have no requirements.
            clock => unsafe {
                match clock {
                    3 => bpf_ktime_get_ns(),
                    4 => bpf_ktime_get_boot_ns(),
                    5 => bpf_ktime_get_coarse_ns(),
                    _ => bpf_jiffies64(),
                }
            },
        }
    }

    /// A word by chance, always the same for the same source.
    #[inline(always)]
    fn index(source: u64, mask: u64) -> u32 {
        (source.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & mask) as u32
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

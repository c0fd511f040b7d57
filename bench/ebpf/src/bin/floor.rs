//! Single steps: what one access to a table of some size costs, and one look at each of the clocks.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::btf_maps::Array;
    use aya_ebpf::helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    };
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::constant::Constant;
    use limiter_bench_ebpf::packet::{Source, source};

    /// Which step: 0 parsing alone, 1 an access to the table, 2 one to each of both tables, 3 and more the clocks.
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
        let source = match source(&ctx) {
            // SAFETY: `source` checked that the address is within the packet.
            Some(Source::V4(address)) => u64::from(unsafe { address.read_unaligned() }),
            // SAFETY: likewise.
            Some(Source::V6(address)) => unsafe { address.read_unaligned() },
            None => return XDP_PASS,
        };
        let word = match STEP.get() {
            0 => source,
            1 => TABLE.get(index(source, MASK.get())).copied().unwrap_or(1),
            // The second one only after the first: what is there is zero.
            2 => match TABLE.get(index(source, MASK.get())) {
                Some(0) => SECOND_TABLE.get(index(!source, SECOND_MASK.get())).copied().unwrap_or(1),
                _ => 1,
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
        };
        // So that the word is needed.
        if word == 1 { XDP_DROP } else { XDP_PASS }
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

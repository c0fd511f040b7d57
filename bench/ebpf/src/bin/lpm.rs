//! The usual blocklist of prefixes: tries with the longest match, each prefix with the moment its block ends.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::XDP_PASS;
    use aya_ebpf::btf_maps::LpmTrie;
    use aya_ebpf::btf_maps::lpm_trie::Key;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::packet::{Source, source};
    use limiter_bench_ebpf::verdict::{Verdicts, blocks, finish};

    /// The deadline in halves: behind keys of 4 bytes the kernel aligns values to 4 bytes.
    #[btf_map(name = "lpm_v4")]
    static LPM_V4: LpmTrie<u32, [u32; 2], 1> = LpmTrie::new();

    #[btf_map(name = "lpm_v6")]
    static LPM_V6: LpmTrie<[u64; 2], u64, 1> = LpmTrie::new();

    #[btf_map(name = "verdicts")]
    static VERDICTS: Verdicts = Verdicts::new();

    #[xdp(frags)]
    pub fn lpm(ctx: XdpContext) -> u32 {
        let Some(source) = source(&ctx) else { return XDP_PASS };
        let deadline = match source {
            Source::V4(address) => {
                // SAFETY: `source` checked that the address is within the packet.
                let key = Key::new(32, unsafe { address.read_unaligned() });
                LPM_V4.get(&key).map(|[low, high]| u64::from(*low) | u64::from(*high) << 32)
            }
            Source::V6(address) => {
                // SAFETY: likewise, for both halves.
                let key =
                    Key::new(128, unsafe { [address.read_unaligned(), address.add(1).read_unaligned()] });
                LPM_V6.get(&key).copied()
            }
        };
        finish(&VERDICTS, deadline.is_some_and(blocks))
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

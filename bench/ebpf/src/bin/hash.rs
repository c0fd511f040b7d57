//! The usual blocklist: hash tables of single sources, preallocated, each with the moment its block ends.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::XDP_PASS;
    use aya_ebpf::btf_maps::HashMap;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::packet::{Source, source};
    use limiter_bench_ebpf::verdict::{Verdicts, blocks, finish};

    /// By address, in network order.
    #[btf_map(name = "hash_v4")]
    static HASH_V4: HashMap<u32, u64, 1> = HashMap::new();

    /// By /64, in network order: the shortest key that does the job.
    #[btf_map(name = "hash_v6")]
    static HASH_V6: HashMap<u64, u64, 1> = HashMap::new();

    #[btf_map(name = "verdicts")]
    static VERDICTS: Verdicts = Verdicts::new();

    #[xdp(frags)]
    pub fn hash(ctx: XdpContext) -> u32 {
        let Some(source) = source(&ctx) else { return XDP_PASS };
        // SAFETY: `source` checked that the address is within the packet; nothing refers to an entry after its copy.
        let deadline = unsafe {
            match source {
                Source::V4(address) => HASH_V4.get(address.read_unaligned()),
                Source::V6(address) => HASH_V6.get(address.read_unaligned()),
            }
        };
        finish(&VERDICTS, deadline.is_some_and(|deadline| blocks(*deadline)))
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

//! Drops everything, or passes everything: the least that any program in XDP's place costs.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::packet::{Source, source};

    /// Without a look at the packet.
    #[xdp(frags)]
    pub fn unseen(_ctx: XdpContext) -> u32 {
        XDP_DROP
    }

    /// After reading its source, which every filter must: the packet comes from another CPU or a device, so it is in no
    /// near cache.
    #[xdp(frags)]
    pub fn seen(ctx: XdpContext) -> u32 {
        if knows(&ctx) { XDP_PASS } else { XDP_DROP }
    }

    /// The same, but it passes: what no limiter can do with less, since the stack is given the packet.
    #[xdp(frags)]
    pub fn passed(ctx: XdpContext) -> u32 {
        if knows(&ctx) { XDP_DROP } else { XDP_PASS }
    }

    /// Whether the source is 0, which it never is: only so that it is needed.
    #[inline(always)]
    fn knows(ctx: &XdpContext) -> bool {
        let Some(source) = source(ctx) else { return true };
        // SAFETY: `source` checked that the address is within the packet.
        unsafe {
            match source {
                Source::V4(address) => address.read_unaligned() == 0,
                Source::V6(address) => address.read_unaligned() == 0,
            }
        }
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

//! The XDP program: wiring only. What can be tested on the host lives in `limiter-common`.
//!
//! Two entry points over the same code: `limiter` for any kernel, `limiter_frags` for kernels that hand over frames
//! in several buffers.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "BPF has compare-and-swap, but core::sync::atomic does not know")
)]

#[cfg(target_arch = "bpf")]
mod account;
#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod frame;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod tables;
#[cfg(target_arch = "bpf")]
mod word;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use limiter_common::{Action, Frame, judge};

    use crate::account;
    use crate::clock::KernelClock;
    use crate::frame::XdpFrame;
    use crate::tables::KernelTables;

    #[xdp]
    pub fn limiter(ctx: XdpContext) -> u32 {
        verdict(&ctx, &XdpFrame::linear(&ctx))
    }

    #[xdp(frags)]
    pub fn limiter_frags(ctx: XdpContext) -> u32 {
        let linear = XdpFrame::linear(&ctx);
        // Two copies of the code, so that the common frame of one buffer does not pay for the others.
        match XdpFrame::fragmented(&ctx) {
            Some(fragmented) => verdict(&ctx, &fragmented),
            None => verdict(&ctx, &linear),
        }
    }

    #[inline(always)]
    fn verdict(ctx: &XdpContext, frame: &impl Frame) -> u32 {
        let tables = KernelTables::new();
        let reason = judge(frame, &tables, &KernelClock::new());
        account::count(reason, frame.len());
        match reason.action() {
            Action::Pass => XDP_PASS,
            Action::Drop => {
                account::log_sample(ctx, reason, tables.looked_up());
                XDP_DROP
            }
        }
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

/// So that host tools (clippy, rust-analyzer) can check this crate; it runs nowhere.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

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
    use aya_ebpf::bindings::xdp_md;
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use limiter_common::decide::{judge_ipv4, rest_ipv6, source_ipv6};
    use limiter_common::parse::{Network, find_network};
    use limiter_common::{Action, Frame, Listing, Reason};

    use crate::account;
    use crate::clock::KernelClock;
    use crate::frame::XdpFrame;
    use crate::tables::KernelTables;

    #[xdp]
    pub fn limiter(ctx: XdpContext) -> u32 {
        linear(&ctx)
    }

    #[xdp(frags)]
    pub fn limiter_frags(ctx: XdpContext) -> u32 {
        // Two copies of the code, so that the common frame of one buffer does not pay for the others.
        let frame = XdpFrame::fragmented(&ctx);
        if !frame.is_fragmented() {
            return linear(&ctx);
        }
        match find_network(&frame) {
            Ok(Network::V4 { at }) => ipv4_fragmented(ctx.ctx, at),
            Ok(Network::V6 { at }) => ipv6_fragmented(ctx.ctx, at),
            Err(reason) => finish(&ctx, &frame, reason, &KernelTables::new()),
        }
    }

    #[inline(always)]
    fn linear(ctx: &XdpContext) -> u32 {
        let frame = XdpFrame::linear(ctx);
        match find_network(&frame) {
            Ok(Network::V4 { at }) => ipv4_linear(ctx.ctx, at),
            Ok(Network::V6 { at }) => ipv6_linear(ctx.ctx, at),
            Err(reason) => finish(ctx, &frame, reason, &KernelTables::new()),
        }
    }

    /// What comes behind the link header, as functions of their own. The verifier checks a global function once, for
    /// all its callers and for any offset, and so not again for each way to tag a frame.
    macro_rules! network_functions {
        ($($name:ident: $frame:ident, $judge:ident;)+) => {$(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(ctx: *mut xdp_md, at: usize) -> u32 {
                let ctx = XdpContext::new(ctx);
                let tables = KernelTables::new();
                let frame = XdpFrame::$frame(&ctx);
                // Masked for the verifier, which knows nothing of the callers; it changes nothing.
                let reason = $judge(&frame, at & MAX_LINK_HEADER, &tables, &KernelClock);
                finish(&ctx, &frame, reason, &tables)
            }
        )+};
    }

    network_functions! {
        ipv4_linear: linear, judge_ipv4;
        ipv4_fragmented: fragmented, judge_ipv4;
    }

    /// The same in two halves: walking the chain of extension headers is most of the verifier's work, which must not be
    /// done again for each outcome of the lookups before.
    macro_rules! network_function_halves {
        ($($name:ident: $frame:ident, $source:ident, $rest_name:ident, $rest:ident;)+) => {$(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(ctx: *mut xdp_md, at: usize) -> u32 {
                let ctx = XdpContext::new(ctx);
                let tables = KernelTables::new();
                let frame = XdpFrame::$frame(&ctx);
                match $source(&frame, at & MAX_LINK_HEADER, &tables, &KernelClock) {
                    Ok(listing) => $rest_name(ctx.ctx, at, u32::from(listing == Listing::Allowed)),
                    Err(reason) => finish(&ctx, &frame, reason, &tables),
                }
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $rest_name(ctx: *mut xdp_md, at: usize, allowed: u32) -> u32 {
                let ctx = XdpContext::new(ctx);
                let tables = KernelTables::new();
                let frame = XdpFrame::$frame(&ctx);
                let listing = if allowed == 0 { Listing::Unlisted } else { Listing::Allowed };
                let reason = $rest(&frame, at & MAX_LINK_HEADER, listing, &tables, &KernelClock);
                finish(&ctx, &frame, reason, &tables)
            }
        )+};
    }

    network_function_halves! {
        ipv6_linear: linear, source_ipv6, ipv6_linear_rest, rest_ipv6;
        ipv6_fragmented: fragmented, source_ipv6, ipv6_fragmented_rest, rest_ipv6;
    }

    /// A mask above all link headers that are looked through: Ethernet, VLAN tags, LLC, PPPoE, MPLS labels.
    const MAX_LINK_HEADER: usize = 127;

    #[inline(always)]
    fn finish(ctx: &XdpContext, frame: &impl Frame, reason: Reason, tables: &KernelTables) -> u32 {
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

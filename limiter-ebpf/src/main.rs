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
mod lists;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod tables;
#[cfg(target_arch = "bpf")]
mod word;

#[cfg(target_arch = "bpf")]
mod program {
    use core::hint::cold_path;

    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::bindings::xdp_md;
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use limiter_common::decide::{
        by_source, direct_ipv6, limit_ipv4, limit_ipv6, rest_ipv6, rest_plain_ipv4, source_ipv6, whole_ipv4,
    };
    use limiter_common::parse::{
        Network, PLAIN, find_network, find_plain_ipv4, is_direct_ipv6, is_one_buffer, is_plain_ipv6,
    };
    use limiter_common::{Action, Address, Frame, Listing, Reason, Transport};

    use crate::account;
    use crate::clock::KernelClock;
    use crate::frame::XdpFrame;
    use crate::tables::KernelTables;

    #[xdp]
    pub fn limiter(ctx: XdpContext) -> u32 {
        let frame = XdpFrame::linear(&ctx);
        linear(&ctx, &frame, plain_source(&frame))
    }

    #[xdp(frags)]
    pub fn limiter_frags(ctx: XdpContext) -> u32 {
        // Two copies of the code, so that the common frame of one buffer does not pay for the others. Most are known to be
        // such without a call.
        let first = XdpFrame::linear(&ctx);
        let source = plain_source(&first);
        if is_one_buffer(&first, source != 0) || !XdpFrame::is_fragmented(&ctx) {
            return linear(&ctx, &first, source);
        }
        let frame = XdpFrame::fragmented(&ctx);
        match find_network(&frame) {
            Ok(Network::V4 { at }) => ipv4_fragmented(ctx.ctx, at),
            Ok(Network::V6 { at }) => ipv6_fragmented(ctx.ctx, at),
            Err(reason) => finish(&ctx, &frame, reason),
        }
    }

    /// What [`find_plain_ipv4`] finds, or 0. That is no `Option`, for whose absent value LLVM takes any register, which the
    /// verifier refuses; frames from 0.0.0.0 go the longer way, as any frame may.
    #[inline(always)]
    fn plain_source(frame: &XdpFrame<'_, false>) -> u32 {
        find_plain_ipv4(frame).unwrap_or(0)
    }

    #[inline(always)]
    fn linear(ctx: &XdpContext, frame: &XdpFrame<'_, false>, source: u32) -> u32 {
        if source != 0 {
            // What nearly all packets are, in place: a call costs as much as half of the verdict.
            let listing = by_source(&Address::V4(source.to_be_bytes()), &KernelTables, &KernelClock);
            // Read again, since a look at the context costs less than what would be kept on the stack meanwhile.
            let frame = &XdpFrame::linear(ctx);
            let Some(listing) = listing else {
                return finish(ctx, frame, Reason::Blocked);
            };
            return match rest_plain_ipv4(frame, listing, &KernelTables, &KernelClock) {
                // Finished by itself, since few instructions are left where the reason is known.
                Some(Reason::Passed) => finish(ctx, frame, Reason::Passed),
                Some(Reason::PacketRate) => finish(ctx, frame, Reason::PacketRate),
                Some(reason) => finish(ctx, frame, reason),
                // All over again: few packets are such.
                None => ipv4_linear(ctx.ctx, PLAIN),
            };
        }
        if is_plain_ipv6(frame) {
            return ipv6_linear(ctx.ctx, PLAIN);
        }
        match find_network(frame) {
            Ok(Network::V4 { at }) => ipv4_linear(ctx.ctx, at),
            Ok(Network::V6 { at }) => ipv6_linear(ctx.ctx, at),
            Err(reason) => finish(ctx, frame, reason),
        }
    }

    /// Instead of a verdict: one that only the limits give, and what they have to know of the packet.
    const LIMIT: u32 = 1 << 31;
    /// Or the second half has to tell, and what the first one found.
    const REST: u32 = 1 << 30;
    const ALLOWED: u32 = 1 << 29;

    /// A verdict that is final, or what the limits have to know.
    #[inline(always)]
    fn settle(ctx: &XdpContext, frame: &impl Frame, transport: Result<Transport, Reason>) -> u32 {
        match transport {
            Ok(transport) => LIMIT | transport.to_bits(),
            Err(reason) => finish(ctx, frame, reason),
        }
    }

    /// What comes behind the link header, as functions of their own. The verifier checks a global function once, for
    /// all its callers and for any offset, and so not again for each way to tag a frame. The limits come one after the
    /// other with what is before them, so that both have the whole stack.
    macro_rules! limit_functions {
        ($($name:ident: $frame:ident, $limit:ident;)+) => {$(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(ctx: *mut xdp_md, at: usize, transport: u32) -> u32 {
                let ctx = XdpContext::new(ctx);
                let frame = XdpFrame::$frame(&ctx);
                let transport = Transport::from_bits(transport & !LIMIT);
                // Masked for the verifier, which knows nothing of the callers; it changes nothing.
                let reason = $limit(&frame, at & MAX_LINK_HEADER, &transport, &KernelTables, &KernelClock);
                finish(&ctx, &frame, reason)
            }
        )+};
    }

    limit_functions! {
        ipv4_linear_limit: linear, limit_ipv4;
        ipv4_fragmented_limit: fragmented, limit_ipv4;
        ipv6_linear_limit: linear, limit_ipv6;
        ipv6_fragmented_limit: fragmented, limit_ipv6;
    }

    macro_rules! network_functions {
        ($($name:ident: $frame:ident, $first:ident, $limit:ident;)+) => {$(
            #[inline(always)]
            fn $name(ctx: *mut xdp_md, at: usize) -> u32 {
                match $first(ctx, at) {
                    verdict @ (XDP_DROP | XDP_PASS) => verdict,
                    transport => $limit(ctx, at, transport),
                }
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $first(ctx: *mut xdp_md, at: usize) -> u32 {
                let ctx = XdpContext::new(ctx);
                let frame = XdpFrame::$frame(&ctx);
                let transport = whole_ipv4(&frame, at & MAX_LINK_HEADER, &KernelTables, &KernelClock);
                settle(&ctx, &frame, transport)
            }
        )+};
    }

    network_functions! {
        ipv4_linear: linear, ipv4_linear_first, ipv4_linear_limit;
        ipv4_fragmented: fragmented, ipv4_fragmented_first, ipv4_fragmented_limit;
    }

    /// The same in two halves before the limits: walking the chain of extension headers is most of the verifier's
    /// work, which must not be done again for each outcome of the lookups before. Few packets need the second.
    macro_rules! network_function_halves {
        ($($name:ident: $frame:ident, $first:ident, $rest:ident, $limit:ident;)+) => {$(
            #[inline(always)]
            fn $name(ctx: *mut xdp_md, at: usize) -> u32 {
                let mut verdict = $first(ctx, at);
                if verdict & REST != 0 {
                    verdict = $rest(ctx, at, verdict & ALLOWED);
                }
                if verdict & LIMIT != 0 {
                    verdict = $limit(ctx, at, verdict);
                }
                verdict
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $first(ctx: *mut xdp_md, at: usize) -> u32 {
                let ctx = XdpContext::new(ctx);
                let frame = XdpFrame::$frame(&ctx);
                let at = at & MAX_LINK_HEADER;
                let listing = match source_ipv6(&frame, at, &KernelTables, &KernelClock) {
                    Ok(listing) => listing.forgotten(&frame),
                    Err(reason) => return finish(&ctx, &frame, reason),
                };
                if !is_direct_ipv6(&frame, at) {
                    return if listing == Listing::Allowed { REST | ALLOWED } else { REST };
                }
                settle(&ctx, &frame, direct_ipv6(&frame, at, listing, &KernelTables))
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $rest(ctx: *mut xdp_md, at: usize, allowed: u32) -> u32 {
                let ctx = XdpContext::new(ctx);
                let frame = XdpFrame::$frame(&ctx);
                let listing = if allowed == 0 { Listing::Unlisted } else { Listing::Allowed };
                settle(&ctx, &frame, rest_ipv6(&frame, at & MAX_LINK_HEADER, listing, &KernelTables))
            }
        )+};
    }

    network_function_halves! {
        ipv6_linear: linear, ipv6_linear_first, ipv6_linear_rest, ipv6_linear_limit;
        ipv6_fragmented: fragmented, ipv6_fragmented_first, ipv6_fragmented_rest, ipv6_fragmented_limit;
    }

    /// A mask above all link headers that are looked through: Ethernet, VLAN tags, LLC, PPPoE, MPLS labels.
    const MAX_LINK_HEADER: usize = 127;

    #[inline(always)]
    fn finish(ctx: &XdpContext, frame: &impl Frame, reason: Reason) -> u32 {
        let count = account::count(reason, frame.len());
        match reason.action() {
            Action::Pass => XDP_PASS,
            Action::Drop => {
                if account::is_noted(reason, count) {
                    cold_path();
                    account::note(ctx.ctx, reason.index().into());
                }
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

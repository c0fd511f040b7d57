//! Where a flood comes from: gives each packet its source, and sends it out of an interface.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
    use aya_ebpf::btf_maps::Array;
    use aya_ebpf::helpers::generated::bpf_redirect;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::constant::Constant;
    use limiter_bench_ebpf::model::{Model, Parameters};
    use limiter_bench_ebpf::packet::{Source, source};

    /// See [`Model`].
    #[unsafe(no_mangle)]
    static MODEL: Constant = Constant::new(0);
    /// See [`Parameters`].
    #[unsafe(no_mangle)]
    static LISTED: Constant = Constant::new(1);
    #[unsafe(no_mangle)]
    static HOT: Constant = Constant::new(0);
    /// The interface, by number.
    #[unsafe(no_mangle)]
    static INTERFACE: Constant = Constant::new(0);
    /// Sum of the 16-bit words of the IPv4 header without source and checksum.
    #[unsafe(no_mangle)]
    static SUM: Constant = Constant::new(0);

    /// How many packets there were.
    #[btf_map(name = "packets")]
    static PACKETS: Array<u64, 1> = Array::new();

    /// Steps to be wasted before each packet, so that not many more are sent than the receiver takes.
    #[btf_map(name = "waste")]
    static WASTE: Array<u64, 1> = Array::new();

    /// The most steps: some microseconds.
    const MOST_WASTE: u64 = 1 << 12;

    #[xdp(frags)]
    #[expect(clippy::cast_possible_truncation, reason = "what the loader sets fits")]
    pub fn generator(ctx: XdpContext) -> u32 {
        let (Some(Source::V4(address)), Some(packets)) = (source(&ctx), PACKETS.get_ptr_mut(0)) else {
            return XDP_ABORTED;
        };
        // SAFETY: one thread runs the program; nobody else writes.
        let number = unsafe {
            let number = *packets;
            *packets = number + 1;
            number
        };
        if let Some(waste) = WASTE.get(0) {
            waste_time(*waste);
        }
        let model = Model::from_number(MODEL.get());
        let parameters = Parameters { listed: LISTED.get() as u32, hot: HOT.get() };
        let from = model.source_v4(&parameters, number);
        // SAFETY: `source` checked that the address is within the packet, and the checksum stands in front of it.
        unsafe {
            // The memory of a frame is that of an earlier one: what is not written again is in the receiver's cache.
            if address.read_unaligned() != from.to_be() {
                address.write_unaligned(from.to_be());
                address.cast::<u16>().sub(1).write_unaligned(checksum(from).to_be());
            }
        }
        // SAFETY: has no requirements.
        unsafe { bpf_redirect(INTERFACE.get() as u32, 0).cast_unsigned() as u32 }
    }

    /// Computes for `steps` times the same few cycles.
    #[inline(always)]
    fn waste_time(steps: u64) {
        let mut step = 0;
        while step < MOST_WASTE {
            if step >= steps {
                break;
            }
            // Hidden, or there would be nothing to compute.
            step = core::hint::black_box(step) + 1;
        }
    }

    /// Of the IPv4 header with this source (RFC 1071).
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "of a sum that is folded, and of few words")]
    fn checksum(source: u32) -> u16 {
        let sum = SUM.get() as u32 + (source >> 16) + (source & 0xffff);
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

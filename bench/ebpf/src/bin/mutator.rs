//! Gives each packet a source by one of several models, and hands it to the program that is measured.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
    use aya_ebpf::btf_maps::{Array, ProgramArray};
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

    /// The program that is measured.
    #[btf_map(name = "subject")]
    static SUBJECT: ProgramArray<1> = ProgramArray::new();

    /// How many packets there were.
    #[btf_map(name = "packets")]
    static PACKETS: Array<u64, 1> = Array::new();

    #[xdp(frags)]
    pub fn mutator(ctx: XdpContext) -> u32 {
        let (Some(source), Some(packets)) = (source(&ctx), PACKETS.get_ptr_mut(0)) else {
            return XDP_ABORTED;
        };
        // SAFETY: one thread runs the program; nobody else writes.
        let number = unsafe {
            let number = *packets;
            *packets = number + 1;
            number
        };
        let model = Model::from_number(MODEL.get());
        #[expect(clippy::cast_possible_truncation, reason = "the loader sets 32 bits")]
        let parameters = Parameters { listed: LISTED.get() as u32, hot: HOT.get() };
        // SAFETY: `source` checked that the address is within the packet.
        unsafe {
            match source {
                Source::V4(address) => {
                    address.write_unaligned(model.source_v4(&parameters, number).to_be());
                }
                Source::V6(address) => {
                    address.write_unaligned(model.source_v6(&parameters, number).to_be());
                }
            }
        }
        // SAFETY: the rest of this function is for the case that there is no subject.
        unsafe { SUBJECT.tail_call(&ctx, 0) };
        XDP_ABORTED
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

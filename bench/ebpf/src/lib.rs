//! What the programs of the benchmark share: reading the source of a packet, and constants that are set at loading.
//!
//! There is one program in each file of `bin/`: [`empty`](../empty/index.html) does nothing, `mutator` changes the
//! source of the packet and calls one of the others, `hash` and `lpm` are blocklists, `lru` is a rate limiter, and
//! `floor` measures single steps. For floods, `generator` sends packets, and `drop` drops them.

#![no_std]

pub mod constant;
pub mod model;
pub mod packet;
pub mod sources;
pub mod verdict;

/// What every program ends with: a panic handler, which is never reached, and the licence, which helpers ask for.
#[macro_export]
macro_rules! end_of_program {
    () => {
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}

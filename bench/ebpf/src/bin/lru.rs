//! The usual rate limiter: the theoretical arrival time of each source (GCRA) in an LRU hash table; behind the usual
//! blocklist, if there is one.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "BPF has compare-and-swap, but core::sync::atomic does not know")
)]

#[cfg(target_arch = "bpf")]
mod program {
    use core::intrinsics::{AtomicOrdering, atomic_cxchg};

    use aya_ebpf::bindings::BPF_NOEXIST;
    use aya_ebpf::bindings::xdp_action::XDP_PASS;
    use aya_ebpf::btf_maps::{HashMap, LruHashMap};
    use aya_ebpf::helpers::bpf_ktime_get_ns;
    use aya_ebpf::macros::{btf_map, xdp};
    use aya_ebpf::programs::XdpContext;
    use limiter_bench_ebpf::constant::Constant;
    use limiter_bench_ebpf::packet::{Source, source};
    use limiter_bench_ebpf::verdict::{Verdicts, blocks, finish};

    /// Nanoseconds that each packet takes up.
    #[unsafe(no_mangle)]
    static INCREMENT: Constant = Constant::new(1);
    /// How far ahead of now the arrival time of a conforming packet may be, in nanoseconds.
    #[unsafe(no_mangle)]
    static TOLERANCE: Constant = Constant::new(0);

    /// 1 if there is a blocklist.
    #[unsafe(no_mangle)]
    static BLOCKLIST: Constant = Constant::new(0);

    /// As in `hash`.
    #[btf_map(name = "blocked_v4")]
    static BLOCKED_V4: HashMap<u32, u64, 1> = HashMap::new();

    #[btf_map(name = "blocked_v6")]
    static BLOCKED_V6: HashMap<u64, u64, 1> = HashMap::new();

    /// By address, in network order.
    #[btf_map(name = "lru_v4")]
    static LRU_V4: LruHashMap<u32, u64, 1> = LruHashMap::new();

    /// By /64, in network order.
    #[btf_map(name = "lru_v6")]
    static LRU_V6: LruHashMap<u64, u64, 1> = LruHashMap::new();

    #[btf_map(name = "verdicts")]
    static VERDICTS: Verdicts = Verdicts::new();

    #[xdp(frags)]
    pub fn lru(ctx: XdpContext) -> u32 {
        let Some(source) = source(&ctx) else { return XDP_PASS };
        if BLOCKLIST.get() != 0 && is_blocked(source) {
            return finish(&VERDICTS, true);
        }
        // SAFETY: has no requirements.
        let now = unsafe { bpf_ktime_get_ns() };
        let admitted = match source {
            Source::V4(address) => {
                // SAFETY: `source` checked that the address is within the packet.
                let key = unsafe { address.read_unaligned() };
                match LRU_V4.get_ptr_mut(key) {
                    Some(tat) => admit(tat, now),
                    // If there is no room, the packet passes: a limiter of this kind cannot know better.
                    None => LRU_V4
                        .insert(key, now + INCREMENT.get(), u64::from(BPF_NOEXIST))
                        .map_or(true, |()| true),
                }
            }
            Source::V6(address) => {
                // SAFETY: likewise.
                let key = unsafe { address.read_unaligned() };
                match LRU_V6.get_ptr_mut(key) {
                    Some(tat) => admit(tat, now),
                    None => LRU_V6
                        .insert(key, now + INCREMENT.get(), u64::from(BPF_NOEXIST))
                        .map_or(true, |()| true),
                }
            }
        };
        finish(&VERDICTS, !admitted)
    }

    #[inline(always)]
    fn is_blocked(source: Source) -> bool {
        // SAFETY: `source` checked that the address is within the packet; nothing refers to an entry after its copy.
        let deadline = unsafe {
            match source {
                Source::V4(address) => BLOCKED_V4.get(address.read_unaligned()),
                Source::V6(address) => BLOCKED_V6.get(address.read_unaligned()),
            }
        };
        deadline.is_some_and(|deadline| blocks(*deadline))
    }

    /// Judges a packet, and moves the arrival time on if it conforms. A lost race is run again once.
    #[inline(always)]
    fn admit(tat: *mut u64, now: u64) -> bool {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: a value of the map, which the kernel keeps for as long as the program runs.
        let mut current = unsafe { tat.read_volatile() };
        let mut attempts = 0;
        while attempts < 2 {
            if current > now && current - now > TOLERANCE.get() {
                return false;
            }
            let next = current.max(now) + INCREMENT.get();
            // SAFETY: as above.
            let (found, _) = unsafe { atomic_cxchg::<u64, ORDER, ORDER>(tat, current, next) };
            if found == current {
                return true;
            }
            current = found;
            attempts += 1;
        }
        true
    }

    limiter_bench_ebpf::end_of_program!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

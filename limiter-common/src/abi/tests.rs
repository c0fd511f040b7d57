use std::fmt::Write as _;
use std::mem::{align_of, offset_of};

use super::*;
use crate::gcra::Quota;

/// The layout that pins of this version have. If this test fails, the change needs a new [`ABI_VERSION`], and pins of
/// the old one need a thought; then write down the new layout here.
const LAYOUT: &str = "\
version 3
entry size 16 align 8
entry.block_until at 0
entry.allow_until at 8
count size 16 align 8
count.packets at 0
count.bytes at 8
service size 4 align 4
set size 128 align 8
quota size 40 align 8
policy size 344 align 8
limits size 22272 align 8
limits.policies at 0
limits.services at 22016
limits.service_count at 22264
limits.reserved at 22268
settings size 72 align 8
settings.secret at 0
settings.fixed_now at 16
settings.tick at 24
settings.sets at 32
settings.buckets_v4 at 36
settings.buckets_v6 at 40
settings.slot at 44
settings.limited at 48
settings.super_frames at 52
settings.log_drops at 56
settings.cpu_bits at 60
settings.listed_v4 at 64
settings.reserved at 68
slot.owner at 0
slot.tat at 8
share.at at 0
share.count at 4
policy.packets at 0
policy.packet_gates at 40
policy.packet_cells at 48
policy.id at 56
policy.shares at 60
policy.bits at 64
policy.bit_gates at 104
policy.bit_cells at 112
policy.shared at 120
bound.cells at 40
bound.batch at 48
quota.per_packet at 0
quota.per_byte at 8
quota.tolerance at 16
quota.slack at 24
quota.largest at 32
map level_v4 Array key 4 value 8 flags 1024
map wide_v4 Array key 4 value 8 flags 1024
map exact_v4 Array key 4 value 64 flags 1024
map filter_v6 Array key 4 value 8 flags 1024
map exact_v6 Array key 4 value 128 flags 1024
map lengths Array key 4 value 184 flags 1024
map hits Array key 4 value 128 flags 1024
map slots Array key 4 value 128 flags 1024
map cells Array key 4 value 8 flags 1024
map gate Array key 4 value 8 flags 1024
map counters PerCpuArray key 4 value 16 flags 0
map interfaces Array key 4 value 16 flags 0
map secret Array key 4 value 16 flags 0
reason slots 64 interfaces 64 policies 64 services 62
globals SETTINGS LIMITS programs limiter_frags limiter
";

fn layout() -> String {
    let mut text = format!("version {ABI_VERSION}\n");
    let mut size = |name: &str, size: usize, align: usize, fields: &[(&str, usize)]| {
        writeln!(text, "{name} size {size} align {align}").unwrap();
        for (field, at) in fields {
            writeln!(text, "{name}.{field} at {at}").unwrap();
        }
    };
    macro_rules! layout {
        ($name:literal, $type:ty $(, $field:ident)*) => {
            size(
                $name,
                size_of::<$type>(),
                align_of::<$type>(),
                &[$((stringify!($field), offset_of!($type, $field))),*],
            )
        };
    }
    layout!("entry", Entry, block_until, allow_until);
    layout!("count", Count, packets, bytes);
    layout!("service", Service);
    layout!("set", Set<u64>);
    layout!("quota", Quota);
    layout!("policy", Policy);
    layout!("limits", Limits, policies, services, service_count, reserved);
    layout!(
        "settings",
        Settings,
        secret,
        fixed_now,
        tick,
        sets,
        buckets_v4,
        buckets_v6,
        slot,
        limited,
        super_frames,
        log_drops,
        cpu_bits,
        listed_v4,
        reserved
    );
    for (field, at) in crate::slots::tests::layout().into_iter().chain(crate::gcra::tests::layout()) {
        writeln!(text, "{field} at {at}").unwrap();
    }
    for MapSpec { name, kind, key_size, value_size, entries: _, flags } in MAPS {
        writeln!(text, "map {name} {kind:?} key {key_size} value {value_size} flags {flags}").unwrap();
    }
    writeln!(
        text,
        "reason slots {REASON_SLOTS} interfaces {MAX_INTERFACES} policies {MAX_POLICIES} services {MAX_SERVICES}"
    )
    .unwrap();
    writeln!(text, "globals {SETTINGS_GLOBAL} {LIMITS_GLOBAL} programs {PROGRAM_FRAGS} {PROGRAM_LINEAR}")
        .unwrap();
    text
}

#[test]
fn layout_is_the_one_of_this_version() {
    let layout = layout();
    assert!(layout == LAYOUT, "the layout is now:\n{layout}");
}

/// The atomic words of the kernel have the size and place of those of the host.
#[test]
fn atomic_words_are_words() {
    use std::sync::atomic::AtomicU64;
    assert_eq!(size_of::<Set<AtomicU64>>(), size_of::<Set<u64>>());
    assert_eq!(align_of::<Set<AtomicU64>>(), align_of::<Set<u64>>());
}

#[test]
fn counters_of_interfaces_do_not_overlap() {
    let last = counter_index(MAX_INTERFACES - 1, u8::try_from(REASON_SLOTS - 1).unwrap());
    assert_eq!(last + 1, COUNTERS.entries);
    for slot in 1..MAX_INTERFACES {
        let before = counter_index(slot - 1, u8::try_from(REASON_SLOTS - 1).unwrap());
        assert_eq!(before + 1, counter_index(slot, 0));
    }
}

#[test]
fn services_sort_by_protocol_and_tell_any_port_from_port_0() {
    let services = [
        Service::new(0, None),
        Service::new(0, Some(0)),
        Service::new(0, Some(u16::MAX)),
        Service::new(1, None),
        Service::new(6, None),
        Service::new(6, Some(0)),
        Service::new(6, Some(80)),
        Service::new(17, None),
        Service::new(255, None),
        Service::new(255, Some(u16::MAX)),
        Service::UNUSED,
    ];
    assert!(services.is_sorted_by(|a, b| a < b), "{services:?}");
}

#[test]
fn entries_join_to_the_latest() {
    let entry = |block_until, allow_until| Entry { block_until, allow_until };
    assert_eq!(entry(1, 9).union(entry(5, 2)), entry(5, 9));
    assert_eq!(entry(5, 2).union(entry(1, 9)), entry(5, 9));
    assert_eq!(entry(0, u64::MAX).union(Entry::NONE), entry(0, u64::MAX));
    assert!(Entry::NONE.is_none() && !entry(1, 0).is_none() && !entry(0, 1).is_none());
}

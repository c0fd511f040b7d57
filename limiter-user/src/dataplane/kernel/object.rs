//! The eBPF object, embedded in the binary.

/// The ELF file. Aligned for its parser.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LIMITER_BPF_OBJECT"));

/// Maps that are neither pinned nor shared: each loaded program has its own.
#[cfg(test)]
const PRIVATE_MAPS: [&str; 4] = ["AYA_LOGS", "batches", "log_budget", ".rodata"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aya_obj::{Object, ProgramSection};
    use limiter_common::abi::{self, Limits, MAPS, Settings};

    use super::super::maps::kind_number;
    use super::{OBJECT, PRIVATE_MAPS};

    #[test]
    fn every_map_is_as_the_abi_says_both_ways() {
        let object = Object::parse(OBJECT).unwrap();
        for spec in MAPS {
            let map = object.maps.get(spec.name).unwrap_or_else(|| panic!("no map {}", spec.name));
            let found =
                (map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags());
            let wanted = (kind_number(spec.kind), spec.key_size, spec.value_size, spec.entries, spec.flags);
            assert_eq!(found, wanted, "type, key, value, entries, flags of {}", spec.name);
        }
        let known: BTreeSet<&str> = MAPS.iter().map(|map| map.name).chain(PRIVATE_MAPS).collect();
        let found: BTreeSet<&str> = object
            .maps
            .keys()
            .map(String::as_str)
            .filter(|name| !name.starts_with(".rodata"))
            .chain([".rodata"])
            .collect();
        assert_eq!(found, known);
    }

    #[test]
    fn globals_have_the_size_of_their_types() {
        for (name, size) in
            [(abi::SETTINGS_GLOBAL, size_of::<Settings>()), (abi::LIMITS_GLOBAL, size_of::<Limits>())]
        {
            let patch = |size: usize| {
                let value = vec![0; size];
                let globals = [(name, (value.as_slice(), true))].into_iter().collect();
                Object::parse(OBJECT).unwrap().patch_map_data(globals)
            };
            patch(size).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(patch(size + 1).is_err(), "{name} is not {size} bytes");
        }
    }

    #[test]
    fn there_are_two_programs_and_only_one_takes_fragments() {
        let object = Object::parse(OBJECT).unwrap();
        let frags = |name: &str| match object.programs.get(name).map(|program| &program.section) {
            Some(ProgramSection::Xdp { frags, .. }) => *frags,
            section => panic!("{name} is {section:?}"),
        };
        assert!(frags(abi::PROGRAM_FRAGS));
        assert!(!frags(abi::PROGRAM_LINEAR));
        assert_eq!(object.programs.len(), 2);
    }
}

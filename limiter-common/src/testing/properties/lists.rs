//! Properties of prefixes and of what the list maps say.

use super::Input;
use crate::abi::Entry;
use crate::testing::tables::Installed;
use crate::{Address, Nanos, Prefix};

/// The bits of an address, first to last.
fn bits(address: Address) -> Vec<bool> {
    let bytes = match address {
        Address::V4(bytes) => bytes.to_vec(),
        Address::V6(bytes) => bytes.to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).map(move |i| byte >> (7 - i) & 1 == 1)).collect()
}

fn address(input: &mut Input<'_>, v4: bool) -> Address {
    if v4 { Address::V4(input.bytes()) } else { Address::V6(input.bytes()) }
}

/// A prefix contains exactly the addresses that begin with its bits.
pub fn prefixes_contain_what_they_should(data: &[u8]) {
    let mut input = Input(data);
    let v4 = input.byte() & 1 == 0;
    let network = address(&mut input, v4);
    let len = input.byte() % (network.bits() + 1);
    assert_eq!(Prefix::new(network, network.bits() + 1), None);
    let prefix = Prefix::new(network, len).expect("not longer than the address");
    let leading = usize::from(len);

    assert_eq!(bits(prefix.address())[..leading], bits(network)[..leading]);
    assert!(bits(prefix.address())[leading..].iter().all(|bit| !bit), "{prefix} is canonical");
    assert_eq!(bits(prefix.last())[..leading], bits(network)[..leading]);
    assert!(bits(prefix.last())[leading..].iter().all(|bit| *bit), "{prefix} ends with ones");

    // A stranger, and one that shares as many bits as the input says.
    let stranger = address(&mut input, v4);
    let shared = usize::from(input.byte()) % (bits(network).len() + 1);
    for other in [stranger, mixed(network, stranger, shared)] {
        let expected = bits(other)[..leading] == bits(network)[..leading];
        assert_eq!(prefix.contains(other), expected, "{prefix} and {other}");
        let within = prefix.address() <= other && other <= prefix.last();
        assert_eq!(within, expected, "{prefix} is a range, and {other} in it or not");
        let other_len = input.byte() % (network.bits() + 1);
        let narrower = Prefix::new(other, other_len).expect("not longer than the address");
        let covers = len <= other_len && bits(narrower.address())[..leading] == bits(network)[..leading];
        assert_eq!(prefix.covers(narrower), covers, "{prefix} and {narrower}");
        assert_eq!(prefix.overlaps(narrower), narrower.overlaps(prefix));
        if covers && prefix != narrower {
            assert!(prefix < narrower, "{prefix} sorts before {narrower}");
        }
    }
    let foreign = address(&mut input, !v4);
    assert!(!prefix.contains(foreign), "{prefix} and {foreign}");

    let text = prefix.to_string();
    let mapped = !v4 && text.starts_with("::ffff:");
    if !mapped {
        assert_eq!(text.parse(), Ok(prefix), "{text}");
    }
}

/// The first `shared` bits of one address, the rest of the other.
fn mixed(front: Address, back: Address, shared: usize) -> Address {
    let bits: Vec<bool> = bits(front)[..shared].iter().chain(&bits(back)[shared..]).copied().collect();
    let bytes: Vec<u8> =
        bits.chunks(8).map(|chunk| chunk.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect();
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Address::V4(v4),
        Err(_) => Address::V6(bytes.try_into().expect("an address has 4 or 16 bytes")),
    }
}

/// The model says at every moment what all lists together say.
pub fn what_is_listed_is_the_union(data: &[u8]) {
    let mut input = Input(data);
    let v4 = input.byte() & 1 == 0;
    // Few bits vary, so that prefixes nest.
    let narrow = |input: &mut Input<'_>| match address(input, v4) {
        Address::V4([a, .., d]) => Address::V4([10, 0, a & 3, d & 7]),
        Address::V6([a, b, ..]) => {
            Address::V6([0x20, 1, 0xd, 0xb8, 0, a & 1, 0, 0, b & 3, 0, 0, 0, 0, 0, 0, a >> 5])
        }
    };
    let moment = |input: &mut Input<'_>| match input.byte() % 8 {
        0..=2 => 0,
        3 => u64::MAX,
        _ => u64::from(input.byte()),
    };
    let mut lists = Vec::new();
    while !input.is_empty() && lists.len() < 24 {
        let network = narrow(&mut input);
        let len = input.byte() % (network.bits() + 1);
        let entry = Entry { block_until: moment(&mut input), allow_until: moment(&mut input) };
        lists.push((Prefix::new(network, len).expect("not longer than the address"), entry));
    }
    let installed = Installed::from_lists(&lists);
    let sources: Vec<Address> = lists
        .iter()
        .flat_map(|(prefix, _)| [prefix.address(), prefix.last()])
        .chain([narrow(&mut Input(data))])
        .collect();
    let moments = lists.iter().flat_map(|(_, entry)| [entry.block_until, entry.allow_until]);
    let moments: Vec<u64> = moments
        .filter(|moment| *moment < u64::MAX)
        .flat_map(|moment| [moment.saturating_sub(1), moment, moment + 1])
        .collect();
    for source in &sources {
        let found = installed.entry(source);
        for now in moments.iter().map(|now| Nanos(*now)) {
            let listed = || lists.iter().filter(|(prefix, _)| prefix.contains(*source));
            let blocked = listed().any(|(_, entry)| entry.block_until > now.0);
            let allowed = listed().any(|(_, entry)| entry.allow_until > now.0);
            assert_eq!(
                (found.blocks(now), found.allows(now)),
                (blocked, allowed),
                "{source} at {now:?} of {lists:?}"
            );
        }
    }
}

//! Who has a TCP connection with this machine at this moment: who would notice a block at once.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::Ipv6Addr;

use anyhow::Context;
use limiter_common::Address;

/// Of the network namespace of the calling thread.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
/// `TCP_ESTABLISHED` of the kernel's `include/net/tcp_states.h`.
const ESTABLISHED: &str = "01";

/// The other ends of all established connections, sorted, each once. Takes a millisecond for a thousand connections.
///
/// # Errors
///
/// If the kernel does not say.
pub fn tcp_peers() -> anyhow::Result<Vec<Address>> {
    let mut peers = Vec::new();
    for path in TABLES {
        let table = match File::open(path) {
            Ok(table) => table,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != TABLES[0] => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        // A line at a time: with a million connections, all of them are 150 MiB.
        for line in BufReader::with_capacity(1 << 16, table).lines() {
            peers.extend(peer(&line.with_context(|| format!("cannot read {path}"))?));
        }
    }
    peers.sort_unstable();
    peers.dedup();
    Ok(peers)
}

/// The other end of an established connection (proc_net_tcp.rst of the kernel): `SL LOCAL REMOTE STATE …`.
fn peer(line: &str) -> Option<Address> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let (remote, state) = (words.next()?, words.next()?);
    if state != ESTABLISHED {
        return None;
    }
    let (address, _port) = remote.split_once(':')?;
    address_of(address)
}

/// 32 bits at a time, each in the order of this machine.
fn address_of(digits: &str) -> Option<Address> {
    let word = |at: usize| {
        let digits = digits.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(Address::V4(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Some(Address::from(Ipv6Addr::from(octets)).canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let v4 = u32::from_ne_bytes([192, 0, 2, 7]);
        let line =
            |remote: &str, state| format!("  12: 0100007F:0016 {remote}:D431 {state} 00000000:00000000");
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(peer(line).map(|peer| peer.to_string()).as_deref(), expected, "{line}");
        };
        check(&line(&format!("{v4:08X}"), "01"), Some("192.0.2.7"));
        check(&line(&format!("{v4:08X}"), "06"), None);
        let words = |octets: [u8; 16]| -> String {
            let words = octets.chunks(4).map(|four| u32::from_ne_bytes(four.try_into().unwrap()));
            words.map(|word| format!("{word:08X}")).collect()
        };
        let v6: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        check(&line(&words(v6.octets()), "01"), Some("2001:db8:1:2:3:4:5:6"));
        let mapped: Ipv6Addr = "::ffff:192.0.2.7".parse().unwrap();
        check(&line(&words(mapped.octets()), "01"), Some("192.0.2.7"));
        check("  sl  local_address rem_address   st tx_queue rx_queue", None);
        check(&line("0700", "01"), None);
        check(&line("zzzzzzzz", "01"), None);
    }

    #[test]
    fn a_connection_of_this_process_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(tcp_peers().unwrap().contains(&Address::V4([127, 0, 0, 1])));
        drop(connected);
    }
}

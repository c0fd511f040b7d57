//! What this machine says of itself: its clocks, and the addresses without which nobody reaches it.

mod tcp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use anyhow::Context;
use futures_util::TryStreamExt;
use limiter_common::{Address, Nanos, Prefix};
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};
use rtnetlink::RouteMessageBuilder;

use crate::admission::Guards;
use crate::enforcer::Now;
pub use tcp::tcp_peers;

/// Where DNS servers are named; the second has the real ones where the first names systemd's stub.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Where systemd-logind keeps the sessions of this machine, one a file; sd_session_get_remote_host(3) reads the same.
const SESSIONS: &str = "/run/systemd/sessions";

/// Reads both clocks. The monotonic one is the precise `CLOCK_MONOTONIC`; the kernel's deadlines may pass a
/// [`tick`] later, since it asks the coarse one.
#[must_use]
pub fn now() -> Now {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Now { boot: Nanos::from_secs(seconds).saturating_add(Nanos(nanos)), wall: SystemTime::now() }
}

/// Nanoseconds from one tick of the coarse clock to the next: how far it may be behind.
#[must_use]
pub fn tick() -> u64 {
    let time = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Identifies the boot that [`Now::boot`] counts from.
///
/// # Errors
///
/// If `/proc` is not mounted.
pub fn boot_id() -> anyhow::Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).with_context(|| format!("{PATH} holds no identifier"))?;
    Ok(id.to_be_bytes())
}

/// Addresses that the machine cannot do without, in the network namespace of the calling thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifelines {
    /// Its own addresses, each with the interface.
    pub own: Vec<(Address, String)>,
    pub gateways: Vec<Address>,
    pub resolvers: Vec<Address>,
    /// From where people are logged in, as far as systemd-logind knows. Not everybody who is connected to the SSH port:
    /// whoever tries passwords there must not be safe from a block for it.
    pub sessions: Vec<Address>,
}

/// When the files that name DNS servers were last written; `None` for one that is not there.
#[must_use]
pub fn resolvers_written() -> [Option<SystemTime>; 2] {
    RESOLVERS.map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

impl Lifelines {
    /// Asks the kernel, and reads `resolv.conf`. Blocks for about a millisecond, longer with a large routing table.
    /// What was found is sorted, so that what is equal is the same.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn gather() -> anyhow::Result<Self> {
        // On a thread of its own, since the caller's may be in a runtime already.
        let asked = std::thread::scope(|scope| scope.spawn(ask_kernel_blocking).join());
        let (mut own, mut gateways) =
            asked.unwrap_or_else(|_| Err(anyhow::anyhow!("asking the kernel panicked")))?;
        let texts = RESOLVERS.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let mut resolvers: Vec<_> = texts.flat_map(|text| resolvers(&text)).collect();
        let mut sessions = sessions();
        own.sort_unstable();
        for addresses in [&mut gateways, &mut resolvers, &mut sessions] {
            addresses.sort_unstable();
            addresses.dedup();
        }
        Ok(Self { own, gateways, resolvers, sessions })
    }

    pub fn guard(&self, guards: &mut Guards) {
        for (address, interface) in &self.own {
            guards.add(Prefix::host(*address), format!("an address of this machine ({interface})"));
        }
        for address in &self.gateways {
            guards.add(Prefix::host(*address), "a default gateway");
        }
        for address in &self.resolvers {
            guards.add(Prefix::host(*address), "a DNS server of resolv.conf");
        }
        for address in &self.sessions {
            guards.add(Prefix::host(*address), "an address that somebody is logged in from");
        }
    }
}

/// Own addresses with their interfaces, and default gateways.
type Found = (Vec<(Address, String)>, Vec<Address>);

fn ask_kernel_blocking() -> anyhow::Result<Found> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_io().build().context("cannot make a runtime for netlink")?.block_on(ask_kernel())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many attributes that say nothing here")]
async fn ask_kernel() -> anyhow::Result<Found> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    let connection = tokio::spawn(connection);

    let mut names = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("cannot list interfaces")? {
        let name = link.attributes.into_iter().find_map(|attribute| {
            if let LinkAttribute::IfName(name) = attribute { Some(name) } else { None }
        });
        names.push((link.header.index, name.unwrap_or_default()));
    }

    let mut own = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await.context("cannot list addresses")? {
        let index = message.header.index;
        let name = names.iter().find(|(known, _)| *known == index).map_or("", |(_, name)| name);
        // On a point-to-point link, ADDRESS is the peer's and LOCAL is ours.
        let found = message.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some((0, *address)),
            AddressAttribute::Address(address) => Some((1, *address)),
            _ => None,
        });
        if let Some((_, address)) = found.min() {
            own.push((Address::from(address).canonical(), name.to_owned()));
        }
    }

    let mut gateways = Vec::new();
    for all in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut routes = handle.route().get(all).execute();
        while let Some(route) = routes.try_next().await.context("cannot list routes")? {
            gateways.extend(default_gateways(&route));
        }
    }
    drop(handle);
    connection.abort();
    Ok((own, gateways))
}

/// The next hops of a default route; none of any other.
#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many attributes that say nothing here")]
fn default_gateways(route: &RouteMessage) -> Vec<Address> {
    if route.header.destination_prefix_length != 0 {
        return Vec::new();
    }
    let hops = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.iter().flat_map(|hop| &hop.attributes)),
        _ => None,
    });
    let all = route.attributes.iter().chain(hops.flatten());
    let gateway = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
            Some(Address::from(*v4))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
            Some(Address::from(*v6))
        }
        _ => None,
    };
    all.filter_map(gateway).collect()
}

/// None without systemd-logind.
fn sessions() -> Vec<Address> {
    let entries = std::fs::read_dir(SESSIONS).into_iter().flatten().flatten();
    entries.filter_map(|entry| remote(&std::fs::read_to_string(entry.path()).ok()?)).collect()
}

/// The address in a session's file; names are left out.
fn remote(session: &str) -> Option<Address> {
    let host = session.lines().find_map(|line| line.strip_prefix("REMOTE_HOST="))?;
    Some(Address::from(host.split('%').next()?.parse::<IpAddr>().ok()?).canonical())
}

/// The servers of a `resolv.conf` (resolv.conf(5)); a zone behind `%` is left out.
fn resolvers(text: &str) -> Vec<Address> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        server.split('%').next()?.parse::<IpAddr>().ok()
    });
    servers.map(|server| Address::from(server).canonical()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run() {
        let (first, second) = (now(), now());
        assert!(first.boot > Nanos(0) && second.boot >= first.boot);
        assert_ne!(boot_id().unwrap(), [0; 16]);
    }

    #[test]
    fn servers_of_resolv_conf() {
        let text = "# nameserver 192.0.2.1\nsearch example.net\nnameserver 192.0.2.53\n\tnameserver  2001:db8::53 # x\n\
                    nameserver fe80::1%eth0\nnameserver\nnameserver dns.example.net\noptions edns0\n";
        let found: Vec<String> = resolvers(text).iter().map(Address::to_string).collect();
        assert_eq!(found, ["192.0.2.53", "2001:db8::53", "fe80::1"]);
    }

    #[test]
    fn the_peer_of_a_session() {
        let session =
            "# This is private data. Do not parse.\nUID=0\nREMOTE=1\nREMOTE_HOST=203.0.113.9\nSERVICE=sshd\n";
        assert_eq!(remote(session), Some("203.0.113.9".parse().unwrap()));
        assert_eq!(remote("REMOTE_HOST=::ffff:203.0.113.9\n"), Some("203.0.113.9".parse().unwrap()));
        assert_eq!(remote("REMOTE_HOST=fe80::9%eth0\n"), Some("fe80::9".parse().unwrap()));
        assert_eq!(remote("REMOTE_HOST=host.example.net\n"), None);
        assert_eq!(remote("UID=0\nREMOTE=0\n"), None);
    }

    #[test]
    fn gateways_of_routes() {
        let route = |length, attributes| {
            let mut route = RouteMessage::default();
            route.header.destination_prefix_length = length;
            route.attributes = attributes;
            default_gateways(&route)
        };
        let v4 = RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 1)));
        let v6 = RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::LOCALHOST));
        let mut hop = netlink_packet_route::route::RouteNextHop::default();
        hop.attributes = vec![v6];
        assert_eq!(route(24, vec![v4.clone()]), []);
        let both = route(0, vec![v4, RouteAttribute::MultiPath(vec![hop])]);
        assert_eq!(both, ["192.0.2.1".parse().unwrap(), "::1".parse().unwrap()]);
    }

    /// Every network namespace has the loopback, if it is up.
    #[test]
    fn the_kernel_answers() {
        let lifelines = Lifelines::gather().unwrap();
        let mut guards = Guards::default();
        lifelines.guard(&mut guards);
        for (address, _) in &lifelines.own {
            let refusal = guards.refusal(crate::config::Action::Block, Prefix::host(*address));
            assert!(refusal.is_some_and(|refusal| refusal.why.contains("of this machine")), "{address}");
        }
    }
}

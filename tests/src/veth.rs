//! The link between two namespaces: a virtual Ethernet pair with fixed hardware addresses and no chatter of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::Namespace;

/// A hardware address.
pub type Mac = [u8; 6];

/// One end of a pair.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub interface: &'static str,
    pub mac: Mac,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// Creates the pair, with `near` in the namespace `here` and `far` in `there`. Addresses are /24 and /64; both ends
/// know each other's hardware address, so that nobody has to ask.
///
/// # Errors
///
/// If the kernel refuses.
pub fn create(here: &Namespace, near: &End, there: &Namespace, far: &End) -> Result<()> {
    here.ip(&format!(
        "link add {} address {} type veth peer name {} address {} netns {}",
        near.interface,
        text(near.mac),
        far.interface,
        text(far.mac),
        there.path()
    ))?;
    for (namespace, end, other) in [(here, near, far), (there, far, near)] {
        let End { interface, .. } = end;
        namespace.ip(&format!("link set {interface} addrgenmode none"))?;
        for quiet in ["accept_ra", "router_solicitations", "accept_dad"] {
            namespace.sysctl(&format!("ipv6.conf.{interface}.{quiet}"), "0")?;
        }
        namespace.ip(&format!("link set {interface} up"))?;
        namespace.ip(&format!("address add {}/24 dev {interface}", end.v4))?;
        namespace.ip(&format!("address add {}/64 dev {interface} nodad", end.v6))?;
        let mac = text(other.mac);
        namespace
            .ip(&format!("neighbour replace {} lladdr {mac} dev {interface} nud permanent", other.v4))?;
        namespace
            .ip(&format!("neighbour replace {} lladdr {mac} dev {interface} nud permanent", other.v6))?;
    }
    Ok(())
}

/// `02:00:00:00:00:01`.
pub fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

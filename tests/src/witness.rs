//! The second opinion: nftables counters in the protected host, behind the XDP program. The kernel's own parser and
//! nftables' decide what they count, so they share no mistakes with what they watch.

use anyhow::{Context, Result};

use crate::netns::{Namespace, output};
use crate::veth::{self, Mac};

/// Counters behind the XDP program.
#[derive(Debug)]
pub struct Witness {
    /// `nft` runs there; see [`Namespace::path`].
    namespace: Namespace,
}

impl Witness {
    /// Sees every packet of `interface`, before connection tracking and routing. It takes datagrams to the discard
    /// port and to ports 9000 to 9999, once counted, off the host's hands, so that floods of them cost no answers.
    ///
    /// # Errors
    ///
    /// If `nft` is missing or refuses.
    pub fn install(host: &Namespace, interface: &str) -> Result<Self> {
        let witness = Self { namespace: host.try_clone()? };
        witness.nft(&format!(
            "table inet witness {{
                set blocked4 {{ type ipv4_addr; flags interval; auto-merge; }}
                set blocked6 {{ type ipv6_addr; flags interval; auto-merge; }}
                counter blocked {{ }}
                chain watched {{ }}
                chain arrival {{
                    type filter hook prerouting priority -450; policy accept;
                    iifname != \"{interface}\" accept
                    ip6 nexthdr icmpv6 ip6 hoplimit 255 icmpv6 type {{ 133-137 }} accept
                    ip saddr @blocked4 counter name blocked
                    ip6 saddr @blocked6 counter name blocked
                    jump watched
                    udp dport {{ 9, 9000-9999 }} drop
                }}
            }}"
        ))?;
        Ok(witness)
    }

    /// From now on counts packets from these prefixes as [`Self::blocked`]. Neighbour discovery is exempt, as it is in
    /// the XDP program.
    ///
    /// # Errors
    ///
    /// If one is not a prefix.
    pub fn block(&self, prefixes: &[&str]) -> Result<()> {
        for prefix in prefixes {
            let set = if prefix.contains(':') { "blocked6" } else { "blocked4" };
            self.nft(&format!("add element inet witness {set} {{ {prefix} }}"))?;
        }
        Ok(())
    }

    /// Packets from blocked sources that got through.
    ///
    /// # Errors
    ///
    /// If `nft` fails.
    pub fn blocked(&self) -> Result<u64> {
        self.count("blocked")
    }

    /// Counts packets that match `expression`, in the words of nft(8), as `name`.
    ///
    /// # Errors
    ///
    /// If it is not an expression.
    pub fn watch(&self, name: &str, expression: &str) -> Result<()> {
        self.nft(&format!(
            "add counter inet witness {name}
             add rule inet witness watched {expression} counter name {name}"
        ))
    }

    /// Counts frames of whatever kind from the hardware address `sender` as `name`, directly behind the driver: it
    /// needs no parser at all.
    ///
    /// # Errors
    ///
    /// If the interface is gone.
    pub fn watch_sender(&self, name: &str, interface: &str, sender: Mac) -> Result<()> {
        self.nft(&format!(
            "table netdev witness {{
                counter {name} {{ }}
                chain {name} {{
                    type filter hook ingress device {interface} priority -500;
                    ether saddr {} counter name {name}
                }}
            }}",
            veth::text(sender)
        ))
    }

    /// What was counted as `name` until now.
    ///
    /// # Errors
    ///
    /// If there is no such counter.
    pub fn count(&self, name: &str) -> Result<u64> {
        let mut command = self.namespace.command("nft");
        command.args(["--json", "list", "counters"]);
        let listing: serde_json::Value = serde_json::from_str(&output(command, None)?)?;
        listing["nftables"]
            .as_array()
            .and_then(|objects| {
                objects.iter().map(|object| &object["counter"]).find(|counter| counter["name"] == name)
            })
            .and_then(|counter| counter["packets"].as_u64())
            .with_context(|| format!("the witness has no counter {name}"))
    }

    fn nft(&self, script: &str) -> Result<()> {
        let mut command = self.namespace.command("nft");
        command.args(["-f", "-"]);
        output(command, Some(script)).with_context(|| format!("failed to add to the witness: {script}"))?;
        Ok(())
    }
}

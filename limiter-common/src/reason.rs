//! Every way a frame can leave the program, once: counter slot, action, metric label, and words for people.

/// What is done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// On to the network stack.
    Pass,
    /// Gone.
    Drop,
}

impl Action {
    /// The word used in metrics, JSON and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $index:literal, $action:ident, $label:literal, $text:literal;)+) => {
        /// Why a frame was passed or dropped. Exactly one is counted per frame.
        ///
        /// The discriminant is the slot in the counters map and never changes its meaning within an ABI version.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $text] $(#[$doc])* $name = $index,)+
        }

        impl Reason {
            /// All reasons, in the order of their index.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word for this reason in metrics, events, JSON and the CLI.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One line for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)+ }
            }
        }
    };
}

reasons! {
    Passed = 0, Pass, "passed", "nothing spoke against it";
    NotIp = 1, Pass, "not_ip", "not IPv4 or IPv6: ARP, LLDP, a pseudowire, PPP control and the like";
    /// Only a neighbour can send hop limit 255 (RFC 4861 section 7.1), and a host without neighbour discovery is
    /// off the network, so these pass even from listed sources.
    Neighbour = 2, Pass, "neighbour_discovery", "IPv6 neighbour discovery from the link";
    Allowed = 3, Pass, "allowed", "the source is on an allow list";
    Blocked = 4, Drop, "blocked", "the source is on a block list";
    PacketRate = 5, Drop, "packet_rate", "the source is over its packet rate";
    BitRate = 6, Drop, "bit_rate", "the source is over its bit rate";
    ShortLink = 7, Drop, "short_link", "the frame ends within its Ethernet, VLAN, MPLS or PPPoE header";
    ShortNetwork = 8, Drop, "short_network", "the frame ends within its IP header";
    VlanTooDeep = 9, Drop, "vlan_too_deep", "more VLAN tags than are looked through";
    MplsTooDeep = 10, Drop, "mpls_too_deep", "more MPLS labels than are looked through";
    IpVersion = 11, Drop, "ip_version", "the IP version is not the one the link header announced";
    IpLength = 12, Drop, "ip_length", "the IP header or total length is impossible";
    BadFragment = 13, Drop, "bad_fragment", "impossible fragment: empty, unaligned, nested or past the largest packet";
    /// RFC 1858, RFC 3128, RFC 7112, RFC 6980.
    TinyFragment = 14, Drop, "tiny_fragment", "a fragment that hides the headers a filter has to see";
    ChainTooLong = 15, Drop, "chain_too_long", "more IPv6 extension headers than are looked through";
    ChainTruncated = 16, Drop, "chain_truncated", "an IPv6 extension header runs past the packet";
    /// RFC 5095.
    RoutingHeader = 17, Drop, "routing_header", "IPv6 routing header of type 0";
    TransportHeader = 18, Drop, "transport_header", "the TCP, UDP or ICMP header is cut off or impossible";
    ImpossibleSource = 19, Drop, "impossible_source", "a source address that no sender can have";
    ImpossibleDestination = 20, Drop, "impossible_destination", "a destination address that is never on the wire";
    Land = 21, Drop, "land", "source and destination are the same address";
    /// A lookup failed that cannot fail; the frame passes unchecked.
    Internal = 22, Pass, "internal_error", "limiter could not check the frame";
}

impl Reason {
    #[inline(always)]
    pub const fn index(self) -> u8 {
        self as u8
    }

    /// The reason with this index, if there is one.
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_order_and_labels_are_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(usize::from(reason.index()), i);
            assert_eq!(Reason::from_index(reason.index()), Some(*reason));
            assert!(Reason::ALL[..i].iter().all(|other| other.label() != reason.label()));
        }
        assert!(Reason::ALL.len() <= crate::abi::REASON_SLOTS as usize);
    }
}

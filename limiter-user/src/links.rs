//! Tells of network interfaces, addresses and default routes that come, go and change (rtnetlink(7)).

use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::mpsc;

/// Before the socket is opened again after it broke.
const PAUSE: Duration = Duration::from_secs(1);

/// Of each change is told by what it may make different.
#[derive(Debug)]
pub struct Changed {
    /// Interfaces: is our program still on them?
    pub links: mpsc::Sender<()>,
    /// What [`Lifelines`](crate::host::Lifelines) are asked of the kernel.
    pub lifelines: mpsc::Sender<()>,
}

/// What is heard. Addresses of an interface that goes down may go without a word of their own.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Runs until `changed` has no receivers. Each message means: look again, something is different, or may be. Messages
/// that nobody has taken yet are not repeated.
pub async fn watch(changed: Changed) {
    while !changed.is_closed() {
        match rtnetlink::new_multicast_connection(&GROUPS) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                // What happened before the socket was there was not told.
                changed.notify(true, true);
                loop {
                    let message = tokio::select! {
                        message = messages.next() => message,
                        () = changed.closed() => None,
                    };
                    let Some((message, _)) = message else { break };
                    let (links, lifelines) = concerns(&message.payload);
                    changed.notify(links, lifelines);
                }
                connection.abort();
                if !changed.is_closed() {
                    tracing::warn!("the netlink socket closed; opening it again");
                }
            }
            Err(error) => tracing::warn!("cannot watch interfaces: {error}; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = changed.closed() => {}
        }
    }
}

impl Changed {
    fn is_closed(&self) -> bool {
        self.links.is_closed()
    }

    async fn closed(&self) {
        self.links.closed().await;
    }

    fn notify(&self, links: bool, lifelines: bool) {
        // Full: a message is waiting already.
        if links {
            let _ = self.links.try_send(());
        }
        if lifelines {
            let _ = self.lifelines.try_send(());
        }
    }
}

/// Whether a message concerns links, and lifelines.
#[expect(clippy::wildcard_enum_match_arm, reason = "netlink has many messages that say nothing here")]
fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>) -> (bool, bool) {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => (true, true),
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => (false, true),
            // A router's table changes all the time, but hardly its default routes.
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                (false, route.header.destination_prefix_length == 0)
            }
            _ => (false, false),
        },
        // Messages were lost.
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => (true, true),
        _ => (false, false),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    #[test]
    fn messages_concern_links_or_lifelines() {
        let route = |length| {
            let mut route = RouteMessage::default();
            route.header.destination_prefix_length = length;
            RouteNetlinkMessage::NewRoute(route)
        };
        let told = |message| concerns(&NetlinkPayload::InnerMessage(message));
        assert_eq!(told(RouteNetlinkMessage::DelLink(LinkMessage::default())), (true, true));
        assert_eq!(told(RouteNetlinkMessage::NewAddress(AddressMessage::default())), (false, true));
        assert_eq!(told(route(0)), (false, true));
        assert_eq!(told(route(24)), (false, false));
        assert_eq!(concerns(&NetlinkPayload::Overrun(Default::default())), (true, true));
    }
}

//! Tells of network interfaces that come, go and change (rtnetlink(7)).

use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::mpsc;

/// Before the socket is opened again after it broke.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until `changed` has no receiver. Each message means: look again, something is different, or may be. Messages
/// that nobody has taken yet are not repeated.
pub async fn watch(changed: mpsc::Sender<()>) {
    while !changed.is_closed() {
        match rtnetlink::new_multicast_connection(&[MulticastGroup::Link]) {
            Ok((connection, _handle, mut messages)) => {
                let connection = tokio::spawn(connection);
                // What happened before the socket was there was not told.
                notify(&changed);
                loop {
                    let message = tokio::select! {
                        message = messages.next() => message,
                        () = changed.closed() => None,
                    };
                    let Some((message, _)) = message else { break };
                    // An overrun: messages were lost.
                    if matches!(
                        message.payload,
                        NetlinkPayload::InnerMessage(
                            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_),
                        ) | NetlinkPayload::Overrun(_)
                            | NetlinkPayload::Error(_)
                    ) {
                        notify(&changed);
                    }
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

fn notify(changed: &mpsc::Sender<()>) {
    // Full: a message is waiting already.
    let _ = changed.try_send(());
}

//! The walk through a frame, in two steps.
//!
//! [`network`] finds the IP header and reads the addresses. [`transport`] checks lengths, options, extension headers
//! and fragments, and finds the transport header. The policy looks up the source between the two, so nothing behind
//! the source address can rescue a blocked source, and a blocked packet costs no more than it must.
//!
//! Reads are bounded by the frame and by the IP length, loops by named constants. Whatever cannot be walked ends as a
//! [`Reason`] to drop; what is not IP ends as [`Reason::NotIp`].

pub(crate) mod ipv4;
pub(crate) mod ipv6;
mod link;
mod upper;

use crate::frame::Frame;
use crate::packet::{Packet, Transport};
use crate::reason::Reason;

pub use ipv4::Header as Ipv4Header;
pub use ipv6::Header as Ipv6Header;
pub use ipv6::is_direct as is_direct_ipv6;
pub use link::{
    Network, PLAIN, find_network, find_plain_ipv4, find_plain_transport, is_one_buffer, is_plain_ipv6,
};

/// VLAN tags that are looked through; Linux strips any number of priority tags, so deeper stacks are dropped.
pub const MAX_VLAN_TAGS: usize = 4;
/// MPLS labels that are looked through.
pub const MAX_MPLS_LABELS: usize = 4;
/// IPv6 extension headers that are looked through.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// How lengths are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lengths {
    /// In generic mode a local peer can hand over segmentation super-frames whose length does not fit the IP header
    /// and is zero there (IPv4 and IPv6 "BIG TCP"). Never true of frames from a wire.
    pub super_frames: bool,
}

/// Where the walk continues behind the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    V4(Ipv4Header),
    V6(Ipv6Header),
}

/// Finds the IP header and reads the addresses.
///
/// # Errors
///
/// The reason the walk ended: [`Reason::NotIp`] passes, all others drop.
#[inline(always)]
pub fn network<F: Frame + ?Sized>(frame: &F) -> Result<(Packet, Header), Reason> {
    match find_network(frame)? {
        Network::V4 { at } => {
            let (packet, header) = ipv4::addresses(frame, at)?;
            Ok((packet, Header::V4(header)))
        }
        Network::V6 { at } => {
            let (packet, header) = ipv6::addresses(frame, at)?;
            Ok((packet, Header::V6(header)))
        }
    }
}

/// Checks everything behind the addresses and finds the transport header.
///
/// # Errors
///
/// The reason to drop.
#[inline(always)]
pub fn transport<F: Frame + ?Sized>(
    frame: &F,
    header: &Header,
    lengths: Lengths,
) -> Result<Transport, Reason> {
    match header {
        Header::V4(header) => ipv4::transport(frame, header, lengths),
        Header::V6(header) => ipv6::transport(frame, header, lengths),
    }
}

//! What a program passes to the one that it tail-calls, so that a packet is parsed and classified only once.
//!
//! Both run on the same CPU, one right after the other, so one entry per CPU is enough. While programs are being replaced, an
//! old one may tail-call a new one: what the numbers here mean is as much part of the schema as their layout.

use crate::{Address, Endpoint, Member, plain};

plain! {
    /// The headers of a packet.
    pub struct Headers {
        /// Source address and port.
        pub source: Endpoint,
        /// Destination address and port.
        pub destination: Endpoint,
        /// Bytes of UDP payload; [`NO_PAYLOAD`] if the headers claim more than the packet holds.
        pub payload: u32,
        /// Not 0 if it is the first fragment of several.
        pub fragment: u16,
        /// Not 0 if it has a checksum.
        pub checksummed: u16,
    }

    /// A datagram sent by a member.
    pub struct Sending {
        /// Its headers.
        pub headers: Headers,
        /// The member that sends it.
        pub member: Member,
        /// Interface index of the member's host-side veth.
        pub interface: u32,
        /// Of a datagram to one host: the member on this node whose LAN address that is, by the interface index of its host-side
        /// veth; 0 if it is none.
        pub neighbour: u32,
        /// How it is handled, from [`route`].
        pub route: u16,
        /// Its [`crate::Protocol`].
        pub protocol: u16,
        /// Directions of the relayed port, from [`crate::paths`]; symmetric only if its source is such a port.
        pub flags: u16,
        /// Of a broadcast, its destination address on the LAN.
        pub to: Address,
        /// Its destination port on the LAN; of an answer the port that was asked, 0 for a stream.
        pub port: u16,
    }
}

/// Stands for the length of an incomplete payload.
pub const NO_PAYLOAD: u32 = u32::MAX;

/// How a member's datagram is handled, by its destination.
pub mod route {
    /// A broadcast to a relayed port.
    pub const BROADCAST: u16 = 0;
    /// A datagram to a relayed port of a host on the LAN, or of the node.
    pub const UNICAST: u16 = 1;
    /// An answer to a LAN socket that searched.
    pub const ANSWER: u16 = 2;
}

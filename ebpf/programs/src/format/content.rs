//! The content of a datagram, and the trait that every format implements. Knows no format.

use abi::{Endpoint, TCP, UDP, Verdict};
use wire::{Direction, Kind, Named};

use crate::packet::Packet;

/// How to read a protocol's payloads, and to rewrite them.
pub trait Format {
    /// The content of `packet`, a datagram of `protocol`; an error if it must not be relayed.
    fn inspect(packet: &Packet, direction: Direction, protocol: u16) -> Result<Content, Verdict>;

    /// Replaces the transport address `from` by `to` where `packet` names it; an address left to the source stays so.
    /// Swapping the two undoes it.
    fn rename(packet: &Packet, content: &Content, from: &Endpoint, to: &Endpoint);
}

/// The content of a datagram.
///
/// Plain numbers, combined without branches: the verifier would follow every combination of flags through every step of a
/// walk.
#[derive(Clone, Copy)]
pub struct Content {
    /// Whether it is an announcement or an answer.
    pub direction: Direction,
    /// Its protocol's number, if its format needs it.
    pub protocol: u16,
    /// Not 0 if it is a search; otherwise it is an announcement or an answer.
    search: u32,
    /// All ones if it names a transport address, 0 otherwise.
    names: u32,
    /// The port named.
    port: u32,
    /// Not 0 if that is a UDP port.
    udp: u32,
    /// The address named, in network order; 0 if it is left to the source.
    address: u32,
    /// Not 0 if it names several addresses, or one that is not IPv4.
    unsupported: u32,
    /// Not 0 if it is for a single server, never for all.
    directed: u32,
}

impl Content {
    /// A datagram whose content is not known yet.
    #[inline(always)]
    pub const fn new(direction: Direction) -> Self {
        Self {
            direction,
            protocol: 0,
            search: 0,
            names: 0,
            port: 0,
            udp: 0,
            address: 0,
            unsupported: 0,
            directed: 0,
        }
    }

    /// A datagram of `protocol` that names nothing yet.
    #[inline(always)]
    pub const fn of(protocol: u16, direction: Direction, search: bool) -> Self {
        Self { protocol, search: search as u32, ..Self::new(direction) }
    }

    /// A datagram that names nothing: a search or an answer.
    #[inline(always)]
    pub const fn plain(direction: Direction, directed: bool) -> Self {
        let search = matches!(direction, Direction::Announce) as u32;
        Self { search, directed: directed as u32, ..Self::new(direction) }
    }

    /// Whether it is for a single server, never for all.
    #[inline(always)]
    pub fn is_directed(&self) -> bool {
        self.directed != 0
    }

    /// Whether it is a search; otherwise it is an announcement or an answer.
    #[inline(always)]
    pub fn is_search(&self) -> bool {
        self.search != 0
    }

    /// The endpoint that it names, with port 0 if it names none; `None` if that is not on `sender` itself, or at the `other`
    /// address that this one has.
    #[inline(always)]
    pub fn own(&self, sender: [u8; 4], other: [u8; 4]) -> Option<Endpoint> {
        let is_other = self.address != 0 && self.address == u32::from_ne_bytes(other);
        let sender = if is_other { other } else { sender };
        let foreign = self.address != 0 && self.address != u32::from_ne_bytes(sender);
        if self.unsupported != 0 || foreign || (self.names != 0 && self.port == 0) {
            return None;
        }
        let protocol = if self.udp != 0 { UDP } else { TCP } as u16;
        Some(Endpoint { address: sender, port: self.port as u16, protocol })
    }

    /// Where a search from `source` expects its answers.
    #[inline(always)]
    pub fn reply_to(&self, source: Endpoint) -> Endpoint {
        if self.names == 0 || self.unsupported != 0 {
            return source;
        }
        let address = if self.address == 0 { source.address } else { self.address.to_ne_bytes() };
        Endpoint { address, port: self.port as u16, protocol: source.protocol }
    }

    /// Whether it names a port, or an address other than its source.
    #[inline(always)]
    pub fn is_named(&self) -> bool {
        (self.port | self.address) != 0
    }

    /// Records that it is a search, if `kind` says so.
    #[inline(always)]
    pub fn add_kind(&mut self, kind: Kind) {
        self.search |= matches!(kind, Kind::Search) as u32;
    }

    /// Records that it names an address, zeros if that is left to the source.
    #[inline(always)]
    pub fn add_address(&mut self, address: [u8; 4]) {
        let address = u32::from_ne_bytes(address);
        let another = self.address != 0 && address != 0 && self.address != address;
        self.unsupported |= another as u32;
        self.address |= address;
    }

    /// Records that it names a port.
    #[inline(always)]
    pub fn add_port(&mut self, port: u16, udp: bool) {
        let (port, udp) = (port as u32, udp as u32);
        self.unsupported |= self.names & (port ^ self.port | udp ^ self.udp);
        self.names = u32::MAX;
        self.port = port;
        self.udp = udp;
    }

    /// Records that it names something that is not supported.
    #[inline(always)]
    pub fn add_unsupported(&mut self) {
        self.unsupported = 1;
    }

    /// Records what a message names. Real datagrams name one address, perhaps repeatedly: another one is not supported.
    #[inline(always)]
    pub fn add(&mut self, kind: Kind, named: &Named) {
        let address = u32::from_ne_bytes(named.address);
        let port = named.port as u32;
        self.unsupported |=
            named.unsupported as u32 | self.names & (port ^ self.port | address ^ self.address);
        let search = matches!(kind, Kind::Search) as u32;
        self.search |= search;
        self.udp |= search;
        self.names = u32::MAX;
        self.port = port;
        self.address = address;
    }
}

/// Bytes of payload, if the packet is complete.
#[inline(always)]
pub fn length(packet: &Packet) -> Result<u32, Verdict> {
    if packet.fragment { Err(Verdict::Fragment) } else { packet.payload.ok_or(Verdict::Malformed) }
}

/// Writes `to` where a message names `from`.
#[inline(always)]
pub fn put(packet: &Packet, named: &Named, from: &Endpoint, to: &Endpoint) {
    packet.set_payload(named.port_at, named.order.bytes(from.port), named.order.bytes(to.port));
    if named.address == from.address {
        packet.set_payload(named.address_at, named.address, to.address);
    }
}

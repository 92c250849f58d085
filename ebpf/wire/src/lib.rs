//! Wire formats: which bytes of a datagram name a port or an address, and how to rewrite them.
//!
//! Pure and `no_std`: the programs in the kernel walk packets with the same functions that the tests in user
//! space run over byte slices. Nothing here reads a map, a socket or a clock, and nothing here changes a length.
//!
//! A protocol's module says what a message is ([`Kind`]) and which transport address it names ([`Named`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod asked;
pub mod ca;
#[cfg(test)]
mod captured;
pub mod circuit;
pub mod data;
pub mod gvcp;
pub mod names;
pub mod pva;

/// Which way a datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To a well-known port: searches and beacons.
    Announce,
    /// To a socket that searched: a server's answer.
    Answer,
}

/// A datagram is not a valid message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A header or a payload reaches past the end of the datagram.
    Truncated,
    /// No UDP message has this header.
    Header,
    /// The chain has more messages than any peer sends.
    TooLong,
    /// The chain has no message of its direction.
    NoMessage,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client looks for a server.
    Search,
    /// A server answers a search.
    Reply,
    /// A server announces itself.
    Beacon,
}

/// Byte order of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Network byte order.
    Big,
    /// Reversed byte order.
    Little,
}

impl Order {
    /// The bytes of a port in the datagram.
    #[inline(always)]
    pub const fn bytes(self, port: u16) -> [u8; 2] {
        match self {
            Self::Big => port.to_be_bytes(),
            Self::Little => port.to_le_bytes(),
        }
    }

    /// The port of these bytes in the datagram.
    #[inline(always)]
    pub const fn port(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }
}

/// A transport address that a message names: a server's TCP port, or the UDP port for answers to a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Offset of the port, from the start of the UDP payload.
    pub port_at: u32,
    /// Offset of the four bytes of the IPv4 address, from the start of the UDP payload.
    pub address_at: u32,
    /// The port.
    pub port: u16,
    /// Its byte order.
    pub order: Order,
    /// The address; zeros if it is left to the datagram's source, however the protocol expresses that.
    pub address: [u8; 4],
    /// Whether it cannot be renamed, such as an IPv6 address.
    pub unsupported: bool,
}

/// What one message contributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Opaque,
    /// A message of this kind that names nothing.
    Plain(Kind),
    /// A message of this kind that names a transport address.
    Names(Kind, Named),
}

//! Payload formats: reads the addresses that a datagram names, and rewrites them. `wire` knows the bytes; the formats load
//! them from a packet in the kernel.
//!
//! A format is a file with an implementation of [`Format`]. Only this module knows which protocol has which format.

mod ca;
mod content;
mod described;
pub mod gvcp;
mod pva;

pub use ca::Ca;
pub use content::{Content, Format};
pub use described::Described;
pub use gvcp::{Gvcp, Gvsp};
pub use pva::Pva;

use abi::{Protocol, Verdict};
use wire::Direction;

use crate::packet::Packet;

macro_rules! dispatcher {
    ($($(#[$doc:meta])* $format:ident = $number:literal, $name:literal, $ports:expr,
        from_pod: [$($from_pod:ident: $_from_pod:path),*], from_lan: [$($from_lan:ident: $_from_lan:path),*];)*) => {
        /// The content of `packet`, a datagram of `protocol`.
        #[inline(always)]
        pub fn inspect(packet: &Packet, protocol: u16, direction: Direction) -> Result<Content, Verdict> {
            $(if protocol == Protocol::$format as u16 {
                return $format::inspect(packet, direction, protocol);
            })*
            if protocol as u32 >= abi::DESCRIBED {
                return Described::inspect(packet, direction, protocol);
            }
            Err(Verdict::Unrelayed)
        }
    };
}
abi::protocols!(dispatcher);

/// Makes a copy of a search to one host fit to be broadcast.
#[inline(always)]
pub fn make_broadcast(packet: &Packet, protocol: u16) {
    if protocol == Protocol::Pva as u16 {
        pva::make_broadcast(packet);
    }
}

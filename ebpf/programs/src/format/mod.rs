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
        /// Writes the content of `packet`, a datagram of `protocol`.
        ///
        /// A function of its own: with all that its callers have at hand the compiler would run out of registers, and save some
        /// that were never written, which the verifier rejects.
        #[inline(never)]
        fn inspect_into(
            packet: &Packet,
            protocol: u16,
            direction: Direction,
            content: &mut Content,
        ) -> Result<(), Verdict> {
            $(if protocol == Protocol::$format as u16 {
                *content = $format::inspect(packet, direction, protocol)?;
                return Ok(());
            })*
            if protocol as u32 >= abi::DESCRIBED {
                *content = Described::inspect(packet, direction, protocol)?;
                return Ok(());
            }
            Err(Verdict::Unrelayed)
        }
    };
}
abi::protocols!(dispatcher);

/// The content of `packet`, a datagram of `protocol`.
#[inline(always)]
pub fn inspect(packet: &Packet, protocol: u16, direction: Direction) -> Result<Content, Verdict> {
    let mut content = Content::new(direction);
    inspect_into(packet, protocol, direction, &mut content)?;
    Ok(content)
}

/// Makes a copy of a search to one host fit to be broadcast.
#[inline(always)]
pub fn make_broadcast(packet: &Packet, protocol: u16) {
    if protocol == Protocol::Pva as u16 {
        pva::make_broadcast(packet);
    }
}

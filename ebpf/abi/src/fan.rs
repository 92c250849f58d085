//! The fan's state: an entry of the map `FAN_STATES` per datagram, found again from one run of the fan to the next by a
//! number in `skb->mark`.

use crate::plain;

/// Datagrams that can be in the fan at once; a power of two. Each is one packet in a processor's backlog, which holds 1000
/// by default (`net.core.netdev_max_backlog`).
pub const FAN_STATES: u32 = 16 * 1024;

plain! {
    /// A datagram in the fan: which members have not been visited yet.
    pub struct FanState {
        /// Its number. An entry with another number belongs to a later datagram.
        pub ticket: u32,
        /// Roster slots not yet visited, up to [`crate::SLOTS`].
        pub remaining: u32,
        /// The next slot to visit, below [`crate::SLOTS`].
        pub slot: u32,
    }
}

/// What the mark of a copy inside the fan device encodes; the mark is zero again when a pod receives its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FanMark {
    /// The domain, below [`crate::DOMAINS`].
    pub domain: u32,
    /// The datagram's number; a mark holds 24 bits of it.
    pub ticket: u32,
}

const MAGIC: u32 = 0xe << 28;
const TICKET: u32 = (1 << 24) - 1;

impl FanMark {
    /// Encodes it as a mark.
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        MAGIC | (self.domain & 0xf) << 24 | (self.ticket & TICKET)
    }

    /// Decodes a mark; `None` for one that the fan did not set.
    #[inline(always)]
    pub const fn unpack(mark: u32) -> Option<Self> {
        if mark >> 28 != MAGIC >> 28 {
            return None;
        }
        Some(Self { domain: mark >> 24 & 0xf, ticket: mark & TICKET })
    }

    /// The mark of the datagram after `count` others.
    #[inline(always)]
    pub const fn new(domain: u32, count: u32) -> Self {
        Self { domain, ticket: count & TICKET }
    }

    /// The index of its state in the map `FAN_STATES`.
    #[inline(always)]
    pub const fn place(self) -> u32 {
        self.ticket % FAN_STATES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DOMAINS;

    #[test]
    fn the_largest_mark_survives() {
        let mark = FanMark::new(DOMAINS - 1, u32::MAX);
        assert_eq!(FanMark::unpack(mark.pack()), Some(mark));
    }

    #[test]
    fn datagrams_that_are_in_the_fan_together_have_places_of_their_own() {
        let place = |count| FanMark::new(0, count).place();
        assert_ne!(place(7), place(7 + FAN_STATES - 1));
        assert_eq!(place(u32::MAX).wrapping_add(1) % FAN_STATES, place(u32::MAX.wrapping_add(1)));
    }

    #[test]
    fn a_foreign_mark_is_none_of_ours() {
        assert_eq!(FanMark::unpack(0), None);
        assert_eq!(FanMark::unpack(0x4000), None); // kube-proxy's masquerade mark
    }
}

//! The fan's state, which travels in `skb->mark` between one run of the fan and the next.
//!
//! All of it is in the mark, so that it ends with the packet, wherever that is lost. An entry of a map that the mark leads to
//! would have room for more, but must be given back: a ring of entries is overrun by short-lived datagrams while one is on its
//! way to many members. `skb->priority` does not survive the way back into the fan device.

/// Which domain a copy is for, how many roster places are left to visit, and where to go on.
///
/// The mark is set only on copies inside the fan device and is zero again when a pod gets its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FanMark {
    /// The domain, below [`crate::DOMAINS`].
    pub domain: u32,
    /// Roster places not yet visited, up to [`crate::SLOTS`].
    pub remaining: u32,
    /// The next place to visit, below [`crate::SLOTS`].
    pub slot: u32,
}

const MAGIC: u32 = 0xe << 28;

/// The mark of a member's copy that leaves by the uplink, where it may look like a datagram of the node's own.
pub const LEAVING: u32 = 0xd << 28;

impl FanMark {
    /// Encodes it as a mark.
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        MAGIC | (self.domain & 0xf) << 24 | (self.remaining & 0xfff) << 12 | (self.slot & 0xfff)
    }

    /// Decodes a mark; `None` for one that the fan did not set.
    #[inline(always)]
    pub const fn unpack(mark: u32) -> Option<Self> {
        if mark >> 28 != MAGIC >> 28 {
            return None;
        }
        Some(Self { domain: mark >> 24 & 0xf, remaining: mark >> 12 & 0xfff, slot: mark & 0xfff })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DOMAINS, SLOTS};

    #[test]
    fn the_largest_state_survives_the_mark() {
        let state = FanMark { domain: DOMAINS - 1, remaining: SLOTS, slot: SLOTS - 1 };
        assert_eq!(FanMark::unpack(state.pack()), Some(state));
    }

    #[test]
    fn a_foreign_mark_is_no_state() {
        assert_eq!(FanMark::unpack(0), None);
        assert_eq!(FanMark::unpack(LEAVING), None);
        assert_eq!(FanMark::unpack(0x4000), None); // kube-proxy's masquerade mark
    }
}

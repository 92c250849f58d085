//! The fan's state, which travels in `skb->mark` between one run of the fan and the next, and who listens.
//!
//! What belongs to the datagram is in the mark, so that it ends with the packet, wherever that is lost. An entry of a map
//! that the mark leads to would have to be given back: a ring of entries is overrun by short-lived datagrams while one is on
//! its way to many members. `skb->priority` does not survive the way back into the fan device. What belongs to a port is in
//! the map `LISTENERS`.

use crate::{Address, SLOTS};

/// Words of a bit for each place of a domain's roster.
pub const WORDS: usize = SLOTS as usize / 64;
/// The longest beginning of names that a pod can declare, in bytes.
pub const PREFIX: usize = 64;
/// Beginnings that pods declare, all domains together.
pub const OWNED: u32 = 16 * 1024;
/// Beginnings of one name that pods declare, of which one begins with the other, at most; a name with more goes to all.
pub const NESTED: u32 = 8;
/// Bytes of the beginnings that one pod declares, separated by zeros.
pub const DECLARED: usize = 1024;
/// Datagrams whose names were matched and that are in the fan at the same time; of more, the first ones go to all that are left.
pub const IN_FLIGHT: u32 = 4096;

/// Which domain a copy is for, which members it visits, how many roster places are left to visit, and where to go on.
///
/// The mark is set only on copies inside the fan device and is zero again when a pod gets its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FanMark {
    /// The domain, below [`crate::DOMAINS`].
    pub domain: u32,
    /// Which members it visits, from [`walk`].
    pub walk: u32,
    /// Whether the members that may have its names are known: by the ticket in its source MAC address ([`ticket_mac`]).
    pub matched: bool,
    /// Roster places not yet visited, up to [`crate::SLOTS`].
    pub remaining: u32,
    /// The next place to visit, below [`crate::SLOTS`].
    pub slot: u32,
}

/// Which members a datagram in the fan visits.
pub mod walk {
    /// To be decided when it comes out of the queue for the first time.
    pub const UNDECIDED: u32 = 0;
    /// Those that are known to listen.
    pub const LISTENERS: u32 = 1;
    /// All of them, to find out who listens.
    pub const ALL: u32 = 2;
}

crate::plain! {
    /// Key of what is known about who listens: a domain, and where a datagram for its members goes.
    pub struct ListenersKey {
        /// The domain.
        pub domain: u16,
        /// UDP destination port.
        pub port: u16,
        /// Destination address: a socket that hears broadcasts may not hear a group.
        pub address: Address,
    }

    /// Which members had a socket for such datagrams.
    pub struct Listeners {
        /// When the tenth of a second began in which looks at all members are counted, nanoseconds of the kernel's monotonic clock.
        pub since: u64,
        /// How many there were since then.
        pub looks: u64,
        /// A bit for each place of the domain's roster.
        pub places: [u64; WORDS],
    }

    /// Key of a beginning of names: a domain, and the name's first bytes; as many bits of both as [`owned_bits`] says.
    pub struct Owned {
        /// The domain.
        pub domain: u16,
        /// The beginning, padded with zeros.
        pub prefix: [u8; PREFIX],
    }

    /// Which members have names that begin so.
    pub struct Owners {
        /// Its own bits, see [`owned_bits`].
        pub bits: u32,
        /// Always 0.
        pub unused: u32,
        /// A bit for each place of the domain's roster.
        pub places: [u64; WORDS],
    }

    /// What members of a domain declare.
    pub struct Declared {
        /// How many declare which names they have, so that others need not get searches for them.
        pub members: u64,
        /// A bit for each place of the roster whose member does.
        pub places: [u64; WORDS],
    }

    /// The beginnings that a pod declares, keyed by the interface index of its host-side veth.
    pub struct Prefixes {
        /// The member's [`crate::Member::generation`].
        pub generation: u32,
        /// How many bytes there are.
        pub length: u32,
        /// The beginnings, separated by zeros.
        pub text: [u8; DECLARED],
    }

    /// A datagram in the fan, and who may have its names.
    pub struct Wanted {
        /// Its ticket; that of another datagram if the entry was overwritten, 0 while it is written.
        pub ticket: u64,
        /// The source MAC address in whose place the ticket is.
        pub mac: [u8; 6],
        /// Always 0.
        pub unused: [u8; 2],
        /// A bit for each place of the domain's roster.
        pub places: [u64; WORDS],
    }
}

/// The bits of an [`Owned`] key for a beginning of `length` bytes.
#[inline(always)]
pub const fn owned_bits(length: u32) -> u32 {
    16 + 8 * if length < PREFIX as u32 { length } else { PREFIX as u32 }
}

/// The source MAC address of a datagram with this ticket, while it is in the fan.
#[inline(always)]
pub const fn ticket_mac(ticket: u32) -> [u8; 6] {
    let [a, b, c, d] = ticket.to_be_bytes();
    [0x0a, b'i', a, b, c, d] // locally administered
}

/// The ticket in a source MAC address.
#[inline(always)]
pub const fn mac_ticket([_, _, ticket @ ..]: [u8; 6]) -> u32 {
    u32::from_be_bytes(ticket)
}

impl Owners {
    /// Nobody.
    pub const NONE: Self = Self { bits: 0, unused: 0, places: [0; WORDS] };
}

impl Listeners {
    /// Nanoseconds in which the looks at all members are counted: in a storm, a new listener waits no longer.
    pub const PERIOD_NS: u64 = 100_000_000;
    /// Nanoseconds at its beginning in which all datagrams visit all members: a new listener hears all of a burst.
    pub const BURST_NS: u64 = 10_000_000;
    /// How many datagrams visit all members later than that: more are a storm.
    pub const LOOKS: u64 = 20;

    /// What is known of nobody.
    pub const NONE: Self = Self { since: 0, looks: 0, places: [0; WORDS] };

    /// Whether a datagram that comes at `now` visits all members, which is counted.
    #[inline(always)]
    pub const fn look(&mut self, now: u64) -> bool {
        let age = now.wrapping_sub(self.since);
        if age >= Self::PERIOD_NS {
            (self.since, self.looks) = (now, 0);
        } else if age >= Self::BURST_NS && self.looks >= Self::LOOKS {
            return false;
        }
        self.looks += 1;
        true
    }
}

const MAGIC: u32 = 0xe << 28;

/// The mark of a member's copy that leaves by the uplink, where it may look like a datagram of the node's own.
pub const LEAVING: u32 = 0xd << 28;

impl FanMark {
    /// The bits of a place.
    const SLOT: u32 = SLOTS - 1;
    /// The bits of how many are left.
    const REMAINING: u32 = 2 * SLOTS - 1;

    /// That of a datagram that all `length` places of a roster may get, which begins its way at `now`, nanoseconds.
    ///
    /// All datagrams of the same millisecond begin at the same place, so that the queue delivers pod by pod, and each
    /// receiver wakes up once for a burst: a copy of a burst of 64 to 110 pods costs 0.4 of what it does if each begins
    /// anywhere. The beginnings are multiples of the golden ratio, which spread evenly over any number of places in any
    /// time, so that overload is shared fairly; random ones would not be.
    #[inline(always)]
    pub const fn begin(domain: u32, length: u32, now: u64) -> Self {
        const GOLDEN_RATIO: u32 = 0x9e37_79b9; // its fraction, times 2^32
        let fraction = ((now >> 20) as u32).wrapping_mul(GOLDEN_RATIO) as u64;
        Self {
            domain,
            walk: walk::UNDECIDED,
            matched: false,
            remaining: length,
            slot: ((fraction * length as u64) >> 32) as u32,
        }
    }

    /// Encodes it as a mark.
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        MAGIC
            | (self.domain & 0xf) << 24
            | (self.walk & 0x3) << 22
            | (self.matched as u32) << 21
            | (self.remaining & Self::REMAINING) << 10
            | (self.slot & Self::SLOT)
    }

    /// Decodes a mark; `None` for one that the fan did not set.
    #[inline(always)]
    pub const fn unpack(mark: u32) -> Option<Self> {
        if mark >> 28 != MAGIC >> 28 {
            return None;
        }
        Some(Self {
            domain: mark >> 24 & 0xf,
            walk: mark >> 22 & 0x3,
            matched: mark >> 21 & 1 != 0,
            remaining: mark >> 10 & Self::REMAINING,
            slot: mark & Self::SLOT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DOMAINS;

    #[test]
    fn the_largest_state_survives_the_mark() {
        let state = FanMark {
            domain: DOMAINS - 1,
            walk: walk::ALL,
            matched: true,
            remaining: SLOTS,
            slot: SLOTS - 1,
        };
        assert_eq!(FanMark::unpack(state.pack()), Some(state));
    }

    #[test]
    fn a_foreign_mark_is_no_state() {
        assert_eq!(FanMark::unpack(0), None);
        assert_eq!(FanMark::unpack(LEAVING), None);
        assert_eq!(FanMark::unpack(0x4000), None); // kube-proxy's masquerade mark
    }

    #[test]
    fn every_place_is_the_first_equally_often_in_any_second() {
        const WINDOW: u64 = 1 << 20;
        for (length, since) in
            [(1, 0), (2, 7), (10, 1 << 40), (110, 123_456_789), (239, u64::MAX / 2), (953, 1)]
        {
            let windows = 1_000_000_000 / WINDOW; // 953
            let mut first = vec![0u64; length as usize];
            for window in 0..windows {
                first[FanMark::begin(0, length, since + window * WINDOW).slot as usize] += 1;
            }
            let fair = windows / u64::from(length);
            assert!(first.iter().all(|times| times.abs_diff(fair) <= 2), "{length}: {first:?}");
        }
    }

    #[test]
    fn only_in_a_storm_are_not_all_members_visited_and_then_every_tenth_of_a_second() {
        let at = |milliseconds: u64| 1_000_000_000 + milliseconds * 1_000_000;
        let mut quiet = Listeners::NONE;
        assert!((0..1000).all(|number| quiet.look(at(6 * number))), "166 a second");
        let mut storm = Listeners::NONE;
        let looks = |storm: &mut Listeners, from: u64| -> Vec<u64> {
            (from..from + 100).filter(|time| storm.look(at(*time))).collect()
        };
        assert_eq!(looks(&mut storm, 0), (0..20).collect::<Vec<_>>());
        assert_eq!(looks(&mut storm, 100), (100..120).collect::<Vec<_>>());
        let mut burst = Listeners::NONE;
        assert!((0..1000).all(|_| burst.look(at(0))));
        assert!(!burst.look(at(10)));
    }
}

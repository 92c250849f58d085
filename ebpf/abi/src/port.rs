//! Whose an external port is, for how long, and where the search for one starts: always at the same position for the same pod
//! and port.
//!
//! A port is held by an [`Owner`], which a pod is again after it was deleted and created under its name. What a server has
//! been reached by is in lists and firewalls, so it stays its owner's for [`GRACE`] after the pod, or the socket, is gone.

use crate::{Claim, EXTERNALS, Endpoint, Identity, plain};

/// How long nobody but its owner gets a server's port that has nobody behind it, in seconds.
pub const GRACE: u32 = 600;
/// Ports kept for the servers of a deleted pod: those of the lowest ports in the pod.
pub const KEPT: usize = 16;
/// Pinned ports of one domain, TCP and UDP together.
pub const PINS: u32 = 512;

plain! {
    /// Whose an external port is: a pod by its name, whichever address and interface it has, and a port of it.
    pub struct Owner {
        /// Hash of the pod's namespace and name.
        pub identity: Identity,
        /// The pod's domain.
        pub domain: u16,
        /// The pod's port.
        pub port: u16,
        /// [`crate::TCP`] or [`crate::UDP`].
        pub protocol: u16,
        /// Zero.
        pub reserved: u16,
    }

    /// How many external ports a pod or a domain has taken. Times are of the kernel's monotonic clock, in nanoseconds.
    pub struct Share {
        /// The number.
        pub taken: i64,
        /// Until then it gets no more: a search has found none.
        pub closed: u64,
        /// Until then it gets none that nobody has: a search has found none.
        pub crowded: u64,
        /// Where the last one was that it took over, in the range: the next search begins there.
        pub last: u64,
    }
}

plain! {
    /// A search for an external port: too large for the stack of the programs.
    pub struct Search {
        /// What the port gets if one is found.
        pub claim: Claim,
        /// Its owner.
        pub owner: Owner,
        /// The external endpoint that is looked at.
        pub external: Endpoint,
        /// Its claim, as it was then.
        pub found: Claim,
        /// The owner of that.
        pub former: Owner,
        /// The first port of the range.
        pub first: u32,
        /// How many ports it has.
        pub count: u32,
        /// Where in it the search starts.
        pub start: u32,
        /// Where it has come to.
        pub offset: u32,
        /// Not 0 if a share of ports is used up.
        pub full: u32,
        /// Not 0 if a search would find nothing.
        pub closed: u32,
        /// Not 0 if it would find none that nobody has.
        pub crowded: u32,
        /// Where in the range a search for one to be taken over starts.
        pub last: u32,
        /// When it is, in [`seconds`].
        pub now: u32,
        /// Not 0 if the owner is locked.
        pub locked: u32,
    }
}

impl Share {
    /// The share of who has taken nothing.
    pub const NOTHING: Self = Self { taken: 0, closed: 0, crowded: 0, last: 0 };
}

/// How an external port is held; a greater one outlives a smaller one.
pub mod hold {
    /// A client's: it is free when its socket is closed.
    pub const CLIENT: u8 = 0;
    /// A server's: it is free when nobody has been behind it for [`super::GRACE`].
    pub const SERVER: u8 = 1;
    /// Pinned: as long as the pod exists it is the pod's, whether or not it uses it.
    pub const PINNED: u8 = 2;
}

/// Whose share is counted under which key.
pub mod share {
    /// No interface index has this bit.
    const DOMAIN: u32 = 1 << 31;
    /// Instead of a transport: a domain's pinned ports.
    pub const PINS: u16 = 0;

    /// A member's ports, by the interface index of its host-side veth.
    #[inline(always)]
    pub const fn of_pod(interface: u32) -> u32 {
        interface
    }

    /// A domain's ports of one transport, [`crate::TCP`] or [`crate::UDP`], not counting pinned ones, which are [`PINS`].
    #[inline(always)]
    pub const fn of_domain(domain: u16, protocol: u16) -> u32 {
        DOMAIN | (domain as u32) << 16 | protocol as u32
    }
}

/// Ports of one transport that each of `domains` domains may have, not counting pinned ones: the table is shared equally.
pub const fn share_of(domains: u32) -> u32 {
    let all = EXTERNALS - crate::DOMAINS * PINS;
    match (all / 2).checked_div(domains) {
        Some(share) => share,
        None => all / 2,
    }
}

impl Claim {
    /// Whose it is.
    #[inline(always)]
    pub const fn owner(&self) -> Owner {
        let Endpoint { port, protocol, .. } = self.pod;
        Owner { identity: self.identity, domain: self.domain, port, protocol, reserved: 0 }
    }

    /// Whether both are the same member's, for the same endpoint.
    #[inline(always)]
    pub fn is_same(&self, other: &Self) -> bool {
        self.pod == other.pod && self.member == other.member && self.generation == other.generation
    }

    /// Whether nobody has been behind it for so long that it is free, at a time in [`seconds`].
    #[inline(always)]
    pub const fn is_over(&self, now: u32) -> bool {
        self.hold == hold::CLIENT || self.vacant != 0 && now.wrapping_sub(self.vacant) >= GRACE
    }
}

/// A time of the kernel's monotonic clock, in nanoseconds, as [`Claim::vacant`] has it: never 0.
#[inline(always)]
pub const fn seconds(nanoseconds: u64) -> u32 {
    match (nanoseconds / 1_000_000_000) as u32 {
        0 => 1,
        seconds => seconds,
    }
}

/// Hash of a pod's namespace and name (FNV-1a).
pub fn identity(namespace: &str, pod: &str) -> Identity {
    let bytes = namespace.bytes().chain([b'/']).chain(pod.bytes());
    let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, mix);
    [hash as u32, (hash >> 32) as u32]
}

/// Offset into a range of `count` external ports at which the search for one for `pod_port` starts.
#[inline(always)]
pub const fn preferred_port([low, high]: Identity, pod_port: u16, count: u32) -> u32 {
    let mixed = (low ^ high ^ (pod_port as u32).wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1);
    match (mixed >> 8).checked_rem(count) {
        Some(offset) => offset,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_differ_in_name_or_namespace_differ() {
        assert_ne!(identity("bl07", "ioc-a"), identity("bl07", "ioc-b"));
        assert_ne!(identity("bl07", "ioc-a"), identity("bl08", "ioc-a"));
        assert_ne!(identity("a", "b/c"), identity("a/b", "d"));
    }

    #[test]
    fn a_hundred_pods_spread_over_the_default_range() {
        let mut places: Vec<_> =
            (0..100).map(|pod| preferred_port(identity("bl07", &format!("ioc-{pod}")), 5064, 3999)).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 90, "{} places for 100 pods", places.len());
    }

    #[test]
    fn all_domains_together_fit_into_the_table() {
        for domains in 1..=crate::DOMAINS {
            assert!(domains * 2 * share_of(domains) + crate::DOMAINS * PINS <= EXTERNALS, "{domains}");
        }
        assert!(share_of(7) >= 4000, "the default range is a domain's own on most nodes");
    }
}

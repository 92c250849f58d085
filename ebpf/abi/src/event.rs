//! Events: what `iocast-node snoop` sees of a datagram. They are made only while somebody watches.

use crate::{Endpoint, named::named, plain};

/// Bytes of the ring buffer.
pub const EVENT_RING: u32 = 1 << 20;
/// Most payload in a short event; a power of two. One name, a reply or a beacon is shorter.
pub const SHORT: usize = 128;
/// Most payload in a long one; a power of two. What is longer than that is cut off.
pub const LONG: usize = 2048;

named! {
    /// Which program saw a datagram.
    Point:
    /// `from_pod`: a member sends it.
    FromPod = "from_pod",
    /// `from_lan`: it comes from the LAN to a relayed port.
    FromLan = "from_lan",
    /// `to_lan`: a process on the node broadcasts it.
    FromNode = "from_node",
    /// `fan`: a member gets a copy.
    ToPod = "to_pod",
    /// `from_lan`: it comes from the LAN to an external port.
    ToExternal = "to_external",
}

plain! {
    /// Who watches.
    pub struct Snoop {
        /// The kernel's monotonic clock, nanoseconds, until which events are made; 0 for not at all. The watcher keeps it
        /// ahead, so that events end with it, however it ends.
        pub until: u64,
        /// Not 0 if the fan's deliveries are events, too.
        pub deliveries: u64,
    }

    /// What is known of a datagram; in the ring its payload follows, as it is after the program.
    pub struct Event {
        /// The kernel's monotonic clock, nanoseconds.
        pub time: u64,
        /// Who sent it, untranslated.
        pub source: Endpoint,
        /// Where it goes on to; for one to an external port the pod's endpoint.
        pub destination: Endpoint,
        /// Interface index of the host-side veth of the member that sends or gets it; 0 if there is no such.
        pub member: u32,
        /// Bytes of UDP payload; 0 where they are not all there.
        pub length: u32,
        /// The domain.
        pub domain: u16,
        /// A [`crate::Protocol`].
        pub protocol: u16,
        /// A [`crate::Verdict`].
        pub verdict: u16,
        /// A [`Point`].
        pub point: u16,
    }
}

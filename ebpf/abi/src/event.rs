//! Events: what `iocast-node snoop` learns about a datagram. The programs emit them only while it runs.

use crate::{Endpoint, named::named, plain};

/// Size of the ring buffer, bytes.
pub const EVENT_RING: u32 = 1 << 20;
/// Maximum payload of a short event; a power of two. A search for one name, a reply or a beacon fits.
pub const SHORT: usize = 128;
/// Maximum payload of a long event; a power of two. Anything longer is truncated.
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
    /// Switches events on.
    pub struct Snoop {
        /// When events end: the kernel's monotonic clock, nanoseconds; 0 for no events. `snoop` keeps it ahead, so that
        /// events end with it, however it ends.
        pub until: u64,
        /// Not 0 if the fan emits its deliveries as well.
        pub deliveries: u64,
    }

    /// What a program knows about a datagram. In the ring the payload follows, as it is after the program.
    pub struct Event {
        /// The kernel's monotonic clock, nanoseconds.
        pub time: u64,
        /// Who sent it, untranslated.
        pub source: Endpoint,
        /// Its destination; for one to an external port the pod's endpoint.
        pub destination: Endpoint,
        /// Interface index of the host-side veth of the member that sends or receives it; 0 if there is none.
        pub member: u32,
        /// Bytes of UDP payload; 0 if it is incomplete.
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

//! What the programs in the kernel and the tools in user space share: map keys, map values, limits.
//!
//! Addresses are octets in network order; ports and numbers are in host order. Every type has a fixed size and no
//! hidden padding, because map keys are compared byte by byte. Any change to them requires a new [`SCHEMA`].
#![cfg_attr(not(any(test, feature = "user")), no_std)]

mod counter;
mod event;
mod fan;
pub mod latency;
mod named;
mod passed;
mod port;
mod protocol;

pub use counter::{COUNTERS, Verdict, counter_index};
pub use event::{EVENT_RING, Event, LONG, Point, SHORT, Snoop};
pub use fan::{
    DECLARED, Declared, FanMark, IN_FLIGHT, LEAVING, Listeners, ListenersKey, NESTED, OWNED, Owned, Owners,
    PREFIX, Prefixes, WORDS, Wanted, mac_ticket, owned_bits, ticket_mac, walk,
};
pub use passed::{Headers, NO_PAYLOAD, Sending, route};
pub use port::{
    GRACE, KEPT, Owner, PINS, Search, Share, hold, identity, preferred_port, seconds, share, share_of,
};
pub use protocol::{
    DESCRIBED, DESCRIPTORS, FROM_LAN_RELAYED, FROM_POD_DESCRIBED, PARSED, PROTOCOLS, Parsed, Protocol,
    RELAYED_PLACE, next_place,
};
use wire::{circuit::Stream, data::Descriptor};

/// Version of everything in this crate; part of the pin directory's name.
pub const SCHEMA: u32 = 4;
/// Broadcast domains on one node.
pub const DOMAINS: u32 = 16;
/// Member pods of one domain on one node.
pub const SLOTS: u32 = 1024;
/// Interfaces that can be an uplink.
pub const UPLINKS: u32 = DOMAINS;
/// Destinations of datagrams for members of which it is known who listens; the least recently used one is evicted first.
pub const LISTENERS: u32 = 1024;
/// Relayed UDP ports, all domains together.
pub const RELAYS: u32 = 256;
/// Ports of multicast groups that are relayed, all domains together.
pub const GROUPS: u32 = 64;
/// Networks on the LAN, all domains together.
pub const NETWORKS: u32 = 1024;
/// Namespaces whose pods may join, all domains together.
pub const NAMESPACES: u32 = 1024;
/// External ports in use or kept, TCP and UDP, all domains together.
pub const EXTERNALS: u32 = 64 * 1024;
/// Owners whose external ports are being changed at this moment.
pub const CHANGING: u32 = 1024;
/// LAN sockets remembered as searchers; the least recently used one is evicted first.
pub const SEARCHERS: u32 = 64 * 1024;
/// LAN sockets that cameras in pods stream to; the least recently used one is evicted first.
pub const RECEIVERS: u32 = 4 * 1024;
/// LAN sockets whose datagrams came to a pod through an external port; the least recently used one is evicted first.
pub const SENDERS: u32 = 16 * 1024;
/// Places of circuits, all domains together: enough that one is free among the few that are looked at when a circuit is
/// established.
pub const PLACES: u32 = 256 * 1024;
/// Circuits, all domains together; when all are in use, a new one is refused. A map cannot grow in place.
pub const CIRCUITS: u32 = PLACES / 8 * 7;
/// Of a domain's circuits, the part that one host on the LAN may have.
pub const HOST_PART: i64 = 4;
/// The part that one pod may have.
pub const POD_PART: i64 = 2;
/// Connections being opened; the least recently used one is evicted first.
pub const OPENINGS: u32 = 64 * 1024;
/// Circuits that have ended and wait to be removed; of more, the last ones are found by their places.
pub const ENDED: u32 = 64 * 1024;
/// Counts of circuits by LAN host and by pod; the least recently used one is evicted first.
pub const SHARES: u32 = 64 * 1024;
/// Circuits of name servers that are followed; the least recently used one is evicted first.
pub const STREAMS: u32 = 16 * 1024;
/// Ports in search replies remembered for each of them, so that they are translated in retransmissions too.
pub const REPLIES: usize = 32;
/// Buckets of rate limits; the least recently used one is evicted first.
pub const BUCKETS: u32 = 64 * 1024;
/// Pending requests to cameras; the least recently used one is evicted first.
pub const READS: u32 = 1024;
/// Words of the bitmap of external ports, 64 ports each.
pub const PORT_WORDS: u32 = 1024;
/// How long after a LAN socket's last search answers to it are translated, in nanoseconds.
pub const SEARCHER_AGE_NS: u64 = 30_000_000_000;

/// LAN addresses of pods, all domains together.
pub const LAN_ADDRESSES: u32 = DOMAINS * SLOTS;
/// Ranges of addresses that pods may have, all domains together.
pub const ADDRESS_RANGES: u32 = 1024;
/// LAN addresses that other hosts claimed; the least recently claimed one is evicted first.
pub const RIVALS: u32 = 4 * 1024;
/// Sockets of pods with a LAN address whose last broadcast is remembered; the least recently used one is evicted first.
pub const BROADCASTS: u32 = 16 * 1024;
/// How long after a broadcast the same one to another address of the pod's is taken for a repetition, in nanoseconds.
pub const REPETITION_NS: u64 = 1_000_000_000;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// An IPv4 address. All zeros: none.
pub type Address = [u8; 4];
/// No address.
pub const NO_ADDRESS: Address = [0; 4];
/// A hash of a pod's namespace and name. Halves, because 8 bytes as one would be aligned as such.
pub type Identity = [u32; 2];
/// The limited broadcast address.
pub const LIMITED_BROADCAST: Address = [255; 4];

/// Names of the attached programs, and of their pins.
pub mod names {
    /// tc ingress of an uplink.
    pub const FROM_LAN: &str = "from_lan";
    /// tc egress of an uplink.
    pub const TO_LAN: &str = "to_lan";
    /// tc ingress of a member's host-side veth.
    pub const FROM_POD: &str = "from_pod";
    /// tc egress of a bridge that connects pods.
    pub const TO_BRIDGE: &str = "to_bridge";
    /// tc ingress of the fan device.
    pub const FAN: &str = "fan";
}

/// Why ADDs fail.
pub mod refused {
    /// The reasons by number: the pod's annotations are wrong, or ask for what it may not have; it would be a member if it came
    /// later; something is broken.
    pub const REASONS: [&str; 3] = ["invalid", "later", "failed"];
    /// The pod asks for what it may not have.
    pub const INVALID: u32 = 0;
    /// It is to be tried again.
    pub const LATER: u32 = 1;
    /// Something is broken.
    pub const FAILED: u32 = 2;
}

/// What a map may hold.
///
/// # Safety
///
/// Every bit pattern is a value, and no byte is padding.
pub unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl Plain for i64 {}

/// Defines a map value or key: C layout, plain bytes, and [`aya::Pod`] for user space.
macro_rules! plain {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*, "hidden padding");
        // SAFETY: C layout, no padding (checked above), every bit pattern is valid.
        unsafe impl $crate::Plain for $name {}
        // SAFETY: as above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    )*};
}
pub(crate) use plain;

plain! {
    /// Settings for all programs, one per node.
    pub struct Config {
        /// Interface index of the fan device.
        pub fan: u32,
        /// Seconds without a segment after which the place of a circuit may be given to another.
        pub circuit_idle: u32,
        /// While the agent takes over from maps of another layout, what is not known yet may be known in a moment: until when it may
        /// take at most, in seconds of the kernel's monotonic clock; 0 if it does not.
        pub taking_over: u32,
    }

    /// A rate limit for relayed datagrams: a token bucket.
    pub struct Limit {
        /// Nanoseconds per datagram; 0 for no limit.
        pub interval: u32,
        /// How many may come at once.
        pub burst: u32,
    }

    /// Key of a bucket, or of a count of circuits.
    pub struct BucketKey {
        /// The domain.
        pub domain: u16,
        /// Whose it is, from [`limited`].
        pub kind: u16,
        /// The member, by the interface index of its host-side veth, or the address of a LAN host; 0 for the domain itself.
        pub who: u32,
    }

    /// A broadcast domain on this node.
    pub struct Domain {
        /// Interface index of the uplink; 0 while there is none.
        pub uplink: u32,
        /// First external port.
        pub first_port: u16,
        /// Last external port, inclusive.
        pub last_port: u16,
        /// First port outside that range that a pod may pin.
        pub first_pin: u16,
        /// Last such port, inclusive.
        pub last_pin: u16,
        /// External ports that one pod may take, TCP and UDP together, not counting pinned ones.
        pub ports_per_pod: u32,
        /// External ports of one transport that all its pods together may take, not counting pinned ones.
        pub ports: u32,
        /// Circuits that it may have.
        pub circuits: u32,
        /// Not 0 if packets from and to its pods' LAN addresses pass by the node's stack.
        pub direct: u32,
        /// Limits, by [`limited`].
        pub limits: [Limit; limited::KINDS],
        /// The domain's name, padded with zeros; all zeros where there is no such domain.
        pub name: [u8; 64],
    }

    /// An interface on the LAN.
    pub struct Uplink {
        /// Its IPv4 address.
        pub address: Address,
        /// The broadcast address of its network.
        pub broadcast: Address,
        /// Its MAC address.
        pub mac: [u8; 6],
        /// The domain in which traffic is counted that belongs to none in particular.
        pub domain: u16,
    }

    /// A pod in a domain; keyed by the interface index of its host-side veth.
    pub struct Member {
        /// The pod's IPv4 address.
        pub address: Address,
        /// The broadcast address configured in the pod.
        pub broadcast: Address,
        /// Its address on the LAN; [`NO_ADDRESS`] if it has none of its own.
        pub lan_address: Address,
        /// Distinguishes it from earlier members with the same interface index: records of another generation are stale.
        pub generation: u32,
        /// Id of the pod's network namespace, as the node's namespace numbers it.
        pub netns: i32,
        /// Of its name, whose external ports its ports have.
        pub identity: Identity,
        /// MAC address of the host-side veth.
        pub mac: [u8; 6],
        /// Its domain.
        pub domain: u16,
        /// The MTU of the pod's interface.
        pub mtu: u32,
        /// How many beginnings of names it declares; 0 if it gets searches for all names.
        pub prefixes: u32,
    }

    /// Whose a LAN address is; keyed by the address. Valid only while the member exists, but for one that is reserved.
    pub struct LanAddress {
        /// The member, by the interface index of its host-side veth; 0 for an address that an admin took before its pod came.
        pub member: u32,
        /// The member's [`Member::generation`].
        pub generation: u32,
        /// When it was reserved or taken, in [`seconds`].
        pub since: u32,
        /// The domain.
        pub domain: u16,
        /// What the node does about it, from [`standing`].
        pub standing: u16,
    }

    /// Another host that claimed a pod's LAN address, or is about to; keyed by the address.
    pub struct Rival {
        /// When it did so last; kernel's monotonic clock, nanoseconds.
        pub seen: u64,
        /// When the node defended the address last; 0 if never.
        pub defended: u64,
        /// Its MAC address.
        pub mac: [u8; 6],
        /// How it did so, flags from [`rival`].
        pub flags: u16,
    }

    /// Addresses that pods in a domain may have. Read by user space only.
    pub struct AddressRange {
        /// The first one.
        pub first: Address,
        /// The last one, inclusive.
        pub last: Address,
        /// The domain.
        pub domain: u32,
        /// The namespace whose pods may have one, or a prefix followed by `*`, padded with zeros.
        pub pattern: [u8; 64],
    }

    /// Key of a pod's socket that broadcasts.
    pub struct BroadcasterKey {
        /// The member, by the interface index of its host-side veth.
        pub member: u32,
        /// The source port.
        pub source: u16,
        /// The destination port.
        pub destination: u16,
    }

    /// The last broadcast of a socket.
    pub struct Broadcast {
        /// When it was sent; kernel's monotonic clock, nanoseconds.
        pub seen: u64,
        /// The address that it was sent to.
        pub to: Address,
        /// Its length, bytes of payload.
        pub length: u32,
        /// The first bytes of its payload; zeros if it has fewer.
        pub head: [u8; 32],
        /// The last ones; zeros if it has fewer.
        pub tail: [u8; 16],
    }

    /// Key of a relayed UDP port: a domain as pods see it, or an uplink's interface index as the LAN sees it.
    pub struct RelayKey {
        /// Domain or interface index.
        pub scope: u32,
        /// UDP destination port.
        pub port: u16,
        /// Zero.
        pub reserved: u16,
    }

    /// A relayed UDP port.
    pub struct Relay {
        /// The domain it belongs to.
        pub domain: u16,
        /// The port on the other side: in pods for a LAN key, on the LAN for a pod key.
        pub port: u16,
        /// A [`Protocol`].
        pub protocol: u16,
        /// Directions, from [`paths`].
        pub flags: u16,
    }

    /// Key of a multicast group that is relayed as broadcasts to this port are: of a domain as pods see it, or of an uplink as
    /// the LAN sees it.
    pub struct GroupKey {
        /// Interface index, or domain with a bit that no interface index has.
        pub scope: u32,
        /// The group's address.
        pub group: Address,
        /// UDP destination port.
        pub port: u16,
        /// Zero.
        pub reserved: u16,
    }

    /// A transport address: a pod's, or an external one on an uplink.
    pub struct Endpoint {
        /// IPv4 address.
        pub address: Address,
        /// Port.
        pub port: u16,
        /// [`TCP`] or [`UDP`].
        pub protocol: u16,
    }

    /// Who holds an external port.
    pub struct Claim {
        /// Hash of the pod's namespace and name.
        pub identity: Identity,
        /// What the port stands for.
        pub pod: Endpoint,
        /// The member, by the interface index of its host-side veth.
        pub member: u32,
        /// The member's [`Member::generation`].
        pub generation: u32,
        /// Since when nobody has been behind it, in [`seconds`]; 0 while, as far as is known, somebody is.
        pub vacant: u32,
        /// The only host that may send to it; zeros for any.
        pub peer: Address,
        /// What is wrong with a stream; flags from [`trouble`].
        pub trouble: u32,
        /// The domain the port was taken for.
        pub domain: u16,
        /// The [`Protocol`] it was taken for.
        pub protocol: u8,
        /// How it is held, from [`hold`].
        pub hold: u8,
    }

    /// A protocol that the configuration describes.
    pub struct Described {
        /// The shape of its datagrams.
        pub descriptor: Descriptor,
        /// Its name, padded with zeros; all zeros where there is no such protocol.
        pub name: [u8; 32],
    }

    /// Key of a LAN socket that searched in a domain.
    pub struct SearcherKey {
        /// Its address.
        pub address: Address,
        /// Its UDP port.
        pub port: u16,
        /// The domain that it searched in.
        pub domain: u16,
    }

    /// When, and in which protocol, a LAN socket searched last.
    pub struct Searcher {
        /// Kernel's monotonic clock, nanoseconds.
        pub seen: u64,
        /// The member that answered last, by the interface index of its host-side veth; 0 if none has.
        pub member: u32,
        /// The pod's port that it answered from.
        pub port: u16,
        /// The UDP port that the socket asked.
        pub asked: u16,
        /// A [`Protocol`].
        pub protocol: u32,
        /// Zero.
        pub reserved: u32,
    }

    /// Key of a connection, or of datagrams, through an external port, as the pod sees them.
    pub struct FlowKey {
        /// The LAN client.
        pub peer: Address,
        /// The pod.
        pub pod: Address,
        /// The client's port.
        pub peer_port: u16,
        /// The pod's port.
        pub pod_port: u16,
    }

    /// A connection through an external port that is being opened: it becomes a [`Circuit`] when the client acknowledges the
    /// pod's SYN/ACK.
    pub struct Opening {
        /// The external endpoint that the client connects to.
        pub external: Endpoint,
        /// The member, by the interface index of its host-side veth.
        pub member: u32,
        /// The [`Member::generation`] of the pod.
        pub generation: u32,
        /// The sequence number after the client's SYN, which the pod acknowledges.
        pub client: u32,
        /// The sequence number after the pod's SYN/ACK, which the client acknowledges.
        pub pod: u32,
        /// The domain of the external port.
        pub domain: u16,
        /// Not 0 if the pod has answered.
        pub answered: u16,
    }

    /// An established connection through an external port.
    pub struct Circuit {
        /// The external endpoint that the client connected to.
        pub external: Endpoint,
        /// The member, by the interface index of its host-side veth.
        pub member: u32,
        /// The [`Member::generation`] of the pod.
        pub generation: u32,
        /// The sequence number after the pod's SYN/ACK; 0 if it is not known, of a circuit that was taken over.
        pub first: u32,
        /// When a segment was seen last, in seconds of the kernel's monotonic clock.
        pub seen: u32,
        /// Its place: the index of its key in the map of places.
        pub place: u32,
        /// Its domain.
        pub domain: u16,
        /// Not 0 if the client has sent a FIN.
        pub client_finished: u8,
        /// Not 0 if the pod has.
        pub pod_finished: u8,
        /// Who sent an RST after which no segment came, from [`reset`].
        pub reset: u16,
        /// Not 0 while its server may be a name server: then its messages are followed in a [`Followed`].
        pub followed: u16,
    }

    /// The server's direction of a PV Access circuit.
    pub struct Followed {
        /// The position in its messages.
        pub stream: Stream,
        /// Sequence numbers of the ports in the last search replies; a ring.
        pub replies: [u32; REPLIES],
        /// A bit for each: whether it is big endian.
        pub big: u32,
        /// How many there were so far.
        pub count: u32,
    }

    /// Key of a request to read camera registers, some of which hold transport addresses.
    pub struct ReadKey {
        /// The camera.
        pub camera: Address,
        /// The pod.
        pub pod: Address,
        /// The pod's port.
        pub port: u16,
        /// The request's id.
        pub id: u16,
    }

    /// What a request reads: a bit for each of its first 32 registers.
    pub struct Read {
        /// Set for registers that hold a port.
        pub ports: u32,
        /// Set for registers that hold an address.
        pub addresses: u32,
    }

    /// A namespace whose pods may join a domain. Read by user space only.
    pub struct NamespaceKey {
        /// Its name, or a prefix followed by `*`, padded with zeros.
        pub pattern: [u8; 64],
        /// The domain.
        pub domain: u32,
    }

    /// Key of a CNI attachment (CNI spec: container id and interface name).
    pub struct AttachmentKey {
        /// `CNI_CONTAINERID`, padded with zeros.
        pub container: [u8; 128],
        /// `CNI_IFNAME`, padded with zeros.
        pub interface: [u8; 16],
    }

    /// What ADD set up for an attachment: all that DEL and GC need. Read by user space only.
    pub struct Attachment {
        /// Interface index of the host-side veth: the key of the [`Member`].
        pub member: u32,
        /// The [`Member::generation`]: interface indexes are given again.
        pub generation: u32,
        /// The domain.
        pub domain: u16,
        /// The slot in the domain's roster.
        pub slot: u16,
        /// The pod's IPv4 address.
        pub address: Address,
        /// The CNI network's name, padded with zeros.
        pub network: [u8; 64],
        /// The pod's namespace, padded with zeros.
        pub namespace: [u8; 64],
        /// The pod's name, padded with zeros.
        pub pod: [u8; 256],
    }
}

impl RelayKey {
    /// The key of a domain's port as pods see it.
    #[inline(always)]
    pub const fn of_pods(domain: u16, port: u16) -> Self {
        Self { scope: domain as u32, port, reserved: 0 }
    }

    /// The key of a port as the LAN sees it at the uplink with this interface index.
    #[inline(always)]
    pub const fn on_lan(interface: u32, port: u16) -> Self {
        Self { scope: interface, port, reserved: 0 }
    }
}

impl LanAddress {
    /// Whether it is this member's.
    #[inline(always)]
    pub const fn is_of(&self, member: u32, generation: u32) -> bool {
        self.member == member && self.generation == generation
    }

    /// Whether the node answers for it, if its member exists.
    #[inline(always)]
    pub const fn is_answered(&self) -> bool {
        self.standing == standing::HELD || self.standing == standing::TAKEN
    }
}

impl GroupKey {
    const DOMAIN: u32 = 1 << 31;

    /// The key of a domain's group as pods see it.
    #[inline(always)]
    pub const fn of_pods(domain: u16, group: Address, port: u16) -> Self {
        Self { scope: Self::DOMAIN | domain as u32, group, port, reserved: 0 }
    }

    /// The key of a group as the LAN sees it at the uplink with this interface index.
    #[inline(always)]
    pub const fn on_lan(interface: u32, group: Address, port: u16) -> Self {
        Self { scope: interface, group, port, reserved: 0 }
    }
}

impl FlowKey {
    /// The key of the flow between a LAN client and a pod, the same for both directions.
    #[inline(always)]
    pub const fn between(peer: &Endpoint, pod: &Endpoint) -> Self {
        Self { peer: peer.address, pod: pod.address, peer_port: peer.port, pod_port: pod.port }
    }
}

impl Circuit {
    /// Seconds without a segment after which a circuit is over that has ended.
    pub const LINGER: u32 = 10;
    /// The same after a client's RST: it may be forged, and then the client goes on.
    pub const DOUBT: u32 = 300;

    /// Whether it goes through `external` to this member.
    #[inline(always)]
    pub fn is_through(&self, external: &Endpoint, generation: u32) -> bool {
        self.external == *external && self.generation == generation
    }

    /// Whether both sides have ended it. What is on its way is still translated, but renews nothing.
    #[inline(always)]
    pub fn is_finished(&self) -> bool {
        self.client_finished & self.pod_finished != 0
    }

    /// Whether it is finished, or reset by the pod.
    #[inline(always)]
    pub fn has_ended(&self) -> bool {
        self.is_finished() || self.reset == reset::POD
    }

    /// Whether its place may be given to another at `now`, in seconds, if a circuit may be idle for so many.
    #[inline(always)]
    pub fn is_over(&self, now: u32, idle: u32) -> bool {
        let patience = match self.reset {
            _ if self.has_ended() => Self::LINGER,
            reset::CLIENT => Self::DOUBT,
            _ => idle,
        };
        now.wrapping_sub(self.seen) as i32 >= patience as i32
    }
}

impl Limit {
    /// When the next datagram is due after one is admitted at `now` that was due at `due` (0: the first one); 0 if it
    /// exceeds the limit. Nanoseconds of one clock.
    #[inline(always)]
    pub const fn admit(&self, due: u64, now: u64) -> u64 {
        let due = if due > now { due } else { now };
        let interval = self.interval as u64;
        let ahead = interval * self.burst.saturating_sub(1) as u64;
        if due - now <= ahead { due + interval } else { 0 }
    }
}

/// Whose datagrams a limit applies to.
pub mod limited {
    /// A pod's.
    pub const POD: usize = 0;
    /// A LAN host's.
    pub const SOURCE: usize = 1;
    /// All of a domain.
    pub const DOMAIN: usize = 2;
    /// How many kinds have a limit of their own.
    pub const KINDS: usize = 3;
    /// A pod's answers, with the limit of a pod, apart from its searches.
    pub const ANSWERS: usize = 3;
    /// A LAN host's datagrams to external ports, with the limit of a LAN host.
    pub const TO_PORTS: usize = 4;
    /// What comes to a pod's external ports, with the limit of a pod: a LAN host may forge its address.
    pub const TO_POD: usize = 5;
    /// ICMP errors for a pod, with the limit of a pod.
    pub const ERRORS: usize = 6;
}

/// What the node does about a pod's LAN address; values of [`LanAddress`].
pub mod standing {
    /// Nothing yet: it is being looked whether another host has it.
    pub const RESERVED: u16 = 0;
    /// It answers for it, as long as no host with a lower MAC address claims it, or an admin's command on another node.
    pub const HELD: u16 = 1;
    /// The same by an admin's command, whoever claims it without one.
    pub const TAKEN: u16 = 2;
    /// Nothing any more: another host has it.
    pub const LOST: u16 = 3;
}

/// How another host claims an address; flags of [`Rival`].
pub mod rival {
    /// It only asks whether anybody has it, because it would like to.
    pub const PROBES: u16 = 1;
    /// An admin took the address to it: the ARP packet is followed by [`OVERRULES`].
    pub const OVERRULED: u16 = 2;
    /// What follows an ARP packet by which a node announces an address that an admin took.
    pub const OVERRULES: [u8; 8] = *b"iocast!\n";
}

/// Who reset a circuit.
pub mod reset {
    /// Nobody.
    pub const NOBODY: u16 = 0;
    /// The client.
    pub const CLIENT: u16 = 1;
    /// The pod.
    pub const POD: u16 = 2;
}

/// What is wrong with a stream; flags of [`Claim`].
pub mod trouble {
    /// Its packets are larger than the pod's MTU.
    pub const TOO_BIG: u32 = 1;
    /// Its packets are fragments.
    pub const FRAGMENTS: u32 = 2;
}

/// What a network is to a domain; flags in the values of the map `LAN`.
pub mod lan {
    /// Its hosts are on the LAN.
    pub const HOSTS: u32 = 1;
    /// Pods may command cameras in it.
    pub const CAMERAS: u32 = 2;
}

/// Directions in which datagrams to a relayed port travel, and how; flags of [`Relay`].
pub mod paths {
    /// From the LAN to the pods.
    pub const LAN_TO_PODS: u16 = 1;
    /// From a pod to the LAN.
    pub const POD_TO_LAN: u16 = 2;
    /// From a pod to the other pods.
    pub const POD_TO_PODS: u16 = 4;
    /// Answers are unicast to the socket that searched.
    pub const ANSWERED: u16 = 8;
    /// The listeners are cameras. Each is addressed by its own IP address, so unicast to a host is for that host alone. It
    /// may be configured for another network, so a pod's broadcast leaves as 255.255.255.255, and searchers may be hosts of
    /// another network.
    pub const CAMERAS: u16 = 16;
    /// Datagrams leave from the port that they are sent to, on the LAN as in pods: who hears them there minds it, and answers to
    /// that port.
    pub const SYMMETRIC: u16 = 32;
    /// In all directions, without answers: announcements.
    pub const ANNOUNCE: u16 = LAN_TO_PODS | POD_TO_LAN | POD_TO_PODS;
    /// In all directions, with answers: searches.
    pub const SEARCH: u16 = ANNOUNCE | ANSWERED;
}

/// Key of a domain's LAN network, and the number of its significant bits: those of the domain and of the prefix.
#[inline(always)]
pub const fn network(domain: u16, address: Address, prefix: u8) -> (u32, [u8; 6]) {
    let [high, low] = domain.to_be_bytes();
    let [a, b, c, d] = address;
    (16 + prefix as u32, [high, low, a, b, c, d])
}

/// Whether it is the address of a multicast group.
#[inline(always)]
pub const fn is_group([first, ..]: Address) -> bool {
    first >> 4 == 0xe
}

/// Index of a roster's slot in the map that holds all rosters.
#[inline(always)]
pub const fn roster_index(domain: u32, slot: u32) -> u32 {
    domain * SLOTS + slot
}

/// A string as the fixed, zero-padded field of a key or value; `None` if it does not fit.
pub fn field<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

/// The string in a fixed, zero-padded field.
pub fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    core::str::from_utf8(&field[..end]).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_is_over_some_time_after_its_end_or_after_long_silence() {
        const NOW: u32 = 100; // seconds after the start: what was seen before that counts, too
        let circuit = |(client, pod, reset), silent| Circuit {
            external: Endpoint { address: NO_ADDRESS, port: 0, protocol: 0 },
            member: 0,
            generation: 0,
            first: 0,
            seen: NOW.wrapping_sub(silent),
            place: 0,
            domain: 0,
            client_finished: client,
            pod_finished: pod,
            reset,
            followed: 0,
        };
        for (ended, least) in [
            ((0, 0, reset::NOBODY), 3600),
            ((1, 0, reset::NOBODY), 3600),
            ((0, 1, reset::NOBODY), 3600),
            ((1, 1, reset::NOBODY), Circuit::LINGER),
            ((0, 0, reset::POD), Circuit::LINGER),
            ((0, 0, reset::CLIENT), Circuit::DOUBT),
            ((1, 1, reset::CLIENT), Circuit::LINGER),
        ] {
            let over = |silent| circuit(ended, silent).is_over(NOW, 3600);
            assert!(over(least) && !over(least - 1), "{ended:?}");
        }
    }

    const LIMIT: Limit = Limit { interval: 1_000_000, burst: 3 }; // 1000 a second, three at once

    /// How many of datagrams at these times are admitted.
    fn admitted(times: impl IntoIterator<Item = u64>) -> usize {
        let mut due = 0;
        let admit = |now| match LIMIT.admit(due, now) {
            0 => false,
            next => {
                due = next;
                true
            }
        };
        times.into_iter().map(admit).filter(|admitted| *admitted).count()
    }

    #[test]
    fn a_burst_passes_and_what_is_beyond_it_does_not() {
        assert_eq!(admitted([5_000_000_000; 10]), 3);
    }

    #[test]
    fn the_rate_passes_for_ever_and_twice_the_rate_by_half() {
        assert_eq!(admitted((1..1001).map(|i| i * 1_000_000)), 1000);
        let twice = admitted((1..2001).map(|i| i * 500_000));
        assert!((1000..=1004).contains(&twice), "{twice}");
    }

    #[test]
    fn who_was_silent_has_the_whole_burst_again() {
        assert_eq!(admitted([1; 10].into_iter().chain([1_000_000_000; 10])), 6);
    }
}

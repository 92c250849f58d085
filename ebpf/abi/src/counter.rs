//! Counters: one number per (domain, protocol, verdict) and CPU.

use crate::{DOMAINS, PROTOCOLS, named::named};

named! {
    /// What the programs did with a datagram, or with one copy of it.
    Verdict:
    /// A broadcast or search, handed to the fan.
    Relayed = "relayed",
    /// A copy delivered to a member that listens.
    Delivered = "delivered",
    /// A pod's broadcast, sent to the LAN.
    Sent = "sent",
    /// A pod's answer to a LAN searcher, translated.
    Answered = "answered",
    /// A datagram or segment from the LAN to an external port, or an ICMP error about one from there, translated.
    TranslatedIn = "translated_in",
    /// A segment of such a flow in the other direction, or an ICMP error about what came in, translated.
    TranslatedOut = "translated_out",
    /// A copy lost to a full queue.
    Overrun = "overrun",
    /// Left alone: not a valid message of the protocol.
    Malformed = "malformed",
    /// Left alone: a fragment.
    Fragment = "fragment",
    /// Left alone: a pod's broadcast whose source is not the pod's address. Dropped: whatever a pod sends from another's LAN
    /// address, or to the LAN from its own that another host has.
    Spoofed = "spoofed",
    /// Dropped: no external port is free, so no peer could answer or connect.
    NoPort = "no_port",
    /// Dropped: a new connection to an external port, where the domain, the client's host or the pod has all the circuits
    /// that it may have.
    NoCircuit = "no_circuit",
    /// Not sent to the LAN: the domain has no uplink at the moment.
    NoUplink = "no_uplink",
    /// Left alone: to an external port that no pod holds.
    Unowned = "unowned",
    /// Left alone: to an external port, but neither a circuit that was opened there nor a message of a relayed protocol,
    /// such as replies on connections for which the node's NAT chose the same port.
    Unrelated = "unrelated",
    /// Left alone: to a relayed port, but not to the uplink's address.
    Elsewhere = "elsewhere",
    /// Left alone: a broadcast to a port that is not relayed, or a datagram of a protocol that the programs do not know.
    Unrelayed = "unrelayed",
    /// Left alone: it names a host other than the pod that sent it.
    Foreign = "foreign",
    /// Dropped: a command to a camera that the domain's pods may not command.
    Denied = "denied",
    /// Translated, but larger than the pod's MTU, so it does not arrive.
    TooBig = "too_big",
    /// Left alone: a search that a PV Access server forwards to others on its own host.
    Local = "local",
    /// Left alone: a search that asks for answers to a host outside the domain's LAN. All pods that have the PV would send
    /// their answers there, whoever it is.
    OffLan = "off_lan",
    /// Not relayed: over the rate limit of its pod, its LAN host or the domain. Dropped if a pod sent it to one LAN host, or
    /// if it was for an external port.
    Limited = "limited",
    /// Dropped: a pod's broadcast that the same socket has just sent to another broadcast address.
    Repeated = "repeated",
    /// Left alone: an answer to another pod, or to the node. Shown by `snoop`, but not counted.
    Direct = "direct",
}

const VERDICTS: u32 = 32;
const _: () = assert!(Verdict::ALL.len() as u32 <= VERDICTS);

/// Entries in the counter map.
pub const COUNTERS: u32 = DOMAINS * PROTOCOLS * VERDICTS;

/// Index of a counter in the counter map.
#[inline(always)]
pub const fn counter_index(domain: u32, protocol: u32, verdict: Verdict) -> u32 {
    (domain * PROTOCOLS + protocol) * VERDICTS + verdict as u32
}

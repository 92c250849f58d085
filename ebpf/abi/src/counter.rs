//! Counters: one number per (domain, protocol, verdict) and CPU.

use crate::{DOMAINS, PROTOCOLS, named::named};

named! {
    /// What became of a datagram, or of one copy of it.
    Verdict:
    /// A broadcast or search, handed to the fan.
    Relayed = "relayed",
    /// A copy given to a member that listens.
    Delivered = "delivered",
    /// A pod's broadcast, sent to the LAN.
    Sent = "sent",
    /// A pod's answer to a LAN searcher, translated.
    Answered = "answered",
    /// A datagram or segment from the LAN to an external port, translated.
    TranslatedIn = "translated_in",
    /// A segment of such a flow on its way back, translated.
    TranslatedOut = "translated_out",
    /// Refused by the fan device's queue.
    Overrun = "overrun",
    /// Left alone: not what the protocol's peers send.
    Malformed = "malformed",
    /// Left alone: a fragment.
    Fragment = "fragment",
    /// Left alone: a pod's broadcast whose source is not the pod's address.
    Spoofed = "spoofed",
    /// Dropped: no external port is free, so that no peer could have come back.
    NoPort = "no_port",
    /// Not sent to the LAN: the domain has no uplink now.
    NoUplink = "no_uplink",
    /// Left alone: to an external port that stands for nothing.
    Unowned = "unowned",
    /// Left alone: to an external port, but neither a circuit that began there nor a message of a relayed protocol. Such
    /// are the answers to connections for which the node's NAT chose the same port.
    Unrelated = "unrelated",
    /// Left alone: to a relayed port of an address that is not the uplink's.
    Elsewhere = "elsewhere",
    /// Left alone: a broadcast to a port that is not relayed.
    Unrelayed = "unrelayed",
    /// Left alone: it names another host than the pod that sent it.
    Foreign = "foreign",
    /// Dropped: a command to a camera that is not the domain's.
    Denied = "denied",
    /// Translated, but larger than the pod's MTU: it does not arrive.
    TooBig = "too_big",
    /// Left alone: a search that a server passes on to others on its own host.
    Local = "local",
    /// Left alone: a search to be answered to a host that is not on the domain's LAN. All pods that have the PV would send
    /// their answers there, to whoever it is.
    OffLan = "off_lan",
    /// Not relayed: more than its pod, its LAN host or the domain may send. Dropped if a pod sends it to one host of the LAN.
    Limited = "limited",
    /// Left alone: an answer to another pod, or to the node. Told to who watches, but not counted.
    Direct = "direct",
}

const VERDICTS: u32 = 32;
const _: () = assert!(Verdict::ALL.len() as u32 <= VERDICTS);

/// Entries in the counter map.
pub const COUNTERS: u32 = DOMAINS * PROTOCOLS * VERDICTS;

/// Position of a counter in the counter map.
#[inline(always)]
pub const fn counter_index(domain: u32, protocol: u32, verdict: Verdict) -> u32 {
    (domain * PROTOCOLS + protocol) * VERDICTS + verdict as u32
}

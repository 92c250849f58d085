//! What is known about a PV and who asks for it: gathered by the shell, judged in `ladder`.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::{Protocol, Verdict};

use crate::ask::domains::Domain;

/// Everything that an answer is based on. Names are as others chose them.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) pv: String,
    /// The client whom the question is about, if one was named.
    pub(super) from: Option<Ipv4Addr>,
    /// Whether no client was to be waited for.
    pub(super) at_once: bool,
    /// Whether it was only looked, and nobody asked: what a probe would tell is not known.
    pub(super) passive: bool,
    /// How long a search of a client was waited for.
    pub(super) waited: Duration,
    /// Why the datapath's maps cannot be used.
    pub(super) no_datapath: Option<String>,
    pub(super) domains: Vec<Domain>,
    /// Searches for the PV: of clients, or put in on the client's behalf.
    pub(super) searches: Vec<Search>,
    /// What came to the uplinks from the client, or to everybody, that no domain relays.
    pub(super) passing: Vec<Passing>,
    /// All pods of this node that have a network of their own.
    pub(super) pods: Vec<Pod>,
    /// Who says that it has the PV.
    pub(super) servers: Vec<Server>,
    /// Names that are nearly the PV's and that somebody has, with who that is.
    pub(super) near: Vec<(String, String)>,
    /// What became of a connection to the server on the client's behalf.
    pub(super) connection: Option<Connection>,
    /// Chains of the node's firewall that drop what they do not accept, such as `ip filter FORWARD`.
    pub(super) dropping: Vec<String>,
}

/// Searches of one host for the PV at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// Where they come from; several ports of one host are one.
    pub(super) asker: Ipv4Addr,
    /// The pod that asks, as `namespace/name`.
    pub(super) pod: Option<String>,
    pub(super) to: SocketAddrV4,
    pub(super) protocol: Protocol,
    pub(super) domain: String,
    /// What the programs did with the one that got furthest.
    pub(super) verdict: Verdict,
    pub(super) times: u32,
    /// How many of them exceeded a rate.
    pub(super) limited: u32,
    /// Whether it was put in on the client's behalf.
    pub(super) ours: bool,
    /// The pods that got a copy.
    pub(super) given: Vec<String>,
    pub(super) replies: Vec<Reply>,
}

/// A pod's answer to a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The pod, as `namespace/name`; the sender's address if it is none.
    pub(super) pod: String,
    pub(super) verdict: Verdict,
    /// The TCP port that it names, as the client sees it.
    pub(super) port: Option<u16>,
    pub(super) after: Option<Duration>,
}

/// What came from a host to an uplink, and reaches no domain's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passing {
    pub(super) from: Ipv4Addr,
    pub(super) what: Sort,
    pub(super) times: u32,
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// A search for the PV, to this socket.
    Search(Protocol, SocketAddrV4),
    /// A search for other names, to this socket.
    OtherSearch(SocketAddrV4),
    /// A datagram.
    Udp(SocketAddrV4),
    /// A connection request.
    Tcp(SocketAddrV4),
    /// ARP, ping and the like.
    Other,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    /// `namespace/name`, or its address where that is not known.
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    /// Its address on the LAN.
    pub(super) lan_address: Option<Ipv4Addr>,
    /// The domain of which it is a member.
    pub(super) domain: Option<String>,
    /// The domain that its annotation names, if it is no member, and why not.
    pub(super) absent: Option<(String, String)>,
    /// How its sockets hear searches.
    pub(super) ears: Vec<Ear>,
    /// How long ago it answered a search last.
    pub(super) answered: Option<Duration>,
    /// How the names of its PVs begin, as it says; empty if it gets searches for all.
    pub(super) prefixes: Vec<String>,
}

impl Pod {
    /// Whether it gets searches for `pv`, as far as it says how its PVs begin.
    pub(super) fn wants(&self, pv: &str) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| pv.starts_with(prefix.as_str()))
    }
}

/// How a pod hears searches in a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ear {
    pub(super) protocol: Protocol,
    /// The port of its searches.
    pub(super) port: u16,
    pub(super) hearing: Hearing,
}

/// Which socket a pod has for searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// One that hears broadcasts.
    Hears,
    /// One that hears only what is sent to the pod's own address.
    Unicast,
    /// One on loopback only.
    Loopback,
    /// One at another port than that of the protocol, which has the PV.
    Port(u16),
    /// None.
    Nothing,
}

/// A server that has the PV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) protocol: Protocol,
    /// Its TCP socket.
    pub(super) at: SocketAddrV4,
    pub(super) place: Place,
    pub(super) after: Duration,
    /// What identifies it in PV Access.
    pub(super) guid: Vec<u8>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A pod of this node, by name.
    Pod(String),
    /// A process of this node.
    Node,
    /// Another host on the LAN of this domain.
    Lan(String),
}

/// A connection request on the client's behalf, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) from: Ipv4Addr,
    pub(super) to: SocketAddrV4,
    /// The pod.
    pub(super) pod: String,
    /// The pod's own socket.
    pub(super) inside: SocketAddrV4,
    pub(super) outcome: Outcome,
    /// Programs of others at the pod's veth, towards the pod, as far as they can be seen.
    pub(super) programs: Vec<String>,
}

/// How far a connection request and its answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The answer left the uplink, as the client expects it.
    Accepted(Duration),
    /// The pod refused it, or the node did.
    Refused,
    /// It did not come to the pod's interface.
    Dropped,
    /// It came to the pod, and nothing came back.
    Silent,
    /// The pod's answer did not leave the uplink.
    AnswerLost,
}

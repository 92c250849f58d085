//! What is known of a node: where its interfaces are, and who has which sockets. Judged by `judge` and `settings`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use datapath::link::{Address, network};

use super::sockets::Socket;

/// UDP port of GigE Vision's control (wire::gvcp).
pub(super) use wire::gvcp::PORT as CAMERA;
/// Ports at which servers listen, unless they are told otherwise: Channel Access by UDP and TCP, PV Access by TCP.
pub(super) const CA: u16 = 5064;
pub(super) const PVA: u16 = 5075;
/// UDP port for beacons of Channel Access, which its repeater passes on.
pub(super) const REPEATER: u16 = 5065;
/// UDP port for searches of PV Access.
pub(super) const PVA_SEARCH: u16 = 5076;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The domains that have an uplink here; at least one.
    pub(super) lans: Vec<Lan>,
    /// The node's own addresses, and the interfaces that have them.
    pub(super) own: Vec<Own>,
    /// Names of interfaces by index.
    pub(super) interfaces: BTreeMap<u32, String>,
    /// The range from which the kernel chooses ports, both ends inclusive.
    pub(super) chosen: (u16, u16),
    /// Protocols that a domain can relay, by UDP port.
    pub(super) known: BTreeMap<u16, String>,
    /// Pods with the node's network, and at last, if they have relayed ports, processes of the node.
    pub(super) holders: Vec<Holder>,
}

/// A domain, on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lan {
    pub(super) domain: String,
    pub(super) interface: String,
    pub(super) address: Ipv4Addr,
    pub(super) broadcast: Ipv4Addr,
    /// Networks whose hosts are on the LAN: address and prefix.
    pub(super) networks: Vec<(Ipv4Addr, u8)>,
    pub(super) protocols: Vec<String>,
    /// Relayed UDP ports, and their protocols.
    pub(super) ports: BTreeMap<u16, String>,
    /// Multicast groups that are relayed, with their ports.
    pub(super) groups: BTreeSet<(Ipv4Addr, u16)>,
    /// The range of ports that pods may pin, both ends inclusive.
    pub(super) pins: Option<(u16, u16)>,
    /// Whether its pods may have addresses on the LAN.
    pub(super) gives_addresses: bool,
}

/// An address of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) interface: String,
    pub(super) address: Address,
}

/// A pod, or processes of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holder {
    /// `namespace/name`; none for processes of the node.
    pub(super) pod: Option<String>,
    /// The domain that it asks for already.
    pub(super) domain: Option<String>,
    pub(super) programs: BTreeSet<String>,
    pub(super) sockets: Vec<Socket>,
    /// EPICS settings that name addresses and ports.
    pub(super) settings: BTreeSet<(String, String)>,
    /// Where it was seen to send datagrams.
    pub(super) sent: BTreeSet<SocketAddrV4>,
    /// Effective capabilities of all its processes together, a bit each.
    pub(super) capabilities: u64,
    pub(super) devices: BTreeSet<String>,
    /// Why its processes could not be looked into.
    pub(super) unreadable: Option<String>,
}

impl Lan {
    /// Whether `host` is on it.
    pub(super) fn has(&self, host: Ipv4Addr) -> bool {
        self.networks.iter().any(|(address, prefix)| network(host, *prefix) == network(*address, *prefix))
    }
}

impl Facts {
    /// The interface that has this address, or whose broadcast address it is.
    pub(super) fn interface_of(&self, address: Ipv4Addr) -> Option<&Own> {
        self.own.iter().find(|own| own.address.address == address || is_broadcast_of(own, address))
    }

    /// Whether it is an address of the node, but no broadcast address.
    pub(super) fn is_own(&self, address: Ipv4Addr) -> bool {
        self.own.iter().any(|own| own.address.address == address)
    }

    /// Whether what is sent there is for everybody, or for a group.
    pub(super) fn is_for_all(&self, address: Ipv4Addr) -> bool {
        address.is_multicast()
            || address == Ipv4Addr::BROADCAST
            || self.own.iter().any(|own| is_broadcast_of(own, address))
    }

    /// Whether the kernel chose the port, or a program that asked for none.
    pub(super) fn is_chosen(&self, port: u16) -> bool {
        (self.chosen.0..=self.chosen.1).contains(&port)
    }
}

fn is_broadcast_of(own: &Own, address: Ipv4Addr) -> bool {
    own.address.prefix < 31
        && own.address.broadcast.unwrap_or_else(|| own.address.natural_broadcast()) == address
}

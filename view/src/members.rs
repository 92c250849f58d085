//! The pods that joined, and those that ask to and could not.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{Answer, Asked, Style, VERSION, table};

/// All members of the nodes that were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// [`VERSION`].
    pub version: u32,
    /// Who was asked.
    pub nodes: Vec<Asked>,
    /// By node, domain, namespace and pod.
    pub members: Vec<Member>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its node.
    pub node: String,
    /// The domain that it is in, or asks for.
    pub domain: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its address in the pod network; none if it is no member.
    pub address: Option<Ipv4Addr>,
    /// Its own address on the LAN, if it has one.
    pub lan_address: Option<Address>,
    /// Its external ports.
    pub ports: Vec<Port>,
    /// TCP connections through them that are established.
    pub circuits: u32,
    /// Why it is no member, or what is wrong with it.
    pub problem: Option<String>,
}

/// A pod's address on the LAN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// What the node does about it: `reserved`, `held`, `taken` or `lost`.
    pub standing: String,
}

/// A port on the uplink's address, and the pod's port behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The external one.
    pub external: u16,
    /// The pod's.
    pub pod: u16,
}

impl Answer for Members {
    fn nothing(nodes: Vec<Asked>) -> Self {
        Self { version: VERSION, nodes, members: vec![] }
    }

    fn merge(&mut self, other: Self) {
        self.nodes.extend(other.nodes);
        self.members.extend(other.members);
        self.members.sort();
    }

    fn text(&self, style: &Style) -> String {
        let rows: Vec<_> = self.members.iter().map(row).collect();
        table(["NODE", "DOMAIN", "POD", "ADDRESS", "LAN", "PORTS", "STATE"], &rows, style.width)
    }
}

fn row(member: &Member) -> [String; 7] {
    let address = |address: Option<Ipv4Addr>| address.map_or("-".into(), |address| address.to_string());
    let ports: Vec<_> = member.ports.iter().map(|port| format!("{}:{}", port.external, port.pod)).collect();
    [
        member.node.clone(),
        member.domain.clone(),
        format!("{}/{}", member.namespace, member.pod),
        address(member.address),
        address(member.lan_address.as_ref().map(|lan| lan.address)),
        if ports.is_empty() { "-".into() } else { ports.join(" ") },
        member.problem.clone().unwrap_or_else(|| "ok".into()),
    ]
}

//! The names of domains, protocols and pods on this node.

use std::{collections::HashMap, net::Ipv4Addr};

use abi::{Protocol, text};
use datapath::State;

/// The names as they were when read.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By number.
    pub(crate) domains: HashMap<u16, String>,
    /// Those of described protocols, in order of their numbers.
    pub(crate) described: Vec<String>,
    /// By the interface index of the host-side veth, `namespace/name`.
    pub(crate) members: HashMap<u32, String>,
    /// The same by address.
    pub(crate) addresses: HashMap<Ipv4Addr, String>,
}

impl Directory {
    /// Reads them.
    pub(crate) fn read(state: &State) -> datapath::Result<Self> {
        let domains = state.domains()?.into_iter();
        let domains = domains.map(|(number, domain)| (number, text(&domain.name).to_owned())).collect();
        let described = state.described()?.iter().map(|described| text(&described.name).to_owned()).collect();
        let mut directory = Self { domains, described, ..Self::default() };
        for (_, attachment) in state.attachments()? {
            let pod = format!("{}/{}", text(&attachment.namespace), text(&attachment.pod));
            directory.addresses.insert(attachment.address.into(), pod.clone());
            directory.members.insert(attachment.member, pod);
        }
        Ok(directory)
    }

    /// The domain's name.
    pub(crate) fn domain(&self, number: u16) -> String {
        self.domains.get(&number).cloned().unwrap_or_else(|| format!("#{number}"))
    }

    /// The protocol's name.
    pub(crate) fn protocol(&self, protocol: Protocol) -> String {
        let number = (protocol as usize).checked_sub(abi::DESCRIBED as usize);
        let name = number.and_then(|number| self.described.get(number)).filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| protocol.name().into())
    }

    /// The pod at this address.
    pub(crate) fn at(&self, address: Ipv4Addr) -> Option<&str> {
        self.addresses.get(&address).map(String::as_str)
    }

    /// The pod behind this veth.
    pub(crate) fn behind(&self, member: u32) -> Option<&str> {
        self.members.get(&member).map(String::as_str)
    }
}

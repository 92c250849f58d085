//! A subnet of a domain: a network of one LAN. Pure.

use std::{
    fmt::{self, Display, Formatter},
    net::Ipv4Addr,
};

use crate::config::Network;
use datapath::link::network;

/// A network, by its own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subnet {
    address: Ipv4Addr,
    /// Bits.
    prefix: u8,
}

impl Subnet {
    /// The one with this prefix that `address` is in; `None` if that is no prefix.
    pub(crate) fn of(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self { address: network(address, prefix), prefix })
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn contains(self, host: Ipv4Addr) -> bool {
        network(host, self.prefix) == self.address
    }

    /// Whether all of it is in one of `networks`.
    pub(crate) fn is_in(self, networks: &[Network]) -> bool {
        let this = Network { address: self.address.octets(), prefix: self.prefix };
        networks.iter().any(|network| network.contains(&this))
    }
}

impl Display for Subnet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_has_its_hosts_and_lies_in_wider_networks() {
        let subnet = Subnet::of(Ipv4Addr::new(172, 23, 1, 10), 24).unwrap();
        assert_eq!(subnet.to_string(), "172.23.1.0/24");
        assert!(
            subnet.contains(Ipv4Addr::new(172, 23, 1, 200)) && !subnet.contains(Ipv4Addr::new(172, 23, 2, 1))
        );
        let network = |third, prefix| Network { address: [172, 23, third, 0], prefix };
        assert!(
            subnet.is_in(&[network(9, 24), network(0, 16)])
                && !subnet.is_in(&[network(1, 25), network(2, 24)])
        );
        assert!(Subnet::of(Ipv4Addr::LOCALHOST, 33).is_none());
    }
}

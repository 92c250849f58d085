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

    /// Whether `host` is in it, and a host's address: not its first one, nor that of its broadcasts.
    pub(crate) fn has_host(self, host: Ipv4Addr) -> bool {
        let last = u32::from(self.address) | u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
        self.contains(host) && (self.prefix > 30 || host != self.address && u32::from(host) != last)
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

    #[test]
    fn a_network_and_its_broadcasts_are_no_hosts() {
        for (prefix, last, expected) in [
            (24, 1, true),
            (24, 254, true),
            (24, 0, false),
            (24, 255, false),
            (25, 127, false),
            (25, 128, false),
            (31, 0, true),
            (31, 1, true),
            (32, 0, true),
            (0, 0, true),
        ] {
            let subnet = Subnet::of(Ipv4Addr::new(172, 23, 1, 0), prefix).unwrap();
            assert_eq!(subnet.has_host(Ipv4Addr::new(172, 23, 1, last)), expected, "{last} of {subnet}");
        }
    }
}

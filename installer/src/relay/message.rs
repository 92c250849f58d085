//! What agents say to each other inside an [`envelope`](super::envelope): who and where they are, and datagrams of their LANs. Pure.
//!
//! | message | bytes |
//! |---|---|
//! | hello | 1, flags, address of the uplink 4, prefix of its subnet 1, name of the node |
//! | copy | 2, subnet 4, its prefix 1, source: address 4 and port 2, port in pods 2, payload |
//!
//! Ports are big endian. The port is the one in pods, because each end has its own counterpart for it on its LAN.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::subnet::Subnet;

const HELLO: u8 = 1;
const COPY: u8 = 2;
/// The uplink carries: the node can relay.
const ABLE: u8 = 1;
/// The node relays for its subnet, as it thinks.
const LEADS: u8 = 2;
/// The longest name of a node: that of a host in DNS.
const LONGEST: usize = 253;

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Of its uplink.
    pub(super) address: Ipv4Addr,
    pub(super) subnet: Subnet,
    /// Whether its uplink carries.
    pub(super) able: bool,
    /// Whether it relays for its subnet, as it thinks.
    pub(super) leads: bool,
    pub(super) node: String,
}

/// A datagram of another LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy<'a> {
    /// Where it began.
    pub(super) subnet: Subnet,
    pub(super) source: SocketAddrV4,
    /// The destination's port in pods.
    pub(super) port: u16,
    pub(super) payload: &'a [u8],
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Hello(Hello),
    Copy(Copy<'a>),
}

impl Hello {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let name = self.node.as_bytes();
        let mut bytes = vec![HELLO, (u8::from(self.able) * ABLE) | (u8::from(self.leads) * LEADS)];
        bytes.extend(self.address.octets());
        bytes.push(self.subnet.prefix());
        bytes.extend(&name[..name.len().min(LONGEST)]);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let ([flags, a, b, c, d, prefix], name) = bytes.split_first_chunk()?;
        let address = Ipv4Addr::new(*a, *b, *c, *d);
        let node = String::from_utf8_lossy(&name[..name.len().min(LONGEST)]).into_owned();
        let (able, leads) = (flags & ABLE != 0, flags & LEADS != 0);
        Some(Self { address, subnet: Subnet::of(address, *prefix)?, able, leads, node })
    }
}

impl<'a> Copy<'a> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(14 + self.payload.len());
        bytes.push(COPY);
        bytes.extend(self.subnet.address().octets());
        bytes.push(self.subnet.prefix());
        bytes.extend(self.source.ip().octets());
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (subnet, rest) = bytes.split_first_chunk::<4>()?;
        let ([prefix], rest) = rest.split_first_chunk()?;
        let (address, rest) = rest.split_first_chunk::<4>()?;
        let (source, rest) = rest.split_first_chunk()?;
        let (port, payload) = rest.split_first_chunk()?;
        Some(Self {
            subnet: Subnet::of((*subnet).into(), *prefix)?,
            source: SocketAddrV4::new((*address).into(), u16::from_be_bytes(*source)),
            port: u16::from_be_bytes(*port),
            payload,
        })
    }
}

impl<'a> Message<'a> {
    /// Reads one; `None` if it is none of ours.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&HELLO, rest) => Hello::read(rest).map(Self::Hello),
            (&COPY, rest) => Copy::read(rest).map(Self::Copy),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_said_is_understood() {
        let address = Ipv4Addr::new(172, 23, 1, 10);
        let subnet = Subnet::of(address, 24).unwrap();
        for (able, leads) in [(true, true), (true, false), (false, true), (false, false)] {
            let hello = Hello { address, subnet, able, leads, node: "node-1".into() };
            assert_eq!(Message::read(&hello.bytes()), Some(Message::Hello(hello.clone())));
        }
        let source = SocketAddrV4::new(address, 40000);
        let copy = Copy { subnet, source, port: 5064, payload: b"search" };
        assert_eq!(Message::read(&copy.bytes()), Some(Message::Copy(copy)));
        let wrong = [&copy.bytes()[..13], &[HELLO, 0, 1, 2, 3, 4, 33], &[3], &[]];
        assert!(wrong.iter().all(|wrong| Message::read(wrong).is_none()));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Message::read(&bytes);
        }
    }
}

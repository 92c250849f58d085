//! What passes an interface of the lab, heard by a packet socket.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
};

use lab::{Lab, Result};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    libc,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket,
        sockopt,
    },
};

/// Where the parts of a frame are.
const ETHERTYPE: usize = 12;
const PROTOCOL: usize = 23;
const ADDRESSES: usize = 26;
const PORTS: usize = 34;
const PAYLOAD: usize = 42;
const ARP_SENDER: usize = 28;
const ARP_TARGET: usize = 38;

/// A socket that hears all frames of an interface.
pub(crate) struct Tap(OwnedFd);

/// An IPv4 packet with ports, or an ARP packet, whose sender and target have port 0.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Whether the interface sends it; it comes in otherwise.
    pub leaves: bool,
    /// Its source.
    pub from: SocketAddrV4,
    /// Its destination.
    pub to: SocketAddrV4,
    /// All of it.
    pub frame: Vec<u8>,
}

impl Tap {
    /// One at `interface` of `netns`, which hears what passes from now on.
    pub(crate) fn new(lab: &Lab, netns: &str, interface: &'static str) -> Result<Self> {
        lab.sandbox.run_in(netns, move || {
            let heard = SockProtocol::EthAll;
            let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, heard).unwrap();
            setsockopt(&tap, sockopt::RcvBufForce, &(64 << 20)).unwrap();
            bind(tap.as_raw_fd(), device(interface).address.unwrap().as_link_addr().unwrap()).unwrap();
            Self(tap)
        })
    }

    /// What it has heard since the last time.
    pub(crate) fn packets(&self) -> Vec<Packet> {
        let mut buffer = vec![0; 1 << 17];
        let frames = std::iter::from_fn(|| {
            let (length, from) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer).ok()?;
            let leaves = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
            Some((leaves, buffer[..length].to_vec()))
        });
        frames.filter_map(|(leaves, frame)| packet(leaves, frame)).collect()
    }
}

impl Packet {
    /// Whether it is ARP.
    pub(crate) fn is_arp(&self) -> bool {
        self.frame[ETHERTYPE..ETHERTYPE + 2] == [8, 6]
    }

    /// What a UDP datagram holds.
    pub(crate) fn payload(&self) -> &[u8] {
        self.frame.get(PAYLOAD..).unwrap_or_default()
    }
}

fn packet(leaves: bool, frame: Vec<u8>) -> Option<Packet> {
    let at = |place: usize, port: u16| {
        let bytes: [u8; 4] = frame.get(place..place + 4)?.try_into().ok()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(bytes), port))
    };
    let port = |place: usize| Some(u16::from_be_bytes(frame.get(place..place + 2)?.try_into().ok()?));
    let (from, to) = match (port(ETHERTYPE)?, *frame.get(PROTOCOL)?) {
        (0x0806, _) => (at(ARP_SENDER, 0)?, at(ARP_TARGET, 0)?),
        (0x0800, abi::TCP | abi::UDP) => (at(ADDRESSES, port(PORTS)?)?, at(ADDRESSES + 4, port(PORTS + 2)?)?),
        _ => return None,
    };
    Some(Packet { leaves, from, to, frame })
}

/// An interface of the calling thread's namespace.
pub(crate) fn device(name: &str) -> InterfaceAddress {
    let is_it = |entry: &InterfaceAddress| {
        entry.interface_name == name && entry.address.is_some_and(|address| address.as_link_addr().is_some())
    };
    getifaddrs().unwrap().find(is_it).unwrap()
}

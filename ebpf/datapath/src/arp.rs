//! ARP about addresses of pods on the LAN: asking whether another host has one, and saying that this one does (RFC 5227).
//!
//! Only sends: what comes in, the programs see. Without a carrier nobody is there to hear it, which is no error.

use std::{
    cell::OnceCell,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use abi::rival::OVERRULES;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket},
};

use crate::{Error, Result, link::Link};

const BROADCAST: [u8; 6] = [0xff; 6];
/// The smallest Ethernet frame, without its checksum.
const SMALLEST: usize = 60;
/// `EtherType`, hardware Ethernet, protocol IPv4, and the lengths of their addresses (RFC 826).
const ARP_OF_IPV4: [u8; 8] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4];

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Request = 1,
    Reply = 2,
}

type Frame = [u8; SMALLEST];

/// Sends ARP. Its socket is made for the first packet and kept: to close one takes the kernel a while, which the holder of the
/// state's lock does not have.
#[derive(Debug, Default)]
pub struct Sender(OnceCell<OwnedFd>);

impl Sender {
    /// Asks the hosts behind `uplink` whether one of them has `address`.
    pub fn probe(&self, uplink: &Link, address: Ipv4Addr) -> Result<()> {
        self.send(uplink, address, &[frame(Operation::Request, uplink.mac, Ipv4Addr::UNSPECIFIED, address)])
    }

    /// Tells the hosts behind `uplink` that this one has `address`: as a request and as a reply, because some learn only from
    /// one of them. With `overrule` other nodes that have it give it up.
    pub fn announce(&self, uplink: &Link, address: Ipv4Addr, overrule: bool) -> Result<()> {
        let mut frames =
            [Operation::Request, Operation::Reply].map(|as_a| frame(as_a, uplink.mac, address, address));
        if overrule {
            frames.iter_mut().for_each(add_overrules);
        }
        self.send(uplink, address, &frames)
    }

    fn send(&self, uplink: &Link, address: Ipv4Addr, frames: &[Frame]) -> Result<()> {
        let sent = self.socket().and_then(|socket| {
            let to = everybody_behind(uplink, libc::ETH_P_ARP)?;
            frames
                .iter()
                .try_for_each(|frame| sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty()).map(drop))
        });
        match sent {
            Err(Errno::ENOBUFS | Errno::ENETDOWN) => Ok(()), // no carrier, or not even up
            Err(Errno::EPERM) => Err(Error::NoPackets { interface: uplink.name.clone() }),
            sent => sent.map_err(|error| {
                Error::kernel(format!("cannot send ARP about {address} to {}", uplink.name), error)
            }),
        }
    }

    fn socket(&self) -> nix::Result<&OwnedFd> {
        if let Some(socket) = self.0.get() {
            return Ok(socket);
        }
        let socket = packet_socket()?;
        Ok(self.0.get_or_init(|| socket))
    }
}

/// A broadcast ARP packet of the host with `mac` at `sender`, about `target`.
fn frame(operation: Operation, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Frame {
    let target_mac = if operation == Operation::Reply { mac } else { [0; 6] };
    let parts: [&[u8]; 8] = [
        &BROADCAST,
        &mac,
        &ARP_OF_IPV4,
        &[0, operation as u8],
        &mac,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    ];
    let mut frame = [0; SMALLEST];
    frame[..ARP_END].copy_from_slice(&parts.concat());
    frame
}

/// Where the ARP packet ends in a frame.
const ARP_END: usize = 42;

fn add_overrules(frame: &mut Frame) {
    frame[ARP_END..][..OVERRULES.len()].copy_from_slice(&OVERRULES);
}

/// A socket that sends whole frames, and, without a protocol, receives none.
pub(crate) fn packet_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
}

/// Where frames of this `EtherType` go that are for everybody.
pub(crate) fn everybody_behind(uplink: &Link, ethertype: i32) -> nix::Result<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (ethertype as u16).to_be(),
        sll_ifindex: uplink.index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: BROADCAST.len() as u8,
        sll_addr: [0xff; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: it points to an address of this length and family.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 50);

    fn bytes(operation: u8, sender: [u8; 4], target_mac: [u8; 6]) -> Vec<u8> {
        let mut expected = [[0xff; 6], MAC].concat();
        expected.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]);
        expected.extend(MAC);
        expected.extend(sender);
        expected.extend(target_mac);
        expected.extend(ADDRESS.octets());
        expected.resize(60, 0);
        expected
    }

    #[test]
    fn a_probe_is_a_request_without_a_sender_address() {
        let found = frame(Operation::Request, MAC, Ipv4Addr::UNSPECIFIED, ADDRESS);
        assert_eq!(found[..], bytes(1, [0; 4], [0; 6]));
    }

    #[test]
    fn an_announcement_is_about_its_sender() {
        let request = frame(Operation::Request, MAC, ADDRESS, ADDRESS);
        assert_eq!(request[..], bytes(1, ADDRESS.octets(), [0; 6]));
        let reply = frame(Operation::Reply, MAC, ADDRESS, ADDRESS);
        assert_eq!(reply[..], bytes(2, ADDRESS.octets(), MAC));
    }

    #[test]
    fn what_overrules_others_follows_the_packet_in_the_smallest_frame() {
        let mut found = frame(Operation::Request, MAC, ADDRESS, ADDRESS);
        add_overrules(&mut found);
        assert_eq!(&found[42..], b"iocast!\n\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(found[..42], bytes(1, ADDRESS.octets(), [0; 6])[..42]);
    }
}

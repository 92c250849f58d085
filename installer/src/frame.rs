//! Frames as a client on the LAN would send them, and what one that has passed says: Ethernet, IPv4, UDP and TCP.

use std::net::{Ipv4Addr, SocketAddrV4};

use abi::{TCP, UDP};

/// To everybody.
pub(crate) const EVERYBODY: [u8; 6] = [0xff; 6];
/// A MAC address that no host has.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// How far a packet may go, as Linux has it.
const HOPS: u8 = 64;
const IPV4: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
/// Bytes of an Ethernet and of an IPv4 header.
const ETHERNET: usize = 14;
const IP: usize = 20;

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A frame that has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// ARP from this address.
    Arp(Ipv4Addr),
    /// A datagram.
    Udp { from: SocketAddrV4, to: SocketAddrV4, payload: Vec<u8> },
    /// A segment.
    Tcp { from: SocketAddrV4, to: SocketAddrV4, flags: u8 },
    /// Other IPv4 from this address.
    Other(Ipv4Addr),
}

/// A datagram in a frame to `mac`.
pub(crate) fn udp(mac: [u8; 6], from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    udp_by((mac, NOBODY), HOPS, (from, to), payload)
}

/// The same from another MAC address, after the one to which it is, that may go so many hops.
pub(crate) fn udp_by(
    macs: ([u8; 6], [u8; 6]),
    hops: u8,
    (from, to): (SocketAddrV4, SocketAddrV4),
    payload: &[u8],
) -> Vec<u8> {
    let length = (payload.len() + 8) as u16;
    let header = [from.port(), to.port(), length, 0].map(u16::to_be_bytes).concat();
    packet(macs, hops, (from, to), (UDP, 6), &[&header, payload].concat())
}

/// A segment without data in a frame to `mac`.
pub(crate) fn tcp(mac: [u8; 6], from: SocketAddrV4, to: SocketAddrV4, flags: u8, sequence: u32) -> Vec<u8> {
    let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    let rest: [&[u8]; 4] = [&sequence.to_be_bytes(), &[0; 4], &[0x50, flags, 0xfa, 0xf0], &[0; 4]];
    packet((mac, NOBODY), HOPS, (from, to), (TCP, 16), &[&ports, &rest.concat()[..]].concat())
}

/// A frame with this segment or datagram, whose checksum, at `checksum`, is still zero.
fn packet(
    (to_mac, from_mac): ([u8; 6], [u8; 6]),
    hops: u8,
    (from, to): (SocketAddrV4, SocketAddrV4),
    (protocol, checksum): (u8, usize),
    body: &[u8],
) -> Vec<u8> {
    let total = ((IP + body.len()) as u16).to_be_bytes();
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut ip = [&[0x45, 0][..], &total, &[0, 0, 0x40, 0, hops, protocol, 0, 0], &addresses].concat();
    let sum = internet_checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let length = (body.len() as u16).to_be_bytes();
    let pseudo = [&addresses[..], &[0, protocol], &length, body].concat();
    let sum = match internet_checksum(&pseudo) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    let mut body = body.to_vec();
    body[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
    [&to_mac[..], &from_mac, &IPV4, &ip, &body].concat()
}

/// RFC 1071.
pub(crate) fn internet_checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a frame says; `None` if it is cut short, or a fragment that has no ports.
pub(crate) fn read(frame: &[u8]) -> Option<Passed> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    let address = |bytes: &[u8], at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
    match [header[12], header[13]] {
        ARP => return Some(Passed::Arp(address(packet, 14)?)),
        IPV4 => {}
        _ => return None,
    }
    let [first, _, total_high, total_low, _, _, offset_high, offset_low, _, protocol, ..] =
        *packet.first_chunk::<IP>()?;
    let (from, to) = (address(packet, 12)?, address(packet, 16)?);
    if [offset_high & 0x1f, offset_low] != [0, 0] {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([total_high, total_low])).min(packet.len());
    let body = packet.get(usize::from(first & 0xf) * 4..total)?;
    if ![TCP, UDP].contains(&protocol) {
        return Some(Passed::Other(from));
    }
    let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let (from, to) = (SocketAddrV4::new(from, port(0)?), SocketAddrV4::new(to, port(2)?));
    if protocol == UDP {
        return Some(Passed::Udp { from, to, payload: body.get(8..)?.to_vec() });
    }
    Some(Passed::Tcp { from, to, flags: *body.get(13)? })
}

/// From where to where a datagram goes; `None` if the frame is something else.
pub(crate) fn datagram(frame: &[u8]) -> Option<(SocketAddrV4, SocketAddrV4)> {
    match read(frame)? {
        Passed::Udp { from, to, .. } => Some((from, to)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 23, 0, 2), 20001);
    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 23, 0, 255), 5064);

    #[test]
    fn what_is_written_is_read() {
        for payload in [&b""[..], b"odd", b"even"] {
            let frame = udp(EVERYBODY, FROM, TO, payload);
            assert_eq!(read(&frame), Some(Passed::Udp { from: FROM, to: TO, payload: payload.into() }));
            assert_eq!(read(&frame[..frame.len() - payload.len() - 1]), None);
            assert_eq!(datagram(&frame), Some((FROM, TO)));
        }
        let frame = tcp([2; 6], FROM, TO, SYN, 77);
        assert_eq!(read(&frame), Some(Passed::Tcp { from: FROM, to: TO, flags: SYN }));
        assert_eq!(datagram(&frame), None);
    }

    #[test]
    fn checksums_are_those_that_a_receiver_expects() {
        let frame = udp(EVERYBODY, FROM, TO, b"odd");
        assert_eq!(internet_checksum(&frame[14..34]), 0);
        let pseudo = [&frame[26..34], &[0, UDP, 0, 11], &frame[34..]].concat();
        assert_eq!(internet_checksum(&pseudo), 0);
    }

    #[test]
    fn of_other_frames_the_sender_is_read() {
        let mut frame = udp(EVERYBODY, FROM, TO, b"");
        frame[23] = 1;
        assert_eq!(read(&frame), Some(Passed::Other(*FROM.ip())));
        frame[20] = 0x20;
        frame[21] = 1;
        assert_eq!(read(&frame), None, "not the first fragment");
        let arp = [&[0; 12][..], &ARP, &[0; 14], &[172, 23, 0, 2], &[0; 10]].concat();
        assert_eq!(read(&arp), Some(Passed::Arp(*FROM.ip())));
        assert_eq!(read(&[0; 20]), None);
    }
}

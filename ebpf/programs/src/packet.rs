//! An IPv4 TCP or UDP packet: the headers that programs decide by, and rewriting that keeps checksums correct.
//!
//! Only plain headers are handled (no VLAN tag, no IP options, not a later fragment); all other packets are not ours.
//! Checksums are updated whether or not the interface computes them: a packet between namespaces carries a partial one
//! (`CHECKSUM_PARTIAL`), and the helpers handle that.

use abi::{Endpoint, Headers, NO_PAYLOAD, TCP, UDP};

use crate::skb::Skb;

pub(crate) const MAC_DESTINATION: u32 = 0;
pub(crate) const MAC_SOURCE: u32 = 6;
/// Offset of the IP header from the Ethernet header.
pub const IP: u32 = 14;
pub(crate) const IP_LENGTH: u32 = IP + 2;
pub(crate) const IP_FRAGMENT: u32 = IP + 6;
pub(crate) const IP_PROTOCOL: u32 = IP + 9;
pub(crate) const IP_CHECKSUM: u32 = IP + 10;
pub(crate) const IP_SOURCE: u32 = IP + 12;
pub(crate) const IP_DESTINATION: u32 = IP + 16;
pub(crate) const L4: u32 = IP + 20;
pub(crate) const PORT_SOURCE: u32 = L4;
pub(crate) const PORT_DESTINATION: u32 = L4 + 2;
const UDP_LENGTH: u32 = L4 + 4;
pub(crate) const UDP_CHECKSUM: u32 = L4 + 6;
pub(crate) const TCP_CHECKSUM: u32 = L4 + 16;
const TCP_SEQUENCE: u32 = L4 + 4;
const TCP_ACKNOWLEDGED: u32 = L4 + 8;
const TCP_LENGTH: u32 = L4 + 12;
const TCP_FLAGS: u32 = L4 + 13;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
/// Offset of a UDP datagram's payload from the Ethernet header.
pub const PAYLOAD: u32 = L4 + 8;
/// All ones: every station on the LAN.
pub const BROADCAST_MAC: [u8; 6] = [0xff; 6];

/// The first byte of an IPv4 header without options.
pub(crate) const PLAIN: u8 = 0x45;
/// "More fragments" and the fragment offset.
pub(crate) const FRAGMENT: u16 = 0x3fff;
pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A packet and its current headers.
pub struct Packet {
    /// The packet in the kernel.
    pub skb: Skb,
    /// Source address and port.
    pub source: Endpoint,
    /// Destination address and port.
    pub destination: Endpoint,
    /// Whether it is the first fragment of several.
    pub fragment: bool,
    /// Bytes of UDP payload; `None` if the headers claim more than the packet holds.
    pub payload: Option<u32>,
    checksummed: bool,
}

/// The fields of a TCP header besides the ports.
pub struct Segment {
    /// Sequence number of its first byte, or of the SYN.
    pub sequence: u32,
    /// Offset of the first byte from the Ethernet header.
    pub payload: u32,
    acknowledged: u32,
    flags: u8,
}

impl Segment {
    /// Whether it is the first in its direction.
    #[inline(always)]
    pub const fn begins(&self) -> bool {
        self.flags & TCP_SYN != 0
    }

    /// Whether it opens a connection.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Whether it accepts a connection.
    #[inline(always)]
    pub const fn answers(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN | TCP_ACK
    }

    /// Whether it resets the connection.
    #[inline(always)]
    pub const fn resets(&self) -> bool {
        self.flags & TCP_RST != 0
    }

    /// Whether it is the last in its direction.
    #[inline(always)]
    pub const fn finishes(&self) -> bool {
        self.flags & TCP_FIN != 0
    }

    /// Whether it neither begins nor ends anything.
    #[inline(always)]
    pub const fn is_bare(&self) -> bool {
        self.flags & (TCP_SYN | TCP_FIN | TCP_RST) == 0
    }

    /// Whether it acknowledges everything before `next`, and no more.
    #[inline(always)]
    pub const fn acknowledges(&self, next: u32) -> bool {
        self.flags & TCP_ACK != 0 && self.acknowledged == next
    }

    /// The sequence number after its SYN.
    #[inline(always)]
    pub const fn next(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }
}

impl Packet {
    /// Parses the headers; `None` for anything but plain TCP or UDP over IPv4.
    #[inline(always)]
    pub fn parse(skb: Skb) -> Option<Self> {
        if !skb.is_untagged_ipv4() {
            return None;
        }
        let front = skb.front::<PAYLOAD>()?;
        let (protocol, fragment) = (front.byte(IP_PROTOCOL), front.number(IP_FRAGMENT) & FRAGMENT);
        if front.byte(IP) != PLAIN || (protocol != UDP && protocol != TCP) || fragment & FRAGMENT_OFFSET != 0
        {
            return None;
        }
        let endpoint = |address, port| Endpoint {
            address: front.address(address),
            port: front.number(port),
            protocol: protocol as u16,
        };
        let [ip_length, udp_length] = [IP_LENGTH, UDP_LENGTH].map(|at| front.number(at) as u32);
        Some(Self {
            skb,
            source: endpoint(IP_SOURCE, PORT_SOURCE),
            destination: endpoint(IP_DESTINATION, PORT_DESTINATION),
            fragment: fragment != 0,
            payload: payload(skb.length(), ip_length, udp_length),
            checksummed: protocol == TCP || front.number(UDP_CHECKSUM) != 0,
        })
    }

    /// Where a UDP datagram with IP options goes, or its first fragment; `None` for everything else.
    #[inline(always)]
    pub fn destination_behind_options(skb: Skb) -> Option<Endpoint> {
        if !skb.is_untagged_ipv4() {
            return None;
        }
        let front = skb.front::<L4>()?;
        let length = (front.byte(IP) & 0x0f) as u32 * 4;
        let offset = front.number(IP_FRAGMENT) & FRAGMENT_OFFSET;
        if length <= 20 || front.byte(IP_PROTOCOL) != UDP || offset != 0 {
            return None;
        }
        let address = front.address(IP_DESTINATION);
        let port = u16::from_be_bytes(skb.load(IP + length + 2)?);
        Some(Endpoint { address, port, protocol: UDP as u16 })
    }

    /// The packet, with headers that another program has parsed.
    #[inline(always)]
    pub fn with(skb: Skb, headers: &Headers) -> Self {
        Self {
            skb,
            source: headers.source,
            destination: headers.destination,
            fragment: headers.fragment != 0,
            payload: (headers.payload != NO_PAYLOAD).then_some(headers.payload),
            checksummed: headers.checksummed != 0,
        }
    }

    /// Its headers, to pass to another program.
    #[inline(always)]
    pub fn headers(&self) -> Headers {
        Headers {
            source: self.source,
            destination: self.destination,
            payload: self.payload.unwrap_or(NO_PAYLOAD),
            fragment: self.fragment as u16,
            checksummed: self.checksummed as u16,
        }
    }

    /// Whether it is UDP; otherwise it is TCP.
    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        self.destination.protocol == UDP as u16
    }

    /// The TCP header's fields; `None` if it is cut short.
    #[inline(always)]
    pub fn segment(&self) -> Option<Segment> {
        let front = self.skb.front::<{ TCP_FLAGS + 1 }>()?;
        Some(Segment {
            sequence: front.long(TCP_SEQUENCE),
            payload: L4 + (front.byte(TCP_LENGTH) >> 4) as u32 * 4,
            acknowledged: front.long(TCP_ACKNOWLEDGED),
            flags: front.byte(TCP_FLAGS),
        })
    }

    /// Sets the source address and port.
    #[inline(always)]
    pub fn set_source(&mut self, source: Endpoint) {
        self.set_address(IP_SOURCE, self.source.address, source.address);
        self.set_port(PORT_SOURCE, self.source.port, source.port);
        self.source = source;
    }

    /// Sets the destination address and port.
    #[inline(always)]
    pub fn set_destination(&mut self, destination: Endpoint) {
        self.set_address(IP_DESTINATION, self.destination.address, destination.address);
        self.set_port(PORT_DESTINATION, self.destination.port, destination.port);
        self.destination = destination;
    }

    /// The destination MAC address.
    #[inline(always)]
    pub fn mac_destination(&self) -> [u8; 6] {
        self.skb.load(MAC_DESTINATION).unwrap_or_default()
    }

    /// The source MAC address.
    #[inline(always)]
    pub fn mac_source(&self) -> [u8; 6] {
        self.skb.load(MAC_SOURCE).unwrap_or_default()
    }

    /// Sets the destination MAC address.
    #[inline(always)]
    pub fn set_mac_destination(&self, mac: [u8; 6]) {
        self.skb.store(MAC_DESTINATION, mac);
    }

    /// Sets the source MAC address.
    #[inline(always)]
    pub fn set_mac_source(&self, mac: [u8; 6]) {
        self.skb.store(MAC_SOURCE, mac);
    }

    /// Replaces two or four bytes of the UDP payload.
    #[inline(always)]
    pub fn set_payload<const N: usize>(&self, offset: u32, old: [u8; N], new: [u8; N]) {
        self.replace(PAYLOAD + offset, old, new);
    }

    /// Replaces two or four bytes of the payload, at `offset` from the Ethernet header.
    #[inline(always)]
    pub fn replace<const N: usize>(&self, offset: u32, old: [u8; N], new: [u8; N]) {
        if old == new {
            return;
        }
        if self.checksummed {
            // The sum is over 16-bit words: bytes at an odd offset stand in the other half of theirs.
            let swap = !offset.is_multiple_of(2);
            self.skb.fix_checksum(
                self.checksum(),
                self.destination.protocol,
                swapped(old, swap),
                swapped(new, swap),
            );
        }
        self.skb.store(offset, new);
    }

    #[inline(always)]
    fn set_address(&self, offset: u32, old: [u8; 4], new: [u8; 4]) {
        if old == new {
            return;
        }
        if self.checksummed {
            self.skb.fix_checksum_address(self.checksum(), self.destination.protocol, old, new);
        }
        self.skb.fix_ip_checksum(IP_CHECKSUM, old, new);
        self.skb.store(offset, new);
    }

    #[inline(always)]
    fn set_port(&self, offset: u32, old: u16, new: u16) {
        if old == new {
            return;
        }
        if self.checksummed {
            let (old, new) = (old.to_be_bytes(), new.to_be_bytes());
            self.skb.fix_checksum(self.checksum(), self.destination.protocol, old, new);
        }
        self.skb.store(offset, new.to_be_bytes());
    }

    #[inline(always)]
    fn checksum(&self) -> u32 {
        if self.is_udp() { UDP_CHECKSUM } else { TCP_CHECKSUM }
    }
}

/// Bytes of UDP payload, if frame, IP header and UDP header agree that the packet holds them.
#[inline(always)]
fn payload(frame: u32, ip: u32, udp: u32) -> Option<u32> {
    (udp >= 8 && udp + 20 <= ip && ip + IP <= frame).then(|| udp - 8)
}

/// `bytes`, with each pair swapped if `swap`.
#[inline(always)]
fn swapped<const N: usize>(mut bytes: [u8; N], swap: bool) -> [u8; N] {
    if swap {
        let mut index = 0;
        while index + 1 < N {
            (bytes[index], bytes[index + 1]) = (bytes[index + 1], bytes[index]);
            index += 2;
        }
    }
    bytes
}

//! An ICMP error over IPv4, the begin of the packet that it quotes, and rewriting both with correct checksums.
//!
//! Of the quoted packet there may be no more than the IP header and eight bytes (RFC 792), without TCP's checksum. Only plain
//! headers are handled, as in `packet.rs`: packets with others are not translated.

use abi::{Address, Endpoint, TCP, UDP};

use crate::{
    packet::{
        FRAGMENT, FRAGMENT_OFFSET, IP, IP_CHECKSUM, IP_DESTINATION, IP_FRAGMENT, IP_LENGTH, IP_PROTOCOL,
        IP_SOURCE, L4, PLAIN, PORT_DESTINATION, PORT_SOURCE, TCP_CHECKSUM, UDP_CHECKSUM,
    },
    skb::Skb,
};

const ICMP: u8 = 1;
/// The types that are errors (RFC 792). A source quench is obsolete, and a redirect is about the way to a neighbour.
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
const CHECKSUM: u32 = L4 + 2;
/// How far a header's place in the quoted packet is from its place in the one around it.
const QUOTED: u32 = L4 + 8 - IP;

/// An ICMP error.
pub struct IcmpError {
    skb: Skb,
    source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// Who sent the quoted packet.
    pub from: Endpoint,
    /// Whom it was for.
    pub to: Endpoint,
    /// Offset of the end of the quoted bytes from the Ethernet header.
    end: u32,
}

impl IcmpError {
    /// Parses the headers; `None` for anything but an error about plain TCP or UDP.
    #[inline(always)]
    pub fn parse(skb: Skb) -> Option<Self> {
        if !skb.is_untagged_ipv4() {
            return None;
        }
        let front = skb.front::<{ L4 + 8 }>()?;
        if front.byte(IP) != PLAIN
            || front.byte(IP_PROTOCOL) != ICMP
            || front.number(IP_FRAGMENT) & FRAGMENT != 0
        {
            return None;
        }
        let end = IP + front.number(IP_LENGTH) as u32;
        let is_error = matches!(front.byte(L4), UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM);
        if !is_error || end < QUOTED + L4 + 8 {
            return None;
        }
        let (source, destination) = (front.address(IP_SOURCE), front.address(IP_DESTINATION));
        let (from, to) = quoted(skb)?;
        Some(Self { skb, source, destination, from, to, end })
    }

    /// Sets who sent it.
    #[inline(always)]
    pub fn set_source(&mut self, source: Address) {
        self.set_address(0, IP_SOURCE, self.source, source);
        self.source = source;
    }

    /// Sets whom it is for.
    #[inline(always)]
    pub fn set_destination(&mut self, destination: Address) {
        self.set_address(0, IP_DESTINATION, self.destination, destination);
        self.destination = destination;
    }

    /// Sets who sent the quoted packet.
    #[inline(always)]
    pub fn set_from(&mut self, from: Endpoint) {
        self.set_quoted(IP_SOURCE, PORT_SOURCE, &self.from, &from);
        self.from = from;
    }

    /// Sets whom the quoted packet was for.
    #[inline(always)]
    pub fn set_to(&mut self, to: Endpoint) {
        self.set_quoted(IP_DESTINATION, PORT_DESTINATION, &self.to, &to);
        self.to = to;
    }

    /// Sets an address and a port of the quoted packet, and its checksums as far as they are quoted.
    #[inline(always)]
    fn set_quoted(&self, address: u32, port: u32, old: &Endpoint, new: &Endpoint) {
        let ports = [old, new].map(|endpoint| endpoint.port.to_be_bytes());
        self.fix_quoted_checksum([old.address, new.address], ports);
        // The error's checksum stays: an address and the checksum of its header cancel each other out.
        self.set_address(QUOTED, address, old.address, new.address);
        self.fix_checksum(ports);
        self.skb.store(QUOTED + port, ports[1]);
    }

    /// Updates the quoted checksum of TCP or UDP, if it is there: nobody checks it, but a native host's would be right.
    #[inline(always)]
    fn fix_quoted_checksum(&self, addresses: [Address; 2], ports: [[u8; 2]; 2]) {
        let protocol = self.to.protocol;
        let at = QUOTED + if protocol == TCP as u16 { TCP_CHECKSUM } else { UDP_CHECKSUM };
        if at + 2 > self.end {
            return;
        }
        let Some(before) = self.skb.load::<2>(at) else { return };
        self.skb.fix_checksum(at, protocol, addresses[0], addresses[1]);
        self.skb.fix_checksum(at, protocol, ports[0], ports[1]);
        let Some(after) = self.skb.load::<2>(at) else { return };
        self.fix_checksum([before, after]);
    }

    /// Sets an address in the IP header, or in the one so many bytes further.
    #[inline(always)]
    fn set_address(&self, further: u32, offset: u32, old: Address, new: Address) {
        self.skb.fix_ip_checksum(further + IP_CHECKSUM, old, new);
        self.skb.store(further + offset, new);
    }

    /// Updates the error's own checksum for bytes that change; it covers no address of its own.
    #[inline(always)]
    fn fix_checksum(&self, [old, new]: [[u8; 2]; 2]) {
        self.skb.fix_checksum(CHECKSUM, ICMP as u16, old, new);
    }
}

/// The ends of the quoted packet.
#[inline(always)]
fn quoted(skb: Skb) -> Option<(Endpoint, Endpoint)> {
    let [version, _, _, _, _, _, frag0, frag1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        skb.load::<20>(QUOTED + IP)?;
    let later = u16::from_be_bytes([frag0, frag1]) & FRAGMENT_OFFSET != 0;
    if version != 0x45 || later || (protocol != UDP && protocol != TCP) {
        return None;
    }
    let [s4, s5, d4, d5, ..] = skb.load::<8>(QUOTED + L4)?;
    let endpoint =
        |address, port| Endpoint { address, port: u16::from_be_bytes(port), protocol: protocol as u16 };
    Some((endpoint([s0, s1, s2, s3], [s4, s5]), endpoint([d0, d1, d2, d3], [d4, d5])))
}

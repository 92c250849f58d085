//! Ethernet frames made by hand: ARP, and IPv4 with UDP, TCP or an ICMP error, every checksum computed over all of the packet, so that what a
//! program corrected byte by byte is compared with what is right.

use std::net::SocketAddrV4;

/// Every station on the LAN.
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// Who a frame is for and from, where a case does not say.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = SYN | ACK;

/// A packet, as what it says; [`Frame::bytes`] is how it says so.
#[derive(Clone)]
pub(crate) struct Frame {
    macs: [[u8; 6]; 2],
    ethertype: u16,
    fragment: u16,
    options: Vec<u8>,
    from: SocketAddrV4,
    to: SocketAddrV4,
    transport: Transport,
    payload: Vec<u8>,
    length: usize,
}

#[derive(Clone, Copy)]
enum Transport {
    Udp {
        checksummed: bool,
    },
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledged: u32,
    },
    Icmp {
        kind: u8,
        code: u8,
        mtu: u16,
    },
    /// Instead of IPv4: an operation, and the MAC addresses that it speaks of.
    Arp {
        operation: u16,
        sender: [u8; 6],
        target: [u8; 6],
    },
}

/// A datagram.
pub(crate) fn udp(from: &str, to: &str, payload: &[u8]) -> Frame {
    frame(from, to, Transport::Udp { checksummed: true }, payload)
}

/// A segment.
pub(crate) fn tcp(from: &str, to: &str, flags: u8, sequence: u32, payload: &[u8]) -> Frame {
    frame(from, to, Transport::Tcp { flags, sequence, acknowledged: 0 }, payload)
}

/// An ICMP message of this type and code that quotes `length` bytes of a packet. Ports of the addresses are of no account.
pub(crate) fn icmp(from: &str, to: &str, (kind, code): (u8, u8), about: &Frame, length: usize) -> Frame {
    let mtu = if (kind, code) == (3, 4) { 1400 } else { 0 };
    let mut quoted = about.bytes().split_off(14);
    quoted.truncate(length);
    frame(from, to, Transport::Icmp { kind, code, mtu }, &quoted)
}

/// An ARP packet to everybody: an operation, whose MAC and IP address the sender says are its own, and the address asked for.
pub(crate) fn arp(operation: u16, mac: [u8; 6], from: &str, to: &str) -> Frame {
    let at = |address: &str| format!("{address}:0");
    let transport = Transport::Arp { operation, sender: mac, target: [0; 6] };
    frame(&at(from), &at(to), transport, &[]).ethertype(0x0806).mac_from(mac).mac_to(BROADCAST)
}

fn frame(from: &str, to: &str, transport: Transport, payload: &[u8]) -> Frame {
    let (from, to) = (address(from), address(to));
    Frame {
        macs: MACS,
        ethertype: 0x0800,
        fragment: 0,
        options: vec![],
        from,
        to,
        transport,
        payload: payload.into(),
        length: usize::MAX,
    }
}

fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

impl Frame {
    pub(crate) fn from(self, from: &str) -> Self {
        Self { from: address(from), ..self }
    }

    pub(crate) fn to(self, to: &str) -> Self {
        Self { to: address(to), ..self }
    }

    pub(crate) fn is_to(&self, address: [u8; 4]) -> bool {
        self.to.ip().octets() == address
    }

    pub(crate) fn with(self, payload: &[u8]) -> Self {
        Self { payload: payload.into(), ..self }
    }

    pub(crate) fn mac_to(self, mac: [u8; 6]) -> Self {
        Self { macs: [mac, self.macs[1]], ..self }
    }

    pub(crate) fn mac_from(self, mac: [u8; 6]) -> Self {
        Self { macs: [self.macs[0], mac], ..self }
    }

    /// The fragment field of the IP header: flags, and the offset in units of 8 bytes.
    pub(crate) fn fragment(self, fragment: u16) -> Self {
        Self { fragment, ..self }
    }

    /// IP options: a multiple of four bytes.
    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.into(), ..self }
    }

    pub(crate) fn ethertype(self, ethertype: u16) -> Self {
        Self { ethertype, ..self }
    }

    /// Cut off after so many bytes.
    pub(crate) fn cut(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// UDP with the checksum 0, which says that there is none.
    pub(crate) fn without_checksum(self) -> Self {
        Self { transport: Transport::Udp { checksummed: false }, ..self }
    }

    /// An ARP packet for this host alone.
    pub(crate) fn answering(mut self, mac: [u8; 6]) -> Self {
        if let Transport::Arp { target, .. } = &mut self.transport {
            *target = mac;
        }
        self.mac_to(mac)
    }

    /// A segment that acknowledges everything before this sequence number.
    pub(crate) fn acknowledging(mut self, number: u32) -> Self {
        if let Transport::Tcp { acknowledged, .. } = &mut self.transport {
            *acknowledged = number;
        }
        self
    }

    /// Whether this address sent it.
    pub(crate) fn is_from(&self, from: &str) -> bool {
        self.from == address(from)
    }

    /// The UDP or TCP checksum.
    pub(crate) fn checksum(&self) -> u16 {
        let at = if matches!(self.transport, Transport::Udp { .. }) { 40 } else { 50 };
        let bytes = self.bytes();
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    /// The whole frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut bytes = self.macs.concat();
        bytes.extend(self.ethertype.to_be_bytes());
        if !matches!(self.transport, Transport::Arp { .. }) {
            bytes.extend(self.ip_header(transport.len()));
        }
        bytes.extend(transport);
        bytes.truncate(self.length);
        bytes
    }

    fn ip_header(&self, length: usize) -> Vec<u8> {
        let own = 20 + self.options.len();
        let mut header = vec![0x40 | (own / 4) as u8, 0];
        header.extend(u16_of(own + length).to_be_bytes());
        header.extend([0, 0]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([64, self.protocol(), 0, 0]);
        header.extend(self.from.ip().octets());
        header.extend(self.to.ip().octets());
        header.extend(&self.options);
        let sum = ones_complement(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Udp { .. } => abi::UDP,
            Transport::Tcp { .. } => abi::TCP,
            Transport::Icmp { .. } => 1,
            Transport::Arp { .. } => 0, // it has no such header
        }
    }

    /// ARP over Ethernet (RFC 826), and what follows it.
    fn arp(&self, operation: u16, [sender, target]: [[u8; 6]; 2]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4];
        bytes.extend(operation.to_be_bytes());
        for (mac, address) in [(sender, self.from), (target, self.to)] {
            bytes.extend(mac);
            bytes.extend(address.ip().octets());
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// UDP, TCP or ICMP header and payload, or what there is instead of IPv4.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let at = match self.transport {
            Transport::Arp { operation, sender, target } => return self.arp(operation, [sender, target]),
            Transport::Icmp { kind, code, mtu } => {
                bytes = vec![kind, code, 0, 0, 0, 0];
                bytes.extend(mtu.to_be_bytes());
                2
            }
            Transport::Udp { .. } => {
                bytes.extend(u16_of(8 + self.payload.len()).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            Transport::Tcp { flags, sequence, acknowledged } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledged.to_be_bytes());
                bytes.extend([5 << 4, flags, 1, 0, 0, 0, 0, 0]);
                16
            }
        };
        bytes.extend(&self.payload);
        let sum = self.transport_checksum(&bytes);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The checksum of UDP or TCP `bytes`, which have 0 in its place, with the pseudo header (RFC 768, RFC 9293).
    fn transport_checksum(&self, bytes: &[u8]) -> u16 {
        if matches!(self.transport, Transport::Udp { checksummed: false }) {
            return 0;
        }
        if matches!(self.transport, Transport::Icmp { .. }) {
            return ones_complement(bytes); // there is no pseudo header
        }
        let mut summed = [self.from.ip().octets(), self.to.ip().octets()].concat();
        summed.extend([0, self.protocol()]);
        summed.extend(u16_of(bytes.len()).to_be_bytes());
        summed.extend(bytes);
        match ones_complement(&summed) {
            0 if self.protocol() == abi::UDP => 0xffff,
            sum => sum,
        }
    }
}

/// The Internet checksum (RFC 1071).
pub(crate) fn ones_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn u16_of(length: usize) -> u16 {
    u16::try_from(length).unwrap_or_else(|_| panic!("{length} bytes do not fit a frame"))
}

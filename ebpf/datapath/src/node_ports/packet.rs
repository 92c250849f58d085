//! Packets that could come from the LAN, or go there, as far as they are known: of the former who receives it, not who sends
//! it; of the latter both ends, but no ports.

use abi::{Address, Endpoint, TCP};

/// The interface at which it arrives, and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The uplink's interface index.
    pub index: u32,
    /// The uplink's name.
    pub uplink: &'a str,
    /// The endpoint on it.
    pub at: Endpoint,
}

/// A packet of a pod on its way to the LAN.
#[derive(Clone, Copy, Debug)]
pub struct Departure<'a> {
    /// The uplink's interface index.
    pub index: u32,
    /// The uplink's name.
    pub uplink: &'a str,
    /// Where it comes from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
}

/// Either.
#[derive(Clone, Copy, Debug)]
pub(super) enum Packet<'a> {
    In(Arrival<'a>),
    Out(Departure<'a>),
}

/// A byte of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Byte {
    /// Its value, if every packet to the endpoint has it.
    pub(super) value: Option<u8>,
    /// Whether it belongs to the destination port.
    pub(super) port: bool,
}

impl Byte {
    pub(super) const UNKNOWN: Self = Self { value: None, port: false };

    pub(super) fn known(value: u8) -> Self {
        Self { value: Some(value), port: false }
    }
}

/// Where a payload expression looks: `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFT_META_MARK`, `_IIF`, `_OIF`, `_IIFNAME`, `_OIFNAME`, `_NFPROTO`, `_L4PROTO`.
const MARK: u32 = 3;
const IIF: u32 = 4;
const OIF: u32 = 5;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `IFNAMSIZ`.
const NAME: usize = 16;

impl<'a> Packet<'a> {
    /// TCP or UDP.
    pub(super) fn protocol(self) -> u8 {
        match self {
            Self::In(arrival) => arrival.at.protocol as u8,
            Self::Out(_) => TCP,
        }
    }

    pub(super) fn source(self) -> Option<Address> {
        match self {
            Self::In(_) => None,
            Self::Out(departure) => Some(departure.source),
        }
    }

    pub(super) fn destination(self) -> Address {
        match self {
            Self::In(arrival) => arrival.at.address,
            Self::Out(departure) => departure.destination,
        }
    }

    /// The destination port.
    pub(super) fn port(self) -> Option<u16> {
        match self {
            Self::In(arrival) => Some(arrival.at.port),
            Self::Out(_) => None,
        }
    }

    /// The name of the interface at which it arrives.
    pub(super) fn input(self) -> Option<&'a str> {
        match self {
            Self::In(arrival) => Some(arrival.uplink),
            Self::Out(_) => None,
        }
    }

    /// The name of the one through which it leaves.
    pub(super) fn output(self) -> Option<&'a str> {
        match self {
            Self::In(_) => None,
            Self::Out(departure) => Some(departure.uplink),
        }
    }

    /// `length` bytes of one of its headers.
    pub(super) fn payload(self, base: u32, offset: usize, length: usize) -> Vec<Byte> {
        (offset..offset.saturating_add(length.min(64))).map(|at| self.byte(base, at)).collect()
    }

    fn byte(self, base: u32, at: usize) -> Byte {
        let port = self.port().map(u16::to_be_bytes);
        match (base, at) {
            (NETWORK, 9) => Byte::known(self.protocol()),
            (NETWORK, 12..16) => Byte { value: self.source().map(|source| source[at - 12]), port: false },
            (NETWORK, 16..20) => Byte::known(self.destination()[at - 16]),
            (TRANSPORT, 2..4) => Byte { value: port.map(|port| port[at - 2]), port: port.is_some() },
            _ => Byte::UNKNOWN,
        }
    }

    /// What is known about it besides. One that leaves has no mark: whoever marks it means it to be treated differently.
    pub(super) fn meta(self, key: u32) -> Vec<Byte> {
        match (key, self) {
            (IIF, Self::In(Arrival { index, .. })) | (OIF, Self::Out(Departure { index, .. })) => {
                index.to_ne_bytes().map(Byte::known).into()
            }
            (IIFNAME, Self::In(Arrival { uplink, .. })) | (OIFNAME, Self::Out(Departure { uplink, .. })) => {
                let name = uplink.bytes().chain(std::iter::repeat(0)).take(NAME);
                name.map(Byte::known).collect()
            }
            (MARK, Self::Out(_)) => vec![Byte::known(0); 4],
            (NFPROTO, _) => vec![Byte::known(IPV4)],
            (L4PROTO, _) => vec![Byte::known(self.protocol())],
            _ => vec![Byte::UNKNOWN; 4],
        }
    }
}

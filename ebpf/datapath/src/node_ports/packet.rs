//! A packet that could come from the LAN, as far as it is known: who receives it, not who sends it.

use abi::Endpoint;

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
/// `NFT_META_IIF`, `NFT_META_IIFNAME`, `NFT_META_NFPROTO`, `NFT_META_L4PROTO`.
const IIF: u32 = 4;
const IIFNAME: u32 = 6;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `IFNAMSIZ`.
const NAME: usize = 16;

impl Arrival<'_> {
    /// TCP or UDP.
    pub(super) fn protocol(self) -> u8 {
        self.at.protocol as u8
    }

    /// `length` bytes of one of its headers.
    pub(super) fn payload(self, base: u32, offset: usize, length: usize) -> Vec<Byte> {
        (offset..offset.saturating_add(length.min(64))).map(|at| self.byte(base, at)).collect()
    }

    fn byte(self, base: u32, at: usize) -> Byte {
        let port = self.at.port.to_be_bytes();
        match (base, at) {
            (NETWORK, 9) => Byte::known(self.protocol()),
            (NETWORK, 16..20) => Byte::known(self.at.address[at - 16]),
            (TRANSPORT, 2..4) => Byte { value: Some(port[at - 2]), port: true },
            _ => Byte::UNKNOWN,
        }
    }

    /// What is known about it besides.
    pub(super) fn meta(self, key: u32) -> Vec<Byte> {
        match key {
            IIF => self.index.to_ne_bytes().map(Byte::known).into(),
            IIFNAME => {
                let name = self.uplink.bytes().chain(std::iter::repeat(0)).take(NAME);
                name.map(Byte::known).collect()
            }
            NFPROTO => vec![Byte::known(IPV4)],
            L4PROTO => vec![Byte::known(self.protocol())],
            _ => vec![Byte::UNKNOWN; 4],
        }
    }
}

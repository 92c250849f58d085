//! The firewall chains that forwarded packets pass, read from nf_tables, which iptables also uses unless it is the legacy
//! one. Nothing is changed here.

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
    parse_string, parse_u32_be,
};
use nix::errno::Errno;

use crate::{Error, Result, netlink};

/// A chain at the forward hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family and name of its table, such as `ip filter`.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it drops what no rule accepts.
    pub drops: bool,
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN` (linux/netfilter/nfnetlink.h, nf_tables.h).
const GET_CHAIN: u16 = 10 << 8 | 4;
/// The family field, version and resource id of a request for all families (struct nfgenmsg).
const ALL_FAMILIES: [u8; 4] = [0; 4];
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;

/// The IPv4 chains at the forward hook of this network namespace; none if the kernel has no nf_tables.
pub fn forward_chains() -> Result<Vec<Chain>> {
    match netlink::dump_netfilter(Message(ALL_FAMILIES.to_vec())) {
        Ok(answers) => Ok(answers.iter().filter_map(|answer| parse(&answer.0)).collect()),
        Err(error) if lacks_tables(&error) => Ok(vec![]),
        Err(error) => Err(Error::kernel("cannot list the chains of nf_tables", error)),
    }
}

fn lacks_tables(error: &std::io::Error) -> bool {
    let codes = [Errno::EPROTONOSUPPORT, Errno::EINVAL, Errno::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|found| codes.iter().any(|code| *code as i32 == found))
}

/// A request or an answer: `struct nfgenmsg`, then attributes.
struct Message(Vec<u8>);

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        GET_CHAIN
    }

    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self(payload.to_vec()))
    }
}

/// The chain in an answer, if forwarded IPv4 packets pass it.
fn parse(answer: &[u8]) -> Option<Chain> {
    let family = match answer.first()? {
        1 => "inet",
        2 => "ip",
        _ => return None,
    };
    let attributes = answer.get(ALL_FAMILIES.len()..)?;
    // NFTA_CHAIN_HOOK, in it NFTA_HOOK_HOOKNUM
    let hook = value(attributes, 4).and_then(|hook| number(hook, 1))?;
    let text = |kind| value(attributes, kind).and_then(|bytes| parse_string(bytes).ok());
    (hook == FORWARD).then_some(())?;
    Some(Chain {
        table: format!("{family} {}", text(1)?),    // NFTA_CHAIN_TABLE
        name: text(3)?,                             // NFTA_CHAIN_NAME
        drops: number(attributes, 5) == Some(DROP), // NFTA_CHAIN_POLICY
    })
}

fn value(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == kind)?;
    let bytes = found.into_inner();
    bytes.get(4..usize::from(u16::from_ne_bytes([bytes[0], bytes[1]])))
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    parse_u32_be(value(attributes, kind)?).ok()
}

//! Questions to nf_tables, which iptables also uses unless it is the legacy one, and the attributes in its answers. Nothing
//! is changed here.

use std::io;

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use nix::errno::Errno;

use crate::{Error, Result, netlink};

/// What is asked for: `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GET...` (linux/netfilter/nfnetlink.h, nf_tables.h).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Chains = 10 << 8 | 4,
    Rules = 10 << 8 | 7,
    Set = 10 << 8 | 10,
    Elements = 10 << 8 | 13,
}

/// The length of `struct nfgenmsg`: family, version, resource id.
const HEADER: usize = 4;

/// A question or an answer.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: u16,
    bytes: Vec<u8>,
}

impl Message {
    /// The family of addresses; 0 asks for all.
    pub(crate) fn family(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }

    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes(self.bytes.get(HEADER..).unwrap_or_default())
    }
}

/// All that matches these names, each after the kind of its attribute; nothing if the kernel has no nf_tables, or has no
/// such table any more.
pub(crate) fn dump(what: Kind, family: u8, names: &[(u16, &str)]) -> Result<Vec<Message>> {
    let mut bytes = vec![family, 0, 0, 0];
    for (kind, name) in names {
        let length = 4 + name.len() + 1;
        bytes.extend((length as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len() + 1 + (length.next_multiple_of(4) - length), 0);
    }
    match netlink::dump_netfilter(Message { kind: what as u16, bytes }) {
        Err(error) if is_absent(&error) => Ok(vec![]),
        answer => answer.map_err(|error| Error::kernel("cannot read nf_tables", error)),
    }
}

fn is_absent(error: &io::Error) -> bool {
    let codes = [Errno::EPROTONOSUPPORT, Errno::EINVAL, Errno::EOPNOTSUPP, Errno::ENOENT];
    error.raw_os_error().is_some_and(|found| codes.iter().any(|code| *code as i32 == found))
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

/// A sequence of netlink attributes, each of a kind; also what is in one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn get(self, kind: u16) -> Option<Self> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attribute at the end of a path of kinds.
    pub(crate) fn at(self, path: &[u16]) -> Option<Self> {
        path.iter().try_fold(self, |outer, kind| outer.get(*kind))
    }

    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.0.try_into().ok()?))
    }

    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        str::from_utf8(self.get(kind)?.0).ok().map(|text| text.trim_end_matches('\0'))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, Self);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff; // without NLA_F_NESTED, NLA_F_NET_BYTEORDER
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, Self(value)))
    }
}

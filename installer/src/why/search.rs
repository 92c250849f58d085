//! Searches of our own, and the answers to them.

use std::net::Ipv4Addr;

use abi::Protocol;
use wire::{names, pva};

use crate::snoop::datagram::{Message, read_payload};

/// Names in one datagram at most: as many as clients send.
pub(super) const MOST: usize = 20;

/// The ids of names in searches of an agent begin so: no client's, as far as other agents can tell. Those of clients are small, or
/// dispersed over all 32 bits.
const MARK: u32 = 0x10ca_0000;

/// The first id of an agent's names.
pub(super) const fn first_id(random: u32) -> u32 {
    MARK | random & 0x7fff
}

/// Whether an agent searches, of whichever node.
pub(super) fn is_agents(asked: &[(u32, String)]) -> bool {
    asked.iter().all(|(id, _)| id >> 16 == MARK >> 16)
}

/// A search for `names`, whose ids count up from `first`; in PV Access to be answered at this port of the sender's, and marked
/// if it is sent to one host.
pub(super) fn search(
    protocol: Protocol,
    first: u32,
    names: &[&str],
    (port, unicast): (u16, bool),
) -> Vec<u8> {
    if protocol != Protocol::Pva {
        return ca_search((first..).zip(names.iter().copied()));
    }
    let mut body = first.to_be_bytes().to_vec();
    body.extend([if unicast { pva::UNICAST } else { 0 }, 0, 0, 0]);
    body.extend([0; 16]); // any address: the sender's
    body.extend(port.to_be_bytes());
    body.extend(pva_names(first, names));
    [&[pva::MAGIC, 2, 0x80, pva::SEARCH][..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

/// As libca sends it: a version message, then one search a name, which nobody is to answer in the negative.
fn ca_search<'a>(names: impl Iterator<Item = (u32, &'a str)>) -> Vec<u8> {
    let mut datagram = vec![0, 0, 0, 0, 0, 1, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0];
    for (id, name) in names {
        let size = (name.len() + 1).next_multiple_of(8);
        datagram.extend([&[0, 6][..], &(size as u16).to_be_bytes(), &[0, 5, 0, 13]].concat());
        datagram.extend([id.to_be_bytes(), id.to_be_bytes()].concat());
        datagram.extend(name.as_bytes());
        datagram.resize(datagram.len() + size - name.len(), 0);
    }
    datagram
}

/// What PVXS sends after the port, big endian: that answers are to name TCP, and the names.
fn pva_names(first: u32, names: &[&str]) -> Vec<u8> {
    let mut bytes = b"\x01\x03tcp".to_vec();
    bytes.extend((names.len() as u16).to_be_bytes());
    for (id, name) in (first..).zip(names) {
        bytes.extend(id.to_be_bytes());
        bytes.extend(size(name.len()));
        bytes.extend(name.as_bytes());
    }
    bytes
}

/// A size in PV Access: one byte, or 254 and four bytes.
fn size(length: usize) -> Vec<u8> {
    match u8::try_from(length) {
        Ok(length @ 0..254) => vec![length],
        _ => [&[254][..], &(length as u32).to_be_bytes()].concat(),
    }
}

/// A server's answer to a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The ids of the names that it has.
    pub(super) ids: Vec<u32>,
    /// The address that it names, if it names one.
    pub(super) address: Option<Ipv4Addr>,
    /// Its TCP port.
    pub(super) port: u16,
    /// What identifies it in PV Access, wherever its answers come from; empty in Channel Access.
    pub(super) guid: Vec<u8>,
}

/// Reads an answer; `None` if it is none.
pub(super) fn answer(protocol: Protocol, payload: &[u8]) -> Option<Answer> {
    let (Message::Reply(ids), Some(named)) = read_payload(protocol, payload) else { return None };
    let address = Ipv4Addr::from(named.address);
    let guid = if protocol == Protocol::Pva { payload.get(8..20)?.to_vec() } else { vec![] };
    Some(Answer { ids, address: (!address.is_unspecified()).then_some(address), port: named.port, guid })
}

/// The names that a datagram searches for, with the protocol; none if it is no search.
pub(super) fn searched(payload: &[u8]) -> Option<(Protocol, Vec<String>)> {
    let text = |(_, name): (u32, &[u8])| String::from_utf8_lossy(name).into_owned();
    let ca: Vec<_> = names::ca_search(payload).map(text).collect();
    if !ca.is_empty() {
        return Some((Protocol::Ca, ca));
    }
    let pva: Vec<_> = names::pva_search(payload).map(text).collect();
    (!pva.is_empty()).then_some((Protocol::Pva, pva))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_knows_the_searches_of_others() {
        let named = |id| vec![(id, "A:NAME".to_owned())];
        assert!([0, 12_345, u32::MAX].into_iter().all(|random| is_agents(&named(first_id(random)))));
        assert!([1, 0x3456_789a].into_iter().all(|id| !is_agents(&named(id))));
    }

    #[test]
    fn what_is_searched_for_is_read_again() {
        let long = "X".repeat(300);
        for protocol in [Protocol::Ca, Protocol::Pva] {
            let datagram = search(protocol, 7, &["A:NAME", "B", &long], (4000, true));
            let names = ["A:NAME", "B", &long].map(str::to_owned).to_vec();
            assert_eq!(searched(&datagram), Some((protocol, names)));
        }
        assert_eq!(searched(b"hello"), None);
    }

    #[test]
    fn an_answer_names_its_server() {
        let ca = [0, 6, 0, 8, 0xee, 0x48, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 7, 0, 13, 0, 0, 0, 0, 0, 0];
        let found = answer(Protocol::Ca, &ca);
        assert_eq!(found, Some(Answer { ids: vec![7], address: None, port: 0xee48, guid: vec![] }));
        assert_eq!(answer(Protocol::Pva, &ca), None);
        assert_eq!(answer(Protocol::Ca, &search(Protocol::Ca, 1, &["A"], (0, false))), None);
    }
}

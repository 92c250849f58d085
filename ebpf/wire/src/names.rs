//! The PV names in a search, and which of them a reply answers. Used by `snoop`; the programs in the kernel only look at the
//! first bytes of a datagram.
//!
//! A search gives each name an id that the client chooses, and a reply repeats the ids of the names that the server has.
//! Reading stops where a datagram is malformed.

use crate::{
    Direction, Order,
    ca::{self, EXTENDED, EXTENSION},
    pva::{self, Body, MAGIC, SEARCH_BODY, SEARCH_REPLY, SERVER_BODY},
};

/// Whether these first bytes may be a search reply of Channel Access: the version message, or a reply itself.
#[inline(always)]
pub const fn begins_ca_reply(start: [u8; 4]) -> bool {
    matches!(start, [0, 0, 0, 0] | [0, 6, 0, 8])
}

/// Whether these first bytes may be a search reply of PV Access.
#[inline(always)]
pub const fn begins_pva_reply(start: [u8; 4]) -> bool {
    start[0] == MAGIC && start[3] == SEARCH_REPLY
}

/// Data types in a search of Channel Access: whether the server should reply if it does not have the name. In a reply this
/// field is the server's TCP port.
const CA_SEARCHES: [u16; 2] = [5, 10];

/// The ids and names in a search of Channel Access.
pub fn ca_search(datagram: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    ca_messages(datagram).filter(|message| CA_SEARCHES.contains(&message.data_type)).map(|message| {
        let end = message.payload.iter().position(|byte| *byte == 0).unwrap_or(message.payload.len());
        (message.id, &message.payload[..end])
    })
}

/// The ids in a search reply of Channel Access.
pub fn ca_reply(datagram: &[u8]) -> impl Iterator<Item = u32> {
    ca_messages(datagram)
        .filter(|message| !CA_SEARCHES.contains(&message.data_type))
        .map(|message| message.id)
}

/// A search or a search reply of Channel Access.
struct CaMessage<'a> {
    data_type: u16,
    id: u32,
    payload: &'a [u8],
}

/// The searches and search replies in a datagram of Channel Access.
fn ca_messages(datagram: &[u8]) -> impl Iterator<Item = CaMessage<'_>> {
    let mut rest = datagram;
    let messages = core::iter::from_fn(move || {
        let (header, after) = rest.split_first_chunk::<{ ca::HEADER as usize }>()?;
        let [c0, c1, s0, s1, t0, t1, _, _, _, _, _, _, id @ ..] = *header;
        let (size, after) = match u16::from_be_bytes([s0, s1]) {
            EXTENDED => {
                let (extension, after) = after.split_first_chunk::<{ EXTENSION as usize }>()?;
                (u32::from_be_bytes(*extension.first_chunk()?) as usize, after)
            }
            size => (usize::from(size), after),
        };
        let (payload, after) = after.split_at_checked(size)?;
        rest = after;
        let message =
            CaMessage { data_type: u16::from_be_bytes([t0, t1]), id: u32::from_be_bytes(id), payload };
        Some((u16::from_be_bytes([c0, c1]), message))
    });
    messages.filter(|(command, _)| *command == ca::SEARCH).map(|(_, message)| message)
}

/// The ids and names in a search of PV Access; none in one that only discovers servers.
pub fn pva_search(datagram: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let (mut reader, mut left) = begin_pva_search(datagram).unwrap_or((Reader::EMPTY, 0));
    core::iter::from_fn(move || {
        left = u16::checked_sub(left, 1)?;
        Some((reader.u32()?, reader.string()?))
    })
    .fuse()
}

/// The first name of a search, and how many there are.
fn begin_pva_search(datagram: &[u8]) -> Option<(Reader<'_>, u16)> {
    let Body::Search(order) = pva_body(datagram, Direction::Announce)? else { return None };
    let mut reader = Reader { rest: datagram.get((pva::HEADER + SEARCH_BODY) as usize..)?, order };
    for _ in 0..reader.size()? {
        reader.string()?; // a protocol
    }
    let count = reader.u16()?;
    Some((reader, count))
}

/// The ids in a search reply of PV Access; none in one that says "not found".
pub fn pva_reply(datagram: &[u8]) -> impl Iterator<Item = u32> {
    let (mut reader, mut left) = begin_pva_reply(datagram).unwrap_or((Reader::EMPTY, 0));
    core::iter::from_fn(move || {
        left = u16::checked_sub(left, 1)?;
        reader.u32()
    })
    .fuse()
}

/// The first id of a reply, and how many there are.
fn begin_pva_reply(datagram: &[u8]) -> Option<(Reader<'_>, u16)> {
    let Body::Server(_, order) = pva_body(datagram, Direction::Answer)? else { return None };
    let mut reader = Reader { rest: datagram.get((pva::HEADER + SERVER_BODY) as usize..)?, order };
    let [found] = reader.take()?;
    let count = reader.u16()?;
    (found != 0).then_some((reader, count))
}

fn pva_body(datagram: &[u8], direction: Direction) -> Option<Body> {
    pva::message(datagram.first_chunk()?, u32::try_from(datagram.len()).ok()?, direction).ok()
}

/// The unread part of a message, and its byte order.
struct Reader<'a> {
    rest: &'a [u8],
    order: Order,
}

impl<'a> Reader<'a> {
    const EMPTY: Self = Self { rest: &[], order: Order::Big };

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(|bytes| self.order.port(bytes))
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take()?;
        Some(match self.order {
            Order::Big => u32::from_be_bytes(bytes),
            Order::Little => u32::from_le_bytes(bytes),
        })
    }

    /// A size: one byte, or 254 and four bytes; 255 means null.
    fn size(&mut self) -> Option<usize> {
        match self.take()? {
            [255] => Some(0),
            [254] => usize::try_from(self.u32()?).ok(),
            [size] => Some(usize::from(size)),
        }
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let size = self.size()?;
        let (string, rest) = self.rest.split_at_checked(size)?;
        self.rest = rest;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::{CPP_REPLY, CPP_SEARCH, PVXS_REPLY, PVXS_SEARCH, bytes};
    use proptest::prelude::*;

    fn text<'a>(found: impl Iterator<Item = (u32, &'a [u8])>) -> Vec<(u32, &'a str)> {
        found.map(|(id, name)| (id, core::str::from_utf8(name).unwrap())).collect()
    }

    /// libca asking for `H2:AO` and `H2:COUNT` (captured).
    const CA_SEARCH: &str = "000000000001000d 0000000100000000 \
        000600080005000d 0000000100000001 4832 3a41 4f00 0000 \
        000600100005000d 0000000300000003 4832 3a43 4f55 4e54 0000 0000 0000 0000";
    /// RSRV answering for two names (captured).
    const CA_REPLY: &str = "000000000001000d 0000000100000000 \
        0006000813c80000 ffffffff00000001 000d000000000000 0006000813c80000 ffffffff00000002 000d000000000000";
    #[test]
    fn a_captured_search_of_channel_access_gives_its_ids_and_names() {
        assert_eq!(text(ca_search(&bytes(CA_SEARCH))), [(1, "H2:AO"), (3, "H2:COUNT")]);
    }

    #[test]
    fn a_captured_reply_of_channel_access_gives_the_ids_that_it_answers() {
        assert_eq!(ca_reply(&bytes(CA_REPLY)).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn captured_searches_of_pv_access_give_their_ids_and_names_in_both_byte_orders() {
        let pvxs = bytes(PVXS_SEARCH);
        assert_eq!(text(pva_search(&pvxs)), [(0x1234_5678, "H2:AO"), (0x1234_5679, "H2:STR")]);
        assert_eq!(text(pva_search(&bytes(CPP_SEARCH))), [(0x1020_3041, "H2:AO")]);
    }

    #[test]
    fn captured_replies_of_pv_access_give_the_ids_that_they_answer() {
        assert_eq!(pva_reply(&bytes(PVXS_REPLY)).collect::<Vec<_>>(), [0x1234_5678, 0x1234_5679]);
        assert_eq!(pva_reply(&bytes(CPP_REPLY)).collect::<Vec<_>>(), [0x1020_3041]);
    }

    #[test]
    fn a_reply_that_says_not_found_answers_nothing() {
        let not_found = PVXS_REPLY.replacen("03746370 01", "03746370 00", 1);
        assert_eq!(pva_reply(&bytes(&not_found)).count(), 0);
    }

    #[test]
    fn a_search_and_a_reply_are_not_taken_for_each_other() {
        assert_eq!(pva_reply(&bytes(PVXS_SEARCH)).count(), 0);
        assert_eq!(pva_search(&bytes(PVXS_REPLY)).count(), 0);
        assert_eq!(ca_reply(&bytes(CA_SEARCH)).count(), 0);
        assert_eq!(ca_search(&bytes(CA_REPLY)).count(), 0);
    }

    #[test]
    fn captured_replies_begin_as_replies_do_and_searches_of_pv_access_do_not() {
        let start = |hex: &str| *bytes(hex).first_chunk().unwrap();
        assert!(
            begins_ca_reply(start(CA_REPLY))
                && begins_ca_reply(*bytes(CA_REPLY)[16..].first_chunk().unwrap())
        );
        assert!(begins_pva_reply(start(PVXS_REPLY)) && begins_pva_reply(start(CPP_REPLY)));
        assert!(!begins_pva_reply(start(PVXS_SEARCH)) && !begins_ca_reply(start(PVXS_REPLY)));
    }

    #[test]
    fn a_search_cut_short_gives_the_names_before_the_cut() {
        let search = bytes(CA_SEARCH);
        assert_eq!(text(ca_search(&search[..search.len() - 1])), [(1, "H2:AO")]);
    }

    fn size(order: Order, size: u32) -> Vec<u8> {
        let size = if order == Order::Big { size.to_be_bytes() } else { size.to_le_bytes() };
        [&[254][..], &size].concat()
    }

    proptest! {
        #[test]
        fn whatever_arrives_names_lie_inside_the_datagram(
            mut datagram in prop::collection::vec(prop_oneof![Just(0u8), Just(6), Just(3), Just(8), any::<u8>()], 48..300),
            command in prop::sample::select(vec![3u8, 4]),
            big in any::<bool>(),
            sound in any::<bool>(),
        ) {
            if sound {
                let length = datagram.len() as u32 - 8;
                let (flags, length) =
                    if big { (0x80, length.to_be_bytes()) } else { (0, length.to_le_bytes()) };
                datagram[..4].copy_from_slice(&[MAGIC, 2, flags, command]);
                datagram[4..8].copy_from_slice(&length);
            }
            let inside = |name: &[u8]| datagram.as_ptr_range().contains(&name.as_ptr()) || name.is_empty();
            prop_assert!(ca_search(&datagram).all(|(_, name)| inside(name)));
            prop_assert!(pva_search(&datagram).all(|(_, name)| inside(name)));
            prop_assert!(ca_reply(&datagram).count() <= datagram.len() / 16);
            prop_assert!(pva_reply(&datagram).count() <= datagram.len() / 4);
        }

        #[test]
        fn names_of_any_length_are_read_back(
            names in prop::collection::vec("[A-Z:]{0,300}", 0..8),
            big in any::<bool>(),
        ) {
            let order = if big { Order::Big } else { Order::Little };
            let mut body = vec![0; SEARCH_BODY as usize];
            body.extend_from_slice(&[1, 3, b't', b'c', b'p']);
            body.extend_from_slice(&order.bytes(names.len() as u16));
            for name in &names {
                body.extend_from_slice(&[0; 4]);
                body.extend_from_slice(&size(order, name.len() as u32));
                body.extend_from_slice(name.as_bytes());
            }
            let length = &size(order, body.len() as u32)[1..];
            let header = [&[MAGIC, 2, if big { 0x80 } else { 0 }, 3], length].concat();
            let datagram = [header, body].concat();
            let found = text(pva_search(&datagram));
            prop_assert_eq!(found.iter().map(|(_, name)| *name).collect::<Vec<_>>(), names);
        }
    }
}

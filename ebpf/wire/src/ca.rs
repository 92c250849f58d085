//! Channel Access over UDP: a datagram is a chain of messages, each a 16-byte header and a padded payload.
//!
//! All fields are big endian. Source: "Channel Access Protocol Specification" (epics-docs), and captures of libca,
//! RSRV and caproto. Header: command u16 @0, payload size u16 @2, data type u16 @4, data count u16 @6,
//! parameter 1 u32 @8, parameter 2 u32 @12.
//!
//! A search carries no address: the server answers to the datagram's source. A search *reply* carries the server's
//! TCP port in the data type field and its address in parameter 1 (`ffffffff`: the datagram's source). A beacon carries
//! the TCP port in the data count field and the address in parameter 2 (0: the datagram's source).
//!
//! A server executes the messages of a datagram in order and stops at one that is not complete, or at fewer bytes than a header
//! has: what came before is answered (RSRV, `camessage.c`). So such a rest makes no search malformed. Answers are read
//! strictly, because they pass by NetworkPolicy.

use crate::{Direction, Kind, Malformed, Named, Order, Step};

/// Bytes in a message header.
pub const HEADER: u32 = 16;
/// Messages in the longest chain we walk; libca and RSRV send at most 1024 bytes, which hold 64 headers.
pub const MAX_MESSAGES: u32 = 128;

/// `CA_PROTO_SEARCH`, the command of searches and of their replies.
pub(crate) const SEARCH: u16 = 6;
/// `CA_PROTO_VERSION`, which comes before searches and replies.
const VERSION: u16 = 0;
/// `CA_PROTO_NOT_FOUND`, a reply to a search that asks for one.
const NOT_FOUND: u16 = 14;
/// Bytes of payload in a reply: the server's minor version, padded.
const REPLY_PAYLOAD: u16 = 8;
/// `CA_PROTO_RSRV_IS_UP`, the command of beacons.
const BEACON: u16 = 13;
/// The address in a search reply that leaves it to the datagram's source.
const REPLY_FROM_SOURCE: [u8; 4] = [0xff; 4];
/// The address in a beacon that leaves it to the datagram's source.
const BEACON_FROM_SOURCE: [u8; 4] = [0; 4];
/// Payload size that stands for an extended header: size u32 @16 and count u32 @20. No peer searches so, but RSRV reads it.
pub(crate) const EXTENDED: u16 = 0xffff;
/// Bytes that an extended header has more.
pub(crate) const EXTENSION: u32 = 8;

/// A walk along the messages of one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Offset of the next message, from the start of the UDP payload.
    pub offset: u32,
    end: u32,
    found: u32,
}

impl Chain {
    /// A walk along a UDP payload of `length` bytes.
    #[inline(always)]
    pub const fn new(length: u32) -> Self {
        Self { offset: 0, end: length, found: 0 }
    }

    /// Whether the datagram holds another complete header.
    #[inline(always)]
    pub const fn has_next(&self) -> bool {
        self.offset < self.end && self.end - self.offset >= HEADER
    }

    /// Moves past a message whose header is in the datagram and whose body has `size` bytes.
    #[inline(always)]
    const fn pass(&mut self, size: u32) -> Result<(), Malformed> {
        if !self.has_next() || size > self.end - self.offset - HEADER {
            return Err(Malformed::Truncated);
        }
        self.offset += HEADER + size;
        Ok(())
    }

    /// Ends the walk: nobody reads what follows.
    #[inline(always)]
    const fn stop(&mut self) {
        self.end = self.offset;
    }

    /// Checks that the whole chain was walked, and holds a message of its direction; that of an answer has to end exactly at
    /// the end of the datagram.
    #[inline(always)]
    pub const fn finish(&self, direction: Direction) -> Result<(), Malformed> {
        let rest = self.offset != self.end;
        if self.has_next() {
            Err(Malformed::TooLong)
        } else if rest && (self.found == 0 || matches!(direction, Direction::Answer)) {
            Err(Malformed::Truncated)
        } else if self.found == 0 {
            Err(Malformed::NoMessage)
        } else {
            Ok(())
        }
    }
}

/// Reads the header at [`Chain::offset`] and moves past its message; `load` gives four bytes of the datagram.
#[inline(always)]
pub fn step(
    chain: &mut Chain,
    header: &[u8; HEADER as usize],
    direction: Direction,
    load: impl FnOnce(u32) -> Option<[u8; 4]>,
) -> Result<Step, Malformed> {
    let offset = chain.offset;
    let command = u16::from_be_bytes([header[0], header[1]]);
    let payload = u16::from_be_bytes([header[2], header[3]]);
    if payload == EXTENDED {
        return extended(chain, command, direction, load);
    }
    match (chain.pass(u32::from(payload)), direction) {
        (Err(_), Direction::Announce) => {
            chain.stop();
            return Ok(Step::Opaque);
        }
        (passed, _) => passed?,
    }
    if matches!(direction, Direction::Answer) && !is_answer(command, payload) {
        return Err(Malformed::NoMessage);
    }
    let step = match (command, direction) {
        (SEARCH, Direction::Announce) => Step::Plain(Kind::Search),
        (SEARCH, Direction::Answer) => {
            let address = [header[8], header[9], header[10], header[11]];
            Step::Names(Kind::Reply, server(header, offset, (4, 8), address, REPLY_FROM_SOURCE))
        }
        (BEACON, Direction::Announce) => {
            let address = [header[12], header[13], header[14], header[15]];
            Step::Names(Kind::Beacon, server(header, offset, (6, 12), address, BEACON_FROM_SOURCE))
        }
        _ => return Ok(Step::Opaque),
    };
    chain.found |= 1; // not a count: the verifier would follow every value of it
    Ok(step)
}

/// Reads a message with an extended header, which is a search or nothing of interest: beacons and answers have none.
#[inline(always)]
fn extended(
    chain: &mut Chain,
    command: u16,
    direction: Direction,
    load: impl FnOnce(u32) -> Option<[u8; 4]>,
) -> Result<Step, Malformed> {
    if matches!(direction, Direction::Answer) {
        return Err(Malformed::Header);
    }
    let size = load(chain.offset + HEADER).map_or(u32::MAX, u32::from_be_bytes);
    if size > u32::from(u16::MAX) || chain.pass(EXTENSION + size).is_err() {
        chain.stop();
        return Ok(Step::Opaque);
    }
    if command != SEARCH {
        return Ok(Step::Opaque);
    }
    chain.found |= 1;
    Ok(Step::Plain(Kind::Search))
}

/// Whether servers say this to a client that searches: answers pass by NetworkPolicy, so they carry nothing else.
#[inline(always)]
const fn is_answer(command: u16, payload: u16) -> bool {
    match command {
        VERSION | NOT_FOUND => payload == 0,
        SEARCH => payload <= REPLY_PAYLOAD,
        _ => false,
    }
}

/// The server in a message at `offset` whose port and address are `at` these offsets in its header.
#[inline(always)]
fn server(
    header: &[u8; HEADER as usize],
    offset: u32,
    at: (u32, u32),
    address: [u8; 4],
    from_source: [u8; 4],
) -> Named {
    let port = if at.0 == 4 { [header[4], header[5]] } else { [header[6], header[7]] };
    Named {
        port_at: offset + at.0,
        address_at: offset + at.1,
        port: u16::from_be_bytes(port),
        order: Order::Big,
        address: if address == from_source { [0; 4] } else { address },
        unsupported: false,
    }
}

/// Calls `visit` for every message of `datagram`, once the whole chain has been validated.
pub fn walk(datagram: &[u8], direction: Direction, mut visit: impl FnMut(Step)) -> Result<(), Malformed> {
    each(datagram, direction, |_| ())?;
    each(datagram, direction, &mut visit)
}

fn each(datagram: &[u8], direction: Direction, mut visit: impl FnMut(Step)) -> Result<(), Malformed> {
    let mut chain = Chain::new(u32::try_from(datagram.len()).map_err(|_| Malformed::TooLong)?);
    for _ in 0..MAX_MESSAGES {
        if !chain.has_next() {
            break;
        }
        let Some(header) = datagram.get(chain.offset as usize..).and_then(|rest| rest.first_chunk()) else {
            break;
        };
        let load = |at: u32| datagram.get(at as usize..)?.first_chunk().copied();
        visit(step(&mut chain, header, direction, load)?);
    }
    chain.finish(direction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// libca asking for `H2:AO` (captured).
    const SEARCH_REQUEST: [u8; 40] = [
        0, 0, 0, 0, 0, 1, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, //
        0, 6, 0, 8, 0, 5, 0, 13, 0, 0, 0, 1, 0, 0, 0, 1, 0x48, 0x32, 0x3a, 0x41, 0x4f, 0, 0, 0,
    ];
    /// RSRV answering for two names from TCP port 5064 (captured).
    const SEARCH_REPLY: [u8; 64] = [
        0, 0, 0, 0, 0, 1, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0, //
        0, 6, 0, 8, 0x13, 0xc8, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 13, 0, 0, 0, 0, 0, 0, //
        0, 6, 0, 8, 0x13, 0xc8, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2, 0, 13, 0, 0, 0, 0, 0, 0,
    ];
    /// RSRV's fifth beacon, from TCP port 5064 (captured).
    const BEACON: [u8; 16] = [0, 13, 0, 0, 0, 13, 0x13, 0xc8, 0, 0, 0, 5, 0, 0, 0, 0];

    fn steps(datagram: &[u8], direction: Direction) -> Result<Vec<Step>, Malformed> {
        let mut found = vec![];
        walk(datagram, direction, |step| found.push(step))?;
        Ok(found)
    }

    fn servers(datagram: &[u8]) -> Result<Vec<(u32, u16)>, Malformed> {
        let found = steps(datagram, Direction::Answer)?;
        Ok(found
            .iter()
            .filter_map(|step| match step {
                Step::Names(Kind::Reply, named) => Some((named.port_at, named.port)),
                _ => None,
            })
            .collect())
    }

    #[test]
    fn a_captured_search_names_no_server() {
        let found = steps(&SEARCH_REQUEST, Direction::Announce).unwrap();
        assert_eq!(found, [Step::Opaque, Step::Plain(Kind::Search)]);
    }

    #[test]
    fn every_record_of_a_captured_reply_names_the_tcp_port() {
        assert_eq!(servers(&SEARCH_REPLY), Ok(vec![(20, 5064), (44, 5064)]));
    }

    #[test]
    fn a_captured_beacon_names_the_tcp_port_and_leaves_the_address_to_its_source() {
        let named = Named {
            port_at: 6,
            address_at: 12,
            port: 5064,
            order: Order::Big,
            address: [0; 4],
            unsupported: false,
        };
        assert_eq!(steps(&BEACON, Direction::Announce), Ok(vec![Step::Names(Kind::Beacon, named)]));
        let mut explicit = BEACON;
        explicit[12..].copy_from_slice(&[10, 244, 1, 5]);
        let named = Named { address: [10, 244, 1, 5], ..named };
        assert_eq!(steps(&explicit, Direction::Announce), Ok(vec![Step::Names(Kind::Beacon, named)]));
    }

    #[test]
    fn the_longest_datagram_of_libca_is_walked_to_its_end() {
        let mut datagram = SEARCH_REPLY[..16].to_vec();
        for _ in 0..42 {
            datagram.extend_from_slice(&SEARCH_REPLY[16..40]);
        }
        assert_eq!(datagram.len(), 1024);
        assert_eq!(servers(&datagram).map(|found| found.len()), Ok(42));
    }

    #[test]
    fn a_reply_cut_short_anywhere_is_refused_whole() {
        for length in 0..SEARCH_REPLY.len() {
            let found = servers(&SEARCH_REPLY[..length]);
            match length {
                0 | 16 => assert_eq!(found, Err(Malformed::NoMessage)),
                40 => assert_eq!(found, Ok(vec![(20, 5064)])),
                _ => assert_eq!(found, Err(Malformed::Truncated), "{length} bytes"),
            }
        }
    }

    #[test]
    fn an_answer_with_an_extended_header_is_refused() {
        let mut datagram = SEARCH_REPLY;
        datagram[18..20].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(servers(&datagram), Err(Malformed::Header));
    }

    /// The captured search with an extended header: the same name, its size in 32 bits.
    fn extended_search() -> Vec<u8> {
        let mut datagram = SEARCH_REQUEST[..32].to_vec();
        datagram[18..20].copy_from_slice(&[0xff, 0xff]);
        datagram.extend([0, 0, 0, 8, 0, 0, 0, 13]);
        datagram.extend(&SEARCH_REQUEST[32..]);
        datagram
    }

    #[test]
    fn a_search_with_an_extended_header_is_one() {
        let found = [Step::Opaque, Step::Plain(Kind::Search)];
        let datagram = extended_search();
        assert_eq!(steps(&datagram, Direction::Announce), Ok(found.to_vec()));
        for length in 17..datagram.len() {
            assert!(steps(&datagram[..length], Direction::Announce).is_err(), "{length} bytes");
        }
        let mut endless = datagram;
        endless[32..36].copy_from_slice(&[0xff; 4]);
        assert_eq!(steps(&endless, Direction::Announce), Err(Malformed::NoMessage));
    }

    #[test]
    fn what_follows_a_search_does_not_matter_as_far_as_servers_stop_there() {
        for rest in [&[0][..], &[0; 8], &[7; 15], &SEARCH_REQUEST[16..39], &extended_search()[16..47]] {
            let datagram = [&SEARCH_REQUEST[..], rest].concat();
            let searches = steps(&datagram, Direction::Announce)
                .map(|steps| steps.iter().filter(|step| **step == Step::Plain(Kind::Search)).count());
            assert_eq!(searches, Ok(1), "{rest:?}");
        }
        for rest in [1, 8, 15, 39] {
            let datagram = [&SEARCH_REPLY[..], &SEARCH_REPLY[..rest]].concat();
            assert_eq!(servers(&datagram), Err(Malformed::Truncated), "an answer with {rest} bytes more");
        }
    }

    #[test]
    fn a_chain_of_too_many_messages_is_refused() {
        assert_eq!(servers(&[0; 16 * (MAX_MESSAGES as usize + 1)]), Err(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn whatever_arrives_what_is_named_lies_inside_the_datagram(
            datagram in prop::collection::vec(prop_oneof![Just(0u8), Just(6), Just(13), Just(16), any::<u8>()], 0..600),
            answer in any::<bool>(),
        ) {
            let direction = if answer { Direction::Answer } else { Direction::Announce };
            for step in steps(&datagram, direction).unwrap_or_default() {
                if let Step::Names(_, named) = step {
                    prop_assert!(named.port_at as usize + 2 <= datagram.len());
                    prop_assert!(named.address_at as usize + 4 <= datagram.len());
                    let at = named.port_at as usize;
                    prop_assert_eq!(named.order.port([datagram[at], datagram[at + 1]]), named.port);
                }
            }
        }
    }
}

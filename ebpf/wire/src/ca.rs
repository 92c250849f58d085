//! Channel Access over UDP: a datagram is a chain of messages, each a 16-byte header and a padded payload.
//!
//! All fields are big endian. Source: "Channel Access Protocol Specification" (epics-docs), and captures of libca,
//! RSRV and caproto. Header: command u16 @0, payload size u16 @2, data type u16 @4, data count u16 @6,
//! parameter 1 u32 @8, parameter 2 u32 @12.
//!
//! A search carries no address: the server answers to the datagram's source. A search *reply* carries the server's
//! TCP port in the data type field and its address in parameter 1 (`ffffffff`: the datagram's source).

/// Bytes in a message header.
pub const HEADER: u32 = 16;
/// `CA_PROTO_SEARCH`, the command of searches and of their replies.
pub const SEARCH: u16 = 6;
/// Parameter 1 of a search reply when the server's address is the datagram's source.
pub const ADDRESS_IS_SOURCE: [u8; 4] = [0xff; 4];
/// Messages in the longest chain we walk; libca and RSRV send at most 1024 bytes, which hold 64 headers.
pub const MAX_MESSAGES: u32 = 128;
/// Offset of the server's TCP port in a search reply.
pub const REPLY_PORT: u32 = 4;
/// Offset of the server's IPv4 address in a search reply.
pub const REPLY_ADDRESS: u32 = 8;

/// Data count and payload size of a message with an extended header, which UDP never carries.
const EXTENDED: u16 = 0xffff;

/// Who sent the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A client's searches, to UDP port 5064.
    Request,
    /// A server's answers, to the socket that asked.
    Reply,
}

/// Why a datagram is not Channel Access as real peers send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A header or a payload reaches past the end of the datagram.
    Truncated,
    /// A payload size that no UDP message can have.
    Size,
    /// The chain has more than [`MAX_MESSAGES`] messages.
    TooLong,
    /// No message of the chain is a search.
    NoSearch,
}

/// A walk along the messages of one datagram.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Offset of the next header, from the start of the UDP payload.
    pub offset: u32,
    end: u32,
    searches: u32,
}

/// What one message of the chain means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing in it names an address or a port.
    Opaque,
    /// A search reply: TCP `port` at `offset` + [`REPLY_PORT`], `address` at `offset` + [`REPLY_ADDRESS`].
    Server {
        /// Offset of the message, from the start of the UDP payload.
        offset: u32,
        /// The server's TCP port.
        port: u16,
        /// The server's address, or [`ADDRESS_IS_SOURCE`].
        address: [u8; 4],
    },
}

impl Walk {
    /// A walk along a UDP payload of `length` bytes.
    #[inline(always)]
    pub const fn new(length: u32) -> Self {
        Self { offset: 0, end: length, searches: 0 }
    }

    /// Whether the next header lies wholly inside the datagram.
    #[inline(always)]
    pub const fn has_next(&self) -> bool {
        self.offset < self.end && self.end - self.offset >= HEADER
    }

    /// Takes the header at [`Walk::offset`] and moves past its message.
    #[inline(always)]
    pub fn step(&mut self, header: &[u8; HEADER as usize], direction: Direction) -> Result<Step, Malformed> {
        let offset = self.offset;
        let payload = u16::from_be_bytes([header[2], header[3]]);
        if payload == EXTENDED {
            return Err(Malformed::Size);
        }
        let next = offset + HEADER + u32::from(payload);
        if next > self.end {
            return Err(Malformed::Truncated);
        }
        self.offset = next;
        if u16::from_be_bytes([header[0], header[1]]) != SEARCH {
            return Ok(Step::Opaque);
        }
        self.searches += 1;
        Ok(match direction {
            Direction::Request => Step::Opaque,
            Direction::Reply => Step::Server {
                offset,
                port: u16::from_be_bytes([header[4], header[5]]),
                address: [header[8], header[9], header[10], header[11]],
            },
        })
    }

    /// Whether the chain ended exactly at the end of the datagram and searched for something.
    #[inline(always)]
    pub const fn finish(&self) -> Result<(), Malformed> {
        if self.offset < self.end && self.end - self.offset >= HEADER {
            Err(Malformed::TooLong)
        } else if self.offset != self.end {
            Err(Malformed::Truncated)
        } else if self.searches == 0 {
            Err(Malformed::NoSearch)
        } else {
            Ok(())
        }
    }
}

/// Calls `visit` for every message of `datagram`, after the whole chain was found sound.
pub fn walk(datagram: &[u8], direction: Direction, mut visit: impl FnMut(Step)) -> Result<(), Malformed> {
    each(datagram, direction, |_| ())?;
    each(datagram, direction, &mut visit)
}

fn each(datagram: &[u8], direction: Direction, mut visit: impl FnMut(Step)) -> Result<(), Malformed> {
    let mut walk = Walk::new(u32::try_from(datagram.len()).map_err(|_| Malformed::TooLong)?);
    for _ in 0..MAX_MESSAGES {
        let Some(header) = datagram.get(walk.offset as usize..).and_then(|rest| rest.first_chunk()) else {
            break;
        };
        visit(walk.step(header, direction)?);
    }
    walk.finish()
}

/// The address a LAN client must read where a server in `pod` wrote `address`; `None` where the server speaks for
/// another host, as a name server does, so that neither its address nor its port is ours to change.
#[inline(always)]
pub fn address_on_lan(address: [u8; 4], pod: [u8; 4], uplink: [u8; 4]) -> Option<[u8; 4]> {
    if address == ADDRESS_IS_SOURCE {
        Some(address)
    } else if address == pod {
        Some(uplink)
    } else {
        None
    }
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

    fn servers(datagram: &[u8]) -> Result<Vec<(u32, u16)>, Malformed> {
        let mut found = vec![];
        walk(datagram, Direction::Reply, |step| {
            if let Step::Server { offset, port, .. } = step {
                found.push((offset, port));
            }
        })?;
        Ok(found)
    }

    #[test]
    fn a_captured_search_names_no_server() {
        let mut steps = vec![];
        walk(&SEARCH_REQUEST, Direction::Request, |step| steps.push(step)).unwrap();
        assert_eq!(steps, [Step::Opaque, Step::Opaque]);
    }

    #[test]
    fn every_record_of_a_captured_reply_names_the_tcp_port() {
        assert_eq!(servers(&SEARCH_REPLY), Ok(vec![(16, 5064), (40, 5064)]));
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
                0 | 16 => assert_eq!(found, Err(Malformed::NoSearch)),
                40 => assert_eq!(found, Ok(vec![(16, 5064)])),
                _ => assert_eq!(found, Err(Malformed::Truncated), "{length} bytes"),
            }
        }
    }

    #[test]
    fn an_extended_header_is_refused() {
        let mut datagram = SEARCH_REPLY;
        datagram[18..20].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(servers(&datagram), Err(Malformed::Size));
    }

    #[test]
    fn a_chain_of_too_many_messages_is_refused() {
        assert_eq!(servers(&[0; 16 * (MAX_MESSAGES as usize + 1)]), Err(Malformed::TooLong));
    }

    #[test]
    fn a_server_that_names_itself_is_renamed_and_one_that_names_another_is_left_alone() {
        let (pod, uplink, other) = ([10, 244, 1, 5], [172, 23, 0, 10], [172, 23, 0, 99]);
        assert_eq!(address_on_lan(ADDRESS_IS_SOURCE, pod, uplink), Some(ADDRESS_IS_SOURCE));
        assert_eq!(address_on_lan(pod, pod, uplink), Some(uplink));
        assert_eq!(address_on_lan(other, pod, uplink), None);
    }

    proptest! {
        #[test]
        fn whatever_arrives_a_named_server_lies_inside_the_datagram(datagram in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(found) = servers(&datagram) {
                for (offset, _) in found {
                    prop_assert!(offset as usize + HEADER as usize <= datagram.len());
                    prop_assert_eq!(datagram[offset as usize..][..2].to_vec(), SEARCH.to_be_bytes().to_vec());
                }
            }
        }
    }
}

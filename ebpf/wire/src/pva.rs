//! PV Access over UDP, versions 2 and 3: one message a datagram, an 8-byte header and a body.
//!
//! pvAccessCPP accepts several messages in a datagram, but the only datagrams with two are those that begin with an origin
//! tag, and these never leave their host.
//!
//! Header: magic `CA`, version u8, flags u8, command u8, body size u32. Flag 0x80: this message is big endian;
//! PVXS always sends big endian over UDP, pvAccessCPP its machine's byte order. Flag 0x01: a control message without a body.
//! Addresses are 16 bytes, IPv4 mapped into IPv6; all zeros or `::ffff:0.0.0.0` leave it to the datagram's source.
//! Sources: "pvAccess Protocol Messages" (epics-docs), pvxs `src/udp_collector.cpp`, and captures of both implementations.
//!
//! | message | named | address @ | port @ |
//! |---|---|---|---|
//! | search (3) | where to send answers, UDP | 16 | 32 |
//! | search reply (4), beacon (0) | the server, TCP | 24 | 40 |

use crate::{Direction, Kind, Malformed, Named, Order};

/// Bytes in a message header.
pub const HEADER: u32 = 8;
/// Bytes of a search's body up to the port to answer to.
pub const SEARCH_BODY: u32 = 26;
/// Bytes of a search reply's or a beacon's body up to the protocol's name.
pub const SERVER_BODY: u32 = 38;
/// Bytes of a search reply's body up to the channels found, of four bytes each.
pub const REPLY_BODY: u32 = SERVER_BODY + 3;
/// First byte of every message.
pub const MAGIC: u8 = 0xca;
const BIG_ENDIAN: u8 = 0x80;
const SEGMENTED: u8 = 0x30;
const CONTROL: u8 = 0x01;
/// In a message of a server.
const SERVER: u8 = 0x40;
/// Flags without a meaning.
const UNUSED: u8 = 0x0e;
/// The highest version, and the highest command, that implementations use ("pvAccess Protocol Messages"; pvxs `src/pvaproto.h`).
const LAST_VERSION: u8 = 2;
const LAST_COMMAND: u8 = 22;

const BEACON: u8 = 0;
/// The command of a search.
pub const SEARCH: u8 = 3;
pub(crate) const SEARCH_REPLY: u8 = 4;
/// Marks a search that a server forwards to others on its host; it must not leave the host.
const ORIGIN_TAG: u8 = 22;

/// Search flag: sent to one server. pvAccessCPP does not answer a unicast search without it; PVXS forwards one with it.
pub const UNICAST: u8 = 0x80;
/// Offset of the command.
pub const COMMAND: u32 = 3;
/// Offset of the flags in a search.
pub const SEARCH_FLAGS: u32 = 12;

/// How much of a message's body must be read to know what it names. The body begins at [`HEADER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing: the message must not leave its host.
    Local,
    /// The first [`SEARCH_BODY`] bytes, for [`search`].
    Search(Order),
    /// The first [`SERVER_BODY`] bytes, for [`server`].
    Server(Kind, Order),
}

/// The body of the message in a UDP payload of `length` bytes, which holds at least the bytes that this requires.
#[inline(always)]
pub fn message(header: &[u8; HEADER as usize], length: u32, direction: Direction) -> Result<Body, Malformed> {
    let [magic, version, flags, command, size @ ..] = *header;
    if magic != MAGIC || version == 0 || flags & CONTROL != 0 {
        return Err(Malformed::Header);
    }
    // pvAccessCPP takes no notice of what no datagram has, and answers.
    if flags & SEGMENTED != 0 && command != SEARCH {
        return Err(Malformed::Header);
    }
    let order = if is_big_endian(flags) { Order::Big } else { Order::Little };
    let size = body_size(flags, size);
    // Servers read a search to its own end, and take no notice of what follows (pvxs `src/udp_collector.cpp`).
    let rest = length.saturating_sub(HEADER);
    let (body, least) = match (command, direction) {
        (ORIGIN_TAG, _) => return Ok(Body::Local),
        (BEACON, Direction::Announce) => (Body::Server(Kind::Beacon, order), SERVER_BODY),
        (SEARCH, Direction::Announce) if size <= rest && rest >= SEARCH_BODY => {
            return Ok(Body::Search(order));
        }
        (SEARCH, Direction::Announce) => return Err(Malformed::Truncated),
        (SEARCH_REPLY, Direction::Answer) => (Body::Server(Kind::Reply, order), REPLY_BODY),
        _ => return Err(Malformed::NoMessage),
    };
    if size < least || size != rest {
        return Err(Malformed::Truncated);
    }
    Ok(body)
}

/// Where a search expects its answers.
#[inline(always)]
pub fn search(body: &[u8; SEARCH_BODY as usize], order: Order) -> Named {
    let [_, _, _, _, _, _, _, _, rest @ ..] = *body;
    let [address @ .., p0, p1] = rest;
    let port = order.port([p0, p1]);
    let (address, unsupported) = mapped(&address);
    Named { port_at: 32, address_at: 28, port, order, address, unsupported }
}

/// Whether a search reply of `length` bytes ends with the channels found, given the bytes from [`SERVER_BODY`] to
/// [`REPLY_BODY`]: answers pass by NetworkPolicy, so they carry nothing else.
#[inline(always)]
pub fn ends_with_channels(length: u32, [_, c0, c1]: [u8; 3], order: Order) -> bool {
    length == HEADER + REPLY_BODY + 4 * u32::from(order.port([c0, c1]))
}

/// The server that a search reply or a beacon names.
#[inline(always)]
pub fn server(body: &[u8; SERVER_BODY as usize], order: Order) -> Named {
    // GUID 12, sequence 4 (a beacon: flags, sequence, change count), address 16, port 2, protocol 1 + 3.
    let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, rest @ ..] = *body;
    let [address @ .., p0, p1, l, a, b, c] = rest;
    let over_tcp = [l, a, b, c] == *b"\x03tcp" || [l, a, b, c] == *b"\x03tls";
    let (address, unsupported) = mapped(&address);
    Named {
        port_at: 40,
        address_at: 36,
        port: order.port([p0, p1]),
        order,
        address,
        unsupported: unsupported || !over_tcp,
    }
}

/// The IPv4 address in a 16-byte field, zeros if it is left to the source, and whether the field holds something else.
#[inline(always)]
fn mapped(field: &[u8; 16]) -> ([u8; 4], bool) {
    let [p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, f0, f1, a, b, c, d] = *field;
    let prefix = p0 | p1 | p2 | p3 | p4 | p5 | p6 | p7 | p8 | p9;
    let is_mapped = prefix == 0 && f0 & f1 == 0xff;
    let is_zero = prefix | f0 | f1 | a | b | c | d == 0;
    ([a, b, c, d], !is_mapped && !is_zero)
}

/// Whether a 16-byte address field leaves the address to the packet's source.
#[inline(always)]
pub fn is_any(field: &[u8; 16]) -> bool {
    mapped(field) == ([0; 4], false)
}

/// A message in a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InCircuit {
    /// Whether it is a valid message.
    pub sound: bool,
    /// Whether it is a search reply long enough for a port.
    pub reply: bool,
    /// Bytes of its body.
    pub size: u32,
}

/// Reads the header of a message in a circuit. Each part of a segmented message has its own header.
#[inline(always)]
pub fn in_circuit(header: &[u8; HEADER as usize]) -> InCircuit {
    let [magic, version, flags, command, size @ ..] = *header;
    let size = body_size(flags, size);
    let control = flags & CONTROL != 0;
    let reply = command == SEARCH_REPLY && flags & (SEGMENTED | CONTROL) == 0 && size >= SERVER_BODY;
    InCircuit { sound: magic == MAGIC && version != 0, reply, size: if control { 0 } else { size } }
}

/// Whether bytes that may stand anywhere in a circuit are the header of a server's message, as far as can be told.
#[inline(always)]
pub fn begins_message_of_server(header: &[u8; HEADER as usize]) -> bool {
    let [magic, version, flags, command, ..] = *header;
    magic == MAGIC
        && (1..=LAST_VERSION).contains(&version)
        && flags & (SERVER | UNUSED) == SERVER
        && command <= LAST_COMMAND
}

/// Length of the body according to a header with these flags, bytes.
#[inline(always)]
fn body_size(flags: u8, size: [u8; 4]) -> u32 {
    if is_big_endian(flags) { u32::from_be_bytes(size) } else { u32::from_le_bytes(size) }
}

/// Whether a message with these flags is big endian.
#[inline(always)]
pub const fn is_big_endian(flags: u8) -> bool {
    flags & BIG_ENDIAN != 0
}

/// The kind of a whole datagram, and the transport address that it names. `None` if it must not leave its host.
pub fn parse(datagram: &[u8], direction: Direction) -> Result<Option<(Kind, Named)>, Malformed> {
    let header = datagram.first_chunk().ok_or(Malformed::Truncated)?;
    let length = u32::try_from(datagram.len()).map_err(|_| Malformed::TooLong)?;
    let message = message(header, length, direction)?;
    let body = &datagram[HEADER as usize..];
    Ok(match message {
        Body::Local => None,
        Body::Search(order) => {
            Some((Kind::Search, search(body.first_chunk().ok_or(Malformed::Truncated)?, order)))
        }
        Body::Server(kind, order) => {
            let named = server(body.first_chunk().ok_or(Malformed::Truncated)?, order);
            let tail = body[SERVER_BODY as usize..].first_chunk();
            if kind == Kind::Reply && !tail.is_some_and(|tail| ends_with_channels(length, *tail, order)) {
                return Err(Malformed::TooLong);
            }
            Some((kind, named))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::{CPP_REPLY, CPP_SEARCH, FORWARDED, PVXS_BEACON, PVXS_REPLY, PVXS_SEARCH, bytes};
    use proptest::prelude::*;

    fn read(hex: &str, direction: Direction) -> Result<Option<(Kind, Named)>, Malformed> {
        parse(&bytes(hex), direction)
    }

    fn named(at: u32, port: u16, order: Order) -> Named {
        Named { port_at: at, address_at: at - 4, port, order, address: [0; 4], unsupported: false }
    }

    #[test]
    fn captured_searches_name_the_port_to_answer_to_in_both_byte_orders() {
        let expected = |port, order| Ok(Some((Kind::Search, named(32, port, order))));
        assert_eq!(read(PVXS_SEARCH, Direction::Announce), expected(33754, Order::Big));
        assert_eq!(read(CPP_SEARCH, Direction::Announce), expected(41277, Order::Little));
    }

    #[test]
    fn only_a_unicast_search_says_so() {
        let flag = |hex: &str| bytes(hex)[SEARCH_FLAGS as usize] & UNICAST != 0;
        assert_eq!((flag(PVXS_SEARCH), flag(CPP_SEARCH)), (false, true));
    }

    #[test]
    fn captured_replies_and_beacons_name_the_servers_tcp_port() {
        let expected = |kind, order| Ok(Some((kind, named(40, 5075, order))));
        assert_eq!(read(PVXS_REPLY, Direction::Answer), expected(Kind::Reply, Order::Big));
        assert_eq!(read(CPP_REPLY, Direction::Answer), expected(Kind::Reply, Order::Little));
        assert_eq!(read(PVXS_BEACON, Direction::Announce), expected(Kind::Beacon, Order::Big));
    }

    #[test]
    fn a_reply_does_not_belong_on_a_well_known_port_nor_a_search_in_an_answer() {
        assert_eq!(read(PVXS_REPLY, Direction::Announce), Err(Malformed::NoMessage));
        assert_eq!(read(PVXS_SEARCH, Direction::Answer), Err(Malformed::NoMessage));
    }

    #[test]
    fn a_search_with_an_origin_tag_is_local() {
        assert_eq!(read(FORWARDED, Direction::Announce), Ok(None));
    }

    #[test]
    fn version_three_is_taken_like_two() {
        let search = PVXS_SEARCH.replacen("ca02", "ca03", 1).replacen("66696e64 00", "66696e64 02", 1);
        let expected = Ok(Some((Kind::Search, named(32, 33754, Order::Big))));
        assert_eq!(read(&search, Direction::Announce), expected);
    }

    #[test]
    fn a_tls_server_is_named_like_a_tcp_one_and_any_other_not_at_all() {
        let expected = |named| Ok(Some((Kind::Reply, named)));
        let tls = PVXS_REPLY.replacen("03746370", "03746c73", 1);
        assert_eq!(read(&tls, Direction::Answer), expected(named(40, 5075, Order::Big)));
        let udp = PVXS_REPLY.replacen("03746370", "03756470", 1);
        let other = Named { unsupported: true, ..named(40, 5075, Order::Big) };
        assert_eq!(read(&udp, Direction::Answer), expected(other));
    }

    #[test]
    fn addresses_are_the_source_an_ipv4_one_or_something_else() {
        let mut field = [0; 16];
        assert_eq!(mapped(&field), ([0; 4], false));
        field[15] = 1;
        assert!(mapped(&field).1, "::1");
        field[10..].copy_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(mapped(&field), ([0; 4], false));
        field[12..].copy_from_slice(&[10, 244, 1, 5]);
        assert_eq!(mapped(&field), ([10, 244, 1, 5], false));
        field[0] = 0xfe;
        assert!(mapped(&field).1);
    }

    #[test]
    fn a_message_of_the_wrong_length_is_refused() {
        for (hex, direction) in [(PVXS_SEARCH, Direction::Announce), (CPP_REPLY, Direction::Answer)] {
            let mut whole = bytes(hex);
            for length in 0..whole.len() {
                assert_eq!(
                    parse(&whole[..length], direction),
                    Err(Malformed::Truncated),
                    "{length} of {hex}"
                );
            }
            let read = parse(&whole, direction);
            whole.push(0);
            let expected = if direction == Direction::Answer { Err(Malformed::Truncated) } else { read };
            assert_eq!(parse(&whole, direction), expected, "one byte more than {hex}");
        }
    }

    #[test]
    fn a_search_that_says_it_is_shorter_than_it_is_is_read_as_servers_read_it() {
        let mut whole = bytes(PVXS_SEARCH);
        let read = parse(&whole, Direction::Announce);
        whole[7] = 0;
        assert_eq!(parse(&whole, Direction::Announce), read);
        whole[7] = 0xff;
        assert_eq!(parse(&whole, Direction::Announce), Err(Malformed::Truncated), "longer than the datagram");
    }

    #[test]
    fn headers_that_no_datagram_has_are_refused() {
        for (from, to) in [("ca02", "cb02"), ("ca02", "ca00"), ("ca0280", "ca0281")] {
            let search = PVXS_SEARCH.replacen(from, to, 1);
            assert_eq!(read(&search, Direction::Announce), Err(Malformed::Header), "{to}");
        }
        let part = PVXS_BEACON.replacen("ca02c0", "ca02d0", 1);
        assert_eq!(read(&part, Direction::Announce), Err(Malformed::Header));
        let huge = PVXS_SEARCH.replacen("00000036", "ffffffff", 1);
        assert_eq!(read(&huge, Direction::Announce), Err(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn whatever_arrives_what_is_named_lies_inside_the_datagram(
            mut datagram in prop::collection::vec(any::<u8>(), 8..300),
            command in prop::sample::select(vec![0u8, 3, 4, 22, 9]),
            flags in prop::sample::select(vec![0u8, 0x80, 0x40, 0xc0, 1]),
            answer in any::<bool>(),
        ) {
            let size = datagram.len() as u32 - 8;
            let size = if flags & 0x80 != 0 { size.to_be_bytes() } else { size.to_le_bytes() };
            datagram[..4].copy_from_slice(&[MAGIC, 2, flags, command]);
            datagram[4..8].copy_from_slice(&size);
            let direction = if answer { Direction::Answer } else { Direction::Announce };
            if let Ok(Some((_, named))) = parse(&datagram, direction) {
                let at = named.port_at as usize;
                prop_assert!(at + 2 <= datagram.len() && named.address_at as usize + 4 <= datagram.len());
                prop_assert_eq!(named.order.port([datagram[at], datagram[at + 1]]), named.port);
                prop_assert_eq!(named.order.bytes(named.port), [datagram[at], datagram[at + 1]]);
            }
        }
    }
}

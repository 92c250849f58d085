//! PV Access over TCP, as far as name servers are concerned: where search replies in the server's direction of a circuit
//! name the port.
//!
//! Messages follow each other without gaps, each with the header of [`crate::pva`], regardless of segment boundaries. The
//! first bytes of a search reply, up to the first one of the port, are collected from as many segments as needed; they show
//! whether it names the server itself. Source: pvxs `src/clientconn.cpp` and `src/serverchan.cpp`, and a capture.

use crate::pva::{self, HEADER};

/// Bytes of a search reply up to and including the first one of the port.
const HEAD: u32 = 41;
/// Room for them.
const ROOM: usize = 44;
/// Messages longer than this are not followed: sequence numbers are compared by their distance.
const LONGEST: u32 = 1 << 30;
/// In place of [`Stream::held`]: message boundaries are lost.
const LOST: u32 = u32::MAX;

/// A server's direction of a circuit, followed from message to message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// TCP sequence number of the first byte that has not been read.
    pub next: u32,
    /// Bytes of the current message in `head`.
    held: u32,
    /// The first bytes of the current message.
    head: [u8; ROOM],
}

impl Stream {
    /// A circuit before its first byte is known.
    pub const UNKNOWN: Self = Self { next: 0, held: LOST, head: [0; ROOM] };

    /// Starts at the byte with this sequence number.
    #[inline(always)]
    pub const fn begin(&mut self, first: u32) {
        self.next = first;
        self.held = 0;
    }

    /// Goes on at `at`, where a segment begins, if it begins with a server's message: what came before is lost. A segment
    /// may begin anywhere, so more is asked of this header than of one that is known to be one.
    #[inline(always)]
    pub fn resume(&mut self, at: u32, header: &[u8; HEADER as usize]) -> bool {
        let found = pva::begins_message_of_server(header);
        if found {
            self.begin(at);
        }
        found
    }

    /// Whether message boundaries are lost.
    #[inline(always)]
    pub const fn is_lost(&self) -> bool {
        self.held == LOST
    }

    /// Whether the last message read is big endian.
    #[inline(always)]
    pub const fn is_big_endian(&self) -> bool {
        pva::is_big_endian(self.head[2])
    }

    /// Whether a message begins at [`Stream::next`], so that [`Stream::take_header`] may be used.
    #[inline(always)]
    pub const fn at_header(&self) -> bool {
        self.held == 0
    }

    /// Reads a whole header.
    #[inline(always)]
    pub fn take_header(&mut self, header: &[u8; HEADER as usize]) {
        let [a, b, c, d, e, f, g, h, ..] = &mut self.head;
        [*a, *b, *c, *d, *e, *f, *g, *h] = *header;
        self.held = HEADER;
        self.next = self.next.wrapping_add(HEADER);
        self.after_header();
    }

    /// Reads the next byte. True if it is the first one of the port in a search reply that names the server itself.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        let Some(place) = self.head.get_mut(self.held as usize) else { return false };
        *place = byte;
        self.held += 1;
        self.next = self.next.wrapping_add(1);
        match self.held {
            HEADER => self.after_header(),
            HEAD => return self.after_head(),
            _ => {}
        }
        false
    }

    /// Skips the message, unless it is a search reply.
    #[inline(always)]
    fn after_header(&mut self) {
        let message = pva::in_circuit(&self.header());
        if !message.sound || message.size > LONGEST {
            self.held = LOST;
        } else if !message.reply {
            self.skip(message.size);
        }
    }

    /// Skips the rest of a search reply; true if it leaves the address to the circuit.
    #[inline(always)]
    fn after_head(&mut self) -> bool {
        let size = pva::in_circuit(&self.header()).size;
        self.skip(size.wrapping_sub(HEAD - HEADER));
        let address = self.head.split_at(24).1;
        address.first_chunk::<16>().is_some_and(pva::is_any)
    }

    #[inline(always)]
    fn header(&self) -> [u8; HEADER as usize] {
        let [a, b, c, d, e, f, g, h, ..] = self.head;
        [a, b, c, d, e, f, g, h]
    }

    /// Skips to the next message.
    #[inline(always)]
    fn skip(&mut self, bytes: u32) {
        self.next = self.next.wrapping_add(bytes);
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message in this byte order.
    fn message(command: u8, body: &[u8], big: bool) -> Vec<u8> {
        let size = body.len() as u32;
        let mut bytes = vec![pva::MAGIC, 2, if big { 0xc0 } else { 0x40 }, command];
        bytes.extend(if big { size.to_be_bytes() } else { size.to_le_bytes() });
        bytes.extend(body);
        bytes
    }

    /// A search reply that names port 5075 of `address`.
    fn reply(address: [u8; 4], big: bool) -> Vec<u8> {
        let mut body = vec![7; 16];
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        body.extend(address);
        body.extend(if big { 5075u16.to_be_bytes() } else { 5075u16.to_le_bytes() });
        body.extend(b"\x03tcp\x01\0\x01\0\0\0\x09");
        message(4, &body, big)
    }

    /// Offsets of the ports of replies in `bytes`, read as segments of these lengths.
    fn ports(bytes: &[u8], first: u32, mut lengths: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut stream = Stream::UNKNOWN;
        stream.begin(first);
        let (mut found, mut end) = (vec![], 0);
        while end < bytes.len() {
            end = (end + lengths.next().unwrap_or(1)).min(bytes.len());
            loop {
                let at = stream.next.wrapping_sub(first) as usize;
                if stream.is_lost() || at >= end {
                    break;
                } else if stream.at_header() && at + 8 <= end {
                    stream.take_header(bytes[at..].first_chunk().unwrap());
                } else if stream.take(bytes[at]) {
                    found.push(at);
                }
            }
        }
        found
    }

    fn whole(bytes: &[u8]) -> Vec<usize> {
        ports(bytes, 0, std::iter::once(bytes.len()))
    }

    #[test]
    fn a_reply_that_names_its_server_is_found_in_both_byte_orders() {
        assert_eq!(whole(&reply([0; 4], true)), [40]);
        assert_eq!(whole(&reply([0; 4], false)), [40]);
    }

    #[test]
    fn a_reply_that_names_another_host_stays_as_it_is() {
        assert_eq!(whole(&reply([10, 0, 0, 1], true)), []);
    }

    #[test]
    fn a_reply_too_short_to_name_a_port_is_passed_over() {
        let bytes = [message(4, &[0; 37], true), reply([0; 4], true)].concat();
        assert_eq!(whole(&bytes), [45 + 40]);
    }

    #[test]
    fn data_that_looks_like_a_reply_is_not_one() {
        let data = message(13, &reply([0; 4], true), true);
        let bytes = [data.clone(), reply([0; 4], true)].concat();
        assert_eq!(whole(&bytes), [data.len() + 40]);
    }

    #[test]
    fn a_control_message_has_no_body_whatever_its_size_says() {
        let bytes = [vec![pva::MAGIC, 2, 0xc1, 2, 0, 0, 0x40, 0], reply([0; 4], true)].concat();
        assert_eq!(whole(&bytes), [48]);
    }

    #[test]
    fn what_begins_like_a_servers_message_is_followed_after_a_gap() {
        let resumes = |header: [u8; 4]| {
            let ([a, b, c, d], mut stream) = (header, Stream::UNKNOWN);
            stream.resume(1000, &[a, b, c, d, 0, 0, 0, 9])
        };
        assert!(resumes([0xca, 2, 0xc0, 4]) && resumes([0xca, 1, 0x41, 2]));
        let others = [
            [0xca, 2, 0x80, 4],
            [0xca, 0, 0xc0, 4],
            [0xca, 2, 0xce, 4],
            [0xca, 2, 0xc0, 99],
            [0, 2, 0xc0, 4],
        ];
        assert!(!others.into_iter().any(resumes));
    }

    #[test]
    fn what_is_not_pv_access_is_not_followed() {
        let tls = [vec![0x16, 3, 1, 0, 0xf4, 1, 0, 0], reply([0; 4], true)].concat();
        assert_eq!(whole(&tls), []);
        let huge = [vec![pva::MAGIC, 2, 0xc0, 13, 0xff, 0, 0, 0], reply([0; 4], true)].concat();
        assert_eq!(whole(&huge), []);
    }

    proptest! {
        #[test]
        fn the_same_ports_are_found_however_the_stream_is_cut(
            kinds in prop::collection::vec((0u8..4, any::<bool>()), 1..12),
            first in any::<u32>(),
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let (mut bytes, mut expected) = (vec![], vec![]);
            for (kind, big) in kinds {
                match kind {
                    0 => bytes.extend(message(13, &[0xca; 77], big)),
                    1 => bytes.extend(message(1, &[], big)),
                    2 => bytes.extend(reply([10, 1, 2, 3], big)),
                    _ => {
                        expected.push(bytes.len() + 40);
                        bytes.extend(reply([0; 4], big));
                    }
                }
            }
            prop_assert_eq!(ports(&bytes, first, cuts.into_iter().cycle()), expected);
        }

        #[test]
        fn whatever_arrives_is_followed_or_given_up(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for at in ports(&bytes, 0, std::iter::repeat(7)) {
                prop_assert!(at >= 40 && at < bytes.len());
            }
        }
    }
}

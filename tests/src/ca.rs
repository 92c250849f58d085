//! Channel Access messages, made and read by the tests themselves: for what libca would never send.

use std::net::Ipv4Addr;

/// A search for `names`, as libca sends it: a version message, then one search a name with its index as the client's id.
pub fn search(names: &[&str]) -> Vec<u8> {
    let mut datagram = message(0, 1, 13, 1, 0, &[]);
    for (id, name) in (1..).zip(names) {
        let mut padded = name.as_bytes().to_vec();
        padded.resize((name.len() + 1).next_multiple_of(8), 0);
        datagram.extend(message(6, 5, 13, id, id, &padded));
    }
    datagram
}

/// A search reply as RSRV sends it, from a server on TCP `port` that leaves its address to the datagram's source.
pub fn reply(port: u16) -> Vec<u8> {
    let mut datagram = message(0, 1, 13, 1, 0, &[]);
    datagram.extend(message(6, port, 0, u32::MAX, 1, &[0, 13, 0, 0, 0, 0, 0, 0]));
    datagram
}

/// One message.
pub fn message(command: u16, data_type: u16, count: u16, first: u32, second: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![];
    for field in [command, length, data_type, count] {
        bytes.extend(field.to_be_bytes());
    }
    for field in [first, second] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// A server in a search reply: its TCP port and its address field.
pub fn servers(datagram: &[u8]) -> Vec<(u16, Ipv4Addr)> {
    let mut found = vec![];
    let mut rest = datagram;
    while rest.len() >= 16 {
        let field = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        if field(0) == 6 {
            found.push((field(4), Ipv4Addr::new(rest[8], rest[9], rest[10], rest[11])));
        }
        rest = rest.get(16 + usize::from(field(2))..).unwrap_or_default();
    }
    found
}

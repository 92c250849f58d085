//! PV Access messages of the tests' own, for exact bytes. Layout: `ebpf/wire/src/pva.rs`.

/// Where the flags of a search are.
pub const FLAGS: usize = 12;
/// That flag which says that it is sent to one server.
pub const UNICAST: u8 = 0x80;

/// A message in this byte order.
pub fn message(version: u8, flags: u8, command: u8, body: &[u8], big: bool) -> Vec<u8> {
    let size = body.len() as u32;
    let mut bytes = vec![0xca, version, flags | if big { 0x80 } else { 0 }, command];
    bytes.extend(if big { size.to_be_bytes() } else { size.to_le_bytes() });
    bytes.extend(body);
    bytes
}

/// An IPv4 address as 16 bytes; zeros leave it to the datagram's source.
fn mapped(address: [u8; 4]) -> Vec<u8> {
    [&[0; 10][..], &[0xff, 0xff], &address].concat()
}

/// A search for `X:NAME` with these search flags, to be answered to this address and port.
pub fn search(version: u8, flags: u8, address: [u8; 4], port: u16) -> Vec<u8> {
    let body = [
        b"find",
        &[flags, 0, 0, 0][..],
        &mapped(address),
        &port.to_be_bytes(),
        b"\x01\x03tcp\x00\x01\x00\x00\x00\x09\x06X:NAME",
    ];
    message(version, 0, 3, &body.concat(), true)
}

/// A search reply that names this address and TCP port.
pub fn reply(address: [u8; 4], port: u16, big: bool) -> Vec<u8> {
    let port = if big { port.to_be_bytes() } else { port.to_le_bytes() };
    let body = [&[7; 12][..], b"find", &mapped(address), &port, b"\x03tcp\x01\x00\x01\x00\x00\x00\x09"];
    message(2, 0x40, 4, &body.concat(), big)
}

/// The port and address to which a search is to be answered, or that a reply names, both in network byte order.
pub fn named(message: &[u8]) -> (u16, [u8; 4]) {
    let at = if message[3] == 3 { 32 } else { 40 };
    let port = u16::from_be_bytes([message[at], message[at + 1]]);
    (port, [message[at - 4], message[at - 3], message[at - 2], message[at - 1]])
}

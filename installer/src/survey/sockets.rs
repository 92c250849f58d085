//! Sockets of a network namespace, as the kernel lists them in /proc/net (`Documentation/networking/proc_net_tcp.rst`).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

/// The thread's network namespace.
const DIRECTORY: &str = "/proc/thread-self/net";
/// Lines of a list that are read, at most.
const MOST: usize = 200_000;
/// `TCP_ESTABLISHED`, which connected UDP sockets have, too, and `TCP_LISTEN`.
const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;

/// A socket. Those of IPv6 are left out, unless they serve IPv4 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Which file descriptors refer to it.
    pub(super) inode: u64,
    pub(super) kind: Kind,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP that waits for connections.
    Listens(SocketAddrV4),
    /// TCP that is connected, or connected UDP.
    Connected { tcp: bool, local: SocketAddrV4, remote: SocketAddrV4 },
    /// UDP that is not connected.
    Bound(SocketAddrV4),
    /// Raw IP of this protocol.
    Raw { protocol: u16 },
    /// Frames of this EtherType (3: all, `ETH_P_ALL`) at this interface, 0 for all.
    Packet { ethertype: u16, interface: u32 },
}

impl Socket {
    /// The address of an unconnected UDP socket.
    pub(super) fn bound(&self) -> Option<SocketAddrV4> {
        match self.kind {
            Kind::Bound(local) => Some(local),
            _ => None,
        }
    }

    /// The address at which TCP connections are awaited.
    pub(super) fn listens(&self) -> Option<SocketAddrV4> {
        match self.kind {
            Kind::Listens(local) => Some(local),
            _ => None,
        }
    }
}

/// All of the thread's namespace.
pub(super) fn read() -> io::Result<Vec<Socket>> {
    let mut found = vec![];
    for name in ["tcp", "tcp6", "udp", "udp6", "raw", "packet"] {
        let file = match File::open(format!("{DIRECTORY}/{name}")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // no IPv6, or no packet sockets
            file => file?,
        };
        for line in BufReader::new(file).lines().skip(1).take(MOST) {
            found.extend(parse(name, &line?));
        }
    }
    Ok(found)
}

/// The socket in a line of a list.
fn parse(name: &str, line: &str) -> Option<Socket> {
    let words: Vec<_> = line.split_whitespace().collect();
    if name == "packet" {
        let kind = Kind::Packet {
            ethertype: u16::from_str_radix(words.get(3)?, 16).ok()?,
            interface: words.get(4)?.parse().ok()?,
        };
        return Some(Socket { kind, inode: words.get(8)?.parse().ok()? });
    }
    let (local, remote) = (endpoint(words.get(1)?)?, endpoint(words.get(2)?)?);
    let state = u32::from_str_radix(words.get(3)?, 16).ok()?;
    let kind = match (name.trim_end_matches('6'), state) {
        ("raw", _) => Kind::Raw { protocol: local.port() },
        ("tcp", LISTEN) => Kind::Listens(local),
        ("tcp", ESTABLISHED) => Kind::Connected { tcp: true, local, remote },
        ("udp", ESTABLISHED) => Kind::Connected { tcp: false, local, remote },
        ("udp", _) => Kind::Bound(local),
        _ => return None,
    };
    Some(Socket { kind, inode: words.get(9)?.parse().ok()? })
}

/// `ADDRESS:PORT` in hexadecimal, the address as words in the processor's byte order.
fn endpoint(text: &str) -> Option<SocketAddrV4> {
    let (address, port) = text.split_once(':')?;
    Some(SocketAddrV4::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// The IPv4 address; of IPv6 those that stand for one.
fn parse_address(text: &str) -> Option<Ipv4Addr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(word(0)?.into()),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            let special = if address.is_unspecified() {
                Some(Ipv4Addr::UNSPECIFIED)
            } else {
                address.is_loopback().then_some(Ipv4Addr::LOCALHOST)
            };
            special.or_else(|| address.to_ipv4_mapped())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 on a little-endian machine wrote them.
    #[test]
    #[cfg(target_endian = "little")]
    fn each_kind_of_line_is_read() {
        let at = |text: &str| text.parse().unwrap();
        let rest = "00000000:00000000 00:00000000 00000000  1000        0";
        for (name, line, inode, kind) in [
            (
                "tcp",
                format!("0: 00000000:13C8 00000000:0000 0A {rest} 17 1 0 100 0 0 10 0"),
                17,
                Some(Kind::Listens(at("0.0.0.0:5064"))),
            ),
            (
                "tcp",
                format!("1: 0A0017AC:A001 030017AC:13C8 01 {rest} 18 1"),
                18,
                Some(Kind::Connected {
                    tcp: true,
                    local: at("172.23.0.10:40961"),
                    remote: at("172.23.0.3:5064"),
                }),
            ),
            ("tcp", format!("2: 0A0017AC:A001 030017AC:13C8 06 {rest} 0 3"), 0, None),
            (
                "udp",
                format!("9: 0100007F:13C9 00000000:0000 07 {rest} 19 2"),
                19,
                Some(Kind::Bound(at("127.0.0.1:5065"))),
            ),
            (
                "udp6",
                format!("9: {}:13D4 {}:0000 07 {rest} 20 2", "0".repeat(32), "0".repeat(32)),
                20,
                Some(Kind::Bound(at("0.0.0.0:5076"))),
            ),
            (
                "tcp6",
                format!(
                    "1: 0000000000000000FFFF00000A0017AC:13C8 0000000000000000FFFF0000020017AC:9000 01 {rest} 21 1"
                ),
                21,
                Some(Kind::Connected {
                    tcp: true,
                    local: at("172.23.0.10:5064"),
                    remote: at("172.23.0.2:36864"),
                }),
            ),
            (
                "tcp6",
                format!("1: 000080FE00000000FFFFFFFF00000001:13C8 {}:0000 0A {rest} 22 1", "0".repeat(32)),
                0,
                None,
            ),
            (
                "raw",
                format!("1: 00000000:0001 00000000:0000 07 {rest} 23 2"),
                23,
                Some(Kind::Raw { protocol: 1 }),
            ),
            (
                "packet",
                "ffff8881 3      3    88a4   2     1 0      0      24".into(),
                24,
                Some(Kind::Packet { ethertype: 0x88a4, interface: 2 }),
            ),
            ("udp", "a line of another kernel".into(), 0, None),
            ("packet", String::new(), 0, None),
        ] {
            let expected = kind.map(|kind| Socket { inode, kind });
            assert_eq!(parse(name, &line), expected, "{name}: {line}");
        }
    }
}

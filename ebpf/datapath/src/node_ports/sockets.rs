//! Sockets of the node that receive what comes from the LAN, as the kernel lists them in /proc/net.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::{BufRead, BufReader, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
};

use abi::{Endpoint, TCP};

use crate::{Error, Result};

/// The thread's network namespace, not the process's.
const DIRECTORY: &str = "/proc/thread-self/net";
/// `TCP_LISTEN`.
const LISTENS: &str = "0A";

/// Addresses of TCP sockets that listen, and of all UDP sockets, by protocol; each is read when it is asked for.
#[derive(Debug, Default)]
pub(super) struct Sockets(BTreeMap<u16, Vec<SocketAddr>>);

impl Sockets {
    /// The address of a socket that receives what goes to the endpoint.
    pub(super) fn at(&mut self, endpoint: Endpoint) -> Result<Option<SocketAddr>> {
        let to = Ipv4Addr::from(endpoint.address);
        let receives = |at: &SocketAddr| {
            at.port() == endpoint.port
                && (at.ip().is_unspecified() || at.ip().to_canonical() == IpAddr::V4(to))
        };
        let sockets = match self.0.entry(endpoint.protocol) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(read(endpoint.protocol)?),
        };
        Ok(sockets.iter().copied().find(receives))
    }
}

/// Whether a socket keeps others from the endpoint: then it cannot be bound.
pub(super) fn is_taken(endpoint: Endpoint) -> bool {
    let at = (Ipv4Addr::from(endpoint.address), endpoint.port);
    let bound = if endpoint.protocol == u16::from(TCP) {
        TcpListener::bind(at).map(drop)
    } else {
        UdpSocket::bind(at).map(drop)
    };
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

fn read(protocol: u16) -> Result<Vec<SocketAddr>> {
    let is_tcp = protocol == u16::from(TCP);
    let mut found = vec![];
    for name in if is_tcp { ["tcp", "tcp6"] } else { ["udp", "udp6"] } {
        let path = format!("{DIRECTORY}/{name}");
        let fault = |error| Error::kernel(format!("cannot read {path}"), error);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && name.ends_with('6') => continue, // no IPv6
            file => file.map_err(fault)?,
        };
        for line in BufReader::new(file).lines().skip(1) {
            // TCP sockets that listen come first.
            let Some(address) = parse(&line.map_err(fault)?, is_tcp) else { break };
            found.push(address);
        }
    }
    Ok(found)
}

/// The local address in a line, unless it is that of a TCP socket that does not listen.
fn parse(line: &str, is_tcp: bool) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (local, state) = (words.next()?, words.nth(1)?);
    if is_tcp && state != LISTENS {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// An address as words in the processor's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    Some(match text.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => Ipv6Addr::from(<[u8; 16]>::try_from([word(0)?, word(1)?, word(2)?, word(3)?].concat()).ok()?)
            .into(),
        _ => return None,
    })
}

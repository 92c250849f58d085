//! Asks for PVs from this node, in pods and on LANs, and hears who answers. It knows neither why nor what for.

pub(crate) mod domains;
pub(crate) mod search;
pub(crate) mod wait;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use abi::Protocol;

use self::search::MOST;

/// The upper half of the ids of all names that we ask for: others that learn names from searches leave ours out.
const MARK: u32 = 0x696f_0000;
/// Of the lower half, what is different each time.
const RANDOM: u32 = 0x0fff;
/// The longest name that a search can have, so that it fits into a datagram.
const LONGEST: usize = 1000;

/// Answers read at once, in each protocol.
const AT_ONCE: usize = 256;
/// A larger datagram than any answer.
const BUFFER: usize = 4096;

/// An answer to a name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    /// Where it came from.
    pub(crate) from: SocketAddrV4,
    /// The server's TCP socket.
    pub(crate) server: SocketAddrV4,
    pub(crate) after: Duration,
    pub(crate) guid: Vec<u8>,
}

/// Where to ask, and whether it is one host.
pub(crate) type Target = (Protocol, SocketAddrV4, bool);

/// Asks, with a socket of its own for each protocol.
pub(crate) struct Asker {
    sockets: Vec<(Protocol, UdpSocket)>,
    /// The names that the ids stand for, counted from `first`.
    names: Vec<String>,
    first: u32,
    asked: Instant,
}

impl Asker {
    /// An asker whose ids begin at a place that `random` chooses; it has ids for 60 000 names.
    pub(crate) fn new(random: u32) -> io::Result<Self> {
        let mut sockets = vec![];
        for protocol in [Protocol::Ca, Protocol::Pva] {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_broadcast(true)?;
            socket.set_nonblocking(true)?;
            sockets.push((protocol, socket));
        }
        Ok(Self { sockets, names: vec![], first: MARK | random & RANDOM, asked: Instant::now() })
    }

    /// How many names it has asked for.
    pub(crate) fn names(&self) -> usize {
        self.names.len()
    }

    /// Its sockets, to wait for.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().map(|(_, socket)| socket)
    }

    /// The ports from which it asks.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.sockets().filter_map(|socket| Some(socket.local_addr().ok()?.port()))
    }

    /// Asks for these names. What cannot be sent, as while a LAN is down, has no answer.
    pub(crate) fn ask(&mut self, names: &[String], targets: &[Target]) {
        let before = self.names.len() as u32;
        self.names.extend_from_slice(names);
        self.asked = Instant::now();
        for (protocol, to, unicast) in targets {
            let Some((_, socket)) = self.sockets.iter().find(|(spoken, _)| spoken == protocol) else {
                continue;
            };
            let port = socket.local_addr().map_or(0, |address| address.port());
            for (part, chunk) in (0..).zip(names.chunks(MOST)) {
                let chunk: Vec<_> = chunk.iter().map(String::as_str).collect();
                let first = self.first + before + part * MOST as u32;
                let datagram = search::search(*protocol, first, &chunk, (port, *unicast));
                let _ = socket.send_to(&datagram, to);
            }
        }
    }

    /// Answers that have come since the last call: some, as others may send them faster than they are read.
    pub(crate) fn hear(&self) -> Vec<Heard> {
        let mut buffer = [0; BUFFER];
        let mut found = vec![];
        for (protocol, socket) in &self.sockets {
            for _ in 0..AT_ONCE {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
                if let SocketAddr::V4(from) = from {
                    found.extend(self.read(*protocol, from, &buffer[..length]));
                }
            }
        }
        found
    }

    fn read(&self, protocol: Protocol, from: SocketAddrV4, payload: &[u8]) -> Vec<Heard> {
        let Some(answer) = search::answer(protocol, payload) else { return vec![] };
        let after = self.asked.elapsed();
        let server = SocketAddrV4::new(answer.address.unwrap_or(*from.ip()), answer.port);
        let ids = answer.ids.iter().take(MOST); // of one datagram that we have sent
        let names = ids.filter_map(|id| self.names.get(id.checked_sub(self.first)? as usize));
        names
            .map(|name| Heard {
                protocol,
                name: name.clone(),
                from,
                server,
                after,
                guid: answer.guid.clone(),
            })
            .collect()
    }
}

/// Whether a search with this id of a name was sent by an [`Asker`], here or on another node.
pub(crate) fn is_ours(id: u32) -> bool {
    id & 0xffff_0000 == MARK
}

/// The name of a PV, from the command line.
pub(crate) fn name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a PV has a name".into()),
        1..=LONGEST => Ok(text.into()),
        _ => Err(format!("no server has a name of more than {LONGEST} bytes")),
    }
}

/// A protocol that has names, from the command line.
pub(crate) fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "ca" => Ok(Protocol::Ca),
        "pva" => Ok(Protocol::Pva),
        _ => Err("expected ca or pva".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_server_can_have_is_refused() {
        assert!(name("").is_err() && name(&"x".repeat(LONGEST + 1)).is_err());
        assert_eq!(name("A:NAME"), Ok("A:NAME".into()));
        assert_eq!((protocol("pva"), protocol("gvcp").is_err()), (Ok(Protocol::Pva), true));
    }
}

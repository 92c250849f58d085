//! Asks for the PV from this node: every pod that listens, and every LAN, and notes who answers.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use abi::Protocol;

use super::search::{self, MOST};

/// A larger datagram than any answer.
const BUFFER: usize = 4096;

/// An answer to a name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) protocol: Protocol,
    pub(super) name: String,
    /// Where it came from.
    pub(super) from: SocketAddrV4,
    /// The server's TCP socket.
    pub(super) server: SocketAddrV4,
    pub(super) after: Duration,
    pub(super) guid: Vec<u8>,
}

/// Where to ask, and whether it is one host.
pub(super) type Target = (Protocol, SocketAddrV4, bool);

/// Asks, with a socket of its own for each protocol.
pub(super) struct Asker {
    sockets: Vec<(Protocol, UdpSocket)>,
    /// The names that the ids stand for, counted from `first`.
    names: Vec<String>,
    first: u32,
    asked: Instant,
}

impl Asker {
    pub(super) fn new(first: u32) -> io::Result<Self> {
        let mut sockets = vec![];
        for protocol in [Protocol::Ca, Protocol::Pva] {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_broadcast(true)?;
            socket.set_nonblocking(true)?;
            sockets.push((protocol, socket));
        }
        Ok(Self { sockets, names: vec![], first, asked: Instant::now() })
    }

    /// Its sockets, to wait for.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().map(|(_, socket)| socket)
    }

    /// The ports from which it asks.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.sockets().filter_map(|socket| Some(socket.local_addr().ok()?.port()))
    }

    /// Asks for these names. What cannot be sent, as while a LAN is down, has no answer.
    pub(super) fn ask(&mut self, names: &[String], targets: &[Target]) {
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

    /// The answers that have come since the last call.
    pub(super) fn hear(&self) -> Vec<Heard> {
        let mut buffer = [0; BUFFER];
        let mut found = vec![];
        for (protocol, socket) in &self.sockets {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
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
        let names = answer.ids.iter().filter_map(|id| self.names.get(id.checked_sub(self.first)? as usize));
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

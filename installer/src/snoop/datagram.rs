//! Reads an event: what a datagram says, to whom it goes, and what the datapath did with it.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::{Endpoint, Event, Point, Protocol, Verdict};
use wire::{Direction, Kind, Named, Step, ca, names, pva};

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A client searches for these names, each with an id that it chose.
    Search(Vec<(u32, String)>),
    /// A server has the names with these ids.
    Reply(Vec<u32>),
    /// A server announces itself.
    Beacon,
    /// Something else.
    Other,
}

impl Message {
    /// Its name, for people and programs.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Search(_) => "search",
            Self::Reply(_) => "reply",
            Self::Beacon => "beacon",
            Self::Other => "other",
        }
    }
}

/// A datagram that a program decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// The kernel's monotonic clock.
    pub(crate) time: Duration,
    /// The domain's number.
    pub(crate) domain: u16,
    pub(crate) protocol: Protocol,
    pub(crate) point: Point,
    pub(crate) verdict: Verdict,
    /// The member at `point`, by the interface index of its host-side veth; 0 if there is none.
    pub(crate) member: u32,
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) message: Message,
    /// The client's socket; `None` if no client is involved.
    pub(crate) client: Option<SocketAddrV4>,
    /// The TCP port that a server names.
    pub(crate) server_port: Option<u16>,
}

impl Datagram {
    /// Reads an event; `None` if its kind is unknown.
    pub(crate) fn read(event: &Event, payload: &[u8]) -> Option<Self> {
        let protocol = Protocol::find(event.protocol)?;
        let point = *Point::ALL.get(usize::from(event.point))?;
        let (message, named) = read_payload(protocol, payload);
        let (source, destination) = (socket(event.source), socket(event.destination));
        let client = match message {
            // The address that a pod names is already translated; its clients name the sockets that they send from.
            Message::Search(_) if point == Point::FromPod => Some(source),
            Message::Search(_) => Some(named.as_ref().map_or(source, |named| reply_to(source, named))),
            Message::Reply(_) => Some(destination),
            _ => None,
        };
        let is_server = matches!(message, Message::Reply(_) | Message::Beacon);
        Some(Self {
            time: Duration::from_nanos(event.time),
            domain: event.domain,
            protocol,
            point,
            verdict: *Verdict::ALL.get(usize::from(event.verdict))?,
            member: event.member,
            source,
            destination,
            message,
            client,
            server_port: named.filter(|_| is_server).map(|named| named.port),
        })
    }

    /// Whether it is a copy delivered to a member.
    pub(crate) fn is_delivery(&self) -> bool {
        self.point == Point::ToPod
    }
}

/// What a datagram's payload says and names.
pub(crate) fn read_payload(protocol: Protocol, payload: &[u8]) -> (Message, Option<Named>) {
    match protocol {
        Protocol::Ca => read_ca(payload),
        Protocol::Pva => read_pva(payload),
        _ => (Message::Other, None),
    }
}

fn socket(endpoint: Endpoint) -> SocketAddrV4 {
    SocketAddrV4::new(endpoint.address.into(), endpoint.port)
}

/// Where a search expects its answers.
fn reply_to(source: SocketAddrV4, named: &Named) -> SocketAddrV4 {
    let address = Ipv4Addr::from(named.address);
    match (named.unsupported, address.is_unspecified()) {
        (true, _) => source,
        (_, true) => SocketAddrV4::new(*source.ip(), named.port),
        _ => SocketAddrV4::new(address, named.port),
    }
}

/// What a Channel Access datagram says and names.
fn read_ca(payload: &[u8]) -> (Message, Option<Named>) {
    let searched = with_text(names::ca_search(payload));
    if !searched.is_empty() {
        return (Message::Search(searched), None);
    }
    let ids: Vec<_> = names::ca_reply(payload).collect();
    let (message, direction) = if ids.is_empty() {
        (Message::Beacon, Direction::Announce)
    } else {
        (Message::Reply(ids), Direction::Answer)
    };
    let mut first = None;
    let _ = ca::walk(payload, direction, |step| {
        if let (None, Step::Names(_, named)) = (first, step) {
            first = Some(named);
        }
    });
    (if first.is_some() { message } else { Message::Other }, first)
}

/// What a PV Access datagram says and names.
fn read_pva(payload: &[u8]) -> (Message, Option<Named>) {
    let read = |direction| pva::parse(payload, direction).ok().flatten();
    match read(Direction::Announce).or_else(|| read(Direction::Answer)) {
        Some((Kind::Search, named)) => (Message::Search(with_text(names::pva_search(payload))), Some(named)),
        Some((Kind::Beacon, named)) => (Message::Beacon, Some(named)),
        Some((Kind::Reply, named)) => (Message::Reply(names::pva_reply(payload).collect()), Some(named)),
        None => (Message::Other, None),
    }
}

fn with_text<'a>(names: impl Iterator<Item = (u32, &'a [u8])>) -> Vec<(u32, String)> {
    names.map(|(id, name)| (id, String::from_utf8_lossy(name).into_owned())).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A search of Channel Access for these names, whose ids count from 1.
    pub(crate) fn ca_search(names: &[&str]) -> Vec<u8> {
        let mut datagram = vec![0, 0, 0, 0, 0, 1, 0, 13, 0, 0, 0, 1, 0, 0, 0, 0];
        for (id, name) in (1..).zip(names) {
            let size = (name.len() + 1).next_multiple_of(8);
            datagram.extend_from_slice(&[0, 6, 0, size as u8, 0, 5, 0, 13, 0, 0, 0, id, 0, 0, 0, id]);
            datagram.extend_from_slice(name.as_bytes());
            datagram.resize(datagram.len() + size - name.len(), 0);
        }
        datagram
    }

    /// A reply to the name with this id.
    pub(crate) fn ca_reply(id: u8) -> Vec<u8> {
        let mut datagram = vec![0, 6, 0, 8, 0xee, 0x48, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, id];
        datagram.extend_from_slice(&[0, 13, 0, 0, 0, 0, 0, 0]);
        datagram
    }

    /// An event of Channel Access `milliseconds` after the first.
    pub(crate) fn event(milliseconds: u64, point: Point, verdict: Verdict, sockets: [&str; 2]) -> Event {
        let [source, destination] = sockets.map(|text| {
            let socket: SocketAddrV4 = text.parse().unwrap();
            Endpoint { address: socket.ip().octets(), port: socket.port(), protocol: u16::from(abi::UDP) }
        });
        Event {
            time: milliseconds * 1_000_000,
            source,
            destination,
            member: 0,
            length: 0,
            domain: 0,
            protocol: Protocol::Ca as u16,
            verdict: verdict as u16,
            point: point as u16,
        }
    }

    const WORKSTATION: &str = "172.23.0.2:41234";
    const LAN: &str = "172.23.0.255:5064";

    fn read(payload: &[u8]) -> Datagram {
        let event = event(0, Point::FromLan, Verdict::Relayed, [WORKSTATION, LAN]);
        Datagram::read(&event, payload).unwrap()
    }

    #[test]
    fn a_search_tells_its_names_and_its_client() {
        let datagram = read(&ca_search(&["A:NAME", "B:NAME"]));
        assert_eq!(datagram.message, Message::Search(vec![(1, "A:NAME".into()), (2, "B:NAME".into())]));
        assert_eq!((datagram.client, datagram.server_port), (Some(WORKSTATION.parse().unwrap()), None));
    }

    #[test]
    fn a_reply_tells_its_ids_its_client_and_the_servers_port() {
        let datagram = read(&ca_reply(7));
        assert_eq!(datagram.message, Message::Reply(vec![7]));
        assert_eq!((datagram.client, datagram.server_port), (Some(LAN.parse().unwrap()), Some(61000)));
    }

    #[test]
    fn a_beacon_has_a_server_and_no_client() {
        let datagram = read(&[0, 13, 0, 0, 0, 13, 0x13, 0xc8, 0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(
            (datagram.message, datagram.client, datagram.server_port),
            (Message::Beacon, None, Some(5064))
        );
    }

    #[test]
    fn what_cannot_be_read_is_something_else() {
        for payload in [&[][..], &[1; 7], &[0; 16], &[0xca; 90]] {
            assert_eq!(read(payload).message, Message::Other, "{payload:?}");
        }
    }

    #[test]
    fn the_client_of_a_search_in_pv_access_is_the_socket_that_it_names() {
        // PVXS, but little endian, with answers to port 33754 of its own address, and of another one.
        let mut search = vec![0xca, 2, 0, 3, 43, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        search.extend_from_slice(&[0; 16]);
        search.extend_from_slice(b"\xda\x83\x01\x03tcp\x01\x00\x78\x56\x34\x12\x05H2:AO");
        let read = |search: &[u8], point| {
            let event = Event {
                protocol: Protocol::Pva as u16,
                ..event(0, point, Verdict::Relayed, [WORKSTATION, LAN])
            };
            Datagram::read(&event, search).unwrap().client.unwrap().to_string()
        };
        assert_eq!(read(&search, Point::FromLan), "172.23.0.2:33754");
        assert_eq!(read(&search, Point::FromPod), WORKSTATION, "a pod's is translated already");
        search[26..32].copy_from_slice(&[0xff, 0xff, 172, 23, 0, 9]);
        assert_eq!(read(&search, Point::FromLan), "172.23.0.9:33754");
    }

    #[test]
    fn an_event_of_a_kind_unknown_here_is_left_out() {
        let event = Event { verdict: 999, ..event(0, Point::FromLan, Verdict::Relayed, [WORKSTATION, LAN]) };
        assert_eq!(Datagram::read(&event, &[]), None);
    }
}

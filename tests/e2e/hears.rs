//! What a native host's sockets hear, a pod's hear: every way to listen and every form of a frame, by broadcast, limited
//! broadcast and unicast, on a host of the LAN and in a pod beside it. The table is `docs/hears.md`.
//!
//! A cell says how often each socket heard a search, and whether the answers came back from the port that was asked. A
//! difference must have a reason, and a reason a difference.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    panic::resume_unwind,
    path::Path,
    thread::scope,
    time::Duration,
};

use lab::{Lab, NATIVE, NODE, Options, Result, Topology, WORKSTATION, ca};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use socket2::{Domain, Socket, Type};

use crate::{
    programs::frame::{BROADCAST as BROADCAST_MAC, ones_complement, udp},
    tap::device,
};

/// Longer than a copy or an answer takes, also on a busy machine.
const QUIET: Duration = Duration::from_millis(150);
const PORT: u16 = 5064;
/// The client, to whom some sockets are connected.
const CLIENT: &str = "172.23.0.2:40000";
const LAN: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 255);

/// An address that a socket is bound to.
#[derive(Clone, Copy)]
enum Bind {
    Any,
    Any6,
    Own,
    Broadcast,
    Everybody,
}

/// What else a socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum And {
    Nothing,
    Device,
    ReuseAddress,
    ReusePort,
    Connected,
}

/// A way to listen.
struct Way(&'static str, &'static [Bind], And);

const WAYS: &[Way] = &[
    Way("any address", &[Bind::Any], And::Nothing),
    Way("its own address", &[Bind::Own], And::Nothing),
    Way("its broadcast address", &[Bind::Broadcast], And::Nothing),
    Way("255.255.255.255", &[Bind::Everybody], And::Nothing),
    Way("its own and its broadcast address", &[Bind::Own, Bind::Broadcast], And::Nothing),
    Way("any address, and another its own", &[Bind::Any, Bind::Own], And::ReuseAddress),
    Way("any address, IPv6 as well", &[Bind::Any6], And::Nothing),
    Way("any address, two with SO_REUSEADDR", &[Bind::Any, Bind::Any], And::ReuseAddress),
    Way("any address, two with SO_REUSEPORT", &[Bind::Any, Bind::Any], And::ReusePort),
    Way("its own address, two with SO_REUSEPORT", &[Bind::Own, Bind::Own], And::ReusePort),
    Way("connected to the client", &[Bind::Any], And::Connected),
    Way("bound to a device", &[Bind::Any], And::Device),
];

/// Ways to listen for connections.
const TCP_WAYS: &[Way] = &[
    Way("any address", &[Bind::Any], And::Nothing),
    Way("its own address", &[Bind::Own], And::Nothing),
    Way("any address, IPv6 as well", &[Bind::Any6], And::Nothing),
    Way("any address, and another its own", &[Bind::Any, Bind::Own], And::ReusePort),
    Way("any address, two with SO_REUSEPORT", &[Bind::Any, Bind::Any], And::ReusePort),
    Way("bound to a device", &[Bind::Any], And::Device),
];

/// Where a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Broadcast,
    Everybody,
    Host,
    /// A connection to the port that the answer named.
    Circuit,
}

impl To {
    const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Everybody => "255.255.255.255",
            Self::Host => "the host's address",
            Self::Circuit => "a connection",
        }
    }
}

const ARRIVALS: [To; 3] = [To::Broadcast, To::Everybody, To::Host];

/// A form of a frame.
struct Form(&'static str, fn(&Wire) -> Vec<Vec<u8>>);

const FORMS: &[Form] = &[
    Form("plain", |wire| vec![wire.plain()]),
    Form("padded at the end", |wire| vec![[wire.plain(), vec![0; 6]].concat()]),
    Form("without a UDP checksum", |wire| vec![wire.frame().without_checksum().bytes()]),
    Form("IP says more than UDP", |wire| vec![wire.longer_than_udp()]),
    Form("\"don't fragment\"", |wire| vec![wire.frame().fragment(0x4000).bytes()]),
    Form("with a priority, as VLAN 0", |wire| vec![wire.tagged()]),
    Form("to the host's MAC address", |wire| vec![wire.frame().mac_to(wire.mac).bytes()]),
    Form("to all stations", |wire| vec![wire.frame().mac_to(BROADCAST_MAC).bytes()]),
    Form("with IP options", |wire| vec![wire.frame().options(&[1; 4]).bytes()]),
    Form("in two fragments", Wire::fragments),
];

/// Why a row differs: which one, in which pods, and for what arrivals.
struct Reason(&'static str, &'static [Topology], &'static [To], &'static str);

const SHARED: &str = "A search to the node is one to all its pods, and each of several servers on a port may be another \
     one: unlike on a host, all that are bound to no address hear it.";
const ONE_BROADCAST: &str = "A pod with a /32 address has no broadcast address but 255.255.255.255, by which all broadcasts \
     come to it.";
const DEVICE: &str = "The kernel does not let a program look up such a socket in another namespace, and pods without a socket \
     are passed over. Bind to the pod's address instead.";
const HEADERS: &str = "Only the headers that peers send are read: no IP options, and whole datagrams.";

const REASONS: &[Reason] = &[
    Reason("any address, two with SO_REUSEADDR", &Topology::ALL, &[To::Host], SHARED),
    Reason("any address, two with SO_REUSEPORT", &Topology::ALL, &[To::Host], SHARED),
    Reason("its broadcast address", &[Topology::Routed], &[To::Everybody], ONE_BROADCAST),
    Reason("its own and its broadcast address", &[Topology::Routed], &[To::Everybody], ONE_BROADCAST),
    Reason("255.255.255.255", &[Topology::Routed], &[To::Broadcast], ONE_BROADCAST),
    Reason("bound to a device", &Topology::ALL, &ARRIVALS, DEVICE),
    Reason("with IP options", &Topology::ALL, &ARRIVALS, HEADERS),
    Reason("in two fragments", &Topology::ALL, &ARRIVALS, HEADERS),
];

/// Who listens: a host of the LAN, or a pod.
#[derive(Clone)]
struct Host {
    netns: String,
    address: Ipv4Addr,
    broadcast: Ipv4Addr,
    /// Its address on the LAN.
    on_lan: Ipv4Addr,
    /// The MAC address there.
    mac: [u8; 6],
}

impl Host {
    fn address(&self, bind: Bind) -> SocketAddr {
        let address = match bind {
            Bind::Any6 => return (Ipv6Addr::UNSPECIFIED, PORT).into(),
            Bind::Any => Ipv4Addr::UNSPECIFIED,
            Bind::Own => self.address,
            Bind::Broadcast => self.broadcast,
            Bind::Everybody => Ipv4Addr::BROADCAST,
        };
        (address, PORT).into()
    }

    /// Its sockets that listen in this way.
    fn listen(&self, lab: &Lab, Way(_, binds, and): &Way, kind: Type) -> Result<Vec<Socket>> {
        let (addresses, and) = (binds.iter().map(|bind| self.address(*bind)).collect::<Vec<_>>(), *and);
        let client: SocketAddr = CLIENT.parse().unwrap();
        lab.sandbox.run_in(&self.netns, move || {
            let listen = |address: &SocketAddr| {
                let socket = Socket::new(Domain::for_address(*address), kind, None).unwrap();
                match and {
                    And::Device => socket.bind_device(Some(b"eth0")).unwrap(),
                    And::ReuseAddress => socket.set_reuse_address(true).unwrap(),
                    And::ReusePort => socket.set_reuse_port(true).unwrap(),
                    And::Nothing | And::Connected => {}
                }
                if kind == Type::STREAM {
                    socket.set_reuse_address(true).unwrap(); // what was here before waits for its end
                }
                socket.bind(&(*address).into()).unwrap();
                if and == And::Connected {
                    socket.connect(&client.into()).unwrap();
                }
                if kind == Type::STREAM {
                    socket.listen(9).unwrap();
                }
                socket.set_read_timeout(Some(QUIET)).unwrap();
                socket
            };
            addresses.iter().map(listen).collect()
        })
    }

    fn target(&self, to: To) -> Ipv4Addr {
        match to {
            To::Broadcast => LAN,
            To::Everybody => Ipv4Addr::BROADCAST,
            To::Host | To::Circuit => self.on_lan,
        }
    }
}

/// A search on its way to a host.
struct Wire {
    to: SocketAddrV4,
    mac: [u8; 6],
    /// Whether it is a broadcast.
    broadcast: bool,
}

impl Wire {
    fn frame(&self) -> crate::programs::frame::Frame {
        let mac = if self.broadcast { BROADCAST_MAC } else { self.mac };
        udp(CLIENT, &self.to.to_string(), &ca::search(&["A:NAME"])).mac_to(mac)
    }

    fn plain(&self) -> Vec<u8> {
        self.frame().bytes()
    }

    fn longer_than_udp(&self) -> Vec<u8> {
        let longer = [ca::search(&["A:NAME"]), vec![7; 4]].concat();
        let mut bytes = self.frame().without_checksum().with(&longer).bytes();
        bytes[39] -= 4; // the UDP length
        bytes
    }

    fn tagged(&self) -> Vec<u8> {
        let mut bytes = self.plain();
        bytes.splice(12..12, [0x81, 0, 0x60, 0]);
        bytes
    }

    fn fragments(&self) -> Vec<Vec<u8>> {
        const FIRST: usize = 32;
        let whole = self.plain();
        let (headers, body) = whole.split_at(34);
        let fragment = |body: &[u8], field: u16| {
            let mut bytes = [headers, body].concat();
            bytes[16..18].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
            bytes[18..20].copy_from_slice(&[7, 7]); // the datagram's number
            bytes[20..22].copy_from_slice(&field.to_be_bytes());
            bytes[24..26].copy_from_slice(&[0; 2]);
            let sum = ones_complement(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            bytes
        };
        vec![fragment(&body[..FIRST], 0x2000), fragment(&body[FIRST..], FIRST as u16 / 8)]
    }
}

/// How often each socket heard a search, the most first, and what became of the answers.
#[derive(Debug, PartialEq, Eq)]
struct Cell {
    heard: Vec<usize>,
    /// Whether each was answered, from the port that was asked.
    answered: bool,
}

impl Cell {
    fn text(&self) -> String {
        let heard: Vec<_> = self.heard.iter().map(usize::to_string).collect();
        heard.join("+") + if self.answered { "" } else { ", unanswered" }
    }
}

/// A lab with a client on the LAN, a native host and a pod.
struct Bench {
    lab: Lab,
    client: UdpSocket,
    raw: OwnedFd,
    hosts: [Host; 2],
}

impl Bench {
    fn new(topology: Topology) -> Result<Self> {
        let lab = Lab::up(Options::new(topology))?;
        let pod = lab.pod("server")?;
        let client = lab.sandbox.run_in(WORKSTATION, || {
            let client = UdpSocket::bind(CLIENT).unwrap();
            client.set_broadcast(true).unwrap();
            client.set_read_timeout(Some(QUIET)).unwrap();
            client
        })?;
        let raw = lab.sandbox.run_in(WORKSTATION, raw_socket)?;
        let broadcast = match topology {
            Topology::Bridge => Ipv4Addr::new(10, 244, 1, 255),
            Topology::Routed => Ipv4Addr::BROADCAST,
        };
        let on_lan = Ipv4Addr::new(172, 23, 0, 3);
        let native = Host {
            netns: NATIVE.into(),
            address: on_lan,
            broadcast: LAN,
            on_lan,
            mac: lab.sandbox.run_in(NATIVE, mac_address)?,
        };
        let pod = Host {
            netns: pod.netns,
            address: pod.address.parse().unwrap(),
            broadcast,
            on_lan: Ipv4Addr::new(172, 23, 0, 10),
            mac: lab.sandbox.run_in(NODE, mac_address)?,
        };
        Ok(Self { lab, client, raw, hosts: [native, pod] })
    }

    /// What becomes of a search that `send` sends to each host: a broadcast comes to both.
    fn ask(&self, way: &Way, to: To, send: impl Fn(&Host)) -> Result<[Cell; 2]> {
        let listen = |host: &Host| -> Result<Vec<UdpSocket>> {
            Ok(host.listen(&self.lab, way, Type::DGRAM)?.into_iter().map(UdpSocket::from).collect())
        };
        let sockets = [listen(&self.hosts[0])?, listen(&self.hosts[1])?];
        let targets = if to == To::Host { &self.hosts[..] } else { &self.hosts[..1] };
        targets.iter().for_each(send);
        let heard = sockets.each_ref().map(|sockets| sockets.iter().map(answer_all).collect::<Vec<_>>());
        drop(sockets);
        lab::settle();
        let answers = received(&self.client);
        let [native, pod] = heard;
        Ok([self.cell(0, native, &answers), self.cell(1, pod, &answers)])
    }

    /// What becomes of a connection to each host, whose listeners send a byte.
    fn connect_way(&self, way: &Way) -> Result<[Cell; 2]> {
        let external = self.lab.external_port("server", "tcp", PORT)?.unwrap(); // it has answered for long
        let connect = |host: &Host, port: u16| -> Result<Cell> {
            let listeners = host.listen(&self.lab, way, Type::STREAM)?;
            let to = (host.on_lan, port);
            let client = self.lab.sandbox.run_in(WORKSTATION, move || TcpStream::connect(to).unwrap())?;
            let mut heard: Vec<_> = listeners.iter().map(greet).collect();
            heard.sort_unstable_by(|a, b| b.cmp(a));
            client.set_read_timeout(Some(QUIET)).unwrap();
            let answered = (&client).read(&mut [0]).is_ok_and(|length| length == 1);
            drop(listeners);
            lab::settle();
            Ok(Cell { heard, answered })
        };
        Ok([connect(&self.hosts[0], PORT)?, connect(&self.hosts[1], external)?])
    }

    fn cell(&self, host: usize, mut heard: Vec<usize>, answers: &[SocketAddr]) -> Cell {
        let asked = SocketAddr::from((self.hosts[host].on_lan, PORT));
        let came = answers.iter().filter(|from| **from == asked).count();
        let answered = came == heard.iter().sum::<usize>();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        Cell { heard, answered }
    }

    fn ask_way(&self, way: &Way, to: To) -> Result<[Cell; 2]> {
        self.ask(way, to, |host| {
            self.client.send_to(&ca::search(&["A:NAME"]), (host.target(to), PORT)).unwrap();
        })
    }

    fn ask_form(&self, Form(_, make): &Form, to: To) -> Result<[Cell; 2]> {
        // What has the host's own MAC address comes to one host only.
        self.ask(&WAYS[0], To::Host, |host| {
            let (mac, target) = (host.mac, SocketAddrV4::new(host.target(to), PORT));
            let wire = Wire { to: target, mac, broadcast: to != To::Host };
            let frames = make(&wire);
            let common = to != To::Host && frames[0][..6] == BROADCAST_MAC;
            if common && host.netns != NATIVE {
                return; // it has come already
            }
            for frame in frames {
                send(self.raw.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
            }
        })
    }
}

/// Answers all that comes to a socket; how much it was.
fn answer_all(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 2048];
    let received = std::iter::from_fn(|| socket.recv_from(&mut buffer).ok().map(|(_, from)| from));
    let answer = |from: SocketAddr| {
        let connected = socket.peer_addr().is_ok();
        let reply = ca::reply(PORT);
        if connected { socket.send(&reply) } else { socket.send_to(&reply, from) }.unwrap();
    };
    received.map(answer).count()
}

/// Says something on every connection that comes; how many these were.
fn greet(listener: &Socket) -> usize {
    std::iter::from_fn(|| listener.accept().ok())
        .map(|(mut connection, _)| connection.write_all(b"!").unwrap())
        .count()
}

/// Whom the client hears.
fn received(client: &UdpSocket) -> Vec<SocketAddr> {
    let mut buffer = [0; 2048];
    std::iter::from_fn(|| client.recv_from(&mut buffer).ok().map(|(_, from)| from)).collect()
}

/// A socket for whole frames that leave by `eth0`.
fn raw_socket() -> OwnedFd {
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let device = device("eth0");
    bind(raw.as_raw_fd(), device.address.unwrap().as_link_addr().unwrap()).unwrap();
    raw
}

fn mac_address() -> [u8; 6] {
    device("eth0").address.unwrap().as_link_addr().unwrap().addr().unwrap()
}

/// A row of a table: its name, and by arrival what the native host hears and what each pod hears.
struct Row(&'static str, Vec<[Cell; 3]>);

/// What native host and pod hear, by arrival.
type Heard = Vec<[Cell; 2]>;
/// The same, row by row.
type Cells = Vec<Heard>;

/// What becomes of all ways, of all forms and of all connections in one topology.
fn try_all(topology: Topology) -> Result<[Cells; 3]> {
    let bench = Bench::new(topology)?;
    let each = |ask: &dyn Fn(To) -> Result<[Cell; 2]>| -> Result<Heard> {
        ARRIVALS.iter().map(|to| ask(*to)).collect()
    };
    let ways = WAYS.iter().map(|way| each(&|to| bench.ask_way(way, to)));
    let forms = FORMS.iter().map(|form| each(&|to| bench.ask_form(form, to)));
    let [ways, forms] = [ways.collect::<Result<_>>()?, forms.collect::<Result<_>>()?];
    let connections = TCP_WAYS.iter().map(|way| Ok(vec![bench.connect_way(way)?]));
    Ok([ways, forms, connections.collect::<Result<_>>()?])
}

/// The rows with these names, from what both topologies gave.
fn rows(names: impl Iterator<Item = &'static str>, bridged: Cells, routed: Cells) -> Vec<Row> {
    let row = |(name, (bridged, routed)): (&'static str, (Heard, Heard))| {
        let both = bridged.into_iter().zip(routed).map(|([native, bridged], [again, routed])| {
            assert_eq!(native, again, "{name}: a native host in one lab and in the other");
            [native, bridged, routed]
        });
        Row(name, both.collect())
    };
    names.zip(bridged.into_iter().zip(routed)).map(row).collect()
}

/// The number of the reason for a difference in the pods of `topology`, if there is one.
fn reason(name: &str, topology: Topology, to: To) -> Option<usize> {
    let found = REASONS.iter().find(|Reason(row, topologies, arrivals, _)| {
        *row == name && topologies.contains(&topology) && arrivals.contains(&to)
    })?;
    notes().iter().position(|note| *note == found.3)
}

/// The reasons, each once.
fn notes() -> Vec<&'static str> {
    let mut notes: Vec<_> = REASONS.iter().map(|reason| reason.3).collect();
    notes.dedup();
    notes
}

/// What a cell says, and what is wrong with it: a difference without a reason, or the reverse.
fn describe(name: &str, to: To, [native, bridged, routed]: &[Cell; 3]) -> (String, Vec<String>) {
    let (mut text, mut faults) = (native.text(), vec![]);
    for (topology, kind, pod) in [(Topology::Bridge, "pod", bridged), (Topology::Routed, "/32 pod", routed)] {
        match (pod == native, reason(name, topology, to)) {
            (true, None) => {}
            (false, Some(note)) => {
                let _ = write!(text, "; {kind} {} ({})", pod.text(), note + 1);
            }
            (equal, _) => faults.push(format!(
                "{name}, {topology:?}: native {}, pod {}{}",
                native.text(),
                pod.text(),
                if equal { ", for which there is a reason" } else { "" }
            )),
        }
    }
    (text, faults)
}

fn table(arrivals: &[To], rows: &[Row], faults: &mut Vec<String>) -> String {
    let heads: Vec<_> = arrivals.iter().map(|to| to.name()).collect();
    let mut out = format!("| | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for Row(name, cells) in rows {
        let texts = arrivals.iter().zip(cells).map(|(to, cell)| {
            let (text, found) = describe(name, *to, cell);
            faults.extend(found);
            text
        });
        let texts: Vec<_> = texts.collect();
        let _ = writeln!(out, "| {name} | {} |", texts.join(" | "));
    }
    out
}

/// UPDATE_GOLDEN=1 writes the page anew.
#[test]
fn what_a_native_hosts_sockets_hear_a_pods_hear() -> Result<()> {
    let [bridged, routed] = scope(|scope| {
        Topology::ALL
            .map(|topology| scope.spawn(move || try_all(topology)))
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let ([ways, forms, connections], [ways_routed, forms_routed, connections_routed]) = (bridged?, routed?);
    let ways = rows(WAYS.iter().map(|way| way.0), ways, ways_routed);
    let forms = rows(FORMS.iter().map(|form| form.0), forms, forms_routed);
    let mut faults = vec![];
    let connections = rows(TCP_WAYS.iter().map(|way| way.0), connections, connections_routed);
    let (ways, forms) = (table(&ARRIVALS, &ways, &mut faults), table(&ARRIVALS, &forms, &mut faults));
    let connections = table(&[To::Circuit], &connections, &mut faults);
    assert!(faults.is_empty(), "without a reason:\n{}", faults.join("\n"));
    let mut text = include_str!("hears.md")
        .replace("WAYS\n", &ways)
        .replace("FORMS\n", &forms)
        .replace("CONNECTIONS\n", &connections);
    for (number, note) in notes().iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", number + 1);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hears.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, recorded, "docs/hears.md differs; UPDATE_GOLDEN=1 writes it anew");
    Ok(())
}

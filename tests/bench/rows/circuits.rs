//! TCP: through an external port, and of a process on the node with which iocast has nothing to do.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lab::{NODE, Result, Sandbox, WORKSTATION, tried};

use super::{
    Settings,
    latency::{Client, responder},
};
use crate::{
    net::{Side, at, roam},
    row::{Goal, IOCAST, Measure, NATIVE, Row, Section, Trial, WITHOUT},
    stats::{quantile, sorted},
    world::{SEARCH_PORT, Way, World},
};

/// What a connection is for: its first byte.
const ECHO: u8 = b'e';
const TAKE: u8 = b't';
const GIVE: u8 = b'g';
/// Bytes of a request and of its answer.
const REQUEST: usize = 64;
/// Bytes that are asked for, or acknowledged, by one.
const BLOCK: usize = 1 << 20;
/// Where the process on the node listens.
const UNRELATED_PORT: u16 = 7001;

/// A server that echoes, takes or gives, as each client wants it.
pub(crate) struct Server {
    end: Arc<AtomicBool>,
    /// Where the last connection goes.
    address: SocketAddrV4,
    netns: std::fs::File,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(sandbox: &Sandbox, netns: &str, port: u16) -> Result<Self> {
        let listener = sandbox.run_in(netns, move || TcpListener::bind(("0.0.0.0", port)))?;
        let listener = tried(format!("listen on {port} in {netns}"), listener)?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            Side::Both.keep();
            for stream in listener.incoming().flatten().take_while(|_| !ended.load(Ordering::Relaxed)) {
                std::thread::spawn(move || serve(stream));
            }
        });
        let address = at([127, 0, 0, 1].into(), port);
        Ok(Self { end, address, netns: sandbox.open_netns(netns)?, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // One more connection, so that the thread sees it.
        let (Ok(netns), address) = (self.netns.try_clone(), self.address) else { return };
        let knock = move || crate::world::enter(&netns).map(|()| TcpStream::connect(address));
        let _ = std::thread::spawn(knock).join();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Serves a client until it, or the connection, ends.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut kind = [0];
    stream.set_nodelay(true)?;
    stream.read_exact(&mut kind)?;
    match kind[0] {
        ECHO => loop {
            stream.read_exact(&mut block[..REQUEST])?;
            stream.write_all(&block[..REQUEST])?;
        },
        GIVE => loop {
            stream.read_exact(&mut kind)?;
            stream.write_all(&block)?;
        },
        _ => loop {
            stream.read_exact(&mut block)?;
            stream.write_all(&kind)?;
        },
    }
}

fn connect(to: SocketAddrV4, kind: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

/// Gbit/s from the server.
fn given(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    let (mut stream, mut block) = (connect(to, GIVE)?, vec![0; BLOCK]);
    let turn = || stream.write_all(&[0]).and_then(|()| stream.read_exact(&mut block));
    typical(time, turn).map(gigabits)
}

/// Gbit/s to the server.
fn taken(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    let (mut stream, block) = (connect(to, TAKE)?, vec![0; BLOCK]);
    let turn = || stream.write_all(&block).and_then(|()| stream.read_exact(&mut [0]));
    typical(time, turn).map(gigabits)
}

/// By the seconds that a block takes.
fn gigabits(seconds: f64) -> f64 {
    BLOCK as f64 * 8e-9 / seconds
}

/// Requests on one connection, thousands a second.
fn requests(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    round_trip(to, time).map(|microseconds| 1e3 / microseconds)
}

/// Connections with one request each, thousands a second.
fn connections(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    typical(time, || exchange(&mut connect(to, ECHO)?)).map(|seconds| 1e-3 / seconds)
}

/// Requests on one connection, microseconds each.
pub(crate) fn round_trip(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    let mut stream = connect(to, ECHO)?;
    typical(time, || exchange(&mut stream)).map(|seconds| seconds * 1e6)
}

/// The median of the seconds that something takes which is done for a while: what else the machine does now and then is no part of
/// it.
fn typical(time: Duration, mut work: impl FnMut() -> std::io::Result<()>) -> std::io::Result<f64> {
    let (start, mut times) = (Instant::now(), vec![]);
    while start.elapsed() < time {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(quantile(&sorted(&times), 0.5))
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; REQUEST];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes)
}

/// Measures one thing of a server.
type Talk = fn(SocketAddrV4, Duration) -> std::io::Result<f64>;

/// What clients and servers do with circuits.
const TALKS: [(&str, &str, Talk); 4] = [
    ("to the LAN", "Gbit/s", given),
    ("from the LAN", "Gbit/s", taken),
    ("requests of 64 bytes", "1000/s", requests),
    ("connections", "1000/s", connections),
];

/// A circuit that is kept, and whose server lives as long.
pub(crate) struct Kept {
    pub(crate) to: SocketAddrV4,
    _stream: TcpStream,
    _server: Server,
}

/// A server in the first pod behind its external port, and a connection to it.
pub(crate) fn keep_one(world: &World) -> Result<Kept> {
    let server = Server::start(&world.lab.sandbox, &world.server(Way::Iocast, 0), SEARCH_PORT)?;
    let to = external(world)?;
    let stream = world.inside(WORKSTATION, || tried("connect", connect(to, ECHO)))?;
    Ok(Kept { to, _stream: stream, _server: server })
}

/// Where clients find the server of the first pod: an answer to a search takes the external port.
pub(crate) fn external(world: &World) -> Result<SocketAddrV4> {
    let _responder = responder(world, Way::Iocast, 0, SEARCH_PORT)?;
    let (_, port) = Client::new(world, Way::Iocast)?.search()?;
    Ok(at(Way::Iocast.node(), port))
}

/// All of these, by a client on the workstation.
pub(crate) fn talk(world: &World, to: SocketAddrV4, time: Duration, talks: &[Talk]) -> Result<Vec<f64>> {
    world.inside(WORKSTATION, || {
        Side::Both.keep();
        let numbers: std::io::Result<_> = talks.iter().map(|talk| talk(to, time)).collect();
        roam();
        tried(format!("talk with {to}"), numbers)
    })
}

/// The usual four.
pub(crate) fn measure(world: &World, to: SocketAddrV4, time: Duration) -> Result<Vec<f64>> {
    talk(world, to, time, &TALKS.map(|(_, _, talk)| talk))
}

fn measures(section: Section, goals: &[Goal]) -> Vec<Measure> {
    TALKS.map(|(name, unit, _)| Measure::higher(section, name, unit, goals)).into()
}

/// Through an external port and to LAN addresses, and what else leads from the LAN to a server.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    const SERVERS: [Way; 6] = [Way::Iocast, Way::Native, Way::Nft, Way::Address, Way::Direct, Way::Routed];
    let start = |way| Server::start(&world.lab.sandbox, &world.server(way, 0), SEARCH_PORT);
    let servers = Rc::new(SERVERS.map(start).into_iter().collect::<Result<Vec<_>>>()?);
    let external = external(world)?;
    let contenders = |ways: &[Way], talks: &'static [Talk]| {
        let contender = |way: &Way| -> (&'static str, Trial) {
            let to = if *way == Way::Iocast { external } else { at(world.target(*way), SEARCH_PORT) };
            let (servers, time) = (servers.clone(), Duration::from_millis(settings.pick(80, 50)));
            let trial = move || {
                let _alive = &servers;
                talk(world, to, time, talks)
            };
            (way.name(), Box::new(trial))
        };
        ways.iter().map(contender).collect::<Vec<_>>()
    };
    let row =
        |measures, contenders| Row { measures, contenders, repeats: settings.pick(15, 5), warm_up: true };
    let beside = |name| [Goal::TimesAtLeast(name, 0.98)];
    let trip = Measure::lower(
        Section::Direct,
        "round trip of 64 bytes, median",
        "µs",
        &[Goal::TimesAtMost(NATIVE, 1.15)],
    );
    let mut direct = measures(Section::Direct, &[]);
    direct[2] = trip;
    Ok(vec![
        row(
            measures(Section::Tcp, &beside(Way::Nft.name())),
            contenders(
                &[Way::Iocast, Way::Nft, Way::Native, Way::Macvlan],
                &[given, taken, requests, connections],
            ),
        ),
        row(
            direct,
            contenders(&[Way::Direct, Way::Native, Way::Macvlan], &[given, taken, round_trip, connections]),
        ),
        row(
            measures(Section::Address, &beside(Way::Routed.name())),
            contenders(&[Way::Address, Way::Routed], &[given, taken, requests, connections]),
        ),
    ])
}

/// Of a process on the node: on our uplink, and on another.
pub(crate) fn unrelated_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let server = Rc::new(Server::start(&world.lab.sandbox, NODE, UNRELATED_PORT)?);
    let contender = |name: &'static str, way: Way| -> (&'static str, Trial) {
        let (server, to) = (server.clone(), at(way.node(), UNRELATED_PORT));
        let trial = move || {
            let _alive = &server;
            measure(world, to, Duration::from_millis(settings.pick(80, 50)))
        };
        (name, Box::new(trial))
    };
    Ok(vec![Row {
        measures: measures(Section::Unrelated, &[Goal::TimesAtLeast(WITHOUT, 0.99)]),
        contenders: vec![contender(IOCAST, Way::Iocast), contender(WITHOUT, Way::Nft)],
        repeats: settings.pick(21, 7),
        warm_up: true,
    }])
}

//! TCP: through an external port, and of a process on the node with which iocast has nothing to do.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddrV4, TcpListener, TcpStream},
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
    world::{SEARCH_PORT, Way, World},
};

/// What a connection is for: its first byte.
const ECHO: u8 = b'e';
const TAKE: u8 = b't';
const GIVE: u8 = b'g';
/// Bytes of a request and of its answer.
const REQUEST: usize = 64;
const BLOCK: usize = 1 << 17;
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
            Side::Server.keep();
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
            stream.write_all(&block)?;
        },
        _ => {
            let mut count = 0u64;
            loop {
                match stream.read(&mut block)? {
                    0 => return stream.write_all(&count.to_be_bytes()),
                    length => count += length as u64,
                }
            }
        }
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
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        count += stream.read(&mut block)?;
    }
    Ok(gigabits(count as u64, start))
}

/// Gbit/s to the server.
fn taken(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    let (mut stream, block) = (connect(to, TAKE)?, vec![0; BLOCK]);
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(gigabits(u64::from_be_bytes(count), start))
}

fn gigabits(bytes: u64, start: Instant) -> f64 {
    bytes as f64 * 8e-9 / start.elapsed().as_secs_f64()
}

/// Requests on one connection, thousands a second.
fn requests(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    let mut stream = connect(to, ECHO)?;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        exchange(&mut stream)?;
        count += 1;
    }
    Ok(f64::from(count) / 1e3 / start.elapsed().as_secs_f64())
}

/// Connections with one request each, thousands a second.
fn connections(to: SocketAddrV4, time: Duration) -> std::io::Result<f64> {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        exchange(&mut connect(to, ECHO)?)?;
        count += 1;
    }
    Ok(f64::from(count) / 1e3 / start.elapsed().as_secs_f64())
}

fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; REQUEST];
    stream.write_all(&bytes)?;
    stream.read_exact(&mut bytes)
}

/// All four of them, by a client on the workstation.
pub(crate) fn measure(world: &World, to: SocketAddrV4, time: Duration) -> Result<Vec<f64>> {
    world.inside(WORKSTATION, || {
        let all = [given, taken, requests, connections];
        Side::Client.keep();
        let numbers: std::io::Result<_> = all.iter().map(|measure| measure(to, time)).collect();
        roam();
        tried(format!("talk with {to}"), numbers)
    })
}

fn measures(section: Section, goals: &[Goal]) -> Vec<Measure> {
    [
        ("to the LAN", "Gbit/s"),
        ("from the LAN", "Gbit/s"),
        ("requests of 64 bytes", "1000/s"),
        ("connections", "1000/s"),
    ]
    .map(|(name, unit)| Measure::higher(section, name, unit, goals))
    .into()
}

/// Through an external port, and what else leads from the LAN to a server.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    const WAYS: [Way; 6] = [Way::Iocast, Way::Native, Way::Nft, Way::Macvlan, Way::Address, Way::Direct];
    const SERVERS: [Way; 5] = [Way::Iocast, Way::Native, Way::Nft, Way::Address, Way::Direct];
    let start = |way| Server::start(&world.lab.sandbox, &world.server(way, 0), SEARCH_PORT);
    let servers = SERVERS.map(start).into_iter().collect::<Result<Vec<_>>>()?;
    let servers = std::rc::Rc::new(servers);
    // An answer to a search takes the external port.
    let responder = responder(world, Way::Iocast, 0, SEARCH_PORT)?;
    let (_, external) = Client::new(world, Way::Iocast)?.search()?;
    drop(responder);
    let contender = |way: Way| -> (&'static str, Trial) {
        let to = match way {
            Way::Iocast => at(way.node(), external),
            _ => at(way.target(), SEARCH_PORT),
        };
        let servers = servers.clone();
        let trial = move || {
            let _alive = &servers;
            measure(world, to, Duration::from_millis(settings.pick(150, 100)))
        };
        (way.name(), Box::new(trial))
    };
    Ok(vec![Row {
        measures: measures(
            Section::Tcp,
            &[Goal::TimesAtLeast(NATIVE, 0.95), Goal::TimesAtLeast(Way::Nft.name(), 1.0)],
        ),
        contenders: WAYS.into_iter().map(contender).collect(),
        repeats: settings.pick(15, 5),
        warm_up: true,
    }])
}

/// Of a process on the node: on our uplink, and on another.
pub(crate) fn unrelated_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let server = std::rc::Rc::new(Server::start(&world.lab.sandbox, NODE, UNRELATED_PORT)?);
    let contender = |name: &'static str, way: Way| -> (&'static str, Trial) {
        let (server, to) = (server.clone(), at(way.node(), UNRELATED_PORT));
        let trial = move || {
            let _alive = &server;
            measure(world, to, Duration::from_millis(settings.pick(150, 100)))
        };
        (name, Box::new(trial))
    };
    Ok(vec![Row {
        measures: measures(Section::Unrelated, &[Goal::TimesAtLeast(WITHOUT, 0.99)]),
        contenders: vec![contender(IOCAST, Way::Iocast), contender(WITHOUT, Way::Nft)],
        repeats: settings.pick(25, 9),
        warm_up: true,
    }])
}

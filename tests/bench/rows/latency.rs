//! From a client's search to the answer.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use lab::{Result, WORKSTATION, ca, tried};

use super::Settings;
use crate::{
    net::{Listener, Side, at, datagrams, roam},
    relay::Relay,
    row::{Goal, Measure, NATIVE, Row, Section, Trial},
    stats::{quantile, sorted},
    world::{SEARCH_PORT, Way, World},
};

/// Without an answer for so long, a client searches again.
const PATIENCE: Duration = Duration::from_millis(250);
const TRIES: usize = 8;

/// A server that answers every search, for a circuit to `port`.
pub(crate) fn responder(world: &World, way: Way, number: usize, port: u16) -> Result<Listener> {
    let reply = ca::reply(port);
    Listener::start_on(Side::Both, search_socket(world, way, number)?, move |socket, _, from| {
        let _ = socket.send_to(&reply, from); // as lossy as the network
    })
}

/// A server that answers nothing.
pub(crate) fn silent(world: &World, way: Way, number: usize) -> Result<Listener> {
    Listener::start_on(Side::Both, search_socket(world, way, number)?, |_, _, _| ())
}

fn search_socket(world: &World, way: Way, number: usize) -> Result<UdpSocket> {
    let everywhere = format!("0.0.0.0:{SEARCH_PORT}");
    datagrams(&world.lab.sandbox, &world.server(way, number), &everywhere, None)
}

/// A client on the LAN of `way`.
pub(crate) struct Client {
    socket: UdpSocket,
    way: Way,
    search: Vec<u8>,
}

impl Client {
    pub(crate) fn new(world: &World, way: Way) -> Result<Self> {
        let socket = datagrams(&world.lab.sandbox, WORKSTATION, &format!("{}:0", way.client()), None)?;
        tried("set a timeout", socket.set_read_timeout(Some(PATIENCE)))?;
        Ok(Self { socket, way, search: ca::search(&["BENCH:PV"]) })
    }

    /// Searches: how long the answer takes, and the port it names. A loss shows as the time until the next try was answered.
    pub(crate) fn search(&self) -> Result<(Duration, u16)> {
        // A rule cannot translate broadcasts.
        let to = if self.way == Way::Nft { self.way.node() } else { self.way.broadcast() };
        let mut buffer = [0; 2048];
        let start = Instant::now();
        for _ in 0..TRIES {
            tried("search", self.socket.send_to(&self.search, at(to, SEARCH_PORT)))?;
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let took = start.elapsed();
            return Ok((took, ca::servers(&buffer[..length]).first().map_or(0, |(port, _)| *port)));
        }
        Err(lab::Error::Timeout(format!("no answer by {} to {TRIES} searches", self.way.name())))
    }

    /// Median and 99th percentile of many searches, in microseconds.
    pub(crate) fn measure(&self, searches: usize) -> Result<Vec<f64>> {
        let times = (0..searches).map(|_| Ok(self.search()?.0.as_secs_f64() * 1e6));
        Side::Both.keep();
        let times = times.collect::<Result<Vec<_>>>();
        roam();
        let times = sorted(&times?);
        Ok(vec![quantile(&times, 0.5), quantile(&times, 0.99)])
    }
}

/// One pod listens and answers; then nine more listen.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    Ok(vec![row(world, settings, "one listens", 1, 1.3)?, row(world, settings, "ten listen", 10, 1.45)?])
}

/// The row of so many listeners, of which the first answers, and what native's time is multiplied by in its goal.
fn row<'a>(world: &'a World, settings: Settings, who: &str, listeners: usize, goal: f64) -> Result<Row<'a>> {
    const ALONE: [Way; 8] = [
        Way::Iocast,
        Way::Native,
        Way::Nft,
        Way::Macvlan,
        Way::Bridge,
        Way::Relay,
        Way::Address,
        Way::Direct,
    ];
    const TOGETHER: [Way; 5] = [Way::Iocast, Way::Native, Way::Macvlan, Way::Bridge, Way::Relay];
    let ways: &[Way] = if listeners == 1 { &ALONE } else { &TOGETHER };
    let contender = |way: Way| -> Result<(&'static str, Trial<'a>)> {
        let searches = settings.pick(1500, 500);
        let client = Client::new(world, way)?;
        let trial = move || {
            // Only while it is its turn: whoever else listens would hear what the others are asked.
            let _servers = serve(world, way, listeners)?;
            client.measure(searches)
        };
        Ok((way.name(), Box::new(trial)))
    };
    let name = |what: &str| format!("{who}, {what}");
    Ok(Row {
        measures: vec![
            Measure::lower(Section::Latency, name("median"), "µs", &[Goal::TimesAtMost(NATIVE, goal)]),
            Measure::lower(Section::Latency, name("99 %"), "µs", &[]),
        ],
        contenders: ways.iter().map(|way| contender(*way)).collect::<Result<_>>()?,
        repeats: settings.pick(11, 5),
        warm_up: true,
    })
}

/// What answers and what only listens.
struct Servers {
    _listeners: Vec<Listener>,
    _relay: Option<Relay>,
}

/// The servers of a contender: the first of them answers.
fn serve(world: &World, way: Way, listeners: usize) -> Result<Servers> {
    let relay = (way == Way::Relay).then(|| Relay::start(world)).transpose()?;
    let mut all = vec![responder(world, way, 0, SEARCH_PORT)?];
    for number in 1..listeners {
        all.push(silent(world, way, number)?);
    }
    Ok(Servers { _listeners: all, _relay: relay })
}

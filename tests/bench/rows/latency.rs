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
    let everywhere = format!("0.0.0.0:{SEARCH_PORT}");
    let socket = datagrams(&world.lab.sandbox, &world.server(way, number), &everywhere, None)?;
    let (reply, mut placed) = (ca::reply(port), false);
    Listener::start(socket, move |socket, _, from| {
        if !std::mem::replace(&mut placed, true) {
            Side::Server.keep();
        }
        let _ = socket.send_to(&reply, from); // as lossy as the network
    })
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
        Side::Client.keep();
        let times = times.collect::<Result<Vec<_>>>();
        roam();
        let times = sorted(&times?);
        Ok(vec![quantile(&times, 0.5), quantile(&times, 0.99)])
    }
}

/// One of the pods answers.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let ways = [Way::Iocast, Way::Native, Way::Nft, Way::Address, Way::Direct];
    let servers = ways.map(|way| responder(world, way, 0, SEARCH_PORT));
    let servers = std::rc::Rc::new(servers.into_iter().collect::<Result<Vec<_>>>()?);
    let relay = std::rc::Rc::new(Relay::start(world)?);
    let searches = settings.pick(2000, 500);
    let contender = |way: Way| -> Result<(&'static str, Trial)> {
        let (client, alive) = (Client::new(world, way)?, (servers.clone(), relay.clone()));
        let trial = move || {
            let _alive = &alive;
            client.measure(searches)
        };
        Ok((way.name(), Box::new(trial)))
    };
    let goals = [Goal::TimesAtMost(NATIVE, 1.1)];
    Ok(vec![Row {
        measures: vec![
            Measure::lower(Section::Latency, "search to answer, median", "µs", &goals),
            Measure::lower(Section::Latency, "search to answer, 99 %", "µs", &[]),
        ],
        contenders: Way::ALL.into_iter().map(contender).collect::<Result<_>>()?,
        repeats: settings.pick(9, 5),
        warm_up: true,
    }])
}

//! What a search costs that crosses to another subnet: processor time of the agents that send and receive it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{Error, Lab, Options, Result, Topology, WORKSTATION, ca, on_lan, udp::Socket};

use super::{Settings, searches::NAMES};
use crate::{
    cpu,
    row::{IOCAST, Measure, Row, Section, Trial},
    world::{SEARCH_PORT, World},
};

/// What is measured.
pub(crate) const CROSSING: &str = "a search for 20 names that crosses, at each of the two nodes";
const KEY: &str = "0123456789abcdef0123456789abcdef";
const CONFIGURATION: &str = "[domain.lab]\nuplink = \"eth0\"\nlan = [\"172.23.0.0/16\"]\n\
                             rates = { pod = 0, host = 0, domain = 0 }\n\
                             subnets = { peers = [\"172.23.0.10\", \"172.23.1.11\"], key = \"/run/iocast/key\" }\n";
const PATIENCE: Duration = Duration::from_secs(20);
/// Searches of a trial in each direction, so many at once, and the time from one lot to the next.
const SEARCHES: usize = 2000;
const LOT: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// All have crossed within this time.
const REST: Duration = Duration::from_millis(300);

/// Two nodes in two subnets, each with a workstation.
struct Scene {
    lab: Lab,
    /// Who asks, and who hears, on each LAN.
    stations: [Socket; 2],
}

/// In a lab of its own.
pub(crate) fn rows(_: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let scene = Scene::up()?;
    let trial: Trial = Box::new(move || Ok(vec![scene.cost()?]));
    Ok(vec![Row {
        measures: vec![Measure::lower(Section::Searches, CROSSING, "µs", &[])],
        contenders: vec![(IOCAST, trial)],
        repeats: settings.pick(5, 3),
        warm_up: true,
    }])
}

impl Scene {
    fn up() -> Result<Self> {
        let mut lab = Lab::without_agent(Options::on_lans(Topology::Bridge, &[0, 1]))?;
        lab.sandbox.write("/run/iocast/key", KEY)?;
        lab.start_agent_with(CONFIGURATION)?;
        let start = Instant::now();
        while lab.status_on(0)?["subnets"]["peers"][0]["state"] != "heard" {
            if start.elapsed() > PATIENCE {
                return Err(Error::Timeout(format!("the other subnet is not heard: {}", lab.status_on(0)?)));
            }
            sleep(Duration::from_millis(100));
        }
        let station =
            |lan| Socket::bind(&lab.sandbox, &on_lan(WORKSTATION, lan), &format!("0.0.0.0:{SEARCH_PORT}"));
        let stations = [station(0)?, station(1)?];
        Ok(Self { lab, stations })
    }

    /// Microseconds of one agent for a search that it sends or receives; the same number of each.
    fn cost(&self) -> Result<f64> {
        let agent = self.lab.agent().map(lab::Process::id).unwrap_or_default();
        let before = cpu::of_processes(&[agent]);
        let (sent, received) = (self.cross(0)?, self.cross(1)?);
        let spent = (cpu::of_processes(&[agent]) - before) as f64;
        Ok(spent / 1e3 / (sent + received) as f64)
    }

    /// Asks on this LAN; how many were heard on the other one.
    fn cross(&self, lan: usize) -> Result<usize> {
        let search = ca::search(&NAMES.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in 0..SEARCHES / LOT {
            for _ in 0..LOT {
                self.stations[lan].send(&search, &format!("172.23.{lan}.255:{SEARCH_PORT}"))?;
            }
            sleep(PAUSE);
        }
        let heard = self.stations[1 - lan].drain(REST).len();
        self.stations[lan].drain(Duration::from_millis(1));
        if heard < SEARCHES / 2 {
            return Err(Error::Missing(format!("of {SEARCHES} searches {heard} have crossed")));
        }
        Ok(heard)
    }
}

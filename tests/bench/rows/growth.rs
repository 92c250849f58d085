//! What grows with the number of pods, circuits, searchers, domains, searches and processors. A row's contenders are levels, the
//! highest first: its ratio to the lowest is what growth costs.

use std::{
    rc::Rc,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{NODE, Result, tried};

use super::{
    Settings,
    circuits::{round_trip, talk},
    cni::{Circuits, of_a_member},
    fanout::{Audience, Received},
    latency::{Client, responder},
    programs::time_of_from_lan,
};
use crate::{
    burst::Burst,
    net::{processors, run_on},
    row::{Goal, Measure, Row, Section, Trial},
    tables::set_searchers,
    world::{SEARCH_PORT, Way, World, configuration},
};

/// What is done much more of may cost a little more, but not in proportion.
const FLAT: f64 = 1.25;
/// Levels, the highest first.
const CIRCUITS: [(&str, usize); 4] = [("60 000", 60_000), ("10 000", 10_000), ("1 000", 1000), ("10", 10)];
const SEARCHERS: [(&str, usize); 4] = [("65 000", 65_000), ("10 000", 10_000), ("1 000", 1000), ("10", 10)];
/// Searches a second.
const RATES: [(&str, u32); 4] = [("50 000", 50_000), ("10 000", 10_000), ("1 000", 1000), ("100", 100)];
/// Domains, and how many of these are nobody's.
const DOMAINS: [(&str, usize); 3] = [("16", 12), ("8", 4), ("4", 0)];
/// Searches come at most so often, or several of them at once.
const TICK: Duration = Duration::from_millis(1);
/// The agent has taken over a configuration within this time, and twice its period.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of a number of pods.
fn label(pods: usize) -> &'static str {
    match pods {
        0..110 => "10",
        110..250 => "110",
        250..500 => "250",
        _ => "500",
    }
}

/// A row of levels that cost about the same.
fn row<'a>(measures: Vec<Measure>, contenders: Vec<(&'static str, Trial<'a>)>, repeats: usize) -> Row<'a> {
    Row { measures, contenders, repeats, warm_up: true }
}

fn flat(section: Section, name: &str, unit: &'static str, lowest: &'static str, times: f64) -> Measure {
    Measure::lower(section, name, unit, &[Goal::TimesAtMost(lowest, times)])
}

/// The only pod that listens, in the domain that has all the pods that there are now and in the one that has ten.
pub(crate) fn pod_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let all = label(world.pods.len());
    let contender = |name, way: Way| -> Result<(&'static str, Trial)> {
        let client = Client::new(world, way)?;
        let trial = move || {
            let _server = responder(world, way, 0, SEARCH_PORT)?;
            Ok(vec![client.measure(settings.pick(1000, 500))?[0]])
        };
        Ok((name, Box::new(trial)))
    };
    let measure =
        flat(Section::PodGrowth, "search to answer of the only listener", "µs", Way::Few.name(), 1.15);
    let contenders = vec![contender(all, Way::Iocast)?, contender(Way::Few.name(), Way::Few)?];
    Ok(vec![row(vec![measure], contenders, settings.pick(11, 5))])
}

/// Idle circuits: what happens on another one, and what it takes a pod to come and go.
pub(crate) fn circuit_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let contender = |&(name, count): &(&'static str, usize)| -> (&'static str, Trial) {
        let trial = move || {
            let circuits = Circuits::fill(world, count)?;
            let trip = talk(world, circuits.real.to, Duration::from_millis(50), &[round_trip])?[0];
            let [add, del] = of_a_member(world)?;
            Ok(vec![trip, add, del])
        };
        (name, Box::new(trial))
    };
    let measure = |name, unit| flat(Section::CircuitGrowth, name, unit, "10", FLAT);
    let measures = vec![measure("round trip of 64 bytes", "µs"), measure("ADD", "ms"), measure("DEL", "ms")];
    Ok(vec![row(measures, CIRCUITS.iter().map(contender).collect(), settings.pick(5, 3))])
}

/// Searchers that are remembered.
pub(crate) fn searcher_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let client = Rc::new(Client::new(world, Way::Iocast)?);
    let contender = |&(name, count): &(&'static str, usize)| -> (&'static str, Trial) {
        let client = Rc::clone(&client);
        let trial = move || {
            let _server = responder(world, Way::Iocast, 0, SEARCH_PORT)?;
            client.search()?; // one to make copies of
            set_searchers(&world.lab.sandbox, count)?;
            let time = client.measure(settings.pick(1000, 500))?[0];
            set_searchers(&world.lab.sandbox, 0)?;
            Ok(vec![time])
        };
        (name, Box::new(trial))
    };
    let measure = flat(Section::SearcherGrowth, "search to answer", "µs", "10", FLAT);
    Ok(vec![row(vec![measure], SEARCHERS.iter().map(contender).collect(), settings.pick(7, 3))])
}

/// Domains that nobody asks, each with an uplink.
pub(crate) fn domain_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    for number in 0..DOMAINS[0].1 {
        let line = format!("ip link add more{number} type veth peer name far{number}");
        world.lab.sandbox.sh(NODE, &line)?;
        world
            .lab
            .sandbox
            .sh(NODE, &format!("ip address add 10.80.{number}.10/24 broadcast + dev more{number}"))?;
        world.lab.sandbox.sh(NODE, &format!("ip link set far{number} up"))?;
        world.lab.sandbox.sh(NODE, &format!("ip link set more{number} up"))?;
    }
    let client = Rc::new(Client::new(world, Way::Iocast)?);
    let contender = |&(name, more): &(&'static str, usize)| -> (&'static str, Trial) {
        let client = Rc::clone(&client);
        let trial = move || {
            configure(world, more)?;
            let _server = responder(world, Way::Iocast, 0, SEARCH_PORT)?;
            Ok(vec![client.measure(1000)?[0], time_of_from_lan(world)?])
        };
        (name, Box::new(trial))
    };
    let measure = |name, unit| flat(Section::DomainGrowth, name, unit, "4", FLAT);
    let measures = vec![measure("search to answer", "µs"), measure("from_lan, a packet of the node", "ns")];
    let contenders = DOMAINS.iter().map(contender).collect();
    Ok(vec![Row { warm_up: false, ..row(measures, contenders, settings.pick(3, 1)) }])
}

/// Waits until the agent has so many domains more than the benchmark needs.
fn configure(world: &World, more: usize) -> Result<()> {
    world.lab.configure(&configuration(more))?;
    let start = Instant::now();
    let wanted = more + 4;
    loop {
        let found = world.lab.state(|state| state.uplinks().map_or(0, |uplinks| uplinks.len()))?;
        if found == wanted {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(lab::Error::Timeout(format!("{found} domains, not {wanted}")));
        }
        sleep(Duration::from_millis(50));
    }
}

/// Searches at a rate, to ten pods that listen.
pub(crate) fn rate_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let audience = Audience::gather(world, 1)?;
    let contender = |&(name, rate): &(&'static str, u32)| -> Result<(&'static str, Trial)> {
        let audience = Rc::clone(&audience);
        let count = (rate / 1000).max(1);
        let burst = world.burst(Way::Iocast, count as usize, None)?;
        let pause = Duration::from_secs(1) * count / rate;
        let time = Duration::from_millis(settings.pick(600, 300));
        let trial = move || {
            let Received { delivered, cost, .. } =
                audience.receive_paced(world, Way::Iocast, count as usize, time, || {
                    arrive_every(pause.max(TICK), &burst)
                })?;
            Ok(vec![cost, delivered])
        };
        Ok((name, Box::new(trial)))
    };
    let measures = vec![
        flat(Section::RateGrowth, "processor time for each copy", "µs", "100", FLAT),
        Measure::higher(Section::RateGrowth, "copies delivered", "%", &[Goal::AtLeast(100.0)]),
    ];
    let contenders = RATES.iter().map(contender).collect::<Result<_>>()?;
    Ok(vec![row(measures, contenders, settings.pick(5, 2))])
}

fn arrive_every(pause: Duration, burst: &Burst) -> Result<()> {
    sleep(pause);
    tried("let a burst arrive", burst.arrive())
}

/// One processor, and all that there are.
pub(crate) fn processor_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    const COUNT: usize = 64;
    const LEVELS: [(&str, usize); 5] = [("16", 16), ("8", 8), ("4", 4), ("2", 2), ("1", 1)];
    let audience = Audience::gather(world, 1)?;
    let there = LEVELS.iter().filter(|(_, count)| *count <= processors());
    let contender = |&(name, count): &(&'static str, usize)| -> Result<(&'static str, Trial)> {
        let (audience, burst) = (Rc::clone(&audience), world.burst(Way::Iocast, COUNT, None)?);
        let trial = move || {
            run_on(count);
            let received = audience.receive(world, Way::Iocast, &burst, COUNT);
            run_on(processors());
            Ok(vec![received?.speed])
        };
        Ok((name, Box::new(trial)))
    };
    let name = format!("copies of bursts of {COUNT}, {} pods", world.pods.len());
    let measure = Measure::higher(Section::ProcessorGrowth, name, "1000/s", &[Goal::TimesAtLeast("1", 1.0)]);
    let contenders = there.map(contender).collect::<Result<_>>()?;
    Ok(vec![row(vec![measure], contenders, settings.pick(7, 3))])
}

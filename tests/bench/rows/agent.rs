//! What the agent needs, what a reload loses, what an external port costs that is new, and the binaries.

use std::{
    fs,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use lab::{Result, WORKSTATION, ca, tried};

use super::{Settings, latency::Client};
use crate::{
    net::{Listener, QUIET, Side, Tally, at, datagrams},
    row::{Goal, IOCAST, Measure, Row, Section, Trial},
    stats::{quantile, sorted},
    world::{SEARCH_PORT, Way, World},
};

/// External ports that the lab's domain has.
const PORTS: u16 = 4000;
/// Between two searches during a reload.
const PACE: Duration = Duration::from_micros(200);

/// A row in which nobody but we take part.
fn alone<'a>(measures: Vec<Measure>, repeats: usize, trial: Trial<'a>) -> Row<'a> {
    Row { measures, contenders: vec![(IOCAST, trial)], repeats, warm_up: false }
}

/// With the pods that there are now.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let pods = world.pods.len();
    let measure = |what: &str, unit, goals: &[Goal]| {
        Measure::lower(Section::Ports, format!("{what} with {pods} pods"), unit, goals)
    };
    let measures = vec![
        measure("iocast-node status", "ms", &[]),
        measure("resident memory of iocast-node", "MB", &[Goal::AtMost(16.0)]),
    ];
    let trial = move || {
        let start = Instant::now();
        world.lab.status()?;
        Ok(vec![start.elapsed().as_secs_f64() * 1e3, resident(world.agent.id())?])
    };
    Ok(vec![alone(measures, settings.pick(5, 3), Box::new(trial))])
}

/// Resident memory of a process, MB.
fn resident(id: u32) -> Result<f64> {
    let status = tried("look at a process", fs::read_to_string(format!("/proc/{id}/status")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    Ok(line.and_then(|number| number.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3)
}

/// The static binaries.
pub(crate) fn size_rows(_: &World, _: Settings) -> Result<Vec<Row<'_>>> {
    let size = |name: &'static str, goals: &[Goal]| -> Row<'_> {
        let trial = move || {
            let size = tried(name, fs::metadata(lab::binary(name)?))?.len();
            Ok(vec![size as f64 / 1e6])
        };
        alone(vec![Measure::lower(Section::Size, format!("binary {name}"), "MB", goals)], 1, Box::new(trial))
    };
    Ok(vec![size("iocast", &[Goal::AtMost(4.0)]), size("iocast-node", &[])])
}

/// Until nearly all external ports are taken.
pub(crate) fn port_rows(world: &World, _: Settings) -> Result<Vec<Row<'_>>> {
    let port = Arc::new(AtomicU16::new(1000));
    let socket = datagrams(
        &world.lab.sandbox,
        &world.server(Way::Iocast, 1),
        &format!("0.0.0.0:{SEARCH_PORT}"),
        None,
    )?;
    let named = Arc::clone(&port);
    let server = Listener::start_on(Side::Both, socket, move |socket, _, from| {
        let _ = socket.send_to(&ca::reply(named.load(Ordering::Relaxed)), from); // as lossy as the network
    })?;
    let client = Client::new(world, Way::Iocast)?;
    let measure = |what: &str| Measure::lower(Section::Ports, format!("search to answer, {what}"), "µs", &[]);
    let measures = vec![
        measure("the first 200 external ports"),
        measure("200 more where 3 500 are taken"),
        measure("a known port of 3 700"),
    ];
    let trial = move || {
        let _alive = &server;
        let next = |count: u16| {
            median((0..count).map(|_| {
                port.fetch_add(1, Ordering::Relaxed);
                client.search()
            }))
        };
        let first = next(200)?;
        next(PORTS - 500 - 200)?;
        let later = next(200)?;
        Ok(vec![first, later, client.measure(500)?[0]])
    };
    Ok(vec![alone(measures, 1, Box::new(trial))])
}

/// Microseconds.
fn median(searches: impl Iterator<Item = Result<(Duration, u16)>>) -> Result<f64> {
    let times = searches.map(|search| Ok(search?.0.as_secs_f64() * 1e6)).collect::<Result<Vec<_>>>()?;
    Ok(quantile(&sorted(&times), 0.5))
}

/// Searches that get lost while iocast-node starts and replaces all programs.
pub(crate) fn reload_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let tally = Tally::new();
    let counted = Arc::clone(&tally);
    let everywhere = format!("0.0.0.0:{SEARCH_PORT}");
    let socket = datagrams(&world.lab.sandbox, &world.server(Way::Iocast, 0), &everywhere, None)?;
    let server = Rc::new(Listener::start(socket, move |_, _, _| counted.add())?);
    let client = datagrams(&world.lab.sandbox, WORKSTATION, &format!("{}:0", Way::Iocast.client()), None)?;
    let pods = world.pods.len();
    let measures = vec![
        Measure::lower(
            Section::Reload,
            format!("searches lost, {pods} pods"),
            "datagrams",
            &[Goal::AtMost(0.0)],
        ),
        Measure::lower(Section::Reload, format!("time, {pods} pods"), "ms", &[Goal::AtMost(1000.0)]),
    ];
    let trial = move || {
        let _alive = &server;
        let before = tally.total(QUIET);
        let (start, mut sent) = (Instant::now(), 0);
        let mut agent = world.lab.agent_command("run --no-cni --once --config /run/iocast/config.toml")?;
        while agent.is_running() {
            let to = at(Way::Iocast.broadcast(), SEARCH_PORT);
            tried("search", client.send_to(&ca::search(&["BENCH:PV"]), to))?;
            sent += 1;
            std::thread::sleep(PACE);
        }
        let took = start.elapsed().as_secs_f64() * 1e3;
        agent.finish()?.success()?;
        Ok(vec![f64::from(sent) - (tally.total(QUIET) - before) as f64, took])
    };
    Ok(vec![alone(measures, settings.pick(10, 3), Box::new(trial))])
}

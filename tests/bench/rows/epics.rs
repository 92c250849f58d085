//! Real clients and real IOCs: how long it takes to connect, and how many updates come through.

use std::{
    fmt::Write,
    rc::Rc,
    time::{Duration, Instant},
};

use lab::{
    Error, Process, Result, WORKSTATION,
    epics::{PATIENCE, Server},
};

use super::Settings;
use crate::{
    row::{Goal, Measure, NATIVE, Row, Section, Trial},
    world::{Way, World},
};

const IOCS: usize = 10;
const CLIENTS: [&str; 2] = ["camonitor", "pvmonitor"];
/// Ways on which the client finds IOCs by itself.
const WAYS: [Way; 3] = [Way::Iocast, Way::Native, Way::Macvlan];
/// How long updates are counted.
const WHILE: Duration = Duration::from_secs(1);

/// IOCs in ten pods, and ten in the namespace of native's node, which hold the same names.
struct Iocs {
    _processes: Vec<Process>,
}

impl Iocs {
    fn start(world: &World, server: Server, prefix: &str, records: usize, fields: &str) -> Result<Rc<Self>> {
        let mut processes = vec![];
        for way in [Way::Iocast, Way::Native] {
            for number in 0..IOCS {
                let mut database = String::new();
                for record in 0..records {
                    // Writing to a string cannot fail.
                    let _ = writeln!(database, "record(calc, \"$(P){record}\") {{ {fields} }}");
                }
                let prefix = format!("{prefix}{number}:");
                processes.push(world.lab.ioc_from(
                    &database,
                    server,
                    &world.server(way, number),
                    &prefix,
                    &[],
                )?);
            }
        }
        Ok(Rc::new(Self { _processes: processes }))
    }
}

/// A client that monitors the first `records` of each IOC and finds them on the LAN of `way`.
fn monitor(world: &World, program: &str, way: Way, prefix: &str, records: usize) -> Result<Process> {
    let names = (0..IOCS).flat_map(|ioc| (0..records).map(move |record| format!(" {prefix}{ioc}:{record}")));
    let line = program.to_owned() + &names.collect::<String>();
    let broadcast = way.broadcast().to_string();
    let variables = [
        ("EPICS_CA_ADDR_LIST", broadcast.as_str()),
        ("EPICS_CA_AUTO_ADDR_LIST", "NO"),
        ("EPICS_PVA_ADDR_LIST", &broadcast),
        ("EPICS_PVA_AUTO_ADDR_LIST", "NO"),
    ];
    world.lab.epics(WORKSTATION, &line, &variables)
}

/// Values that a monitor has printed; it says of some PVs that they are not there yet.
fn values(output: &str) -> usize {
    output.lines().filter(|line| !line.trim().is_empty() && !line.contains("***")).count()
}

/// What a client finds, or a second one if the first ends too early, as pvmonitor was seen to do; it is said.
fn again<T>(client: impl Fn() -> Result<T>) -> Result<T> {
    client().or_else(|error| {
        eprintln!("        a client is started again: {:.300}", error.to_string());
        client()
    })
}

/// Time to connect.
pub(crate) fn connect_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let sizes = settings.pick(vec![100, 1000], vec![100]);
    let iocs = Iocs::start(
        world,
        Server::PvAccessCpp,
        "C",
        *sizes.last().unwrap_or(&0),
        "field(CALC, \"1\") field(PINI, \"YES\")",
    )?;
    let row = |records: usize| {
        let contender = |way: Way| -> (&'static str, Trial) {
            let iocs = iocs.clone();
            let trial = move || {
                let _alive = &iocs;
                CLIENTS.into_iter().map(|client| time_to_all(world, client, way, records)).collect()
            };
            (way.name(), Box::new(trial))
        };
        let measure = |client: &str| {
            Measure::lower(Section::Connect, format!("{client}, {} channels", IOCS * records), "s", &[])
        };
        Row {
            measures: CLIENTS.map(measure).into(),
            contenders: WAYS.into_iter().map(contender).collect(),
            repeats: 2,
            warm_up: false,
        }
    };
    Ok(sizes.iter().map(|records| row(*records)).collect())
}

/// Seconds from a client's start to the last first value.
fn time_to_all(world: &World, program: &str, way: Way, records: usize) -> Result<f64> {
    let wanted = IOCS * records;
    again(|| {
        let start = Instant::now();
        let mut client = monitor(world, program, way, "C", records)?;
        client.wait_for("values of all", PATIENCE, |output| values(output) >= wanted)?;
        Ok(start.elapsed().as_secs_f64())
    })
}

/// Records of each IOC that change ten times a second.
const RECORDS: usize = 300;
const CHANGING: &str = "field(CALC, \"RNDM\") field(SCAN, \".1 second\")";

/// Updates a second from PVXS's server, to its client and to that of Channel Access.
pub(crate) fn update_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let goals = [Goal::TimesAtLeast(NATIVE, 0.98)];
    let clients: [(&str, Updates, &[Goal]); 2] = [("PVXS", counted, &goals), ("camonitor", printed, &[])];
    updates_row(world, settings, Server::Pvxs, &clients)
}

/// The same from pvAccessCPP's server, to its client: ten of them keep two processors busy by themselves, so that the rate is chance.
pub(crate) fn old_update_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    updates_row(world, settings, Server::PvAccessCpp, &[("pvmonitor", printed, &[])])
}

/// Thousands of values a second that a client has on a way.
type Updates = fn(&World, &str, Way) -> Result<f64>;

fn updates_row<'a>(
    world: &'a World,
    settings: Settings,
    server: Server,
    clients: &[(&'static str, Updates, &[Goal])],
) -> Result<Vec<Row<'a>>> {
    let iocs = Iocs::start(world, server, "U", RECORDS, CHANGING)?;
    let measure = |(client, _, goals): &(&str, Updates, &[Goal])| {
        Measure::higher(Section::Updates, format!("{client}, {} channels", IOCS * RECORDS), "1000/s", goals)
    };
    let contender = |way: Way| -> (&'static str, Trial) {
        let (iocs, clients): (_, Vec<_>) =
            (iocs.clone(), clients.iter().map(|(client, updates, _)| (*client, *updates)).collect());
        let trial = move || {
            let _alive = &iocs;
            clients.iter().map(|(client, updates)| updates(world, client, way)).collect()
        };
        (way.name(), Box::new(trial))
    };
    Ok(vec![Row {
        measures: clients.iter().map(measure).collect(),
        contenders: WAYS.into_iter().map(contender).collect(),
        repeats: settings.pick(3, 2),
        warm_up: false,
    }])
}

/// Of a client that prints each value, once it has had one of each channel.
fn printed(world: &World, program: &str, way: Way) -> Result<f64> {
    let client = again(|| {
        let mut client = monitor(world, program, way, "U", RECORDS)?;
        client.wait_for("values of all", PATIENCE, |output| values(output) >= 2 * IOCS * RECORDS)?;
        Ok(client)
    })?;
    let (start, before) = (Instant::now(), values(&client.output()));
    std::thread::sleep(WHILE);
    let output = client.output();
    let took = start.elapsed().as_secs_f64();
    Ok((values(&output) - before) as f64 / 1e3 / took)
}

/// Of PVXS's client, which counts them itself: printing would take longer than receiving.
fn counted(world: &World, _: &str, way: Way) -> Result<f64> {
    let arguments = format!("U {IOCS} {RECORDS}");
    let broadcast = way.broadcast().to_string();
    let variables = [("EPICS_PVA_ADDR_LIST", broadcast.as_str()), ("EPICS_PVA_AUTO_ADDR_LIST", "NO")];
    let client = world.lab.python_with(WORKSTATION, "pvxs_rate.py", &arguments, &variables)?;
    let output = client.finish()?.success()?;
    let rate = output.split_whitespace().last().and_then(|rate| rate.parse::<f64>().ok());
    rate.map(|rate| rate / 1e3).ok_or_else(|| Error::Missing(format!("pvxs_rate.py says: {output}")))
}

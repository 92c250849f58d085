//! What a search costs that real IOCs hear: copies, receivers, and what the IOCs do to find out that they do not have the name.

use std::{fmt::Write, rc::Rc, thread::sleep, time::Duration};

use lab::{Process, Result, epics::PATIENCE, tried};

use super::Settings;
use crate::{
    burst::Burst,
    cpu::{self, Spent},
    row::{Goal, Measure, Row, Section, Trial},
    world::{Way, World},
};

const IOCS: usize = 30;
const RECORDS: usize = 100;
/// Searches of a trial.
const SEARCHES: usize = 512;
/// All have parsed a burst within this time, and sleep again.
const REST: Duration = Duration::from_millis(15);
/// Ways on which the IOCs hear the LAN, and whose IOCs these are: macvlan's pods are iocast's.
const WAYS: [Way; 3] = [Way::Iocast, Way::Native, Way::Macvlan];

/// An IOC in each of the first pods, or as many in the namespace of native's node.
struct Iocs {
    ids: Vec<u32>,
    _processes: Vec<Process>,
}

impl Iocs {
    fn start(world: &World, way: Way) -> Result<Rc<Self>> {
        let mut processes = vec![];
        for number in 0..IOCS {
            let mut database = String::new();
            for record in 0..RECORDS {
                // Writing to a string cannot fail.
                let _ = writeln!(database, "record(ai, \"S{number}:{record}\") {{}}");
            }
            let path = format!("/run/ioc/S{number}.db");
            world.lab.sandbox.write(&path, database)?;
            processes.push(world.lab.epics(
                &world.server(way, number),
                &format!("softIoc -S -d {path}"),
                &[],
            )?);
        }
        for ioc in &mut processes {
            ioc.wait_for("running IOC", PATIENCE, |said| said.contains("All initialization complete"))?;
        }
        Ok(Rc::new(Self { ids: processes.iter().map(Process::id).collect(), _processes: processes }))
    }
}

/// One at a time, and many at once.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let [in_pods, native] = [Way::Iocast, Way::Native].map(|way| Iocs::start(world, way));
    let (in_pods, native) = (in_pods?, native?);
    let row = |count: usize| -> Result<Row> {
        let contender = |way: Way| -> Result<(&'static str, Trial)> {
            let iocs = if way == Way::Native { native.clone() } else { in_pods.clone() };
            let burst = world.burst(way, count, None)?;
            Ok((way.name(), Box::new(move || cost(world, way, &burst, count, &iocs.ids))))
        };
        Ok(Row {
            measures: vec![Measure::lower(
                Section::Searches,
                format!("{IOCS} IOCs, burst of {count}"),
                "µs",
                &[] as &[Goal],
            )],
            contenders: WAYS.into_iter().map(contender).collect::<Result<_>>()?,
            repeats: settings.pick(5, 3),
            warm_up: true,
        })
    };
    [16, 64].into_iter().map(row).collect()
}

/// Microseconds of all processors for a search.
fn cost(world: &World, way: Way, burst: &Burst, count: usize, iocs: &[u32]) -> Result<Vec<f64>> {
    let bursts = SEARCHES / count;
    world.inside(way.host(), || {
        sleep(REST);
        let (before, spent) = (cpu::of_processes(iocs), Spent::now());
        for _ in 0..bursts {
            tried("let a burst arrive", burst.arrive())?;
            sleep(REST);
        }
        let spent = spent.elapsed() + (cpu::of_processes(iocs) - before) as f64;
        Ok(vec![spent / 1e3 / (bursts * count) as f64])
    })
}

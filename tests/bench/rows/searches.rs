//! What a search costs that real IOCs hear: copies, receivers, and what the IOCs do to find out that they do not have the name.

use std::{fmt::Write, rc::Rc, sync::LazyLock, thread::sleep, time::Duration};

use lab::{Process, Result, epics::PATIENCE, tried};

use super::Settings;
use crate::{
    burst::Burst,
    cpu::{self, Spent},
    row::{Goal, IOCAST, Measure, Row, Section, Trial},
    world::{Way, World},
};

pub(crate) const IOCS: usize = 30;
const RECORDS: usize = 100;
/// As many names as libca puts into a search; nobody has them.
pub(crate) static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| (0..20).map(|number| format!("BL77I-EA-BENCH-{number:02}:VALUE")).collect());
/// Pods that declare names.
const DECLARING: usize = 10;
/// Searches that arrive at once.
pub(crate) const BURST: usize = 64;
/// What is measured of pods that declare other names.
pub(crate) const WITHHELD: &str = "10 pods that have none of 20 names";
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
    let row = |(count, names): (usize, usize)| -> Result<Row> {
        let contender = |way: Way| -> Result<(&'static str, Trial)> {
            let iocs = if way == Way::Native { native.clone() } else { in_pods.clone() };
            let burst = world.burst_for(&NAMES[..names], way, count, None)?;
            Ok((way.name(), Box::new(move || cost(world, way, &burst, count, &iocs.ids))))
        };
        Ok(Row {
            measures: vec![Measure::lower(Section::Searches, name(count, names), "µs", &[] as &[Goal])],
            contenders: WAYS.into_iter().map(contender).collect::<Result<_>>()?,
            repeats: settings.pick(5, 3),
            warm_up: true,
        })
    };
    [(16, 1), (BURST, 1), (BURST, NAMES.len())].into_iter().map(row).collect()
}

/// What is measured of a burst of `count` searches for so many names.
pub(crate) fn name(count: usize, names: usize) -> String {
    let names = if names == 1 { String::new() } else { format!(", {names} names") };
    format!("{IOCS} IOCs, burst of {count}{names}")
}

/// What a search for twenty names costs a node whose pods say that they have none of them.
pub(crate) fn withheld_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let way = Way::Few;
    for number in 0..DECLARING {
        let pvs = format!("BL{number:02}I-");
        world
            .lab
            .pod_with(&format!("d{number}"), &[("iocast.io/domain", way.slug()), ("iocast.io/pvs", &pvs)])?;
    }
    let burst = world.burst_for(&NAMES, way, BURST, None)?;
    let trial: Trial = Box::new(move || cost(world, way, &burst, BURST, &[]));
    Ok(vec![Row {
        measures: vec![Measure::lower(Section::Searches, WITHHELD, "µs", &[] as &[Goal])],
        contenders: vec![(IOCAST, trial)],
        repeats: settings.pick(5, 3),
        warm_up: true,
    }])
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

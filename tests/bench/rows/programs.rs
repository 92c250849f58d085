//! What each of our programs takes for a packet, by the kernel's own measurement.

use std::{os::fd::OwnedFd, time::Duration};

use lab::{
    NODE, Result,
    bpf::{enable_statistics, pinned, runs},
    tried,
};

use super::{
    Settings, circuits,
    latency::{Client, responder},
};
use crate::{
    net::at,
    row::{IOCAST, Measure, Row, Section, Trial},
    world::{SEARCH_PORT, Way, World},
};

/// Where the lab's first node pins programs.
const PROGRAMS: &str = "/sys/fs/bpf/iocast/v3/programs";
/// A process on the node.
const UNRELATED_PORT: u16 = 7002;

/// Programs, and what lets them run.
struct Load<'a> {
    name: &'static str,
    programs: &'static [&'static str],
    work: Box<dyn Fn() -> Result<()> + 'a>,
}

/// Searches and circuits of a pod, and traffic of the node.
pub(crate) fn rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let sandbox = &world.lab.sandbox;
    let responder = responder(world, Way::Iocast, 0, SEARCH_PORT)?;
    let client = Client::new(world, Way::Iocast)?;
    let (_, external) = client.search()?;
    let in_pod = circuits::Server::start(sandbox, &world.pods[0].netns, SEARCH_PORT)?;
    let on_node = circuits::Server::start(sandbox, NODE, UNRELATED_PORT)?;
    let time = Duration::from_millis(100);
    let talk = move |port| circuits::measure(world, at(Way::Iocast.node(), port), time).map(|_| ());
    let loads = [
        Load {
            name: "searches and answers",
            programs: &["from_lan", "fan", "from_pod"],
            work: Box::new(move || {
                let _alive = &responder;
                client.measure(1000).map(|_| ())
            }),
        },
        Load {
            name: "circuits",
            programs: &["from_lan", "to_lan", "from_pod"],
            work: Box::new(move || {
                let _alive = &in_pod;
                talk(external)
            }),
        },
        Load {
            name: "unrelated",
            programs: &["from_lan", "to_lan"],
            work: Box::new(move || {
                let _alive = &on_node;
                talk(UNRELATED_PORT)
            }),
        },
    ];
    loads.into_iter().map(|load| row(world, settings, load)).collect()
}

fn row<'a>(world: &'a World, settings: Settings, load: Load<'a>) -> Result<Row<'a>> {
    let paths: Vec<_> = load.programs.iter().map(|program| format!("{PROGRAMS}/{program}")).collect();
    let open = move || paths.iter().map(|path| tried(path.clone(), pinned(path))).collect::<Result<Vec<_>>>();
    let programs = world.lab.sandbox.run(open)?;
    let name = |program: &&str| format!("{program}, {}", load.name);
    let measures =
        load.programs.iter().map(|program| Measure::lower(Section::Programs, name(program), "ns", &[]));
    let measures = measures.collect();
    let trial: Trial<'a> = Box::new(move || {
        let statistics = tried("have programs measured", enable_statistics())?;
        let before = all(&programs)?;
        (load.work)()?;
        let after = all(&programs)?;
        drop(statistics);
        Ok(before.iter().zip(after).map(mean).collect())
    });
    Ok(Row { measures, contenders: vec![(IOCAST, trial)], repeats: settings.pick(5, 3), warm_up: true })
}

fn all(programs: &[OwnedFd]) -> Result<Vec<(u64, u64)>> {
    programs.iter().map(|program| tried("look at a program", runs(program))).collect()
}

/// Nanoseconds of a run.
fn mean((before, after): (&(u64, u64), (u64, u64))) -> f64 {
    (after.0 - before.0) as f64 / (after.1 - before.1) as f64
}

//! What each of our programs takes for a packet, by the kernel's own measurement.

use std::{net::Ipv4Addr, os::fd::OwnedFd, path::Path, time::Duration};

use datapath::pin_directory;
use lab::{
    Error, NODE, Result,
    bpf::{self, enable_statistics, runs},
    tried,
};
use nix::net::if_::if_nametoindex;

use super::{
    Settings, circuits,
    latency::{Client, responder},
};
use crate::{
    net::{at, frame, segment},
    row::{Goal, IOCAST, Measure, Row, Section, Trial},
    world::{SEARCH_PORT, Way, World},
};

/// The lab's first node's file system of pins.
const BPFFS: &str = "/sys/fs/bpf";
/// Runs on one packet.
const RUNS: u32 = 1_000_000;
/// That a packet goes on as it came (`TCX_NEXT`, `TC_ACT_OK`).
const PASSED: [i32; 2] = [-1, 0];
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

fn open(world: &World, program: &str) -> Result<OwnedFd> {
    let path = pin_directory(Path::new(BPFFS)).join("programs").join(program).display().to_string();
    world.lab.sandbox.run(move || tried(path.clone(), bpf::open(path.as_ref())))
}

fn row<'a>(world: &'a World, settings: Settings, load: Load<'a>) -> Result<Row<'a>> {
    let programs = load.programs.iter().map(|program| open(world, program)).collect::<Result<Vec<_>>>()?;
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

/// What a packet costs that is none of the programs' business: where it is, and the packet.
pub(crate) fn idle_rows(world: &World, settings: Settings) -> Result<Vec<Row<'_>>> {
    let cases = idle(world).into_iter().map(|case| -> Result<_> { Ok((open(world, case.program)?, case)) });
    let cases = cases.collect::<Result<Vec<_>>>()?;
    let measure = |(_, case): &(_, Idle)| {
        let name = format!("{}, {}", case.program, case.what);
        Measure::lower(Section::Idle, name, "ns", &[Goal::AtMost(35.0)])
    };
    let measures = cases.iter().map(measure).collect();
    let trial = move || cases.iter().map(|(program, case)| run(world, program, case)).collect();
    let contenders: Vec<(&'static str, Trial)> = vec![(IOCAST, Box::new(trial))];
    Ok(vec![Row { measures, contenders, repeats: settings.pick(5, 3), warm_up: true }])
}

/// A packet that is none of a program's business.
pub(crate) struct Idle {
    program: &'static str,
    what: &'static str,
    interface: String,
    frame: Vec<u8>,
}

fn idle(world: &World) -> Vec<Idle> {
    let way = Way::Iocast;
    let (node, client) = (at(way.node(), UNRELATED_PORT), at(way.client(), 40_000));
    let (node_mac, client_mac) = (way.mac(0, 10), way.mac(0, 2));
    let pod = at(world.pods[0].address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED), 8080);
    let elsewhere = at([192, 0, 2, 1].into(), 53); // TEST-NET-1 (RFC 5737)
    let payload = [0; 64];
    let [uplink, veth] = [way.uplink(), world.lab.host_veth(&world.pods[0])];
    [
        ("from_lan", "TCP to the node", &uplink, segment(node_mac, client, node, &payload)),
        ("from_lan", "UDP to the node", &uplink, frame(node_mac, client, node, &payload)),
        ("from_lan", "broadcast", &uplink, frame([0xff; 6], client, at(way.broadcast(), 9999), &payload)),
        ("to_lan", "TCP of the node", &uplink, segment(client_mac, node, client, &payload)),
        ("to_lan", "UDP of the node", &uplink, frame(client_mac, node, client, &payload)),
        ("from_pod", "TCP of a member", &veth, segment(node_mac, pod, elsewhere, &payload)),
        ("from_pod", "UDP of a member", &veth, frame(node_mac, pod, elsewhere, &payload)),
    ]
    .map(|(program, what, interface, frame)| Idle { program, what, interface: interface.clone(), frame })
    .into()
}

/// Nanoseconds of a run; a packet that does not pass would measure something else.
fn run(world: &World, program: &OwnedFd, case: &Idle) -> Result<f64> {
    world.inside(NODE, || {
        let interface = tried("find an interface", if_nametoindex(case.interface.as_str()))?;
        let (verdict, time) = tried("run a program", bpf::time(program, &case.frame, interface, RUNS))?;
        if !PASSED.contains(&verdict) {
            let Idle { program, what, .. } = case;
            return Err(Error::Missing(format!("{program} does not let pass {what}: {verdict}")));
        }
        Ok(f64::from(time))
    })
}

/// The mean of what `from_lan` takes for the node's own TCP and UDP, nanoseconds.
pub(crate) fn time_of_from_lan(world: &World) -> Result<f64> {
    let program = open(world, "from_lan")?;
    let times = idle(world)[..2].iter().map(|case| run(world, &program, case)).collect::<Result<Vec<_>>>()?;
    Ok(times.iter().sum::<f64>() / times.len() as f64)
}

//! Many PVs.

use std::{
    collections::BTreeSet,
    fmt::Write,
    time::{Duration, Instant},
};

use lab::{
    Lab, NODE, Options, Process, Result, Topology, WORKSTATION,
    epics::{PATIENCE, Server},
    turn,
};

lab::in_both_topologies! {
    a_thousand_pvs_of_ten_pods_connect
}

const PODS: usize = 10;
const PVS_OF_A_POD: usize = 100;
/// How often each way is measured, in turns.
const REPEATS: usize = 3;
/// How often a monitor is started until it shows all values.
const TRIES: usize = 3;

/// A database whose records hold numbers that no other pod's do.
fn database(pod: usize) -> String {
    let mut text = String::new();
    for number in 0..PVS_OF_A_POD {
        let value = value(pod, number);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "record(longin, \"$(P):N{number}\") {{ field(VAL, \"{value}\") field(PINI, \"YES\") }}"
        );
    }
    text
}

fn value(pod: usize, number: usize) -> usize {
    100_000 + pod * 1000 + number
}

/// IOCs with Channel Access and PV Access in these namespaces, one each, whose records begin with `prefix` and its number.
fn iocs(lab: &Lab, prefix: &str, namespaces: &[String]) -> Result<Vec<Process>> {
    let start = |(number, netns): (usize, &String)| -> Result<Process> {
        lab.ioc_from(&database(number), Server::PvAccessCpp, netns, &format!("{prefix}{number}"), &[])
    };
    namespaces.iter().enumerate().map(start).collect()
}

/// How long a monitor takes to show all values of the IOCs with this prefix, from its start, and how many had to be started
/// before it.
///
/// `pvmonitor` waits for ever for a value or for many, once in some dozens of runs with a busy machine, wherever its servers
/// are: it is given more than one try, and what that hides is counted.
fn time_to_all(lab: &Lab, program: &str, prefix: &str) -> Result<(Duration, usize)> {
    let mut stalled = 0;
    loop {
        match time_of_one(lab, program, prefix) {
            Err(lab::Error::Timeout(_)) if stalled + 1 < TRIES => stalled += 1,
            outcome => return Ok((outcome?, stalled)),
        }
    }
}

fn time_of_one(lab: &Lab, program: &str, prefix: &str) -> Result<Duration> {
    let all = || (0..PODS).flat_map(|pod| (0..PVS_OF_A_POD).map(move |number| (pod, number)));
    let names: Vec<_> = all().map(|(pod, number)| format!("{prefix}{pod}:N{number}")).collect();
    let begin = Instant::now();
    let mut monitor = lab.epics(WORKSTATION, &format!("{program} {}", names.join(" ")), &[])?;
    monitor.wait_for("all values", PATIENCE, |output| {
        // Values, not names: pvmonitor prints a name as <NULL> now and then.
        let seen: BTreeSet<usize> = output.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        all().all(|(pod, number)| seen.contains(&value(pod, number)))
    })?;
    let took = begin.elapsed();
    for complaint in ["Identical process variable", "More than one channel", "Duplicate PV name"] {
        assert!(!monitor.output().contains(complaint), "{complaint}");
    }
    Ok(took)
}

fn a_thousand_pvs_of_ten_pods_connect(topology: Topology) -> Result<()> {
    turn::take(turn::Kind::Alone);
    let lab = Lab::up(Options::new(topology))?;
    let pods = (0..PODS).map(|pod| Ok(lab.pod(&format!("ioc-{pod}"))?.netns)).collect::<Result<Vec<_>>>()?;
    let _in_pods = iocs(&lab, "P", &pods)?;
    let _on_node = iocs(&lab, "H", &vec![NODE.to_owned(); PODS])?;
    for program in ["camonitor", "pvmonitor"] {
        let mut times = [vec![], vec![]];
        let mut stalls = [0, 0];
        for _ in 0..REPEATS {
            for (side, prefix) in ["P", "H"].into_iter().enumerate() {
                let (took, stalled) = time_to_all(&lab, program, prefix)?;
                times[side].push(took);
                stalls[side] += stalled;
            }
        }
        let [in_pods, on_node] = times.map(|mut times| {
            times.sort();
            times[times.len() / 2].as_secs_f64()
        });
        lab::report(
            &format!("{program} of 1000 PVs, from its start to all values ({topology:?})"),
            &format!(
                "in 10 pods {in_pods:.2} s, in 10 processes of the node {on_node:.2} s, ratio {:.2}; never: {} and {}",
                in_pods / on_node,
                stalls[0],
                stalls[1]
            ),
        );
    }
    Ok(())
}

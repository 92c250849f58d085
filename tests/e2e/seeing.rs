//! `iocast-node members`, `top` and `map`: what they show of real clients and servers, and that a storm of made-up names and addresses
//! takes no more than its place.

use std::time::Duration;

use lab::{
    Lab, Options, Process, Result, Topology, WORKSTATION, ca,
    epics::{Client, PATIENCE, Server},
    pva,
    udp::Socket,
};
use nix::sys::signal::Signal;
use serde_json::Value;

lab::in_both_topologies! { who_is_there_what_passes_and_who_reads_from_whom_is_shown }

const NOTHING: [(&str, &str); 0] = [];

fn answer(lab: &Lab, line: &str) -> Result<Value> {
    let output = lab.agent_command(line)?.finish()?.success()?;
    Ok(serde_json::from_str(&output).unwrap_or_else(|error| panic!("{line}: {error}: {output}")))
}

/// The last object of a command that prints one a line.
fn last(process: Process) -> Result<Value> {
    let output = process.finish()?.success()?;
    let line = output.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
    Ok(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {output}")))
}

/// The row of a list in which the key has this value.
fn row<'a>(answer: &'a Value, list: &str, key: &str, value: &str) -> &'a Value {
    let rows = answer[list].as_array().into_iter().flatten();
    let mut found = rows.filter(|row| row[key] == value);
    found.next().unwrap_or_else(|| panic!("no {list} with {key} {value}: {answer:#}"))
}

fn is_positive(number: &Value) -> bool {
    number.as_f64().is_some_and(|number| number > 0.0)
}

fn who_is_there_what_passes_and_who_reads_from_whom_is_shown(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (a, twin, client) = (lab.pod("ioc-a")?, lab.pod("ioc-twin")?, lab.pod("client")?);
    // Two servers of the same PVs.
    let both = |netns| lab.ioc_of(Server::PvAccessCpp, netns, "A");
    let _iocs = [both(&a.netns)?, both(&twin.netns)?];
    let mut monitor = lab.epics(WORKSTATION, "camonitor A:COUNT", &NOTHING)?;
    monitor.wait_for("updates", PATIENCE, |output| output.contains("A:COUNT"))?;

    let top = lab.agent_command("top --json --for 6 --every 3")?;
    let map = lab.agent_command("map --json --for 6")?;
    let tables = lab.agent_command("top --for 6")?;
    let waiting = lab.epics(WORKSTATION, "caget -w 60 NOPE:NAME", &NOTHING)?;
    let mut watching = [top, map, tables];
    while watching.iter_mut().all(Process::is_running) {
        for netns in [WORKSTATION, &client.netns] {
            lab.epics(netns, "caget -w 2 A:NAME", &NOTHING)?.finish()?;
            lab.pvget(Client::Pvxs, netns, "A:NAME", &NOTHING)?;
        }
    }
    let [top, map, tables] = watching;
    waiting.terminate();

    let seen = last(top)?;
    let domain = row(&seen, "domains", "name", "lab");
    for key in ["members", "clients", "searches", "answers", "circuits"] {
        assert!(is_positive(&domain[key]), "{key}: {domain}");
    }
    assert_eq!((&domain["uplink"], &domain["problem"]), (&"eth0".into(), &Value::Null));
    let pod = row(&seen, "pods", "pod", "beamline/ioc-a");
    let listens: Vec<_> = pod["listens"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    assert!(listens.contains(&5064) && listens.contains(&5076), "{pod}");
    assert!(["heard", "answers", "latency_ms"].iter().all(|key| is_positive(&pod[*key])), "{pod}");
    assert_eq!(row(&seen, "pods", "pod", "beamline/client")["latency_ms"], Value::Null);
    let unanswered = row(&seen, "unanswered", "pv", "NOPE:NAME");
    assert!(unanswered["client"] == "172.23.0.2" && unanswered["asked"].as_u64() > Some(3), "{unanswered}");
    assert!(row(&seen, "talkers", "host", "172.23.0.2")["pod"].is_null());
    assert_eq!(row(&seen, "talkers", "host", &client.address)["pod"], "beamline/client");
    row(&seen, "prefixes", "prefix", "A:");
    let servers = &row(&seen, "duplicates", "pv", "A:NAME")["servers"];
    let pods: Vec<_> = servers.as_array().into_iter().flatten().map(|server| &server["pod"]).collect();
    assert_eq!(pods.len(), 2, "one row a server: {servers}");
    assert_eq!(seen["lost"], 0, "{seen}");

    let seen = last_of_map(map)?;
    let reads = |client: &str, pv: &str| {
        let rows = seen["readers"].as_array().into_iter().flatten();
        rows.filter(|row| row["client"] == client)
            .any(|row| row["pvs"].as_array().is_some_and(|pvs| pvs.contains(&pv.into())))
    };
    assert!(reads("172.23.0.2", "A:NAME") && reads(&client.address, "A:NAME"), "{seen:#}");
    let connected = seen["readers"].as_array().into_iter().flatten().any(|row| is_positive(&row["circuits"]));
    assert!(connected, "of camonitor: {seen:#}");

    let tables = tables.finish()?.success()?;
    for line in ["NOPE:NAME  lab     ca ", "beamline/ioc-a ", "PVs of several servers", "172.23.0.2 "] {
        assert!(tables.lines().any(|shown| shown.starts_with(line)), "{line}: {tables}");
    }
    assert!(tables.lines().all(|line| line.chars().count() <= 80), "{tables}");

    let members = answer(&lab, "members --json")?;
    let member = row(&members, "members", "pod", "ioc-a");
    assert_eq!((&member["address"], &member["problem"]), (&Value::from(&*a.address), &Value::Null));
    let external = lab.external_port("ioc-a", "tcp", 5064)?;
    let ports = member["ports"].as_array().into_iter().flatten();
    let mut ports = ports.filter(|port| port["protocol"] == "tcp" && port["pod"] == 5064);
    assert_eq!(ports.next().and_then(|port| port["external"].as_u64()), external.map(u64::from), "{member}");
    let circuits = members["members"].as_array().into_iter().flatten().map(|member| &member["circuits"]);
    assert_eq!(circuits.filter_map(Value::as_u64).sum::<u64>(), 1, "of camonitor: {members:#}");
    monitor.terminate();
    Ok(())
}

fn last_of_map(map: Process) -> Result<Value> {
    let output = map.finish()?.success()?;
    Ok(serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}")))
}

/// Kilobytes that one who watches may have: the tables of `tallies`, and what is printed of them.
const MOST: u64 = 100_000;
/// Datagrams of the storm, each with other names, half of them for another client each.
const STORM: u32 = 40_000;

#[test]
fn a_storm_of_made_up_names_and_addresses_takes_no_more_than_its_place() -> Result<()> {
    let lab = Lab::up(Options::new(Topology::Bridge))?;
    lab.pod("ioc-a")?;
    let watching = lab.agent_command("top --json --for 60 --every 1")?;
    let socket = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    let mut most = 0;
    for number in 0..STORM {
        match number {
            _ if number == STORM / 2 => watching.signal(Signal::SIGSTOP),
            _ if number % 1000 == 0 => most = most.max(watching.resident()?),
            _ => {}
        }
        storm(&socket, number)?;
    }
    watching.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_secs(2));
    most = most.max(watching.resident()?);
    lab::report("memory of top in a storm", &format!("{most} kB"));
    assert!(most < MOST, "{most} kB");
    watching.terminate();
    let seen = last(watching)?;
    assert!(seen["lost"].as_u64() > Some(0), "half of the storm came while it was stopped: {}", seen["lost"]);
    for list in ["talkers", "prefixes", "unanswered", "answers", "duplicates", "readers"] {
        let length = seen[list].as_array().map_or(0, Vec::len);
        assert!(length <= 1000, "{list}: {length}");
    }
    Ok(())
}

/// A datagram of the storm.
fn storm(socket: &Socket, number: u32) -> Result<()> {
    if number.is_multiple_of(2) {
        let names: Vec<_> = (0..4).map(|part| format!("{number}-{part}:{}", "x".repeat(60))).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        return socket.send(&ca::search(&names), "172.23.0.255:5064");
    }
    let client = (0x0a00_0000 + number).to_be_bytes();
    socket.send(&pva::search(2, 0, client, 40_000), "172.23.0.255:5076")
}

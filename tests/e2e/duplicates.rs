//! `iocast-node duplicates`: PVs that more than one server has, with real IOCs in pods and on the LAN; by itself and by the agent.

use std::time::Instant;

use lab::{
    Lab, NATIVE, Options, Process, Result, Topology, WORKSTATION,
    cluster::wait_until,
    epics::{PATIENCE, Server},
};
use serde_json::Value;

use crate::agent::ask;

/// What each IOC has: one kind of duplicate each, one to be allowed, and what only one has.
const IN_A: [&str; 4] = ["POD:POD", "POD:LAN", "GATEWAY:X", "ONE:A"];
const IN_B: [&str; 2] = ["POD:POD", "ONE:B"];
const ON_NATIVE: [&str; 3] = ["POD:LAN", "LAN:LAN", "GATEWAY:X"];
const ON_WORKSTATION: [&str; 1] = ["LAN:LAN"];
const ALL: &str = "POD:POD POD:LAN LAN:LAN GATEWAY:X ONE:A ONE:B";

fn database(names: &[&str]) -> String {
    names.iter().map(|name| format!("record(ai, \"{name}\") {{}}\n")).collect()
}

fn lab() -> Result<(Lab, Vec<Process>)> {
    let mut lab = Lab::without_agent(Options::new(Topology::Bridge))?;
    lab.configure(&configuration(""))?;
    lab.start_agent_by("run --no-cni --config /run/iocast/config.toml --listen 127.0.0.1:9402")?;
    // With an address on the LAN a server is found by two addresses, and is one.
    let a = lab.pod_at(0, "ioc-a", Some("172.23.0.50"))?;
    let b = lab.pod("ioc-b")?;
    let mut iocs = vec![];
    for (server, netns, names) in [
        (Server::PvAccessCpp, a.netns.as_str(), &IN_A[..]),
        (Server::Pvxs, &b.netns, &IN_B),
        (Server::Pvxs, NATIVE, &ON_NATIVE),
        (Server::PvAccessCpp, WORKSTATION, &ON_WORKSTATION),
    ] {
        iocs.push(lab.ioc_from(&database(names), server, netns, "D", &[])?);
    }
    Ok((lab, iocs))
}

fn configuration(duplicates: &str) -> String {
    format!(
        "[domain.lab]\nuplink = \"eth0\"\naddresses = [\"172.23.0.50\"]\n[duplicates]\nallow = [\"GATEWAY:*\"]\n{duplicates}"
    )
}

/// What `duplicates` with these arguments printed, and its exit code.
fn duplicates(lab: &Lab, arguments: &str) -> Result<(Option<i32>, String)> {
    let line = format!("duplicates --config /run/iocast/config.toml {arguments}");
    let finished = lab.agent_command(&line)?.finish()?;
    Ok((finished.status.code(), finished.output))
}

/// What is found: PV, protocol and servers, pods by name.
fn found(answer: &Value) -> Vec<(String, String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let server = |server: &Value| {
        let address = text(&server["address"]);
        let host = address.split(':').next().unwrap_or_default().to_owned();
        if server["pod"].is_null() { host } else { format!("{} {host}", text(&server["pod"])) }
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let row = |found: &Value| {
        (text(&found["pv"]), text(&found["protocol"]), list(&found["servers"]).iter().map(server).collect())
    };
    list(&answer["duplicates"]).iter().map(row).collect()
}

/// The three kinds, in both protocols.
fn expected() -> Vec<(String, String, Vec<String>)> {
    let kinds = [
        ("LAN:LAN", ["172.23.0.2", "172.23.0.3"]),
        ("POD:LAN", ["172.23.0.3", "beamline/ioc-a 172.23.0.50"]),
        ("POD:POD", ["beamline/ioc-b 172.23.0.10", "beamline/ioc-a 172.23.0.50"]),
    ];
    let both = |(pv, servers): (&str, [&str; 2])| {
        ["ca", "pva"]
            .map(|protocol| (pv.to_owned(), protocol.to_owned(), servers.map(str::to_owned).to_vec()))
    };
    kinds.into_iter().flat_map(both).collect()
}

#[test]
fn each_kind_of_duplicate_is_found_and_what_is_allowed_is_not() -> Result<()> {
    let (mut lab, _iocs) = lab()?;
    names_that_are_given(&lab)?;
    names_that_pass(&lab)?;
    the_agent_looks(&mut lab)
}

fn names_that_are_given(lab: &Lab) -> Result<()> {
    // A client on the LAN gives the pod its external port.
    lab.epics_output(WORKSTATION, "caget -w 5 ONE:B", &[])?;
    lab.pvget(lab::epics::Client::PvAccessCpp, WORKSTATION, "ONE:B", &[])?;
    let (code, said) = duplicates(lab, &format!("{ALL} --json"))?;
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((found(&answer), code), (expected(), Some(1)), "{said}");
    assert_eq!((&answer["version"], &answer["names"]), (&1.into(), &6.into()), "{said}");
    let (code, said) = duplicates(lab, "ONE:A ONE:B GATEWAY:X NOBODY")?;
    assert!(
        code == Some(0) && said.starts_with("No PV has more than one server; asked for 4 names"),
        "{said}"
    );
    let (code, said) = duplicates(lab, "POD:POD --protocol pva")?;
    assert!(code == Some(1) && said.contains("POD:POD  lab     pva"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for allowed in ["172.23.0.2", "172.23.0.2/31", "LAN:LAN"] {
        let (code, said) = duplicates(lab, &format!("LAN:LAN --allow {allowed}"))?;
        assert_eq!(code, Some(0), "{allowed}: {said}");
    }
    assert_eq!(duplicates(lab, "POD:POD --allow beamline/ioc-b")?.0, Some(0));
    let (code, said) = duplicates(lab, "--allow *")?;
    assert!(code == Some(2) && said.contains("is no address, network, pod or PV"), "{said}");
    Ok(())
}

fn names_that_pass(lab: &Lab) -> Result<()> {
    let mut learning = lab.agent_command("duplicates --for 4 --json --config /run/iocast/config.toml")?;
    while learning.is_running() {
        lab.epics(WORKSTATION, &format!("caget -w 1 {ALL} NOBODY"), &[])?.finish()?;
    }
    let said = learning.finish()?;
    let answer: Value = serde_json::from_str(&said.output).unwrap_or_default();
    assert_eq!(found(&answer), expected(), "{}", said.output);
    assert_eq!(answer["names"], 7, "{}", said.output);
    Ok(())
}

/// The agent, once it is told to look: by metric, by log, and by `doctor`.
fn the_agent_looks(lab: &mut Lab) -> Result<()> {
    let metrics = ask(lab, "GET /metrics")?;
    assert!(
        !metrics.contains("iocast_duplicates{") && metrics.contains("\niocast_events_lost_total 0\n"),
        "{metrics}"
    );
    for protocol in ["ca", "pva"] {
        let label = format!("domain=\"lab\",protocol=\"{protocol}\"}} ");
        let bucket = format!("\niocast_answer_seconds_bucket{{le=\"+Inf\",{label}");
        let answers =
            metrics.split_once(&bucket).and_then(|(_, rest)| rest.lines().next()?.parse::<u32>().ok());
        assert!(answers.is_some_and(|answers| answers > 0), "{protocol}: {metrics}");
    }
    lab.configure(&configuration("rate = 50\n"))?;
    lab.wait_for_agent("the configuration", |said| said.contains("the configuration has changed"))?;
    let found = |lab: &Lab| lab.agent_output().contains("2 servers have POD:POD by pva");
    let begin = Instant::now();
    while !found(lab) && begin.elapsed() < PATIENCE {
        lab.epics(WORKSTATION, &format!("caget -w 1 {ALL}"), &[])?.finish()?;
    }
    lab.wait_for_agent("the last of them", |said| said.contains("2 servers have POD:POD by pva"))?;
    let metric = |lab: &Lab| {
        Ok::<_, lab::Error>(ask(lab, "GET /metrics")?.contains("\niocast_duplicates{domain=\"lab\"} 3\n"))
    };
    wait_until("the metric", || metric(lab))?;
    let doctor = lab.agent_command("doctor --config /run/iocast/config.toml")?.finish()?.output;
    assert!(
        doctor.contains("WARN  duplicates     3 PVs have more than one server: LAN:LAN (172.23.0.2:"),
        "{doctor}"
    );
    Ok(())
}

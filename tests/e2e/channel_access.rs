//! Channel Access end to end: real IOCs in pods behind a real CNI chain, real clients everywhere.

use std::time::Duration;

use lab::{
    DOMAIN, Lab, NATIVE, NODE, Options, Process, Result, Topology, WORKSTATION, ca, epics::PATIENCE,
    udp::Socket,
};

const NOTHING: [(&str, &str); 0] = [];
/// A search is answered within a few milliseconds; a second answer would come as fast.
const QUIET: Duration = Duration::from_millis(500);

lab::in_both_topologies! {
    a_lan_client_reads_writes_and_monitors_a_pv_in_a_pod
    three_pods_with_the_default_port_are_told_apart_by_external_ports
    two_iocs_in_one_pod_are_both_found
    a_client_in_another_pod_reads_by_pod_address
    every_client_gets_exactly_one_answer_from_every_server
    an_address_list_that_names_the_node_finds_every_pod
    an_address_list_that_names_an_external_port_finds_its_pod_only
    a_name_server_entry_for_an_external_port_reaches_its_pod
    a_client_in_a_pod_reads_a_native_ioc_on_the_lan
    a_process_on_the_node_reads_a_pod_and_is_read_by_one
    the_ioc_sees_the_lan_clients_own_address
    a_forward_rule_against_a_client_stops_its_circuit
    checksums_are_right_without_offload
    a_million_elements_arrive_intact_both_ways
    a_monitor_recovers_when_the_ioc_restarts
    a_monitor_recovers_when_the_pod_is_created_again_and_its_port_is_the_same
    a_monitor_survives_the_agents_restart
}

/// Reads PVs; libca's default environment unless `variables` say otherwise. No warning is tolerated.
fn caget(lab: &Lab, netns: &str, pvs: &str, variables: &[(&str, &str)]) -> Result<String> {
    let output = lab.epics_output(netns, &format!("caget -t -w 5 {pvs}"), variables)?;
    assert!(!output.contains("Identical process variable names"), "two answers for one PV:\n{output}");
    Ok(output)
}

/// A monitor of `pv` that has printed its first value.
fn camonitor(lab: &Lab, netns: &str, pv: &str) -> Result<Process> {
    let mut monitor = lab.epics(netns, &format!("camonitor {pv}"), &NOTHING)?;
    monitor.wait_for("first value", PATIENCE, |output| values(output) >= 1)?;
    Ok(monitor)
}

/// Values that a monitor has printed: its lines, less those that tell of a lost or not yet found channel.
fn values(output: &str) -> usize {
    output
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()) && !line.contains("***"))
        .count()
}

fn a_lan_client_reads_writes_and_monitors_a_pv_in_a_pod(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME A:SETPOINT", &NOTHING)?, "A\n42\n");

    let put = lab.epics_output(WORKSTATION, "caput -w 5 A:SETPOINT 7.5", &NOTHING)?;
    assert!(put.contains("New : A:SETPOINT                     7.5"), "{put}");
    assert_eq!(caget(&lab, WORKSTATION, "A:SETPOINT", &NOTHING)?, "7.5\n");

    let mut monitor = camonitor(&lab, WORKSTATION, "A:COUNT")?;
    monitor.wait_for("tenth value", PATIENCE, |output| values(output) >= 10)?;
    Ok(())
}

fn three_pods_with_the_default_port_are_told_apart_by_external_ports(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let mut iocs = vec![];
    for name in ["A", "B", "C"] {
        let pod = lab.pod(&format!("ioc-{name}"))?;
        iocs.push(lab.ioc(&pod.netns, name)?);
    }
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME B:NAME C:NAME", &NOTHING)?, "A\nB\nC\n");
    let mut ports = vec![];
    for name in ["ioc-A", "ioc-B", "ioc-C"] {
        let port = lab.external_port(name, "tcp", 5064)?;
        ports.push(port.unwrap_or_else(|| panic!("{name} has no external port for its circuits")));
    }
    assert!(ports.iter().all(|port| (61000..=64999).contains(port)), "{ports:?}");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    Ok(())
}

fn two_iocs_in_one_pod_are_both_found(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-both")?;
    let _first = lab.ioc(&pod.netns, "A")?;
    let second = lab.ioc(&pod.netns, "B")?;
    assert!(second.output().contains("Using dynamically assigned TCP port"), "{}", second.output());
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME B:NAME", &NOTHING)?, "A\nB\n");
    Ok(())
}

fn a_client_in_another_pod_reads_by_pod_address(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (server, client) = (lab.pod("ioc-a")?, lab.pod("client")?);
    let _ioc = lab.ioc(&server.netns, "A")?;
    assert_eq!(caget(&lab, &client.netns, "A:NAME", &NOTHING)?, "A\n");
    let info = lab.epics_output(&client.netns, "cainfo -w 5 A:NAME", &NOTHING)?;
    assert!(info.contains(&format!("Host:             {}:5064", server.address)), "{info}");
    Ok(())
}

fn every_client_gets_exactly_one_answer_from_every_server(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (a, b, client) = (lab.pod("ioc-a")?, lab.pod("ioc-b")?, lab.pod("client")?);
    let _iocs =
        [lab.ioc(&a.netns, "X")?, lab.ioc(&b.netns, "X")?, lab.ioc(NATIVE, "X")?, lab.ioc(NODE, "X")?];
    let pod_broadcast =
        if topology == Topology::Bridge { "10.244.1.255:5064" } else { "255.255.255.255:5064" };

    // Two pods, the native IOC and the node's own: four servers, four answers, wherever the question comes from.
    let (node, native) = ("172.23.0.10".to_owned(), "172.23.0.3".to_owned());
    let mut outside = vec![native.clone(), node.clone(), node.clone(), node.clone()]; // pods in the node's name
    outside.sort();
    assert_eq!(answers(&lab, WORKSTATION, "172.23.0.255:5064")?, outside);
    let mut on_node = vec![native.clone(), node, a.address.clone(), b.address.clone()];
    on_node.sort();
    assert_eq!(answers(&lab, NODE, "172.23.0.255:5064")?, on_node);
    let answers = answers(&lab, &client.netns, pod_broadcast)?;
    for server in [&a.address, &b.address, &native] {
        assert_eq!(answers.iter().filter(|from| *from == server).count(), 1, "{server} in {answers:?}");
    }
    assert_eq!(answers.len(), 4, "{answers:?}");
    Ok(())
}

/// The addresses of all who answer a search for `X:NAME`, sorted.
fn answers(lab: &Lab, netns: &str, to: &str) -> Result<Vec<String>> {
    let socket = Socket::bind(&lab.sandbox, netns, "0.0.0.0:0")?;
    socket.send(&ca::search(&["X:NAME"]), to)?;
    let answers = socket.drain(QUIET);
    assert!(answers.iter().all(|(datagram, _)| ca::servers(datagram).len() == 1), "{answers:?}");
    let mut from: Vec<_> = answers.iter().map(|(_, from)| from.ip().to_string()).collect();
    from.sort();
    Ok(from)
}

fn an_address_list_that_names_the_node_finds_every_pod(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (a, b) = (lab.pod("ioc-a")?, lab.pod("ioc-b")?);
    let _iocs = [lab.ioc(&a.netns, "A")?, lab.ioc(&b.netns, "B")?];
    let variables = [("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", "172.23.0.10")];
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME B:NAME", &variables)?, "A\nB\n");
    Ok(())
}

fn an_address_list_that_names_an_external_port_finds_its_pod_only(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::with_pins(topology))?;
    let pins = [("iocast.io/domain", DOMAIN), ("iocast.io/ports", "udp/5064=15064")];
    let (a, b) = (lab.pod("ioc-a")?, lab.pod_with("ioc-b", &pins)?);
    let _iocs = [lab.ioc(&a.netns, "X")?, lab.ioc(&b.netns, "X")?];
    let socket = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    socket.send(&ca::search(&["X:NAME"]), "172.23.0.10:15064")?;
    let answers = socket.drain(QUIET);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(Some(ca::servers(&answers[0].0)[0].0), lab.external_port("ioc-b", "tcp", 5064)?);
    assert_eq!(answers[0].1.port(), 15064, "from the port that was asked");
    Ok(())
}

fn a_name_server_entry_for_an_external_port_reaches_its_pod(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    caget(&lab, WORKSTATION, "A:NAME", &NOTHING)?; // the first answer takes the port
    let port = lab.external_port("ioc-a", "tcp", 5064)?.unwrap_or_else(|| panic!("no external port"));
    let server = format!("172.23.0.10:{port}");
    let variables = [("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_NAME_SERVERS", server.as_str())];
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME", &variables)?, "A\n");
    Ok(())
}

fn a_client_in_a_pod_reads_a_native_ioc_on_the_lan(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let client = lab.pod("client")?;
    let _ioc = lab.ioc(NATIVE, "N")?;
    assert_eq!(caget(&lab, &client.netns, "N:NAME", &NOTHING)?, "N\n");
    Ok(())
}

fn a_process_on_the_node_reads_a_pod_and_is_read_by_one(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _iocs = [lab.ioc(&pod.netns, "A")?, lab.ioc(NODE, "N")?];
    assert_eq!(caget(&lab, NODE, "A:NAME", &NOTHING)?, "A\n");
    assert_eq!(caget(&lab, &pod.netns, "N:NAME", &NOTHING)?, "N\n");
    Ok(())
}

fn the_ioc_sees_the_lan_clients_own_address(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let _monitor = camonitor(&lab, WORKSTATION, "A:COUNT")?;
    let circuits = lab.sandbox.sh(&pod.netns, "ss -Htn state established")?;
    assert!(
        circuits.contains(&format!("{}:5064", pod.address)) && circuits.contains(" 172.23.0.2:"),
        "{circuits}"
    );
    Ok(())
}

fn a_forward_rule_against_a_client_stops_its_circuit(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    caget(&lab, WORKSTATION, "A:NAME", &NOTHING)?;
    for line in [
        "nft add table ip guard",
        "nft add chain ip guard forward { type filter hook forward priority filter ; }",
        "nft add rule ip guard forward ip saddr 172.23.0.2 tcp dport 5064 drop",
    ] {
        lab.sandbox.sh(NODE, line)?;
    }
    let refused = lab.epics(WORKSTATION, "caget -w 2 A:NAME", &NOTHING)?.finish()?;
    assert!(refused.output.contains("Channel connect timed out"), "{}", refused.output);
    assert_eq!(caget(&lab, NATIVE, "A:NAME", &NOTHING)?, "A\n", "another client is not touched");
    Ok(())
}

fn checksums_are_right_without_offload(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options { checksum_offload: false, ..Options::new(topology) })?;
    let (a, b) = (lab.pod("ioc-a")?, lab.pod("ioc-b")?);
    let _iocs =
        [lab.ioc(&a.netns, "A")?, lab.ioc(&b.netns, "B")?, lab.ioc(NATIVE, "N")?, lab.ioc(NODE, "O")?];
    let node = [("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", "172.23.0.10")];
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME B:NAME", &NOTHING)?, "A\nB\n");
    assert_eq!(caget(&lab, WORKSTATION, "A:NAME B:NAME", &node)?, "A\nB\n");
    assert_eq!(caget(&lab, &a.netns, "B:NAME N:NAME O:NAME", &NOTHING)?, "B\nN\nO\n");
    assert_eq!(caget(&lab, NODE, "A:NAME", &NOTHING)?, "A\n");
    for netns in [WORKSTATION, NATIVE, NODE, &a.netns, &b.netns] {
        assert_eq!(lab.checksum_errors(netns)?, 0, "checksum errors in {netns}");
    }
    Ok(())
}

fn a_million_elements_arrive_intact_both_ways(topology: Topology) -> Result<()> {
    const ELEMENTS: usize = 1_000_000;
    let pattern: Vec<String> = (0..50).map(|index| (index * 7919 % 100_003).to_string()).collect();
    let database = waveform(ELEMENTS, &pattern);
    let values: Vec<_> = pattern.iter().cycle().take(ELEMENTS).map(String::as_str).collect();
    let expected = format!("{ELEMENTS} {}", values.join(" "));
    for checksum_offload in [true, false] {
        let lab = Lab::up(Options { checksum_offload, ..Options::new(topology) })?;
        let pod = lab.pod("ioc-a")?;
        let _iocs =
            [lab.ioc_with(&pod.netns, "A", &database, &[])?, lab.ioc_with(NATIVE, "N", &database, &[])?];
        for (client, pv) in [(WORKSTATION, "A:WAVE"), (pod.netns.as_str(), "N:WAVE")] {
            let read = caget(&lab, client, pv, &NOTHING)?;
            assert!(read.trim_end() == expected, "{pv} read from {client} differs from what was written");
        }
    }
    Ok(())
}

/// A database whose `WAVE` holds `pattern` again and again: a circular buffer that takes it 5 x 16 x 16 x 16 times at start.
fn waveform(elements: usize, pattern: &[String]) -> String {
    let fanout = |name: &str, times: u8, target: &str, pini: &str| {
        let links = (0..times)
            .map(|link| format!("field(LNK{link:X}, \"$(P):{target}\")"))
            .collect::<Vec<_>>()
            .join(" ");
        format!("record(fanout, \"$(P):{name}\") {{ {links} field(PINI, \"{pini}\") }}\n")
    };
    let (count, pattern) = (pattern.len(), pattern.join(","));
    format!(
        "record(waveform, \"$(P):PATTERN\") {{ field(FTVL, \"LONG\") field(NELM, \"{count}\") field(INP, [{pattern}]) }}\n\
         record(compress, \"$(P):WAVE\") {{ field(INP, \"$(P):PATTERN\") field(ALG, \"Circular Buffer\") \
         field(NSAM, \"{elements}\") }}\n{}{}{}{}",
        fanout("TIMES16", 16, "WAVE", "NO"),
        fanout("TIMES256", 16, "TIMES16", "NO"),
        fanout("TIMES4096", 16, "TIMES256", "NO"),
        fanout("TIMES20480", 5, "TIMES4096", "YES"),
    )
}

fn a_monitor_recovers_when_the_ioc_restarts(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc(&pod.netns, "A")?;
    let mut monitor = camonitor(&lab, WORKSTATION, "A:COUNT")?;
    let port = lab.external_port("ioc-a", "tcp", 5064)?;
    ioc.kill();
    monitor.wait_for("report of the lost channel", PATIENCE, |output| output.contains("*** disconnected"))?;
    let seen = values(&monitor.output());
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let took = monitor.wait_for("value of the new IOC", PATIENCE, |output| values(output) > seen + 3)?;
    lab::report(
        &format!("camonitor's first values after an IOC restart ({topology:?})"),
        &format!("{:.1} s after the IOC was up", took.as_secs_f32()),
    );
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, port);
    Ok(())
}

fn a_monitor_recovers_when_the_pod_is_created_again_and_its_port_is_the_same(
    topology: Topology,
) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let ioc = lab.ioc(&pod.netns, "A")?;
    let mut monitor = camonitor(&lab, WORKSTATION, "A:COUNT")?;
    let port = lab.external_port("ioc-a", "tcp", 5064)?;
    ioc.kill();
    lab.delete_pod(&pod)?;
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, None, "a deleted pod gives its ports back");
    let _other = lab.pod("in-between")?; // so that the pod gets another address
    let again = lab.pod("ioc-a")?;
    assert_ne!(again.address, pod.address);
    let seen = values(&monitor.output());
    let _ioc = lab.ioc(&again.netns, "A")?;
    let took = monitor.wait_for("value of the new pod", PATIENCE, |output| values(output) > seen + 3)?;
    lab::report(
        &format!("camonitor's first values after the pod was created again ({topology:?})"),
        &format!("{:.1} s after the IOC was up", took.as_secs_f32()),
    );
    assert_eq!(lab.external_port("ioc-a", "tcp", 5064)?, port);
    Ok(())
}

fn a_monitor_survives_the_agents_restart(topology: Topology) -> Result<()> {
    let mut lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    let _ioc = lab.ioc(&pod.netns, "A")?;
    let mut monitor = camonitor(&lab, WORKSTATION, "A:COUNT")?;
    lab.stop_agent();
    let seen = values(&monitor.output());
    monitor.wait_for("values without an agent", PATIENCE, |output| values(output) > seen + 5)?;
    assert_eq!(caget(&lab, NATIVE, "A:NAME", &NOTHING)?, "A\n", "new clients find it, too");
    lab.start_agent()?; // replaces every program
    let seen = values(&monitor.output());
    monitor.wait_for("values after the restart", PATIENCE, |output| values(output) > seen + 5)?;
    assert!(!monitor.output().contains("*** disconnected"), "{}", monitor.output());
    assert_eq!(caget(&lab, NATIVE, "A:NAME", &NOTHING)?, "A\n");
    Ok(())
}

//! PV Access end to end: both implementations, as client and as server, wherever they run; and beacons of both protocols.

use std::time::Duration;

use lab::{
    Lab, NATIVE, NODE, Options, Result, Topology, WORKSTATION,
    epics::{Client, Server, shows},
    udp::Socket,
};

const SERVERS: [Server; 2] = [Server::PvAccessCpp, Server::Pvxs];
const CLIENTS: [Client; 2] = [Client::PvAccessCpp, Client::Pvxs];
/// Both implementations send the first beacons within a second.
const BEACONS: Duration = Duration::from_secs(2);

lab::in_both_topologies! {
    a_lan_client_reads_pods
    a_client_in_a_pod_reads_pods_the_lan_and_the_node
    a_process_on_the_node_reads_pods
    an_address_list_that_names_the_node_finds_every_pod
    an_address_list_in_a_pod_finds_servers_on_the_lan
    two_servers_in_one_pod_are_both_found
    checksums_are_right_without_offload
    beacons_are_heard_once_on_the_lan_and_in_pods
}

/// Reads `NAME` of each prefix with both clients, which must show the prefixes and complain of nothing. `pvget` reads one at a time: what
/// it prints of several, from several threads, is mixed up now and then.
fn read(lab: &Lab, netns: &str, prefixes: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    for client in CLIENTS {
        let at_a_time = if matches!(client, Client::PvAccessCpp) { 1 } else { prefixes.len() };
        for prefixes in prefixes.chunks(at_a_time) {
            let pvs: Vec<_> = prefixes.iter().map(|prefix| format!("{prefix}:NAME")).collect();
            let output = lab.pvget(client, netns, &pvs.join(" "), variables)?;
            assert!(prefixes.iter().all(|prefix| shows(&output, prefix)), "{client:?} in {netns}: {output}");
            let complaint =
                ["More than one", "Duplicate", "imeout"].iter().find(|word| output.contains(**word));
            assert_eq!(complaint, None, "{client:?} in {netns}: {output}");
        }
    }
    Ok(())
}

/// A lab with a pod for each server implementation, whose records begin with `CPP` and `PVXS`.
fn lab_with_servers(options: Options) -> Result<(Lab, Vec<lab::Process>)> {
    let lab = Lab::up(options)?;
    let mut iocs = vec![];
    for (server, prefix) in SERVERS.into_iter().zip(["CPP", "PVXS"]) {
        let pod = lab.pod(&format!("ioc-{}", prefix.to_lowercase()))?;
        iocs.push(lab.ioc_of(server, &pod.netns, prefix)?);
    }
    Ok((lab, iocs))
}

fn a_lan_client_reads_pods(topology: Topology) -> Result<()> {
    let (lab, _iocs) = lab_with_servers(Options::new(topology))?;
    read(&lab, WORKSTATION, &["CPP", "PVXS"], &[])
}

fn a_client_in_a_pod_reads_pods_the_lan_and_the_node(topology: Topology) -> Result<()> {
    let (lab, _iocs) = lab_with_servers(Options::new(topology))?;
    let client = lab.pod("client")?;
    let _native = lab.ioc_of(Server::PvAccessCpp, NATIVE, "N")?; // answers from a random port
    let _node = lab.ioc_of(Server::Pvxs, NODE, "O")?;
    read(&lab, &client.netns, &["CPP", "PVXS", "N", "O"], &[])
}

fn a_process_on_the_node_reads_pods(topology: Topology) -> Result<()> {
    let (lab, _iocs) = lab_with_servers(Options::new(topology))?;
    read(&lab, NODE, &["CPP", "PVXS"], &[])
}

fn an_address_list_that_names_the_node_finds_every_pod(topology: Topology) -> Result<()> {
    let (lab, _iocs) = lab_with_servers(Options::new(topology))?;
    let variables = [("EPICS_PVA_AUTO_ADDR_LIST", "NO"), ("EPICS_PVA_ADDR_LIST", "172.23.0.10")];
    read(&lab, WORKSTATION, &["CPP", "PVXS"], &variables)?;
    let client = lab.pod("client")?;
    read(&lab, &client.netns, &["CPP", "PVXS"], &variables)
}

fn an_address_list_in_a_pod_finds_servers_on_the_lan(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let client = lab.pod("client")?;
    let variables = [("EPICS_PVA_AUTO_ADDR_LIST", "NO"), ("EPICS_PVA_ADDR_LIST", "172.23.0.3")];
    for (server, prefix) in SERVERS.into_iter().zip(["CPP", "PVXS"]) {
        let ioc = lab.ioc_of(server, NATIVE, prefix)?;
        read(&lab, &client.netns, &[prefix], &variables)?;
        ioc.kill();
    }
    let _ioc = lab.ioc(NATIVE, "A")?;
    let variables = [("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", "172.23.0.3")];
    assert_eq!(lab.epics_output(&client.netns, "caget -t -w 5 A:NAME", &variables)?, "A\n");
    Ok(())
}

fn two_servers_in_one_pod_are_both_found(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("both")?;
    let _cpp = lab.ioc_of(Server::PvAccessCpp, &pod.netns, "CPP")?;
    let _pvxs = lab.ioc_of(Server::Pvxs, &pod.netns, "PVXS")?;
    read(&lab, WORKSTATION, &["CPP", "PVXS"], &[])
}

fn checksums_are_right_without_offload(topology: Topology) -> Result<()> {
    let (lab, _iocs) = lab_with_servers(Options { checksum_offload: false, ..Options::new(topology) })?;
    let client = lab.pod("client")?;
    let _native = lab.ioc_of(Server::PvAccessCpp, NATIVE, "N")?;
    let node = [("EPICS_PVA_AUTO_ADDR_LIST", "NO"), ("EPICS_PVA_ADDR_LIST", "172.23.0.10")];
    read(&lab, WORKSTATION, &["CPP", "PVXS"], &[])?;
    read(&lab, WORKSTATION, &["CPP", "PVXS"], &node)?;
    read(&lab, &client.netns, &["CPP", "PVXS", "N"], &[])?;
    for netns in [WORKSTATION, NATIVE, NODE, &client.netns] {
        assert_eq!(lab.checksum_errors(netns)?, 0, "checksum errors in {netns}");
    }
    Ok(())
}

fn beacons_are_heard_once_on_the_lan_and_in_pods(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (server, other) = (lab.pod("ioc-a")?, lab.pod("other")?);
    let listen = |netns: &str, port: u16| Socket::bind(&lab.sandbox, netns, &format!("0.0.0.0:{port}"));
    let on_lan = [listen(WORKSTATION, 5065)?, listen(WORKSTATION, 5076)?];
    let in_pod = [listen(&other.netns, 5065)?, listen(&other.netns, 5076)?];
    let _ioc = lab.ioc_of(Server::PvAccessCpp, &server.netns, "A")?;
    std::thread::sleep(BEACONS);
    let hear = |socket: &Socket| socket.drain(Duration::from_millis(100));
    let [ca_in_pod, pva_in_pod] = in_pod.each_ref().map(hear); // first: the LAN has heard at least as many
    let [ca, pva] = on_lan.each_ref().map(hear);

    let circuit = |port| lab.external_port("ioc-a", "tcp", port).map(Option::unwrap_or_default);
    let (ca_port, pva_port) = (circuit(5064)?, circuit(5075)?);
    assert!(ca.len() >= 3 && !pva.is_empty(), "{ca:?} {pva:?}");
    for (beacon, from) in &ca {
        assert_eq!(from.ip().to_string(), "172.23.0.10");
        assert_eq!((beacon[1], u16::from_be_bytes([beacon[6], beacon[7]])), (13, ca_port), "{beacon:?}");
    }
    for (beacon, _) in &pva {
        assert_eq!((beacon[3], u16::from_le_bytes([beacon[40], beacon[41]])), (0, pva_port), "{beacon:?}");
    }
    // The first two beacons of RSRV both have number 0; each copy is heard once, in order.
    let numbers = |beacons: &[(Vec<u8>, _)]| beacons.iter().map(|(beacon, _)| beacon[11]).collect::<Vec<_>>();
    let expected: Vec<u8> = [0].into_iter().chain(0..).take(ca.len()).collect();
    assert_eq!(numbers(&ca), expected);
    assert_eq!(numbers(&ca_in_pod), expected[..ca_in_pod.len()]);
    assert!(
        ca_in_pod
            .iter()
            .all(|(beacon, from)| from.ip().to_string() == server.address && beacon[6..8] == [0x13, 0xc8])
    );
    assert_eq!(pva_in_pod.len(), pva.len());
    assert!(pva_in_pod.iter().all(|(beacon, _)| beacon[40..42] == [0xd3, 0x13]), "the pod's own port");
    Ok(())
}

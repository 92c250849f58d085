//! Settings and surroundings of native hosts, beside one: address lists, firewalls, servers bound to addresses, and searches
//! as only servers read them.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::time::Duration;

use lab::{
    Lab, NATIVE, NODE, Options, Process, Result, Topology, WORKSTATION,
    ca::{self, message},
    epics::{Client, Server, shows},
    pva,
    udp::Socket,
};

/// Longer than an answer takes, also on a busy machine.
const QUIET: Duration = Duration::from_millis(500);
const LAN: &str = "172.23.0.255";
/// The native host, and the node that stands for the pod.
const HOSTS: [&str; 2] = ["172.23.0.3", "172.23.0.10"];

lab::in_both_topologies! {
    the_lans_broadcast_address_in_a_pods_list_finds_what_it_finds_on_a_host
    beacons_to_the_lans_broadcast_address_come_to_all
    a_client_behind_a_stateful_firewall_reads_pods_by_the_nodes_address
    a_client_that_lets_in_the_ports_of_servers_reads_pods
    servers_bound_to_their_own_address_are_found_as_on_a_host
    every_search_that_a_native_server_answers_a_pods_answers
}

/// Variables for clients of both protocols that search at `list` only.
fn only(list: &str) -> [(&str, &str); 4] {
    [
        ("EPICS_CA_AUTO_ADDR_LIST", "NO"),
        ("EPICS_CA_ADDR_LIST", list),
        ("EPICS_PVA_AUTO_ADDR_LIST", "NO"),
        ("EPICS_PVA_ADDR_LIST", list),
    ]
}

/// Shows that every client in `netns` reads the names of these IOCs by an address list alone.
#[track_caller]
fn reads(lab: &Lab, netns: &str, list: &str, prefixes: &[&str]) {
    let variables = only(list);
    for prefix in prefixes {
        let pv = format!("{prefix}:NAME");
        let said = lab.epics_output(netns, &format!("caget -t -w 5 {pv}"), &variables).unwrap();
        assert_eq!(said, format!("{prefix}\n"), "caget in {netns}, {list}");
        for client in [Client::PvAccessCpp, Client::Pvxs] {
            let said = lab.pvget(client, netns, &pv, &variables).unwrap();
            assert!(shows(&said, prefix), "{client:?} in {netns}, {list}: {said}");
        }
    }
}

/// An IOC of both protocols.
fn ioc(lab: &Lab, netns: &str, prefix: &str) -> Result<Process> {
    lab.ioc_of(Server::PvAccessCpp, netns, prefix)
}

fn the_lans_broadcast_address_in_a_pods_list_finds_what_it_finds_on_a_host(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (server, client) = (lab.pod("server")?, lab.pod("client")?);
    let _iocs = [ioc(&lab, NATIVE, "N")?, ioc(&lab, NODE, "O")?, ioc(&lab, &server.netns, "P")?];
    reads(&lab, &client.netns, LAN, &["N", "O", "P"]);
    Ok(())
}

fn beacons_to_the_lans_broadcast_address_come_to_all(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (server, other) = (lab.pod("server")?, lab.pod("other")?);
    let places = [WORKSTATION, NODE, &other.netns];
    let listen = |netns: &&str| Socket::bind(&lab.sandbox, netns, "0.0.0.0:5065");
    let listeners = places.iter().map(listen).collect::<Result<Vec<_>>>()?;
    let variables = [("EPICS_CAS_AUTO_BEACON_ADDR_LIST", "NO"), ("EPICS_CAS_BEACON_ADDR_LIST", LAN)];
    let _ioc = lab.ioc_of_with(Server::Rsrv, &server.netns, "P", &variables)?;
    let heard: Vec<_> = listeners.iter().map(|listener| listener.receive(Duration::from_secs(5))).collect();
    let port = |index: usize| {
        let (beacon, from) = heard[index].as_ref().unwrap_or_else(|| panic!("none in {}", places[index]));
        (from.ip().to_string(), u16::from_be_bytes([beacon[6], beacon[7]]))
    };
    let external = lab.external_port("server", "tcp", 5064)?.unwrap();
    assert_eq!(port(0), ("172.23.0.10".into(), external));
    assert_eq!([port(1), port(2)], [(server.address.clone(), 5064), (server.address, 5064)]);
    Ok(())
}

/// Makes the workstation drop all that these rules do not accept.
fn firewall(lab: &Lab, rules: &[&str]) -> Result<()> {
    let chain = "add chain ip fw input { type filter hook input priority 0 ; policy drop ; }";
    lab.sandbox.sh(WORKSTATION, "nft add table ip fw")?;
    lab.sandbox.sh(WORKSTATION, &format!("nft {chain}"))?;
    rules.iter().chain(&["iif lo", "meta l4proto tcp ct state established"]).try_for_each(|rule| {
        lab.sandbox.sh(WORKSTATION, &format!("nft add rule ip fw input {rule} accept")).map(drop)
    })
}

fn a_client_behind_a_stateful_firewall_reads_pods_by_the_nodes_address(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pods = [lab.pod("a")?, lab.pod("b")?];
    // Not pvAccessCPP, which answers from any port.
    let places = [(NATIVE, HOSTS[0], "N"), (&pods[0].netns, HOSTS[1], "A"), (&pods[1].netns, HOSTS[1], "B")];
    let start = |(netns, _, prefix): &(&str, _, &str)| lab.ioc_of(Server::Pvxs, netns, prefix);
    let _iocs = places.iter().map(start).collect::<Result<Vec<_>>>()?;
    firewall(&lab, &["ct state established,related"])?;
    for (_, host, prefix) in places {
        reads(&lab, WORKSTATION, host, &[prefix]);
    }
    Ok(())
}

fn a_client_that_lets_in_the_ports_of_servers_reads_pods(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("a")?;
    let _iocs = [lab.ioc(NATIVE, "N")?, lab.ioc(&pod.netns, "A")?];
    firewall(&lab, &["udp sport 5064"])?;
    let said = lab.epics_output(WORKSTATION, "caget -t -w 5 N:NAME A:NAME", &[])?;
    assert_eq!(said, "N\nA\n", "by broadcast");
    Ok(())
}

fn servers_bound_to_their_own_address_are_found_as_on_a_host(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("a")?;
    let start = |netns: &str, address: &str, prefix: &str| {
        let variables = [("EPICS_CAS_INTF_ADDR_LIST", address), ("EPICS_PVAS_INTF_ADDR_LIST", address)];
        lab.ioc_of_with(Server::PvAccessCpp, netns, prefix, &variables)
    };
    let _iocs = [start(NATIVE, HOSTS[0], "N")?, start(&pod.netns, &pod.address, "A")?];
    reads(&lab, WORKSTATION, HOSTS[0], &["N"]);
    reads(&lab, WORKSTATION, HOSTS[1], &["A"]);
    Ok(())
}

/// Variants of a search for `X:NAME` in Channel Access, each a datagram.
fn ca_variants() -> Vec<(&'static str, Vec<u8>)> {
    let version = |minor| message(0, 1, minor, 1, 0, &[]);
    let search = |minor, reply, name: &[u8]| message(6, reply, minor, 1, 1, name);
    let plain = || search(13, 5, b"X:NAME\0\0");
    let behind = |rest: &[u8]| [version(13), plain(), rest.to_vec()].concat();
    let before = |other: &[u8]| [version(13), other.to_vec(), plain()].concat();
    let extended = |name: &[u8]| {
        let mut bytes =
            message(6, 5, 0, 1, 1, &[&(name.len() as u32).to_be_bytes()[..], &[0, 0, 0, 13], name].concat());
        bytes[2..4].copy_from_slice(&[0xff, 0xff]);
        bytes
    };
    let other = search(13, 5, b"NOPE\0\0\0\0");
    vec![
        ("as libca sends it", behind(&[])),
        ("without a version", plain()),
        ("the version last", [plain(), version(13)].concat()),
        (
            "of a client that wants to know if there is none",
            [version(13), search(13, 10, b"X:NAME\0\0")].concat(),
        ),
        ("minor version 0", [version(0), search(0, 5, b"X:NAME\0\0")].concat()),
        ("minor version 4", [version(4), search(4, 5, b"X:NAME\0\0")].concat()),
        ("minor version 11", [version(11), search(11, 5, b"X:NAME\0\0")].concat()),
        ("one byte behind it", behind(&[0])),
        ("eight zeros behind it", behind(&[0; 8])),
        ("fifteen bytes of noise behind it", behind(&[0xa5; 15])),
        ("sixteen zeros behind it", behind(&[0; 16])),
        ("half of another search behind it", behind(&other[..20])),
        ("another search behind it that claims to be longer", {
            let mut longer = other.clone();
            longer[3] = 200;
            behind(&longer)
        }),
        ("another name before it", before(&other)),
        (
            "a name padded to 64 bytes",
            [version(13), search(13, 5, &[&b"X:NAME"[..], &[0; 58]].concat())].concat(),
        ),
        ("a name that is not padded", [version(13), search(13, 5, b"X:NAME\0")].concat()),
        (
            "a name that is not padded, behind another search",
            [behind(&[]), search(13, 5, b"X:NAME\0")].concat(),
        ),
        ("an echo before it", before(&message(23, 0, 0, 0, 0, &[]))),
        ("a client's name before it", before(&message(20, 0, 0, 0, 0, b"me\0\0\0\0\0\0"))),
        ("an unknown command before it", before(&message(99, 0, 0, 0, 0, &[]))),
        ("an unknown command behind it", behind(&message(99, 0, 0, 0, 0, &[]))),
        ("an extended header", [version(13), extended(b"X:NAME\0\0")].concat()),
        ("an extended header without a version", extended(b"X:NAME\0\0")),
        (
            "an extended header, and a byte behind it",
            [version(13), extended(b"X:NAME\0\0"), vec![0]].concat(),
        ),
        ("an extended header cut short", [version(13), extended(b"X:NAME\0\0")[..28].to_vec()].concat()),
        ("an extended header behind it", behind(&extended(b"NOPE\0\0\0\0"))),
        ("sixty searches", [version(13), (0..60).flat_map(|_| plain()).collect()].concat()),
        ("nothing but a version", version(13)),
        ("cut short", behind(&[])[..39].to_vec()),
    ]
}

/// The same in PV Access, to be answered on this port.
fn pva_variants(port: u16) -> Vec<(&'static str, Vec<u8>)> {
    const ANY: [u8; 4] = [0; 4];
    let search = |version, flags| pva::search(version, flags, ANY, port);
    let sized = |size| {
        let mut bytes = search(2, 0);
        bytes[7] = size;
        bytes
    };
    let flagged = |flag| {
        let mut bytes = search(2, 0);
        bytes[2] |= flag;
        bytes
    };
    vec![
        ("version 2", search(2, 0)),
        ("version 1", search(1, 0)),
        ("version 3", search(3, 0)),
        ("to one server", search(2, 0x80)),
        ("a byte behind it", [search(2, 0), vec![0]].concat()),
        ("eight zeros behind it", [search(2, 0), vec![0; 8]].concat()),
        ("half of another behind it", [search(2, 0), search(2, 0)[..30].to_vec()].concat()),
        ("another behind it", [search(2, 0), search(2, 0)].concat()),
        ("a size of nothing", sized(0)),
        ("a size that is too large", sized(0xff)),
        ("a segment", flagged(0x10)),
        ("a control message", flagged(0x01)),
        ("of a server", flagged(0x40)),
        ("cut short", search(2, 0)[..50].to_vec()),
    ]
}

/// How many answers come from each host to this search by broadcast, by limited broadcast, and to each.
fn answers(client: &Socket, port: u16, bytes: &[u8], count: fn(&[u8]) -> usize) -> Result<[Vec<usize>; 2]> {
    let mut to_one = bytes.to_vec();
    if port == 5076 {
        to_one[pva::FLAGS] |= pva::UNICAST; // as clients say
    }
    let mut found = HOSTS.map(|_| vec![]);
    for targets in [&[LAN][..], &["255.255.255.255"], &HOSTS] {
        for target in targets {
            let bytes = if HOSTS.contains(target) { &to_one } else { bytes };
            client.send(bytes, &format!("{target}:{port}"))?;
        }
        let answers = client.drain(QUIET / 2);
        for (found, host) in found.iter_mut().zip(HOSTS) {
            let its = answers.iter().filter(|(_, from)| from.ip().to_string() == host);
            found.push(its.map(|(bytes, _)| count(bytes)).sum());
        }
    }
    Ok(found)
}

fn every_search_that_a_native_server_answers_a_pods_answers(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("a")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "172.23.0.2:0")?;
    let mut differences = vec![];
    let mut compare = |server: &str, port, variants: Vec<(&str, Vec<u8>)>, count| -> Result<()> {
        for (name, bytes) in variants {
            let [native, pods] = answers(&client, port, &bytes, count)?;
            println!("{server}, {name}: {native:?}");
            // A pod with a /32 address hears a limited broadcast as any other one.
            let fewer = native.iter().zip(&pods).any(|(native, pods)| *native > 0 && *pods == 0);
            if fewer || native[0] != pods[0] {
                differences.push(format!("{server}, {name}: native {native:?}, pod {pods:?}"));
            }
        }
        Ok(())
    };
    let start = |server| -> Result<_> {
        let iocs = [lab.ioc_of(server, NATIVE, "X")?, lab.ioc_of(server, &pod.netns, "X")?];
        std::thread::sleep(QUIET); // PVXS does not listen yet
        Ok(iocs)
    };
    let port = client.address().port();
    let (ca_replies, pva_replies) = (|bytes: &[u8]| ca::servers(bytes).len(), |_: &[u8]| 1);
    let iocs = start(Server::PvAccessCpp)?; // and RSRV
    compare("RSRV", 5064, ca_variants(), ca_replies)?;
    compare("pvAccessCPP", 5076, pva_variants(port), pva_replies)?;
    iocs.into_iter().for_each(Process::kill);
    let _iocs = start(Server::Pvxs)?;
    compare("PVXS", 5076, pva_variants(port), pva_replies)?;
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
    Ok(())
}

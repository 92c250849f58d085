//! ICMP errors about what passes through external ports: who caused one hears it, as on a native host.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    io::{Error, ErrorKind},
    net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use lab::{DOMAIN, Lab, NATIVE, NODE, Options, Result, Topology, WORKSTATION, ca};

use crate::circuits;

lab::in_both_topologies! {
    a_client_behind_a_smaller_mtu_reads_a_big_array
    a_server_hears_that_the_client_it_answers_is_gone
    a_client_hears_that_the_server_it_asks_is_gone
    a_client_whose_search_went_to_the_pods_is_not_told_that_nobody_is_there
    a_client_hears_that_the_node_rejects_its_connection
}

const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const ARRAY: &str =
    "record(waveform, \"$(P):ARRAY\") { field(NELM, \"20000\") field(FTVL, \"DOUBLE\") }";
/// A host in a network of its own.
pub(crate) const FAR: &str = "far";

/// A lab to whose LAN [`FAR`] belongs, and whose node drops what conntrack calls invalid, as kube-proxy's chains do.
fn strict_lab(options: Options) -> Result<Lab> {
    let mut lab = Lab::without_agent(options)?;
    lab.start_agent_with(&format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\nlan = [\"10.99.0.0/24\"]\n"))?;
    nft(&lab, "add table ip strict")?;
    nft(&lab, "add chain ip strict forward { type filter hook forward priority filter ; }")?;
    nft(&lab, "add rule ip strict forward ct state invalid drop")?;
    Ok(lab)
}

fn nft(lab: &Lab, rule: &str) -> Result<()> {
    lab.sandbox.sh(NODE, &format!("nft {rule}")).map(|_| ())
}

/// Makes the native host a router to [`FAR`], over a link with a smaller MTU that only the router knows of.
pub(crate) fn add_far_host(lab: &Lab) -> Result<()> {
    lab.sandbox.add_netns(FAR)?;
    for (netns, line) in [
        (NATIVE, "ip link add far type veth peer name eth0 netns far"),
        (NATIVE, "ip address add 10.99.0.1/24 dev far"),
        (NATIVE, "ip link set far mtu 1400 up"),
        (NATIVE, "sysctl -q -w net.ipv4.ip_forward=1"),
        (FAR, "ip address add 10.99.0.2/24 dev eth0"),
        (FAR, "ip link set eth0 up"),
        (FAR, "ip route add default via 10.99.0.1"),
        (NODE, "ip route add 10.99.0.0/24 via 172.23.0.3"),
    ] {
        lab.sandbox.sh(netns, line)?;
    }
    Ok(())
}

fn a_client_behind_a_smaller_mtu_reads_a_big_array(topology: Topology) -> Result<()> {
    let times = [read_far(topology, true)?, read_far(topology, false)?];
    let [offload, none] = times.map(|[through, native]| format!("{through:.0?} (native IOC {native:.0?})"));
    let figure = format!("{offload}, without checksum offload {none}");
    lab::report(&format!("160 kB from a pod behind an MTU of 1400 ({topology:?})"), &figure);
    for [through, native] in times {
        assert!(through < native + Duration::from_secs(1), "{figure}");
    }
    Ok(())
}

/// How long the far host takes to read an array from a pod, and from an IOC on the node itself.
fn read_far(topology: Topology, checksum_offload: bool) -> Result<[Duration; 2]> {
    let lab = strict_lab(Options { checksum_offload, ..Options::new(topology) })?;
    add_far_host(&lab)?;
    let pod = lab.pod("ioc-a")?;
    let _native = lab.ioc_with(NODE, "N", ARRAY, &[("EPICS_CAS_SERVER_PORT", "5074")])?;
    let _ioc = lab.ioc_with(&pod.netns, "A", ARRAY, &[])?;
    let native = time_to_read(&lab, "N:ARRAY", "172.23.0.10:5074")?;
    let through = time_to_read(&lab, "A:ARRAY", "172.23.0.10:5064")?;
    assert_eq!(lab.checksum_errors(&pod.netns)?, 0);
    Ok([through, native])
}

/// How long the far host takes to find and read an array, which the workstation has written.
pub(crate) fn time_to_read(lab: &Lab, pv: &str, server: &str) -> Result<Duration> {
    let variables = [("EPICS_CA_AUTO_ADDR_LIST", "NO"), ("EPICS_CA_ADDR_LIST", server)];
    let written = "7 ".repeat(20_000);
    lab.epics_output(WORKSTATION, &format!("caput -a -w 5 {pv} 20000 {written}"), &variables)?;
    let start = Instant::now();
    let read = lab.epics_output(FAR, &format!("caget -w 15 {pv}"), &variables)?;
    let time = start.elapsed();
    assert!(read.trim_end().ends_with(written.trim_end()), "{pv} is as it was written");
    Ok(time)
}

/// A socket in `netns`.
pub(crate) fn bind(lab: &Lab, netns: &str, port: u16) -> Result<UdpSocket> {
    let socket = lab.sandbox.run_in(netns, move || UdpSocket::bind(("0.0.0.0", port)))?.unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(socket)
}

/// What a socket that is connected to `to` hears after it sent something there.
pub(crate) fn outcome(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> std::io::Result<usize> {
    socket.connect(to)?;
    socket.send(bytes)?;
    socket.recv(&mut [0; 64])
}

pub(crate) fn assert_refused(outcome: std::io::Result<usize>, who: &str) {
    let error = outcome.map_or_else(|error| error, |length| Error::other(format!("{length} bytes")));
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{who}: {error}");
}

fn a_server_hears_that_the_client_it_answers_is_gone(topology: Topology) -> Result<()> {
    let lab = strict_lab(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    for netns in [NATIVE, &pod.netns] {
        let server = bind(&lab, netns, 5064)?;
        let client = bind(&lab, WORKSTATION, 0)?;
        client.send_to(&ca::search(&["A:NAME"]), "172.23.0.255:5064").unwrap();
        let (_, asker) = server.recv_from(&mut [0; 64]).unwrap();
        drop(client);
        lab::settle();
        assert_refused(outcome(&server, asker, &ca::reply(5064)), netns);
    }
    Ok(())
}

fn a_client_hears_that_the_server_it_asks_is_gone(topology: Topology) -> Result<()> {
    let lab = strict_lab(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?;
    lab.sandbox.sh(WORKSTATION, "ip route add 10.244.1.0/24 via 172.23.0.10")?;
    let external = {
        let (pods, natives) = (bind(&lab, &pod.netns, 5064)?, bind(&lab, NATIVE, 5064)?);
        pods.send_to(&ca::search(&["A:NAME"]), "172.23.0.3:5064").unwrap();
        natives.recv_from(&mut [0; 64]).unwrap().1
    };
    lab::settle();
    let own = format!("{}:5064", pod.address).parse().unwrap();
    for to in ["172.23.0.3:5064".parse().unwrap(), external, own] {
        let client = bind(&lab, WORKSTATION, 0)?;
        assert_refused(outcome(&client, to, &ca::search(&["A:NAME"])), &to.to_string());
    }
    Ok(())
}

fn a_client_whose_search_went_to_the_pods_is_not_told_that_nobody_is_there(topology: Topology) -> Result<()> {
    let lab = strict_lab(Options::new(topology))?;
    let node = SocketAddr::from(([172, 23, 0, 10], 5064));
    let ask = |client: &UdpSocket| outcome(client, node, &ca::search(&["A:NAME"]));
    assert_refused(ask(&bind(&lab, WORKSTATION, 0)?), "where there is no pod");
    let pod = lab.pod("ioc-a")?;
    let (server, client) = (bind(&lab, &pod.netns, 5064)?, bind(&lab, WORKSTATION, 0)?);
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(ask(&client).unwrap_err().kind(), ErrorKind::WouldBlock, "nobody answers, and nobody refuses");
    server.recv_from(&mut [0; 64]).unwrap();
    Ok(())
}

fn a_client_hears_that_the_node_rejects_its_connection(topology: Topology) -> Result<()> {
    let lab = strict_lab(Options::new(topology))?;
    let (pod, external) = circuits::server(&lab, "ioc-a")?;
    lab.sandbox.sh(WORKSTATION, "ip route add 10.244.1.0/24 via 172.23.0.10")?;
    let rule = format!("ip daddr {} tcp dport 5064 reject with icmp type port-unreachable", pod.address);
    nft(&lab, &format!("add rule ip strict forward {rule}"))?;
    for to in [external, SocketAddrV4::new(pod.address.parse().unwrap(), 5064)] {
        let connect = move || TcpStream::connect_timeout(&to.into(), PATIENCE).map(|_| 0);
        assert_refused(lab.sandbox.run_in(WORKSTATION, connect)?, &to.to_string());
    }
    Ok(())
}

//! Circuits beside what else may come from the same host, port and pod.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::Duration,
};

use lab::{
    Lab, NATIVE, NODE, Options, Pod, Result, Topology, WORKSTATION, ca,
    tcp::{self, Forger, flag},
    udp::Socket,
};
use socket2::{Domain, Socket as Tcp, Type};

lab::in_both_topologies! {
    a_client_goes_on_directly_from_the_port_of_an_earlier_circuit
    a_forged_connection_does_not_disturb_a_direct_one
    a_client_connects_from_a_port_that_was_forged_before
    a_pod_with_the_address_of_another_has_none_of_its_circuits
    a_client_that_is_refused_hears_it_at_once
}

const PATIENCE: Duration = Duration::from_secs(5);
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 2);

/// A pod whose TCP port 5064 echoes, and its external port.
pub(crate) fn server(lab: &Lab, name: &str) -> Result<(Pod, SocketAddrV4)> {
    let pod = lab.pod(name)?;
    tcp::echo(&lab.sandbox, &pod.netns, "0.0.0.0:5064")?;
    let external = external(lab, &pod)?;
    Ok((pod, external))
}

/// What a client is told that asks the pod.
fn external(lab: &Lab, pod: &Pod) -> Result<SocketAddrV4> {
    let ioc = Socket::bind(&lab.sandbox, &pod.netns, "0.0.0.0:5064")?;
    let client = Socket::bind(&lab.sandbox, WORKSTATION, "0.0.0.0:0")?;
    client.send(&ca::search(&["A:NAME"]), "172.23.0.255:5064")?;
    let (_, asker) = ioc.receive(PATIENCE).unwrap();
    ioc.send(&ca::reply(5064), &asker.to_string())?;
    let (bytes, from) = client.receive(PATIENCE).unwrap();
    Ok(SocketAddrV4::new(*from.ip(), u16::from_be_bytes([bytes[20], bytes[21]])))
}

/// Pods have their own addresses on the LAN.
fn route_pods(lab: &Lab) -> Result<()> {
    lab.sandbox.sh(WORKSTATION, "ip route add 10.244.1.0/24 via 172.23.0.10").map(|_| ())
}

/// A connection from this port of the workstation.
fn connect(lab: &Lab, from: u16, to: SocketAddrV4) -> Result<std::io::Result<TcpStream>> {
    connect_from(lab, CLIENT, from, to)
}

fn connect_from(
    lab: &Lab,
    address: Ipv4Addr,
    from: u16,
    to: SocketAddrV4,
) -> Result<std::io::Result<TcpStream>> {
    lab.sandbox.run_in(WORKSTATION, move || {
        let socket = Tcp::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((address, from)).into())?;
        socket.connect_timeout(&SocketAddr::V4(to).into(), PATIENCE)?;
        Ok(socket.into())
    })
}

fn echoes(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"word")?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    assert_eq!(&word, b"word");
    Ok(())
}

fn own(pod: &Pod) -> SocketAddrV4 {
    SocketAddrV4::new(pod.address.parse().unwrap(), 5064)
}

fn a_client_goes_on_directly_from_the_port_of_an_earlier_circuit(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, external) = server(&lab, "ioc-a")?;
    route_pods(&lab)?;
    for round in 0..3 {
        for to in [external, own(&pod)] {
            // The client closes first and has the port for a minute, so the next one takes its place (SO_REUSEADDR).
            let mut stream =
                connect(&lab, 45_000, to)?.unwrap_or_else(|error| panic!("{round} {to}: {error}"));
            echoes(&mut stream).unwrap_or_else(|error| panic!("{round} {to}: {error}"));
        }
    }
    Ok(())
}

fn a_forged_connection_does_not_disturb_a_direct_one(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, external) = server(&lab, "ioc-a")?;
    route_pods(&lab)?;
    let forger = Forger::new(&lab.sandbox, NATIVE)?;
    let forge = |flags| forger.send(SocketAddrV4::new(CLIENT, 45_000), external, flags, (7, 0));
    forge(flag::SYN)?;
    let mut stream = connect(&lab, 45_000, own(&pod))?.unwrap();
    echoes(&mut stream).unwrap();
    for flags in [flag::SYN, flag::RST, flag::FIN | flag::ACK, flag::ACK, flag::SYN | flag::ACK] {
        forge(flags)?;
        echoes(&mut stream).unwrap_or_else(|error| panic!("after a segment with flags {flags:#x}: {error}"));
    }
    Ok(())
}

/// The pod waits for the end of a handshake that nobody will end; as on a native host, it asks, and the client denies.
fn a_client_connects_from_a_port_that_was_forged_before(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, external) = server(&lab, "ioc-a")?;
    let forger = Forger::new(&lab.sandbox, NATIVE)?;
    let absent = Ipv4Addr::new(172, 23, 0, 77);
    forger.send(SocketAddrV4::new(absent, 45_000), external, flag::SYN, (7, 0))?;
    lab.sandbox.sh(WORKSTATION, &format!("ip address add {absent}/24 dev eth0"))?;
    echoes(&mut connect_from(&lab, absent, 45_000, external)?.unwrap()).unwrap();
    Ok(())
}

fn a_pod_with_the_address_of_another_has_none_of_its_circuits(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let (pod, external) = server(&lab, "ioc-a")?;
    let mut stream = connect(&lab, 45_000, external)?.unwrap();
    echoes(&mut stream).unwrap();
    lab.delete_pod(&pod)?;
    lab.sandbox.sh(NODE, "find /run/ipam-0 -type f -delete")?; // the next one gets the same address
    let (next, external) = server(&lab, "ioc-b")?;
    assert_eq!(next.address, pod.address, "the lab does what it should");
    let ended = echoes(&mut stream).unwrap_err();
    assert!(matches!(ended.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{ended}");
    echoes(&mut connect(&lab, 45_000, external)?.unwrap()).unwrap();
    Ok(())
}

fn a_client_that_is_refused_hears_it_at_once(topology: Topology) -> Result<()> {
    let lab = Lab::up(Options::new(topology))?;
    let pod = lab.pod("ioc-a")?; // nobody listens
    let external = external(&lab, &pod)?;
    let refused = connect(&lab, 45_000, external)?.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    Ok(())
}

//! Circuits under attack: what a stranger can send neither ends nor holds what others live on.
//!
//! `CIRCUITS=50000` tries the size of a large facility.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use lab::{
    DOMAIN, Dice, Lab, NATIVE, NODE, Options, Pod, Result, Topology, WORKSTATION,
    epics::Server,
    tcp::{self, Forger, flag},
    turn,
};

use crate::circuits::server;

lab::in_both_topologies! {
    idle_circuits_outlive_every_flood
    a_host_with_many_circuits_locks_nobody_out
}

/// Hosts that have circuits.
const CLIENTS: u8 = 20;
/// How many each has.
const EACH: usize = 50;
const SYNS: usize = 1_000_000;
const VISITS: usize = 200_000;
/// Within which a circuit answers.
const PROMPT: Duration = Duration::from_secs(2);

/// Addresses that the workstation has besides its own.
fn clients(lab: &Lab) -> Result<Vec<Ipv4Addr>> {
    let addresses: Vec<_> = (0..CLIENTS).map(|number| Ipv4Addr::new(172, 23, 0, 100 + number)).collect();
    for address in &addresses {
        lab.sandbox.sh(WORKSTATION, &format!("ip address add {address}/24 dev eth0"))?;
    }
    widen_ports(lab, WORKSTATION)?;
    Ok(addresses)
}

/// Lets a host connect from almost every port.
fn widen_ports(lab: &Lab, host: &str) -> Result<()> {
    let write = || std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535");
    lab::tried("ip_local_port_range", lab.sandbox.run_in(host, write)?)
}

fn idle_circuits_outlive_every_flood(topology: Topology) -> Result<()> {
    turn::take(turn::Kind::Alone);
    tcp::raise_descriptors()?;
    let lab = Lab::up(Options::new(topology))?;
    let (_pod, external) = server(&lab, "echo")?;
    let ioc = lab.pod("ioc-a")?;
    let _ioc = lab.ioc_of(Server::PvAccessCpp, &ioc.netns, "A")?;
    let mut monitors = lab.begun_monitors(WORKSTATION, "A:COUNT")?;
    let clients = clients(&lab)?;
    let mut circuits = tcp::connect(&lab.sandbox, WORKSTATION, &clients, EACH, external, PROMPT)?;
    assert_eq!(circuits.len(), usize::from(CLIENTS) * EACH);
    for (name, attack) in ATTACKS {
        let begin = Instant::now();
        attack(&lab, external, &clients, &circuits)?;
        let took = begin.elapsed().as_secs_f32();
        let silent = tcp::silent(&mut circuits, PROMPT);
        lab::report(
            &format!(
                "idle circuits of {} after {name} (routed: a tenth), {took:.0} s ({topology:?})",
                circuits.len()
            ),
            &format!("{silent} lost"),
        );
        assert_eq!(silent, 0, "after {name}");
        for monitor in &mut monitors {
            let values = monitor.values();
            std::thread::sleep(PROMPT);
            assert!(monitor.values() > values, "{} is silent after {name}", monitor.client);
            let (client, losses) = (monitor.client, monitor.losses().to_vec());
            assert!(losses.is_empty(), "{client}: {losses:?} after {name}");
        }
    }
    Ok(())
}

type Attack = fn(&Lab, SocketAddrV4, &[Ipv4Addr], &[TcpStream]) -> Result<()>;

const ATTACKS: [(&str, Attack); 4] = [
    ("1 000 000 forged SYNs of 250 addresses", forged_syns),
    ("200 000 connections that are closed at once", visits),
    ("forged RSTs at each", |lab, external, _, circuits| forged(lab, external, circuits, flag::RST)),
    ("forged FINs and SYNs at each", |lab, external, _, circuits| {
        forged(lab, external, circuits, flag::FIN | flag::ACK)?;
        forged(lab, external, circuits, flag::SYN)
    }),
];

/// One topology gets all of it, the other a tenth.
fn part(lab: &Lab) -> usize {
    if lab.options.topology == Topology::Bridge { 1 } else { 10 }
}

/// The addresses are those of hosts that exist, too.
fn forged_syns(lab: &Lab, external: SocketAddrV4, _: &[Ipv4Addr], _: &[TcpStream]) -> Result<()> {
    let forger = Forger::new(&lab.sandbox, NATIVE)?;
    let hosts: Vec<u8> = (2..=253).filter(|host| ![3, 10].contains(host)).collect();
    let mut dice = Dice(1);
    for number in 0..SYNS / part(lab) {
        let address = Ipv4Addr::new(172, 23, 0, hosts[number % hosts.len()]);
        let port = 1024 + (number / hosts.len()) as u16;
        forger.send(SocketAddrV4::new(address, port), external, flag::SYN, (dice.roll() as u32, 0))?;
    }
    Ok(())
}

fn visits(lab: &Lab, external: SocketAddrV4, clients: &[Ipv4Addr], _: &[TcpStream]) -> Result<()> {
    let (visits, mut came) = (VISITS / part(lab), 0);
    let each = visits / clients.len() / 100;
    for client in clients.iter().cycle().take(100 * clients.len()) {
        came += tcp::connect(&lab.sandbox, WORKSTATION, &[*client], each, external, PROMPT)?.len();
    }
    // After the SYNs the node's conntrack table is full, and drops a connection now and then.
    assert!(came > visits / 2, "{came} of {visits} connections came about");
    Ok(())
}

/// So many segments at each circuit, from its client, with numbers that are guessed.
fn forged(lab: &Lab, external: SocketAddrV4, circuits: &[TcpStream], flags: u8) -> Result<()> {
    let forger = Forger::new(&lab.sandbox, NATIVE)?;
    let mut dice = Dice(2);
    for circuit in circuits.iter().cycle().take(20 * circuits.len()) {
        let SocketAddr::V4(client) = circuit.local_addr().unwrap() else { unreachable!("IPv4") };
        forger.send(client, external, flags, (dice.roll() as u32, dice.roll() as u32))?;
    }
    Ok(())
}

/// With sixteen domains each has a sixteenth of the node's circuits, so that the test of a share needs few.
fn sixteen_domains() -> String {
    let others = (1..16).map(|number| format!("[domain.other{number}]\nuplink = \"none{number}\"\n"));
    format!("[domain.{DOMAIN}]\nuplink = \"eth0\"\n{}", others.collect::<String>())
}

fn a_host_with_many_circuits_locks_nobody_out(topology: Topology) -> Result<()> {
    turn::take(turn::Kind::Alone);
    tcp::raise_descriptors()?;
    let all: Option<usize> = std::env::var("CIRCUITS").ok().map(|number| number.parse().unwrap());
    let mut lab = Lab::without_agent(Options::new(topology))?;
    if all.is_none() {
        lab.start_agent_with(&sixteen_domains())?;
    } else {
        lab.start_agent()?;
    }
    let (_pod, external) = server(&lab, "echo")?;
    let bystanders: Vec<_> =
        (0..10).map(|number| lab.pod(&format!("pod-{number}"))).collect::<Result<_>>()?;
    let clients = clients(&lab)?;
    let each = all.unwrap_or(3000) / clients.len();
    let mut held = tcp::connect(&lab.sandbox, WORKSTATION, &clients, each, external, PROMPT)?;
    assert_eq!(held.len(), each * clients.len());

    let greedy = [Ipv4Addr::new(172, 23, 0, 3)];
    widen_ports(&lab, NATIVE)?;
    let mut taken = tcp::connect(&lab.sandbox, NATIVE, &greedy, usize::from(u16::MAX), external, PROMPT)?;
    let domain = abi::CIRCUITS as usize / if all.is_some() { 1 } else { 16 };
    assert!(taken.len() <= domain / abi::HOST_PART as usize, "{} of {domain}", taken.len());
    assert!(taken.len() > domain / abi::HOST_PART as usize / 2, "{} of {domain}", taken.len());
    assert!(lab.counter("other", "no_circuit")? > 0);

    let mut more = tcp::connect(&lab.sandbox, WORKSTATION, &clients, 5, external, PROMPT)?;
    assert_eq!(more.len(), 5 * clients.len(), "others still connect");
    assert_eq!(tcp::silent(&mut held, PROMPT) + tcp::silent(&mut more, PROMPT), 0);
    assert_eq!(tcp::silent(&mut taken, PROMPT), 0, "what the host has it keeps");
    lab::report(
        &format!("circuits beside a host that opens as many as it can ({topology:?})"),
        &format!("{} held, 0 lost; the host has {} of {domain}", held.len(), taken.len()),
    );
    drop(taken);
    members_come_and_go(&lab, &bystanders)?;
    let again = tcp::connect(&lab.sandbox, NATIVE, &greedy, 5, external, 10 * PROMPT)?;
    assert_eq!(again.len(), 5, "a host that has closed its connections may open others");
    Ok(())
}

/// Pods vanish without DEL, and others come: nobody waits for the circuits of others.
fn members_come_and_go(lab: &Lab, dead: &[Pod]) -> Result<()> {
    for pod in dead {
        lab.sandbox.sh(NODE, &format!("ip link del {}", lab.host_veth(pod)))?;
    }
    let begin = Instant::now();
    for number in 0..10 {
        let pod = lab.pod(&format!("new-{number}"))?;
        lab.delete_pod(&pod)?;
    }
    lab::report(
        "ADD and DEL of 10 pods beside these circuits",
        &format!("{:.1} s", begin.elapsed().as_secs_f32()),
    );
    Ok(())
}

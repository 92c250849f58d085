//! Pods with addresses of their own on the LAN, where it depends on time: cameras, pods that move, uplinks that come back, and
//! two nodes that claim one address.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

use lab::{
    Lab, NATIVE, NODE, NODE2, Options, Pod, Process, Result, SWITCH, Topology, WORKSTATION,
    epics::{PATIENCE, Server},
    monitors::{self, CLIENTS, Monitor},
    tcp, turn,
};

use super::cameras::{PACKETS, camera_at, discover, result, stream, watch};
use crate::{
    addressed::{lab_of, lab_with},
    tap::{Packet, Tap},
};

lab::in_both_topologies! {
    four_cameras_of_one_node_stream_at_once_untouched
    a_client_in_a_pod_with_an_address_gets_the_stream_of_a_camera
    a_pod_that_moves_to_another_node_keeps_its_address_and_its_clients
    an_uplink_that_comes_back_announces_the_addresses
    two_nodes_that_claim_an_address_end_with_one_owner
}

const ADDRESS: &str = "172.23.0.50";
const CAMERAS: &str = "protocols = [\"gvcp\"]";

fn lab_with_cameras(topology: Topology, more: &str) -> Result<Lab> {
    turn::take(turn::Kind::KeepsUp);
    lab_with(topology, &format!("{CAMERAS}\n{more}"))
}

fn four_cameras_of_one_node_stream_at_once_untouched(topology: Topology) -> Result<()> {
    // One each way: what a packet passes is no other for each camera.
    let more = if topology == Topology::Bridge { "path = \"direct\"" } else { "" };
    let lab = lab_with_cameras(topology, more)?;
    let addresses: Vec<_> = (51..55).map(|last| format!("172.23.0.{last}")).collect();
    let pods: Vec<_> = (1..)
        .zip(&addresses)
        .map(|(number, address)| lab.pod_at(0, &format!("camera-{number}"), Some(address)))
        .collect::<Result<_>>()?;
    let _cameras: Vec<_> = (1..)
        .zip(&pods)
        .zip(&addresses)
        .map(|((number, pod), address)| camera_at(&lab, &pod.netns, address, &format!("POD{number}")))
        .collect::<Result<_>>()?;
    let found = discover(&lab, WORKSTATION)?;
    for (number, address) in (1..).zip(&addresses) {
        let line = found.lines().find(|line| line.contains(&format!("POD{number}")));
        assert!(line.is_some_and(|line| line.contains(address)), "{found}");
    }
    const SECONDS: u32 = 3;
    let clients: Vec<_> = (1..5)
        .map(|number| stream(&lab, WORKSTATION, &format!("Aravis-Fake-POD{number}"), SECONDS, &SMALL))
        .collect::<Result<_>>()?;
    for client in clients {
        let stream = result(client, SECONDS)?;
        assert!(stream.is_whole(SECONDS, 20), "{stream:?}");
    }
    assert_untouched(&lab, &pods[3], "172.23.0.54", WORKSTATION, "172.23.0.2", "Aravis-Fake-POD4")
}

/// Images of a quarter of the size: four clients at once share a machine with all cameras.
const SMALL: [&str; 4] = ["-w", "256", "-h", "256"];

fn a_client_in_a_pod_with_an_address_gets_the_stream_of_a_camera(topology: Topology) -> Result<()> {
    let more = if topology == Topology::Bridge { "" } else { "path = \"direct\"" };
    let lab = lab_with_cameras(topology, more)?;
    let pod = lab.pod_at(0, "client", Some(ADDRESS))?;
    let _camera = camera_at(&lab, NATIVE, "172.23.0.3", "LAN1")?;
    let found = discover(&lab, &pod.netns)?;
    assert!(found.contains("LAN1") && found.contains("172.23.0.3"), "{found}");
    watch(&lab, &pod.netns, "Aravis-Fake-LAN1", 3, &[])?;
    sleep(Duration::from_secs(1));
    assert_untouched(&lab, &pod, ADDRESS, &pod.netns, "172.23.0.3", "Aravis-Fake-LAN1")
}

/// What a client in `netns` and a camera say to each other for a second, of which one is at `address` in a pod and the other
/// at `peer`, is the same on the LAN as in the pod: addresses, ports and every byte of commands and stream.
fn assert_untouched(
    lab: &Lab,
    pod: &Pod,
    address: &str,
    netns: &str,
    peer: &str,
    camera: &str,
) -> Result<()> {
    let (inside, lan) = (Tap::new(lab, &pod.netns, "eth0")?, Tap::new(lab, SWITCH, "node")?);
    result(stream(lab, netns, camera, 1, &SMALL)?, 1)?;
    let [inside, lan] = [inside.packets(), lan.packets()];
    let between = |packets: &[Packet], from: &str, to: &str| -> BTreeSet<_> {
        let is_it =
            |packet: &&Packet| packet.from.ip().to_string() == from && packet.to.ip().to_string() == to;
        packets
            .iter()
            .filter(is_it)
            .map(|packet| (packet.from, packet.to, packet.payload().to_vec()))
            .collect()
    };
    for (from, to) in [(address, peer), (peer, address)] {
        let (inside, lan) = (between(&inside, from, to), between(&lan, from, to));
        assert!(inside.len() > 10, "{from} sent {} datagrams to {to}", inside.len());
        assert!(inside == lan, "{} differ from {from} to {to}", inside.symmetric_difference(&lan).count());
    }
    assert!(inside.len() as u32 > PACKETS, "the stream is among these: {}", inside.len());
    Ok(())
}

/// How long libca waits before it looks for a server that it has lost, if no beacon tells it to, and a bit more. It takes no
/// notice of those that a server sends which has sent fewer than 256 before.
const GOVERNOR: Duration = Duration::from_secs(11);

/// A pod at [`ADDRESS`] of this node, with an IOC of both protocols.
fn ioc(lab: &Lab, node: usize) -> Result<(Pod, Process)> {
    let pod = lab.pod_at(node, "ioc-0", Some(ADDRESS))?;
    let ioc = lab.ioc_of(Server::PvAccessCpp, &pod.netns, "MOVES")?;
    Ok((pod, ioc))
}

/// The hardware address of a host on the LAN.
fn mac(lab: &Lab, netns: &str) -> Result<String> {
    let shown = lab.sandbox.sh(netns, "ip -o link show dev eth0")?;
    Ok(shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().into())
}

/// Where the workstation's kernel sends what is for [`ADDRESS`].
fn known_mac(lab: &Lab) -> Result<String> {
    let shown = lab.sandbox.sh(WORKSTATION, &format!("ip neigh show {ADDRESS}"))?;
    Ok(shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap_or_default().into())
}

fn a_pod_that_moves_to_another_node_keeps_its_address_and_its_clients(topology: Topology) -> Result<()> {
    const MOVES: usize = 2;
    turn::take(turn::Kind::KeepsUp);
    let lab = lab_of(Options { nodes: 2, ..Options::new(topology) }, "")?;
    let macs = [mac(&lab, NODE)?, mac(&lab, NODE2)?];
    let mut here = ioc(&lab, 0)?;
    let monitor = |which: usize| lab.monitor(CLIENTS[which], WORKSTATION, "MOVES:COUNT");
    let mut monitors = vec![monitor(0)?, monitor(1)?];
    monitors::begin(&mut monitors, monitor)?;
    let mut gaps = vec![Duration::ZERO; monitors.len()];
    let mut reads = Duration::ZERO;
    for number in 1..=MOVES {
        let node = number % 2;
        let (pod, process) = here;
        drop(process);
        lab.delete_pod(&pod)?;
        here = ioc(&lab, node)?;
        let begin = Instant::now();
        lab.epics_output(WORKSTATION, "caget -w 5 MOVES:NAME", &[])?;
        let read = begin.elapsed();
        reads = reads.max(read);
        assert_eq!(
            known_mac(&lab)?,
            macs[node],
            "the announcement of move {number} corrects the workstation"
        );
        for (gap, longest) in first_values(&mut monitors)?.into_iter().zip(&mut gaps) {
            *longest = (read + gap).max(*longest);
        }
    }
    let figures: Vec<_> = CLIENTS
        .iter()
        .zip(&gaps)
        .map(|(client, gap)| format!("{client} {:.0} ms", gap.as_secs_f64() * 1e3))
        .collect();
    lab::report(
        &format!(
            "clients' longest gap after a pod with an address has moved and serves, {MOVES} moves ({topology:?})"
        ),
        &format!("{}; a new caget reads in {reads:.2?}", figures.join(", ")),
    );
    let second = Duration::from_secs(1);
    assert!(reads < second && gaps[0] < GOVERNOR && gaps[1] < second, "{reads:?}, {figures:?}");
    Ok(())
}

/// How long it takes until each monitor has another value.
fn first_values(monitors: &mut [Monitor]) -> Result<Vec<Duration>> {
    let begin = Instant::now();
    let had: Vec<_> = monitors.iter_mut().map(Monitor::values).collect();
    let mut took = vec![None; monitors.len()];
    while took.contains(&None) && begin.elapsed() < PATIENCE {
        for ((had, monitor), took) in had.iter().zip(&mut *monitors).zip(&mut took) {
            if took.is_none() && monitor.values() > *had {
                *took = Some(begin.elapsed());
            }
        }
        sleep(Duration::from_millis(5));
    }
    Ok(took.into_iter().map(|took| took.unwrap_or(PATIENCE)).collect())
}

fn an_uplink_that_comes_back_announces_the_addresses(topology: Topology) -> Result<()> {
    let lab = lab_with(topology, "")?;
    let _pod = lab.pod_at(0, "ioc-0", Some(ADDRESS))?;
    let tap = Tap::new(&lab, WORKSTATION, "eth0")?;
    let port = |state: &str| lab.sandbox.sh(SWITCH, &format!("ip link set {NODE} {state}"));
    port("down")?;
    sleep(Duration::from_secs(3)); // a pass of the agent sees it
    port("up")?;
    let took = announced(&tap)?;
    lab::report(
        &format!("addresses announced after the uplink has its carrier back ({topology:?})"),
        &format!("{:.1} s", took.as_secs_f64()),
    );
    Ok(())
}

/// How long it takes until [`ADDRESS`] is announced.
fn announced(tap: &Tap) -> Result<Duration> {
    let begin = Instant::now();
    let is_it = |packet: &Packet| {
        packet.is_arp() && [packet.from, packet.to].iter().all(|end| end.ip().to_string() == ADDRESS)
    };
    while !tap.packets().iter().any(is_it) {
        assert!(begin.elapsed() < Duration::from_secs(6), "nobody announces {ADDRESS}");
        sleep(Duration::from_millis(20));
    }
    Ok(begin.elapsed())
}

fn two_nodes_that_claim_an_address_end_with_one_owner(topology: Topology) -> Result<()> {
    let lab = lab_of(Options { nodes: 2, ..Options::new(topology) }, "")?;
    let pods = [lab.pod_at(0, "ioc-0", Some(ADDRESS))?, {
        let port = |state: &str| lab.sandbox.sh(SWITCH, &format!("ip link set {NODE2} {state}"));
        port("down")?; // so that it hears nothing of the first
        let pod = lab.pod_at(1, "ioc-1", Some(ADDRESS))?;
        sleep(Duration::from_secs(3));
        port("up")?;
        pod
    }];
    for pod in &pods {
        tcp::echo(&lab.sandbox, &pod.netns, "0.0.0.0:5064")?;
    }
    let owner = usize::from(mac(&lab, NODE2)? < mac(&lab, NODE)?);
    let standing = |node: usize| -> Result<String> {
        Ok(lab.status_on(node)?["members"][0]["lan_address"]["standing"].as_str().unwrap_or_default().into())
    };
    let begin = Instant::now();
    while standing(1 - owner)? != "lost" {
        assert!(begin.elapsed() < PATIENCE, "both have it");
        sleep(Duration::from_millis(100));
    }
    assert_eq!(standing(owner)?, "held");
    Ok(())
}

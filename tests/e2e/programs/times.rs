//! How long the programs take for a packet: for those that most of a node's traffic consists of, which concern nobody here,
//! and for those of pods that programs see most of.
//!
//! `REPEAT=1000000 cargo test -p iocast-tests --test e2e times_of_packets -- --nocapture` prints a table. The least of several
//! runs counts, because other work on the machine can only add.

use lab::Result;

use super::{
    cases::{CLIENT, Case, EXTERNAL, IOC, REDIRECT, from_lan, from_pod, to_lan},
    circuits::established,
    frame::{ACK, Frame, arp, icmp, tcp, udp},
    rig::Rig,
};

const NODE: &str = "172.23.0.10:9999";
/// A pod, or a service, behind this node or another.
const CLUSTER: &str = "10.96.0.10:53";
/// The first pod at its LAN address.
const POD: &str = "172.23.0.50:9999";
const ROUNDS: u32 = 7;

#[test]
fn times_of_packets() -> Result<()> {
    let rig = Rig::new()?;
    let repeat = std::env::var("REPEAT").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    for (case, repeat) in unrelated().map(|case| (case, repeat)).chain(once().map(|case| (case, 1))) {
        let rounds = if repeat == 1 { 1000 } else { ROUNDS };
        let ran = rig.time(&case, repeat, rounds)?;
        assert!(ran.iter().all(|(verdict, _)| *verdict == case.verdict), "{}: {ran:?}", case.name);
        let least = ran.iter().map(|(_, time)| time.as_nanos()).min().unwrap_or(0);
        println!("{:9} {:46} {least:4} ns", case.run.program, case.name);
    }
    for (program, count) in rig.verified()? {
        println!("{program:24} {count:7} instructions verified");
    }
    Ok(())
}

/// Those of which the programs change nothing, so that the kernel repeats them.
fn unrelated() -> impl Iterator<Item = Case> {
    let echo = |from, to| icmp(from, to, (8, 0), &udp(from, to, &[]), 28);
    let ipv6 = |packet: Frame| packet.ethertype(0x86dd);
    let segment = |from, to| tcp(from, to, ACK, 1, &[0; 64]);
    let datagram = |from, to| udp(from, to, &[0; 64]);
    let question = || arp(1, [2, 0, 0, 0, 9, 1], "172.23.0.2", "172.23.0.3");
    let owned = |case: Case| {
        case.with(|setup| {
            setup.standing = Some(abi::standing::HELD);
            setup.direct = true;
        })
    };
    let redirected = |case: Case| Case { verdict: REDIRECT, ..owned(case) };
    vec![
        Case::new("TCP to the node", from_lan(segment(CLIENT, NODE))),
        Case::new("TCP to elsewhere", from_lan(segment(CLIENT, CLUSTER))),
        owned(Case::new(
            "TCP to elsewhere, where pods have LAN addresses",
            from_lan(segment(CLIENT, CLUSTER)),
        )),
        Case::new("UDP to the node", from_lan(datagram(CLIENT, NODE))),
        Case::new("UDP to elsewhere", from_lan(datagram(CLIENT, CLUSTER))),
        Case::new("IPv6", from_lan(ipv6(segment(CLIENT, NODE)))),
        Case::new("ARP of others", from_lan(question())),
        Case::new("ICMP echo", from_lan(echo(CLIENT, NODE))),
        Case::new("TCP for another host", from_lan(segment(CLIENT, NODE).mac_to([2, 0, 0, 0, 9, 9]))),
        Case::new("TCP of the node", to_lan(segment(NODE, CLIENT))),
        Case::new("TCP of a pod, routed", to_lan(segment(IOC, CLIENT))),
        Case::new("an acknowledgement of a pod, routed", to_lan(tcp(IOC, CLIENT, ACK, 1, &[]))),
        Case::new("UDP of the node", to_lan(datagram(NODE, CLIENT))),
        Case::new("UDP of a pod, routed", to_lan(datagram(IOC, CLIENT))),
        Case::new("IPv6", to_lan(ipv6(segment(NODE, CLIENT)))),
        Case::new("ARP", to_lan(question())),
        Case::new("ICMP echo", to_lan(echo(NODE, CLIENT))),
        Case::new("TCP into the cluster", from_pod(segment(IOC, CLUSTER))),
        Case::new("UDP into the cluster", from_pod(datagram(IOC, CLUSTER))),
        Case::new("IPv6", from_pod(ipv6(segment(IOC, CLUSTER)))),
        Case::new("ARP", from_pod(question())),
        Case::new("ICMP echo", from_pod(echo(IOC, CLUSTER))),
        redirected(Case::new("TCP to a LAN address, direct", from_lan(segment(CLIENT, POD)))),
        redirected(Case::new("UDP to a LAN address, direct", from_lan(datagram(CLIENT, POD)))),
        redirected(Case::new("TCP from a LAN address, direct", from_pod(segment(POD, CLIENT)))),
        redirected(Case::new("UDP from a LAN address, direct", from_pod(datagram(POD, CLIENT)))),
    ]
    .into_iter()
}

/// Those that are translated, so that each is run once.
fn once() -> impl Iterator<Item = Case> {
    let comes = from_lan(tcp(CLIENT, EXTERNAL, ACK, 2, &[0; 64]).acknowledging(101));
    let goes = to_lan(tcp(IOC, CLIENT, ACK, 101, &[0; 64]).acknowledging(2));
    let write = [0x42, 1, 0, 0x82, 0, 8, 0, 7, 0, 0, 0x0d, 0, 0, 0, 0x13, 0x88]; // stream to port 5000
    let commanded = from_pod(udp("10.244.1.2:5000", "172.23.0.3:3956", &write));
    vec![
        Case::new("TCP to a circuit", comes).after(established()),
        Case::new("TCP of a circuit", goes).after(established()),
        Case::new("a packet of a stream", from_lan(udp("172.23.0.3:20000", EXTERNAL, &[0; 64])))
            .after([commanded]),
    ]
    .into_iter()
}

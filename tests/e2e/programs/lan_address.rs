//! Cases of a pod with an address of its own on the LAN: `pod-a` is 172.23.0.50, too, and listens on TCP port 5075 at all of
//! its addresses.

use abi::{Protocol, Verdict, standing};
use lab::ca::{reply, search};

use super::{
    cases::{
        ASKED, CLIENT, Case, DROP, IOC, LAN, NEXT, PODS, REDIRECT, Run, SERVER, announcement, fan, from_lan,
        from_pod, from_pod_b,
    },
    frame::{ACK, BROADCAST, Frame, SYN, arp, icmp, tcp, udp},
    rig::{POD_MACS, UPLINK_MAC},
};

/// The pod at its LAN address.
const POD: &str = "172.23.0.50:5064";
const OWN: &str = "172.23.0.50";
const ASKER: ([u8; 6], &str) = ([2, 0, 0, 0, 9, 1], "172.23.0.2");
/// Hosts whose MAC addresses are lower and higher than the uplink's.
const LOWER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HIGHER: [u8; 6] = [2, 0, 0, 0, 9, 9];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

pub(super) fn cases() -> Vec<Case> {
    let groups = [arp_cases(), from_the_lan(), broadcasts(), unicasts(), direct(), fans(), redirects()];
    groups.concat()
}

fn held(name: &'static str, run: Run) -> Case {
    stands(name, run, standing::HELD)
}

fn stands(name: &'static str, run: Run, standing: u16) -> Case {
    Case::new(name, run).with(|setup| setup.standing = Some(standing))
}

/// A broadcast from the pod's own address: the others get it from the one on the LAN.
fn shared(case: Case) -> Case {
    let packet = case.run.packet.clone().mac_to(POD_MACS[0]);
    case.fans(|copy| copy.from(POD)).becomes(NEXT, packet)
}

/// A host with this MAC address says that the pod's address is its own.
fn claim(mac: [u8; 6]) -> Run {
    from_lan(arp(REQUEST, mac, OWN, OWN))
}

/// The same by an admin's command.
fn overrule(mac: [u8; 6]) -> Run {
    from_lan(claim(mac).packet.with(&abi::rival::OVERRULES))
}

fn arp_cases() -> Vec<Case> {
    let ask = |target| from_lan(arp(REQUEST, ASKER.0, ASKER.1, target));
    let probe = |mac| from_lan(arp(REQUEST, mac, "0.0.0.0", OWN));
    let told = |(mac, address): ([u8; 6], &str)| arp(REPLY, UPLINK_MAC, OWN, address).answering(mac);
    let answered = |case: Case| case.becomes(REDIRECT, told(ASKER));
    let defence = || arp(REQUEST, UPLINK_MAC, OWN, OWN).answering(BROADCAST);
    let defended = |case: Case| case.becomes(REDIRECT, defence());
    let foreign = |packet: Frame| from_lan(packet.ethertype(0x0807));
    vec![
        answered(held("who has a pod's address?", ask(OWN))),
        answered(stands("who has one that an admin took?", ask(OWN), standing::TAKEN)),
        stands("who has one that is being looked at?", ask(OWN), standing::RESERVED),
        stands("who has one that another host has?", ask(OWN), standing::LOST),
        Case::new("who has an address that is no pod's?", ask(OWN)),
        held("who has another address?", ask("172.23.0.51")),
        held("who has it, where the domain has no uplink", ask(OWN)).with(|setup| setup.uplink = false),
        held("an answer about it", from_lan(arp(REPLY, ASKER.0, ASKER.1, OWN))),
        held("what is no ARP", foreign(arp(REQUEST, ASKER.0, ASKER.1, OWN))),
        held("our own voice", claim(UPLINK_MAC)),
        held("another who would like it", probe(HIGHER)).becomes(REDIRECT, told((HIGHER, "0.0.0.0"))),
        defended(held("another says that it has it", claim(HIGHER))),
        held("it says so again at once", claim(HIGHER)).after([claim(HIGHER)]),
        defended(stands("a lower one says that it has what an admin took", claim(LOWER), standing::TAKEN)),
        held("a lower one says that it has it", claim(LOWER)),
        held("who has it, after a lower one said so?", ask(OWN)).after([claim(LOWER)]),
        answered(held("who has it, after a higher one said so?", ask(OWN)).after([claim(HIGHER)])),
        held("who has it, after an admin took it to another?", ask(OWN)).after([overrule(HIGHER)]),
        answered(
            stands(
                "who has it, after an admin took it here, and a lower one says so?",
                ask(OWN),
                standing::TAKEN,
            )
            .after([claim(LOWER)]),
        ),
        stands("who has it, after an admin took it here, and then elsewhere?", ask(OWN), standing::TAKEN)
            .after([overrule(HIGHER)]),
        stands("another has it while it is being looked at", claim(HIGHER), standing::RESERVED),
    ]
}

fn from_the_lan() -> Vec<Case> {
    use Verdict::*;
    let ask = from_lan(udp(CLIENT, POD, &search(&["A:NAME"])));
    let answer = from_pod(udp(IOC, CLIENT, &reply(5075)));
    vec![
        held("a connection to a pod's address", from_lan(tcp(CLIENT, POD, SYN, 1, &[]))),
        held("a search to it", ask.clone()),
        held("an answer to that from the pod's own address", answer.clone())
            .after([ask])
            .becomes(REDIRECT, udp(POD, CLIENT, &reply(5075)))
            .ca(&[Answered]),
        held("an answer from there that nobody asked for", answer),
        held("an error for it", {
            from_lan(icmp("172.23.0.1:0", POD, (3, 4), &tcp(POD, CLIENT, ACK, 1, &[]), 28))
        }),
    ]
}

fn broadcasts() -> Vec<Case> {
    use Verdict::*;
    let ask = |from: &str, to: &str| from_pod(udp(from, to, &search(&["N:NAME"])));
    let other = from_pod(udp(IOC, PODS, &search(&["O:NAME"])));
    let announce =
        |from: &str, address, port| from_pod(udp(from, "10.244.1.255:5049", &announcement(address, port)));
    let sent = |case: Case, to: &'static str| case.sends(|copy| copy.from(POD).to(to)).ca(&[Relayed, Sent]);
    let dropped = |case: Case| case.denied().ca(&[Repeated]);
    vec![
        sent(held("a search from a pod's LAN address", ask(POD, LAN)).fans(|copy| copy), LAN),
        sent(shared(held("one from its own address", ask(IOC, PODS))), LAN),
        dropped(held("the same to its other broadcast address", ask(POD, LAN)).after([ask(IOC, PODS)])),
        dropped(held("the other way around", ask(IOC, PODS)).after([ask(POD, LAN)])),
        sent(shared(held("the same to the same one again", ask(IOC, PODS)).after([ask(IOC, PODS)])), LAN),
        sent(held("another one to the other", ask(POD, LAN)).after([other]).fans(|copy| copy), LAN),
        held("one from a socket that hears at its own address only", ask("10.244.1.2:7064", PODS))
            .shared(0)
            .sends(|copy| copy.to(LAN))
            .ca(&[Relayed, Sent]),
        shared(held("an announcement of the pod's own address", announce(IOC, [10, 244, 1, 2], 5075)))
            .sends(|copy| copy.from(POD).to("172.23.0.255:5049").with(&announcement([172, 23, 0, 50], 5075)))
            .counts(Protocol::Described1, &[Relayed, Sent]),
        shared(held("one of its LAN address", announce(IOC, [172, 23, 0, 50], 5075)))
            .sends(|copy| copy.from(POD).to("172.23.0.255:5049"))
            .counts(Protocol::Described1, &[Relayed, Sent]),
        held("one of its own address from its LAN address", announce(POD, [10, 244, 1, 2], 5075))
            .becomes(NEXT, announce(POD, [10, 244, 1, 2], 5075).packet.mac_to(POD_MACS[0]))
            .fans(|copy| copy)
            .sends(|copy| copy.from(POD).to("172.23.0.255:5049").with(&announcement([172, 23, 0, 50], 5075)))
            .counts(Protocol::Described1, &[Relayed, Sent]),
        shared(held("one of a port where nobody listens there", announce(IOC, [10, 244, 1, 2], 5999)))
            .sends(|copy| copy.to("172.23.0.255:5049").with(&announcement([172, 23, 0, 10], 61000)))
            .counts(Protocol::Described1, &[Relayed, Sent]),
        held("one in the name of a pod with a LAN address", from_pod_b(udp(POD, PODS, &search(&["A:B"]))))
            .denied()
            .other(&[Spoofed]),
        held("a search in another pod's name", from_pod(udp("172.23.0.51:5064", PODS, &search(&["A:B"]))))
            .ca(&[Spoofed]),
    ]
}

fn unicasts() -> Vec<Case> {
    use Verdict::*;
    const CAMERA: &str = "172.23.0.3:3956";
    let asked = from_lan(udp(CLIENT, LAN, &search(&["A:NAME"])));
    let at_pod = |port| udp(POD, CLIENT, &reply(port));
    let read = [0x42, 1, 0, 0x80, 0, 4, 0, 9, 0, 0, 0x0d, 0];
    let stream_here = [0x42, 1, 0, 0x82, 0, 8, 0, 7, 0, 0, 0x0d, 0, 0, 0, 0x13, 0x88];
    let command = |payload: &[u8]| from_pod(udp("172.23.0.50:5000", CAMERA, payload));
    vec![
        held("an answer from a pod's LAN address", from_pod(at_pod(5075)))
            .after([asked.clone()])
            .becomes(REDIRECT, at_pod(5075))
            .ca(&[Answered]),
        held("one from its own address", from_pod(udp("10.244.1.2:37000", CLIENT, &reply(5075))))
            .after([asked.clone()])
            .becomes(REDIRECT, at_pod(5075))
            .ca(&[Answered]),
        held(
            "one from there that names a port where nobody listens",
            from_pod(udp(IOC, CLIENT, &reply(5099))),
        )
        .after([asked])
        .becomes(REDIRECT, udp(ASKED, CLIENT, &reply(61000)))
        .ca(&[Answered]),
        stands(
            "one from there when another host has the LAN address",
            from_pod(udp(IOC, CLIENT, &reply(5075))),
            standing::LOST,
        )
        .after([from_lan(udp(CLIENT, LAN, &search(&["A:NAME"])))])
        .becomes(REDIRECT, udp(ASKED, CLIENT, &reply(61000)))
        .ca(&[Answered]),
        held("a search to a server", from_pod(udp(POD, SERVER, &search(&["N:NAME"])))).ca(&[Sent]),
        held("one from its own address", from_pod(udp(IOC, SERVER, &search(&["N:NAME"]))))
            .becomes(REDIRECT, udp(POD, SERVER, &search(&["N:NAME"])))
            .ca(&[Sent]),
        held("a search to the node", from_pod(udp(POD, ASKED, &search(&["N:NAME"]))))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        held(
            "a search of a neighbour without one",
            from_pod_b(udp("10.244.1.3:5064", POD, &search(&["A:B"]))),
        )
        .becomes(REDIRECT, udp("10.244.1.3:5064", POD, &search(&["A:B"])))
        .ca(&[Delivered]),
        stands(
            "the same where another host has the address",
            from_pod_b(udp("10.244.1.3:5064", POD, &search(&["A:B"]))),
            standing::LOST,
        )
        .becomes(REDIRECT, udp("172.23.0.10:61000", POD, &search(&["A:B"])))
        .ca(&[Sent]),
        held("a neighbour's command to what is no camera of the domain", {
            from_pod_b(udp("10.244.1.3:5000", "172.23.0.50:3956", &read))
        })
        .with(|setup| setup.cameras = 0)
        .becomes(DROP, udp("10.244.1.3:5000", "172.23.0.50:3956", &read))
        .gvcp(&[Denied]),
        held("an answer to a process on the node", from_pod(udp(POD, "172.23.0.10:40000", &reply(5064))))
            .becomes(NEXT, udp(IOC, "172.23.0.10:40000", &reply(5064))),
        held("a datagram from another port to it", from_pod(udp("172.23.0.50:9", "172.23.0.10:40000", b"x"))),
        held("a command to a camera", command(&stream_here)).gvcp(&[Sent]),
        held("a question to a camera", command(&read)).gvcp(&[Sent]),
        held("a command to a camera that is not the domain's", command(&stream_here))
            .with(|setup| setup.cameras = 0)
            .becomes(DROP, command(&stream_here).packet)
            .gvcp(&[Denied]),
        held("a connection from another pod's", from_pod_b(tcp(POD, SERVER, SYN, 1, &[])))
            .denied()
            .other(&[Spoofed]),
        held("a datagram from another pod's", from_pod_b(udp(POD, "172.23.0.3:9", b"x")))
            .denied()
            .other(&[Spoofed]),
        held("an echo from another pod's", {
            from_pod_b(icmp(POD, SERVER, (8, 0), &udp(POD, SERVER, b"x"), 28))
        })
        .denied()
        .other(&[Spoofed]),
        held(
            "another pod says that the address is its own",
            from_pod_b(arp(REPLY, HIGHER, OWN, "10.244.1.1")),
        )
        .denied(),
        held("its own pod says so", from_pod(arp(REPLY, HIGHER, OWN, "10.244.1.1"))),
        held("a pod says so of its own address", from_pod_b(arp(REPLY, HIGHER, "10.244.1.3", "10.244.1.1"))),
        stands(
            "a connection from one that another host has",
            from_pod(tcp(POD, SERVER, SYN, 1, &[])),
            standing::LOST,
        )
        .denied()
        .other(&[Spoofed]),
        stands("one off the LAN from there", from_pod(tcp(POD, "10.244.1.3:9", SYN, 1, &[])), standing::LOST),
        stands("an answer from one that another host has", from_pod(at_pod(5075)), standing::LOST)
            .after([from_lan(udp(CLIENT, LAN, &search(&["A:NAME"])))])
            .becomes(REDIRECT, udp(ASKED, CLIENT, &reply(61000)))
            .ca(&[Answered]),
        held("a connection from a LAN address", from_pod(tcp(POD, SERVER, SYN, 1, &[]))),
    ]
}

/// A domain whose LAN addresses pass by the node's stack.
fn direct() -> Vec<Case> {
    use Verdict::*;
    let case = |name, run| held(name, run).with(|setup| setup.direct = true);
    let passes = |name, run: Run| {
        let packet = run.packet.clone();
        case(name, run).becomes(REDIRECT, packet)
    };
    let error = icmp("172.23.0.1:0", POD, (3, 4), &tcp(POD, CLIENT, ACK, 1, &[]), 28);
    vec![
        passes("a connection straight into a pod", from_lan(tcp(CLIENT, POD, SYN, 1, &[]))),
        passes("a fragment straight into it", from_lan(udp(CLIENT, POD, b"later").fragment(0x0010))),
        passes("an error straight into it", from_lan(error)),
        passes("a segment that is cut short", from_lan(tcp(CLIENT, POD, ACK, 1, &[]).cut(41))),
        passes("one with IP options", from_lan(tcp(CLIENT, POD, ACK, 1, &[]).options(&[1; 4]))),
        passes("one that is cut short, out of a pod", from_pod(tcp(POD, SERVER, ACK, 1, &[]).cut(41))),
        passes("one with IP options, out of it", from_pod(tcp(POD, SERVER, ACK, 1, &[]).options(&[1; 4]))),
        passes("a later fragment out of it", from_pod(udp(POD, SERVER, b"later").fragment(0x0010))),
        case("a connection from off the LAN", from_lan(tcp("198.51.100.7:4000", POD, SYN, 1, &[]))),
        case("one to an address that another host has", from_lan(tcp(CLIENT, POD, SYN, 1, &[])))
            .with(|setup| setup.standing = Some(standing::LOST)),
        passes("a connection straight out of a pod", from_pod(tcp(POD, SERVER, SYN, 1, &[]))),
        passes("a datagram straight out of it", from_pod(udp(POD, "172.23.0.3:9999", b"anything"))),
        passes("a search straight out of it", from_pod(udp(POD, SERVER, &search(&["N:NAME"])))).ca(&[Sent]),
        passes(
            "a connection to such an address on the node",
            from_pod(tcp(POD, "172.23.0.50:22", SYN, 1, &[])),
        ),
        case("a connection to the node", from_pod(tcp(POD, "172.23.0.10:22", SYN, 1, &[]))),
        case("a connection off the LAN", from_pod(tcp(POD, "198.51.100.7:80", SYN, 1, &[]))),
        case("a connection from its own address", from_pod(tcp(IOC, SERVER, SYN, 1, &[]))),
        case("a search too many to a server", from_pod(udp(POD, SERVER, &search(&["N:NAME"]))))
            .with(|setup| (setup.direct, setup.interval) = (true, u32::MAX))
            .after([from_pod(udp(POD, SERVER, &search(&["N:NAME"])))])
            .becomes(DROP, udp(POD, SERVER, &search(&["N:NAME"])))
            .ca(&[Limited]),
        case("a command to a camera that is not the domain's, with IP options", {
            from_pod(udp(POD, "172.23.0.3:3956", &[0; 8]).options(&[1; 4]))
        })
        .with(|setup| setup.cameras = 0)
        .becomes(DROP, udp(POD, "172.23.0.3:3956", &[0; 8]).options(&[1; 4]))
        .gvcp(&[Denied]),
    ]
}

fn fans() -> Vec<Case> {
    use Verdict::*;
    let asked = |from: &str, to: &str| udp(from, to, &search(&["A:NAME"])).mac_to(BROADCAST);
    vec![
        held("a copy for a pod with a LAN address", fan(1, 0, asked(CLIENT, LAN)))
            .becomes(REDIRECT, asked(CLIENT, LAN))
            .ca(&[Delivered]),
        held("a copy by limited broadcast", fan(1, 0, asked(CLIENT, "255.255.255.255:5064")))
            .becomes(REDIRECT, asked(CLIENT, "255.255.255.255:5064"))
            .ca(&[Delivered]),
        held("a copy of a search to the node", fan(1, 0, asked(CLIENT, ASKED)))
            .becomes(REDIRECT, asked(CLIENT, PODS))
            .ca(&[Delivered]),
        held("a copy for a pod without one", fan(1, 1, asked(CLIENT, LAN)))
            .becomes(REDIRECT, asked(CLIENT, PODS))
            .ca(&[Delivered]),
        held("a copy of a neighbour's search, for a pod without one", fan(1, 1, asked(POD, LAN)))
            .becomes(REDIRECT, asked(IOC, PODS))
            .ca(&[Delivered]),
        held("a copy of another pod's search", fan(1, 0, asked("10.244.1.3:40000", PODS)))
            .becomes(REDIRECT, asked("10.244.1.3:40000", LAN))
            .ca(&[Delivered]),
        held("a copy of what it sent itself", fan(1, 0, asked(POD, LAN))).becomes(DROP, asked(POD, LAN)),
    ]
}

/// At the bridge, on the way to a pod.
fn redirects() -> Vec<Case> {
    let case = |name, packet: Frame| {
        held(name, Run { program: abi::names::TO_BRIDGE, interface: "pod-b", mark: 0, packet })
    };
    let redirect = |to: &str| {
        icmp("10.244.1.1:0", "10.244.1.3:0", (5, 1), &tcp("10.244.1.3:40000", to, SYN, 1, &[]), 28)
    };
    vec![
        case("a shorter way to a LAN address", redirect(POD)).becomes(DROP, redirect(POD)),
        case("a shorter way to another address", redirect(SERVER)),
        case("an error about a LAN address", {
            icmp("10.244.1.1:0", "10.244.1.3:0", (3, 3), &udp("10.244.1.3:40000", POD, b"?"), 28)
        }),
        case("a segment to a LAN address", tcp(CLIENT, POD, ACK, 1, &[5; 40])),
    ]
}

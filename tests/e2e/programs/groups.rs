//! Cases of multicast groups: at port 5353 in a protocol that is symmetric, as mDNS is; and at ports of Channel Access and
//! PV Access.

use abi::{LEAVING, Protocol, Verdict, standing};
use lab::ca::search;

use super::{
    cases::{
        ASKED, CLIENT, Case, DROP, EXTERNAL, IOC, LAN, NEXT, PVA_SEARCH, REDIRECT, Run, Where, fan, from_lan,
        from_pod, pva, to_lan,
    },
    frame::{BROADCAST, Frame, udp},
    rig::{POD_MACS, UPLINK_MAC},
};

const MDNS: &str = "224.0.0.251:5353";
const MDNS_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0, 0, 0xfb];
/// The group 239.129.2.3, whose highest bits are not in its MAC address, at a port that is 8064 on the LAN.
const GROUP: &str = "239.129.2.3:7064";
const GROUP_ON_LAN: &str = "239.129.2.3:8064";
const GROUP_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x01, 2, 3];
const PVA_GROUP: &str = "239.129.2.3:5076";
const QUESTION: &[u8] = b"\0\0\0\0\0\x01 who is it?";
/// The pod's and the node's mDNS.
const POD: &str = "10.244.1.2:5353";
const NODE: &str = "172.23.0.10:5353";
const PEER: &str = "172.23.0.3:5353";

pub(super) fn cases() -> Vec<Case> {
    [from_the_lan(), of_pods(), of_pods_with_a_lan_address(), answers(), of_the_node(), fans()].concat()
}

impl Case {
    fn mdns(self, verdicts: &[Verdict]) -> Self {
        self.counts(Protocol::Described2, verdicts)
    }

    /// A copy into the fan, to a group's MAC address.
    fn fans_to(mut self, mac: [u8; 6], change: impl FnOnce(Frame) -> Frame) -> Self {
        self.copies.push((Where::Fan, change(self.run.packet.clone()).mac_to(mac)));
        self
    }

    /// A copy that leaves by the uplink, to a group's MAC address.
    fn sends_to(mut self, mac: [u8; 6], change: impl FnOnce(Frame) -> Frame) -> Self {
        let copy = change(self.run.packet.clone()).mac_to(mac).mac_from(UPLINK_MAC);
        self.copies.push((Where::Uplink, copy));
        self
    }

    /// The packet goes to the node's own sockets, past a bridge.
    fn kept(self) -> Self {
        let becomes = self.run.packet.clone().mac_to(POD_MACS[0]);
        self.becomes(NEXT, becomes)
    }
}

fn from_the_lan() -> Vec<Case> {
    use Verdict::*;
    let say = |from: &str, to: &str| from_lan(udp(from, to, QUESTION).mac_to(MDNS_MAC));
    let ask = |to: &str| from_lan(udp(CLIENT, to, &search(&["A:NAME"])).mac_to(GROUP_MAC));
    vec![
        Case::new("a question to a group", say(PEER, MDNS)).fans_to(MDNS_MAC, |copy| copy).mdns(&[Relayed]),
        Case::new("one that must not be fragmented", {
            from_lan(udp(PEER, MDNS, QUESTION).mac_to(MDNS_MAC).fragment(0x4000))
        })
        .fans_to(MDNS_MAC, |copy| copy)
        .mdns(&[Relayed]),
        Case::new("a search to a group at a port that is another one in pods", ask(GROUP_ON_LAN))
            .fans_to(GROUP_MAC, |copy| copy.to(GROUP))
            .ca(&[Relayed]),
        Case::new("a PV Access search to a group", {
            from_lan(udp(CLIENT, PVA_GROUP, &pva(PVA_SEARCH)).mac_to(GROUP_MAC))
        })
        .fans_to(GROUP_MAC, |copy| copy)
        .pva(&[Relayed]),
        Case::new("noise to a group", from_lan(udp(CLIENT, GROUP_ON_LAN, b"noise").mac_to(GROUP_MAC)))
            .ca(&[Malformed]),
        Case::new("a question to a group, to be answered off the LAN", say("198.51.100.7:5353", MDNS))
            .mdns(&[OffLan]),
        Case::new("a question to a group too many", say(PEER, MDNS))
            .with(|setup| setup.interval = u32::MAX)
            .after([say(PEER, MDNS)])
            .mdns(&[Limited]),
        Case::new("a question to a group that is not relayed", say(PEER, "224.0.0.252:5353")),
        Case::new("a search to a group at a port of another group", ask("224.0.0.251:5064")),
        Case::new("a datagram to a group at a port that is not relayed", say(PEER, "224.0.0.251:9999")),
    ]
}

fn of_pods() -> Vec<Case> {
    use Verdict::*;
    let say = |from: &str, to: &str| from_pod(udp(from, to, QUESTION).mac_to(MDNS_MAC));
    let ask = |to: &str| from_pod(udp("10.244.1.2:40000", to, &search(&["N:NAME"])).mac_to(GROUP_MAC));
    let shared = |name, run: Run, mac: [u8; 6]| Case::new(name, run).kept().fans_to(mac, |copy| copy);
    vec![
        shared("a pod's question to a group, from the group's port", say(POD, MDNS), MDNS_MAC)
            .sends_to(MDNS_MAC, |copy| copy.from(NODE))
            .mdns(&[Relayed, Sent]),
        shared("one from another port", say("10.244.1.2:40000", MDNS), MDNS_MAC)
            .sends_to(MDNS_MAC, |copy| copy.from(EXTERNAL))
            .mdns(&[Relayed, Sent]),
        shared(
            "one that must not be fragmented",
            from_pod(udp(POD, MDNS, QUESTION).mac_to(MDNS_MAC).fragment(0x4000)),
            MDNS_MAC,
        )
        .sends_to(MDNS_MAC, |copy| copy.from(NODE))
        .mdns(&[Relayed, Sent]),
        shared("a pod's search to a group at a port that is another one on the LAN", ask(GROUP), GROUP_MAC)
            .sends_to(GROUP_MAC, |copy| copy.from(EXTERNAL).to(GROUP_ON_LAN))
            .ca(&[Relayed, Sent]),
        shared(
            "a pod's PV Access search to a group",
            from_pod(udp("10.244.1.2:40000", PVA_GROUP, &pva(PVA_SEARCH)).mac_to(GROUP_MAC)),
            GROUP_MAC,
        )
        .sends_to(GROUP_MAC, |copy| copy.from(EXTERNAL).with(&pva(&PVA_SEARCH.replacen("9c40", "ee48", 1))))
        .pva(&[Relayed, Sent]),
        shared("a pod's question to a group where there is no uplink", say(POD, MDNS), MDNS_MAC)
            .with(|setup| setup.uplink = false)
            .mdns(&[Relayed, NoUplink]),
        Case::new("a pod's question to a group too many", say(POD, MDNS))
            .with(|setup| setup.interval = u32::MAX)
            .after([say(POD, MDNS)])
            .kept()
            .mdns(&[Limited]),
        Case::new("a pod's question to a group in another's name", say("10.244.1.99:5353", MDNS))
            .mdns(&[Spoofed]),
        Case::new("a pod's question to a group that is not relayed", say(POD, "224.0.0.252:5353")),
        Case::new("a pod's datagram to a group at a port that is not relayed", say(POD, "224.0.0.251:9999")),
    ]
}

fn of_pods_with_a_lan_address() -> Vec<Case> {
    use Verdict::*;
    let held = |name, run| Case::new(name, run).with(|setup| setup.standing = Some(standing::HELD));
    let to = |to: &str, mac| from_pod(udp(IOC, to, &search(&["N:NAME"])).mac_to(mac));
    let question = from_pod(udp(POD, MDNS, QUESTION).mac_to(MDNS_MAC));
    vec![
        held("a question to a group of a pod with a LAN address", question)
            .kept()
            .fans_to(MDNS_MAC, |copy| copy.from("172.23.0.50:5353"))
            .sends_to(MDNS_MAC, |copy| copy.from("172.23.0.50:5353"))
            .mdns(&[Relayed, Sent]),
        held("a search to a group after the same by broadcast", to("239.129.2.3:5064", GROUP_MAC))
            .after([to(LAN, BROADCAST)])
            .kept()
            .fans_to(GROUP_MAC, |copy| copy.from("172.23.0.50:5064"))
            .sends_to(GROUP_MAC, |copy| copy.from("172.23.0.50:5064"))
            .ca(&[Relayed, Sent]),
    ]
}

fn answers() -> Vec<Case> {
    use Verdict::*;
    let asked = from_lan(udp(CLIENT, MDNS, QUESTION).mac_to(MDNS_MAC));
    let answer = |from: &str| from_pod(udp(from, CLIENT, b"I am"));
    vec![
        Case::new("an answer from the group's port", answer(POD))
            .after([asked.clone()])
            .becomes(REDIRECT, udp(NODE, CLIENT, b"I am"))
            .mdns(&[Answered]),
        Case::new("an answer from another port", answer("10.244.1.2:37000"))
            .after([asked])
            .becomes(REDIRECT, udp(EXTERNAL, CLIENT, b"I am"))
            .mdns(&[Answered]),
        Case::new("a question to one of the group", from_pod(udp(POD, PEER, QUESTION)))
            .becomes(REDIRECT, udp(NODE, PEER, QUESTION))
            .mdns(&[Sent]),
        Case::new("an answer to the group's port of the node", from_lan(udp(PEER, NODE, b"I am")))
            .fans(|copy| copy)
            .mdns(&[Relayed]),
    ]
}

fn of_the_node() -> Vec<Case> {
    use Verdict::*;
    let say = |to: &str| to_lan(udp(NODE, to, QUESTION).mac_to(MDNS_MAC));
    vec![
        Case::new("a question of a process of the node to a group", say(MDNS))
            .fans_to(MDNS_MAC, |copy| copy)
            .mdns(&[Relayed]),
        Case::new("one to a group that is not relayed", say("224.0.0.252:5353")),
        Case::new("a pod's question on its way out", Run { mark: LEAVING, ..say(MDNS) }),
    ]
}

fn fans() -> Vec<Case> {
    use Verdict::*;
    let asked = |to: &str| udp(PEER, to, QUESTION).mac_to(MDNS_MAC);
    let delivered = |name, slot| {
        Case::new(name, fan(1, slot, asked(MDNS))).becomes(REDIRECT, asked(MDNS)).mdns(&[Delivered])
    };
    let to_nobody = asked("239.129.2.3:5065");
    vec![
        delivered("a copy for a pod whose socket is bound to no address", 0),
        delivered("a copy for a pod whose socket is bound to the group", 1),
        delivered("a copy for a pod with a LAN address", 0).with(|setup| {
            setup.standing = Some(standing::HELD);
        }),
        Case::new("a copy for two", fan(2, 0, asked(MDNS)))
            .becomes(REDIRECT, asked(MDNS))
            .fans_to(MDNS_MAC, |copy| copy)
            .mdns(&[Delivered]),
        Case::new("a copy of a PV Access search to a group", {
            fan(1, 0, udp(CLIENT, PVA_GROUP, &pva(PVA_SEARCH)).mac_to(GROUP_MAC))
        })
        .becomes(REDIRECT, udp(CLIENT, PVA_GROUP, &pva(PVA_SEARCH)).mac_to(GROUP_MAC))
        .pva(&[Delivered]),
        Case::new("a copy for a group where nobody has a socket", fan(2, 0, to_nobody.clone()))
            .becomes(DROP, to_nobody),
        Case::new("a copy to a group of what a pod asks", fan(1, 0, asked(MDNS).from(POD)))
            .becomes(DROP, asked(MDNS).from(POD)),
        Case::new("an answer to the node", fan(1, 0, asked(ASKED).to(NODE)))
            .becomes(REDIRECT, asked("10.244.1.255:5353"))
            .mdns(&[Delivered]),
    ]
}

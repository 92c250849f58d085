//! The cases: what there is, a packet, and what becomes of it.

use abi::{FanMark, LEAVING, LIMITED_BROADCAST, Protocol, Verdict, walk};
use lab::ca::{message, reply, search};

use super::{
    circuits,
    frame::{BROADCAST, Frame, SYN, icmp, tcp, udp},
    groups, icmp, lan_address, owners,
    rig::{POD_BROADCAST, POD_MACS, UPLINK_MAC},
    taking_over,
};

/// `TC_ACT_UNSPEC`, `TC_ACT_SHOT` and `TC_ACT_REDIRECT` (linux/pkt_cls.h).
pub(super) const NEXT: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

/// The node on the LAN, under the only external port there is.
pub(super) const EXTERNAL: &str = "172.23.0.10:61000";
/// The node at the port that a search was sent to.
pub(super) const ASKED: &str = "172.23.0.10:5064";
pub(super) const CLIENT: &str = "172.23.0.2:40000";
pub(super) const SERVER: &str = "172.23.0.3:5064";
pub(super) const LAN: &str = "172.23.0.255:5064";
const EVERYBODY: &str = "255.255.255.255:5064";
pub(super) const PODS: &str = "10.244.1.255:5064";
pub(super) const IOC: &str = "10.244.1.2:5064";
const OTHER: &str = "10.244.1.3:5064";
const CLIENT_IN_POD: &str = "10.244.1.2:40000";
const OTHER_CLIENT: &str = "10.244.1.3:40000";

/// PVXS asking for `A`, to be answered on port 40000; the third byte of the body is the flags (captured, with another name).
pub(super) const PVA_SEARCH: &str = "ca02800300000027 66696e64 00 000000 00000000000000000000000000000000 9c40 \
    01 03746370 0001 12345678 01 41";
/// PVXS answering from TCP port 5075, big endian; pvAccessCPP, little endian (captured).
pub(super) const PVXS_REPLY: &str = "ca02c00400000031 51da2895085a1a180d6575ca 66696e64 \
    00000000000000000000ffff00000000 13d3 03746370 01 0002 12345678 12345679";
const CPP_REPLY: &str = "ca0240042d000000 59e0016b00000000e7b2412b 01000000 \
    00000000000000000000ffff00000000 d313 03746370 01 0100 41302010";
/// PVXS's beacon (captured).
const PVXS_BEACON: &str = "ca02c00000000027 a6fd40f2016b906abf6e34e9 00 00 0002 \
    00000000000000000000ffff00000000 13d3 03746370 ff";
/// The begin of what PVXS passes on to others on its host (captured).
const FORWARDED: &str = "ca02801600000010 00000000000000000000ffff0a580005";

/// Where a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Where {
    /// Out of the uplink.
    Uplink,
    /// Into the fan device.
    Fan,
}

/// A program at its place, and a packet for it.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) program: &'static str,
    pub(crate) interface: &'static str,
    pub(crate) mark: u32,
    pub(crate) packet: Frame,
}

/// What is not as always.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Whether the domain has an uplink.
    pub(crate) uplink: bool,
    /// Whether the fan device is there.
    pub(crate) fan: bool,
    /// A process of the node with a UDP socket.
    pub(crate) node_listens: Option<&'static str>,
    /// What the LAN is besides: [`abi::lan::CAMERAS`], or nothing.
    pub(crate) cameras: u32,
    /// External ports that a pod may take.
    pub(crate) ports_per_pod: u32,
    /// External ports of one transport that the domain may have.
    pub(crate) ports: u32,
    /// Circuits that the domain may have.
    pub(crate) circuits: u32,
    /// Seconds that pass before the packet, as far as circuits know.
    pub(crate) silence: u32,
    /// Nanoseconds from one datagram to the next, one at once; 0 for no limit.
    pub(crate) interval: u32,
    /// What the node does about the LAN address of `pod-a`, from [`abi::standing`], if that has one.
    pub(crate) standing: Option<u16>,
    /// Whether LAN addresses pass by the node's stack.
    pub(crate) direct: bool,
    /// How the names of each pod's PVs begin, as the pods say.
    pub(crate) pvs: [&'static [&'static str]; 2],
    /// Whether the agent is taking over from maps of another layout.
    pub(crate) taking_over: bool,
}

/// One case. Both pods listen on 5064 and 5076, on 7064 `pod-a` at its own address and `pod-b` at its broadcast address; `pod-a` is the IOC, and has the first place in the roster.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) setup: Setup,
    /// What passed before.
    pub(crate) before: Vec<Run>,
    pub(crate) run: Run,
    /// What the program returns.
    pub(crate) verdict: i32,
    /// The packet afterwards.
    pub(crate) becomes: Frame,
    pub(crate) copies: Vec<(Where, Frame)>,
    pub(crate) counts: Vec<(Protocol, Verdict)>,
}

pub(super) fn from_lan(packet: Frame) -> Run {
    Run { program: abi::names::FROM_LAN, interface: "eth0", mark: 0, packet }
}

pub(super) fn to_lan(packet: Frame) -> Run {
    Run { program: abi::names::TO_LAN, interface: "eth0", mark: 0, packet }
}

pub(super) fn from_pod(packet: Frame) -> Run {
    let in_its_network = packet.is_to(POD_BROADCAST) || packet.is_to(LIMITED_BROADCAST);
    let packet = if in_its_network { packet.mac_to(BROADCAST) } else { packet };
    Run { program: abi::names::FROM_POD, interface: "pod-a", mark: 0, packet }
}

pub(super) fn from_pod_b(packet: Frame) -> Run {
    Run { interface: "pod-b", ..from_pod(packet) }
}

/// The fan, with so many places left to visit from `slot` on.
pub(super) fn fan(remaining: u32, slot: u32, packet: Frame) -> Run {
    let mark = FanMark { domain: 0, walk: walk::UNDECIDED, matched: false, remaining, slot }.pack();
    Run { program: abi::names::FAN, interface: "iocast-fan", mark, packet }
}

impl Case {
    /// A packet that stays as it is and goes on, uncounted.
    pub(super) fn new(name: &'static str, run: Run) -> Self {
        let setup = Setup {
            uplink: true,
            fan: true,
            node_listens: None,
            cameras: abi::lan::CAMERAS,
            ports_per_pod: 9,
            ports: 9,
            circuits: 100,
            silence: 0,
            interval: 0,
            standing: None,
            direct: false,
            pvs: [&[]; 2],
            taking_over: false,
        };
        let becomes = run.packet.clone();
        Self { name, setup, before: vec![], run, verdict: NEXT, becomes, copies: vec![], counts: vec![] }
    }

    pub(super) fn after(self, before: impl IntoIterator<Item = Run>) -> Self {
        Self { before: before.into_iter().collect(), ..self }
    }

    pub(super) fn with(self, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = self.setup.clone();
        change(&mut setup);
        Self { setup, ..self }
    }

    pub(super) fn counts(self, protocol: Protocol, verdicts: &[Verdict]) -> Self {
        let counts = self.counts.into_iter().chain(verdicts.iter().map(|verdict| (protocol, *verdict)));
        Self { counts: counts.collect(), ..self }
    }

    pub(super) fn ca(self, verdicts: &[Verdict]) -> Self {
        self.counts(Protocol::Ca, verdicts)
    }

    pub(super) fn pva(self, verdicts: &[Verdict]) -> Self {
        self.counts(Protocol::Pva, verdicts)
    }

    pub(super) fn gvcp(self, verdicts: &[Verdict]) -> Self {
        self.counts(Protocol::Gvcp, verdicts)
    }

    fn gvsp(self, verdicts: &[Verdict]) -> Self {
        self.counts(Protocol::Gvsp, verdicts)
    }

    pub(super) fn other(self, verdicts: &[Verdict]) -> Self {
        self.counts(Protocol::Other, verdicts)
    }

    pub(super) fn becomes(self, verdict: i32, becomes: Frame) -> Self {
        Self { verdict, becomes, ..self }
    }

    /// A packet that goes nowhere.
    pub(super) fn denied(self) -> Self {
        let packet = self.run.packet.clone();
        self.becomes(DROP, packet)
    }

    /// A broadcast of a pod: a copy for the other pods, and the packet for the node's own sockets, past a bridge.
    pub(super) fn shared(self, pod: usize) -> Self {
        let becomes = self.run.packet.clone().mac_to(POD_MACS[pod]);
        self.fans(|copy| copy).becomes(NEXT, becomes)
    }

    /// A copy for the fan, which is the packet itself with this much changed.
    pub(super) fn fans(mut self, change: impl FnOnce(Frame) -> Frame) -> Self {
        self.copies.push((Where::Fan, change(self.run.packet.clone()).mac_to(BROADCAST)));
        self
    }

    /// A copy that leaves by the uplink as a broadcast, which is the packet itself with this much changed.
    pub(super) fn sends(mut self, change: impl FnOnce(Frame) -> Frame) -> Self {
        let copy = change(self.run.packet.clone().from(EXTERNAL)).mac_to(BROADCAST).mac_from(UPLINK_MAC);
        self.copies.push((Where::Uplink, copy));
        self
    }
}

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let groups = [
        unreadable(),
        searches_from_the_lan(),
        to_external_ports(),
        searches_of_pods(),
        what_pods_keep(),
        answers_of_pods(),
        cameras(),
        to_the_lan(),
        circuits::cases(),
        taking_over::cases(),
        circuits::of_name_servers(),
        icmp::cases(),
        lan_address::cases(),
        groups::cases(),
        fans(),
        owners::cases(),
    ];
    groups.concat()
}

fn searches_from_the_lan() -> Vec<Case> {
    use Verdict::*;
    let ask = |to: &str| from_lan(udp(CLIENT, to, &search(&["A:NAME"])));
    let say = |payload: &[u8]| from_lan(udp(CLIENT, LAN, payload));
    let say_pva = |to: &str, payload: &[u8]| from_lan(udp(CLIENT, to, payload));
    let followed_by = |rest: &[u8]| say(&[&search(&["A:NAME"]), rest].concat());
    let mut extended = message(6, 5, 13, 1, 1, b"\0\0\0\x08\0\0\0\0A:NAME\0\0");
    extended[2..4].copy_from_slice(&[0xff, 0xff]);
    let unicast = pva(&PVA_SEARCH.replacen(" 00 ", " 80 ", 1));
    vec![
        Case::new("a search by broadcast", ask(LAN)).fans(|copy| copy).ca(&[Relayed]),
        Case::new("a search by limited broadcast", ask("255.255.255.255:5064"))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a search to the node's address", ask("172.23.0.10:5064")).fans(|copy| copy).ca(&[Relayed]),
        Case::new("a search to a port that is another one in pods", ask("172.23.0.255:8064"))
            .fans(|copy| copy.to("172.23.0.255:7064"))
            .ca(&[Relayed]),
        Case::new("a beacon", from_lan(udp(SERVER, "172.23.0.255:5065", &beacon(5064))))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a PV Access search", say_pva("172.23.0.255:5076", &pva(PVA_SEARCH)))
            .fans(|copy| copy)
            .pva(&[Relayed]),
        Case::new("a PV Access search to the node", say_pva("172.23.0.10:5076", &unicast))
            .fans(|copy| copy)
            .pva(&[Relayed]),
        Case::new(
            "a PV Access search with a byte too many",
            say_pva("172.23.0.255:5076", &[pva(PVA_SEARCH), vec![0]].concat()),
        )
        .fans(|copy| copy)
        .pva(&[Relayed]),
        Case::new(
            "a search without a UDP checksum",
            from_lan(ask("172.23.0.255:8064").packet.without_checksum()),
        )
        .fans(|copy| copy.to("172.23.0.255:7064"))
        .ca(&[Relayed]),
        Case::new("a search where there is no fan device", ask(LAN))
            .with(|setup| setup.fan = false)
            .ca(&[Overrun]),
        Case::new(
            "a search to be answered off the LAN",
            from_lan(ask(LAN).packet.from("198.51.100.7:40000")),
        )
        .ca(&[OffLan]),
        Case::new("a search too many", ask(LAN))
            .with(|setup| setup.interval = u32::MAX)
            .after([ask(LAN)])
            .ca(&[Limited]),
        Case::new("a search after one that was not relayed", ask(LAN))
            .with(|setup| setup.interval = u32::MAX)
            .after([say(&search(&["A:NAME"])[..39])])
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a search with a byte too many", followed_by(&[0])).fans(|copy| copy).ca(&[Relayed]),
        Case::new("a search with eight zeros behind it", followed_by(&[0; 8]))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a search before another that is cut short", followed_by(&search(&["B:NAME"])[16..39]))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a search with an extended header", say(&extended)).fans(|copy| copy).ca(&[Relayed]),
        Case::new("a search with an extended header, cut short", say(&extended[..31])).ca(&[Malformed]),
        Case::new("nothing", say(&[])).ca(&[Malformed]),
        Case::new("what PVXS keeps to its host", say_pva("172.23.0.255:5076", &pva(FORWARDED))).pva(&[Local]),
        Case::new("a first fragment", from_lan(ask(LAN).packet.fragment(0x2000))).ca(&[Fragment]),
        Case::new("a search through the node", ask(IOC)).ca(&[Elsewhere]),
        Case::new("a broadcast to another port", ask("172.23.0.255:9999")).other(&[Unrelayed]),
        Case::new("a search in a protocol that no program knows", ask("172.23.0.255:5000"))
            .other(&[Unrelayed]),
        Case::new("a datagram to another port of the node", ask("172.23.0.10:9999")),
        Case::new("the node's own voice", from_lan(udp(EXTERNAL, LAN, &search(&["A:NAME"])))),
        Case::new(
            "a frame for another host, which a switch has flooded",
            from_lan(ask("172.23.0.10:5064").packet.mac_to([2, 0, 0, 0, 9, 9])),
        ),
    ]
}

/// What no program reads, at each hook: it goes on as if there were none.
fn unreadable() -> Vec<Case> {
    let asked = search(&["A:NAME"]);
    let hooks = [
        (from_lan as fn(Frame) -> Run, [udp(CLIENT, LAN, &asked), tcp(CLIENT, EXTERNAL, SYN, 1, &[])]),
        (to_lan, [udp("172.23.0.10:40000", LAN, &asked), tcp(IOC, CLIENT, SYN, 1, &[])]),
        (from_pod, [udp(IOC, PODS, &asked), tcp(IOC, CLIENT, SYN, 1, &[])]),
    ];
    let shapes = |frame: &Frame| {
        let cut = [34, 41].map(|length| ("a frame that is cut short", frame.clone().cut(length)));
        let others = [
            ("one with IP options", frame.clone().options(&[1; 4])),
            ("a later fragment", frame.clone().fragment(0x0010)),
            ("a tagged frame", frame.clone().ethertype(0x8100)),
            ("IPv6", frame.clone().ethertype(0x86dd)),
        ];
        cut.into_iter().chain(others).collect::<Vec<_>>()
    };
    let mut cases = vec![];
    for (hook, frames) in hooks {
        for (name, frame) in frames.iter().flat_map(shapes) {
            let told = circuits::told(); // an external port is taken
            cases.push(Case::new(name, hook(frame)).after(told));
        }
    }
    cases
}

fn to_external_ports() -> Vec<Case> {
    use Verdict::*;
    let opens = from_lan(tcp(CLIENT, EXTERNAL, SYN, 1, &[]));
    let searched = from_pod(udp(IOC, PODS, &search(&["N:NAME"])));
    let arrives = |payload: &[u8]| from_lan(udp(SERVER, EXTERNAL, payload));
    vec![
        Case::new("a connection to a port that nobody has", opens.clone()).other(&[Unowned]),
        Case::new("an answer to a pod that searched", arrives(&reply(5064)))
            .after([searched.clone()])
            .becomes(NEXT, udp(SERVER, IOC, &reply(5064)))
            .other(&[TranslatedIn]),
        Case::new("a second answer to a pod within the limit's time", arrives(&reply(5064)))
            .with(|setup| setup.interval = 1_000_000_000)
            .after([searched.clone(), arrives(&reply(5064))])
            .becomes(DROP, udp(SERVER, EXTERNAL, &reply(5064)))
            .other(&[Limited]),
        Case::new("one from another host", from_lan(udp("172.23.0.9:5064", EXTERNAL, &reply(5064))))
            .with(|setup| setup.interval = 1_000_000_000)
            .after([searched.clone(), arrives(&reply(5064))])
            .becomes(DROP, udp("172.23.0.9:5064", EXTERNAL, &reply(5064)))
            .other(&[Limited]),
        Case::new("anything else to a port that a pod searched from", arrives(b"noon"))
            .after([searched])
            .other(&[Unrelated]),
    ]
}

fn searches_of_pods() -> Vec<Case> {
    use Verdict::*;
    let ask = || udp(CLIENT_IN_POD, PODS, &search(&["N:NAME"]));
    let say_pva = |hex| from_pod(udp(CLIENT_IN_POD, "10.244.1.255:5076", &pva(hex)));
    let announce =
        |address, port| from_pod(udp(CLIENT_IN_POD, "10.244.1.255:5049", &announcement(address, port)));
    let cut = from_pod(udp(CLIENT_IN_POD, "10.244.1.255:5049", &announcement([255; 4], 5075)[..9]));
    let beacon_to = |port| udp(CLIENT_IN_POD, "10.244.1.255:5065", &beacon(port));
    let to_server = from_pod(ask().to(SERVER));
    let sent_to_server = to_server.packet.clone().from(EXTERNAL);
    vec![
        Case::new("a pod's search", from_pod(ask()))
            .shared(0)
            .sends(|copy| copy.to(LAN))
            .ca(&[Relayed, Sent]),
        Case::new("a pod's search at the LAN's broadcast address", from_pod(ask().to(LAN)))
            .fans(|copy| copy)
            .sends(|copy| copy)
            .ca(&[Relayed, Sent]),
        Case::new("a pod's beacon at the LAN's broadcast address", {
            from_pod(beacon_to(5064).to("172.23.0.255:5065"))
        })
        .fans(|copy| copy)
        .sends(|copy| copy.to("172.23.0.255:5065").with(&beacon(61000)))
        .ca(&[Relayed, Sent]),
        Case::new(
            "a pod's search at another LAN's broadcast address",
            from_pod(ask().to("10.99.0.255:5064")),
        ),
        Case::new("a pod's search by limited broadcast, to a port that is another one on the LAN", {
            from_pod(ask().to("255.255.255.255:7064"))
        })
        .shared(0)
        .sends(|copy| copy.to("172.23.0.255:8064"))
        .ca(&[Relayed, Sent]),
        Case::new("a pod's PV Access search, which names its port", say_pva(PVA_SEARCH))
            .shared(0)
            .sends(|copy| copy.to("172.23.0.255:5076").with(&pva(&PVA_SEARCH.replacen("9c40", "ee48", 1))))
            .pva(&[Relayed, Sent]),
        Case::new("a pod's beacon", from_pod(beacon_to(5064)))
            .shared(0)
            .sends(|copy| copy.to("172.23.0.255:5065").with(&beacon(61000)))
            .ca(&[Relayed, Sent]),
        Case::new("a pod's announcement of a described protocol", announce([10, 244, 1, 2], 5075))
            .shared(0)
            .sends(|copy| copy.to("172.23.0.255:5049").with(&announcement([172, 23, 0, 10], 61000)))
            .counts(Protocol::Described1, &[Relayed, Sent]),
        Case::new("an announcement at its source's address", announce([255; 4], 5075))
            .shared(0)
            .sends(|copy| copy.to("172.23.0.255:5049").with(&announcement([255; 4], 61000)))
            .counts(Protocol::Described1, &[Relayed, Sent]),
        Case::new("an announcement of another host", announce([172, 23, 0, 3], 5075))
            .shared(0)
            .counts(Protocol::Described1, &[Relayed, Foreign]),
        Case::new("an announcement cut short", cut.clone()).counts(Protocol::Described1, &[Malformed]),
        Case::new("a pod's PV Access beacon", say_pva(PVXS_BEACON))
            .shared(0)
            .sends(|copy| copy.to("172.23.0.255:5076").with(&pva(&PVXS_BEACON.replacen("13d3", "ee48", 1))))
            .pva(&[Relayed, Sent]),
        Case::new("a pod's search when the port's holder is gone", from_pod_b(ask().from(OTHER_CLIENT)))
            .after([from_pod(ask())])
            .shared(1)
            .sends(|copy| copy.to(LAN))
            .ca(&[Relayed, Sent]),
        Case::new("a pod's search to a server on the LAN", to_server)
            .becomes(REDIRECT, sent_to_server)
            .ca(&[Sent]),
        Case::new("a pod's search to the node", from_pod(ask().to("172.23.0.10:5064")))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("a pod's search to another network", from_pod(ask().to("10.0.0.1:5064"))),
        Case::new("a pod's segment", from_pod(tcp(IOC, CLIENT, SYN, 1, &[]))),
    ]
}

fn what_pods_keep() -> Vec<Case> {
    use Verdict::*;
    let ask = || udp(CLIENT_IN_POD, PODS, &search(&["N:NAME"]));
    let ask_b = || ask().from(OTHER_CLIENT);
    let listener = from_pod(udp(IOC, PODS, &search(&["N:NAME"])));
    let to_5065 = |payload: &[u8]| from_pod(udp(CLIENT_IN_POD, "10.244.1.255:5065", payload));
    vec![
        Case::new("a beacon that speaks for another host", to_5065(&beacon_of([172, 23, 0, 3], 5064)))
            .shared(0)
            .ca(&[Relayed, Foreign]),
        Case::new("a pod's search in another's name", from_pod(ask().from("10.244.1.99:40000")))
            .ca(&[Spoofed]),
        Case::new("a pod's fragment", from_pod(ask().fragment(0x2000))).ca(&[Fragment]),
        Case::new("a pod's noise", from_pod(ask().with(b"noise"))).ca(&[Malformed]),
        Case::new("what PVXS keeps to its pod", {
            from_pod(udp(CLIENT_IN_POD, "10.244.1.255:5076", &pva(FORWARDED)))
        })
        .pva(&[Local]),
        Case::new("a pod's broadcast to another port", from_pod(ask().to("10.244.1.255:9999")))
            .other(&[Unrelayed]),
        Case::new(
            "a pod's search in a protocol that no program knows",
            from_pod(ask().to("10.244.1.255:5000")),
        )
        .other(&[Unrelayed]),
        Case::new("a pod's search too many", from_pod(ask()))
            .with(|setup| setup.interval = u32::MAX)
            .after([from_pod(ask())])
            .becomes(NEXT, ask().mac_to(POD_MACS[0]))
            .ca(&[Limited]),
        Case::new("a pod's search to a server, one too many", from_pod(ask().to(SERVER)))
            .with(|setup| setup.interval = u32::MAX)
            .after([from_pod(ask())])
            .becomes(DROP, ask().to(SERVER))
            .ca(&[Limited]),
        Case::new("a pod's search when it has all the ports that it may", from_pod(ask()))
            .with(|setup| setup.ports_per_pod = 0)
            .shared(0)
            .ca(&[Relayed, NoPort]),
        Case::new("a pod's search when its domain has its share of ports", from_pod(ask()))
            .with(|setup| setup.ports = 0)
            .shared(0)
            .ca(&[Relayed, NoPort]),
        Case::new("a pod's search where there is no uplink", from_pod(ask()))
            .with(|setup| setup.uplink = false)
            .shared(0)
            .ca(&[Relayed, NoUplink]),
        Case::new("a pod's search when a listener has the only port", from_pod_b(ask_b()))
            .after([listener.clone()])
            .shared(1)
            .ca(&[Relayed, NoPort]),
        Case::new("a pod's search to a server when a listener has the only port", {
            from_pod_b(ask_b().to(SERVER))
        })
        .after([listener])
        .becomes(DROP, ask_b().to(SERVER))
        .ca(&[NoPort]),
        Case::new("a pod's search when a process of the node has the only port", from_pod(ask()))
            .with(|setup| setup.node_listens = Some(EXTERNAL))
            .shared(0)
            .ca(&[Relayed, NoPort]),
    ]
}

fn answers_of_pods() -> Vec<Case> {
    use Verdict::*;
    let asked = from_lan(udp(CLIENT, LAN, &search(&["A:NAME"])));
    let asked_pva = from_lan(udp(CLIENT, "172.23.0.255:5076", &pva(PVA_SEARCH)));
    let answer = |payload: &[u8]| from_pod(udp(IOC, CLIENT, payload));
    let named = |address| {
        let mut bytes = reply(5064);
        bytes[24..28].copy_from_slice(address);
        bytes
    };
    let mut twice = reply(5064);
    twice.extend_from_within(16..);
    let mut twice_external = reply(61000);
    twice_external.extend_from_within(16..);
    let answers = |name, from: &[u8], to: &[u8]| {
        Case::new(name, answer(from))
            .after([asked.clone()])
            .becomes(REDIRECT, udp(ASKED, CLIENT, to))
            .ca(&[Answered])
    };
    let answers_pva = |name, hex: &str, old, new| {
        Case::new(name, from_pod(udp("10.244.1.2:37000", CLIENT, &pva(hex))))
            .after([asked_pva.clone()])
            .becomes(REDIRECT, udp("172.23.0.10:5076", CLIENT, &pva(&hex.replacen(old, new, 1))))
            .pva(&[Answered])
    };
    let zero = with_zero_checksum();
    let again = asked.clone();
    let loaded = [message(99, 0, 0, 0, 0, &[7; 800]), reply(5064)].concat();
    let mut long = [reply(5064), vec![7; 8]].concat();
    long[19] += 8; // the reply's payload
    let mut behind = pva(&format!("{PVXS_REPLY} 07070707"));
    behind[7] += 4; // the body's size
    vec![
        answers("an answer", &reply(5064), &reply(61000)),
        answers("an answer for two channels", &twice, &twice_external),
        answers("an answer that names the pod's address", &named(&[10, 244, 1, 2]), &{
            let mut bytes = reply(61000);
            bytes[24..28].copy_from_slice(&[172, 23, 0, 10]);
            bytes
        }),
        answers("an answer whose checksum becomes 0, which would mean none", &zero.0, &zero.1),
        answers_pva("an answer of PVXS, big endian", PVXS_REPLY, "13d3", "ee48"),
        answers_pva("an answer of pvAccessCPP, little endian", CPP_REPLY, "d313", "48ee"),
        Case::new(
            "an answer without a UDP checksum",
            from_pod(answer(&reply(5064)).packet.without_checksum()),
        )
        .after([asked.clone()])
        .becomes(REDIRECT, udp(ASKED, CLIENT, &reply(61000)).without_checksum())
        .ca(&[Answered]),
        Case::new("an answer to a search to the node", answer(&reply(5064)))
            .after([from_lan(udp(CLIENT, ASKED, &search(&["A:NAME"])))])
            .becomes(REDIRECT, udp(ASKED, CLIENT, &reply(61000)))
            .ca(&[Answered]),
        Case::new(
            "an answer to a search to a port that is another one in pods",
            from_pod(udp("10.244.1.2:7064", CLIENT, &reply(5064))),
        )
        .after([from_lan(udp(CLIENT, "172.23.0.10:8064", &search(&["A:NAME"])))])
        .becomes(REDIRECT, udp("172.23.0.10:8064", CLIENT, &reply(61000)))
        .ca(&[Answered]),
        Case::new(
            "an answer to a search to the pod's own external port",
            from_pod(udp(IOC, CLIENT, &reply(5064))),
        )
        .with(|setup| setup.ports_per_pod = 9)
        .after([
            from_pod(udp(IOC, PODS, &search(&["N:NAME"]))),
            from_lan(udp(CLIENT, EXTERNAL, &search(&["A:NAME"]))),
        ])
        .becomes(REDIRECT, udp(EXTERNAL, CLIENT, &reply(61000)))
        .ca(&[Answered]),
        Case::new("an answer that names another host", answer(&named(&[172, 23, 0, 3])))
            .after([asked.clone()])
            .ca(&[Foreign]),
        Case::new("an answer cut short", answer(&reply(5064)[..39])).after([asked.clone()]).ca(&[Malformed]),
        Case::new(
            "an answer in another's name",
            from_pod(answer(&reply(5064)).packet.from("10.244.1.99:5064")),
        )
        .after([asked])
        .ca(&[Spoofed]),
        Case::new("an answer that nobody asked for", answer(&reply(5064))),
        Case::new("an answer with something else before it", answer(&loaded))
            .after([again.clone()])
            .ca(&[Malformed]),
        Case::new("an answer with too long a version", answer(&long)).after([again.clone()]).ca(&[Malformed]),
        Case::new(
            "an answer of PVXS with something behind it",
            from_pod(udp("10.244.1.2:37000", CLIENT, &behind)),
        )
        .after([asked_pva])
        .pva(&[Malformed]),
        Case::new("a second answer within the limit's time", answer(&reply(5064)))
            .with(|setup| setup.interval = 1_000_000_000)
            .after([again, answer(&reply(5064))])
            .becomes(DROP, udp(IOC, CLIENT, &reply(5064)))
            .ca(&[Limited]),
    ]
}

/// A camera's client in a pod whose socket on port 5000 is for commands as well as the stream: there is one external port.
fn cameras() -> Vec<Case> {
    use Verdict::*;
    const CLIENT: &str = "10.244.1.2:5000";
    const CAMERA: &str = "172.23.0.3:3956";
    const STREAM: &str = "172.23.0.3:40000";
    let write = |pairs: &[u32]| {
        let payload: Vec<u8> = pairs.iter().flat_map(|word| word.to_be_bytes()).collect();
        let header = [0x42, 1, 0, 0x82, 0, payload.len() as u8, 0, 7];
        [&header[..], &payload].concat()
    };
    let commands = |payload: &[u8]| from_pod(udp(CLIENT, CAMERA, payload));
    let all = write(&[0x0d18, 0x0af4_0102, 0x0d00, 5000, 0x0a00, 2]);
    let all_external = write(&[0x0d18, 0xac17_000a, 0x0d00, 61000, 0x0a00, 2]);
    let (read, told, restored) = (
        [0x42, 1, 0, 0x80, 0, 4, 0, 9, 0, 0, 0x0d, 0x00],
        [0, 0, 0, 0x81, 0, 4, 0, 9, 0, 0, 0xee, 0x48], // 61000
        [0, 0, 0, 0x81, 0, 4, 0, 9, 0, 0, 0x13, 0x88], // 5000
    );
    let discovery = [0x42, 1, 0, 2, 0, 0, 0, 1];
    let mut here = [&[0, 0, 0, 3, 0, 0xf8, 0, 1][..], &[0; 248]].concat();
    here[44..48].copy_from_slice(&[10, 244, 1, 2]);
    let refusal = |by: &str, from: &str, to: &str, length: usize| {
        icmp(by, from, (3, 3), &udp(from, to, &vec![7; length]), 548)
    };
    let refused = |from: &str, to: &str, length| to_lan(refusal("10.244.1.2:0", from, to, length));
    let mut at_node = here.clone();
    at_node[44..48].copy_from_slice(&[172, 23, 0, 10]);
    vec![
        Case::new("a discovery of a pod", from_pod(udp(CLIENT, "255.255.255.255:3956", &discovery)))
            .shared(0)
            .sends(|copy| copy.to("255.255.255.255:3956"))
            .gvcp(&[Relayed, Sent]),
        Case::new("a pod tells a camera where to stream to", commands(&all))
            .becomes(REDIRECT, udp(EXTERNAL, CAMERA, &all_external))
            .gvcp(&[Sent]),
        Case::new("a pod commands a camera that is not the domain's", commands(&all))
            .with(|setup| setup.cameras = 0)
            .becomes(DROP, udp(CLIENT, CAMERA, &all))
            .gvcp(&[Denied]),
        Case::new("a fragment of that", from_pod(commands(&all).packet.fragment(0x2000)))
            .with(|setup| setup.cameras = 0)
            .becomes(DROP, udp(CLIENT, CAMERA, &all).fragment(0x2000))
            .gvcp(&[Denied]),
        Case::new("the same with IP options", from_pod(commands(&all).packet.options(&[1; 4])))
            .with(|setup| setup.cameras = 0)
            .becomes(DROP, udp(CLIENT, CAMERA, &all).options(&[1; 4]))
            .gvcp(&[Denied]),
        Case::new(
            "a fragment with IP options",
            from_pod(commands(&all).packet.options(&[1; 40]).fragment(0x2000)),
        )
        .with(|setup| setup.cameras = 0)
        .becomes(DROP, udp(CLIENT, CAMERA, &all).options(&[1; 40]).fragment(0x2000))
        .gvcp(&[Denied]),
        Case::new(
            "the same from an address that is not the pod's",
            from_pod(commands(&all).packet.from(OTHER)),
        )
        .with(|setup| setup.cameras = 0)
        .becomes(DROP, udp(OTHER, CAMERA, &all))
        .gvcp(&[Denied]),
        Case::new("the same to a host that searched from the port of cameras", commands(&all))
            .with(|setup| setup.cameras = 0)
            .after([from_lan(udp(CAMERA, LAN, &search(&["A:NAME"])))])
            .becomes(DROP, udp(CLIENT, CAMERA, &all))
            .gvcp(&[Denied]),
        Case::new(
            "a datagram with IP options to another port",
            from_pod(udp(CLIENT, SERVER, b"x").options(&[1; 4])),
        ),
        Case::new("a register list that is cut short", commands(&all[..all.len() - 4])).gvcp(&[Malformed]),
        Case::new("a camera tells a pod of its registers", from_lan(udp(CAMERA, EXTERNAL, &told)))
            .after([commands(&all), commands(&read)])
            .becomes(NEXT, udp(CAMERA, CLIENT, &restored))
            .gvcp(&[TranslatedIn]),
        Case::new("a packet of a stream", from_lan(udp(STREAM, EXTERNAL, &[7; 1400])))
            .after([commands(&all)])
            .becomes(NEXT, udp(STREAM, CLIENT, &[7; 1400]))
            .gvsp(&[TranslatedIn]),
        Case::new("an error about a packet of a stream, whose client is gone", refused(STREAM, CLIENT, 1400))
            .after([commands(&all), from_lan(udp(STREAM, EXTERNAL, &[7; 1400]))])
            .becomes(NEXT, refusal("172.23.0.10:0", STREAM, EXTERNAL, 1400))
            .other(&[TranslatedOut]),
        Case::new("an error about what a camera tells a client that is gone", refused(CAMERA, CLIENT, 8))
            .after([commands(&all), from_lan(udp(CAMERA, EXTERNAL, &told))])
            .becomes(NEXT, refusal("172.23.0.10:0", CAMERA, EXTERNAL, 8))
            .other(&[TranslatedOut]),
        Case::new("a packet larger than the pod takes", from_lan(udp(STREAM, EXTERNAL, &[7; 1473])))
            .after([commands(&all)])
            .becomes(NEXT, udp(STREAM, CLIENT, &[7; 1473]))
            .gvsp(&[TooBig]),
        Case::new("a camera in a pod is found", from_pod(udp("10.244.1.2:3956", "172.23.0.2:40000", &here)))
            .after([from_lan(udp("172.23.0.2:40000", "255.255.255.255:3956", &discovery))])
            .becomes(REDIRECT, udp("172.23.0.10:3956", "172.23.0.2:40000", &at_node))
            .gvcp(&[Answered]),
    ]
}

fn to_the_lan() -> Vec<Case> {
    use Verdict::*;
    let ask = |from: &str| to_lan(udp(from, LAN, &search(&["A:NAME"])));
    vec![
        Case::new("a search of a process of the node", ask("172.23.0.10:40000"))
            .fans(|copy| copy)
            .ca(&[Relayed]),
        Case::new("noise of a process of the node", to_lan(udp("172.23.0.10:40000", LAN, b"noise")))
            .ca(&[Malformed]),
        Case::new("a pod's search on its way out", Run { mark: LEAVING, ..ask(EXTERNAL) }),
        Case::new(
            "a datagram of the node to a server",
            to_lan(udp("172.23.0.10:40000", SERVER, &search(&["A:NAME"]))),
        ),
        Case::new("a pod's own connection", to_lan(tcp(IOC, SERVER, SYN, 1, &[]))),
    ]
}

fn fans() -> Vec<Case> {
    use Verdict::*;
    let asked = |from: &str| udp(from, LAN, &search(&["A:NAME"])).mac_to(BROADCAST);
    let delivered = |from: &str| asked(from).to(PODS);
    let to_nobody = asked(CLIENT).to("172.23.0.255:5065");
    let bound = |to: &str| asked(CLIENT).to(to);
    let known = |remaining, packet| Run { mark: listeners(remaining), ..fan(0, 0, packet) };
    let unicast = asked(CLIENT).to("172.23.0.10:5076").with(&pva(&PVA_SEARCH.replacen(" 00 ", " 80 ", 1)));
    vec![
        Case::new("a copy for the first of two", fan(2, 0, asked(CLIENT)))
            .becomes(REDIRECT, delivered(CLIENT))
            .fans(|copy| copy)
            .ca(&[Delivered]),
        Case::new("a copy by limited broadcast", fan(1, 0, asked(CLIENT).to(EVERYBODY)))
            .becomes(REDIRECT, asked(CLIENT).to(EVERYBODY))
            .ca(&[Delivered]),
        Case::new("a copy of a search to the node", fan(1, 0, asked(CLIENT).to(ASKED)))
            .becomes(REDIRECT, delivered(CLIENT))
            .ca(&[Delivered]),
        Case::new("one for a pod whose socket is bound to its address", fan(2, 0, bound("172.23.0.10:7064")))
            .becomes(REDIRECT, bound("10.244.1.2:7064"))
            .fans(|copy| copy)
            .ca(&[Delivered]),
        Case::new("one for a pod whose socket hears broadcasts only", fan(1, 1, bound("172.23.0.10:7064")))
            .becomes(DROP, bound("172.23.0.10:7064")),
        Case::new("a broadcast for these two", fan(2, 0, bound("172.23.0.255:7064")))
            .becomes(REDIRECT, bound("10.244.1.255:7064"))
            .ca(&[Delivered]),
        Case::new(
            "a PV Access search to the node, which all servers of a pod hear",
            fan(1, 0, unicast.clone()),
        )
        .becomes(REDIRECT, unicast.to("10.244.1.255:5076").with(&pva(PVA_SEARCH)))
        .pva(&[Delivered]),
        Case::new("a copy for the last", fan(1, 1, asked(CLIENT)))
            .becomes(REDIRECT, delivered(CLIENT))
            .ca(&[Delivered]),
        Case::new("a copy past the end of the roster", fan(1, 2, asked(CLIENT)))
            .becomes(REDIRECT, delivered(CLIENT))
            .ca(&[Delivered]),
        Case::new("a copy for the one that sent it, and another", fan(2, 0, asked(IOC)))
            .becomes(REDIRECT, delivered(IOC))
            .ca(&[Delivered]),
        Case::new("a copy when the queue refuses the next", fan(2, 0, asked(CLIENT)))
            .with(|setup| setup.fan = false)
            .becomes(REDIRECT, delivered(CLIENT))
            .ca(&[Delivered, Overrun]),
        Case::new("a copy that nobody listens for", fan(2, 0, to_nobody.clone())).becomes(DROP, to_nobody),
        Case::new("a copy for the one that sent it only", fan(1, 1, asked(OTHER)))
            .becomes(DROP, asked(OTHER)),
        Case::new("a copy for those known to listen, of whom there are none", known(2, asked(CLIENT)))
            .denied(),
        Case::new("one for the second, known to listen", known(2, asked(CLIENT)))
            .after([fan(1, 1, asked(CLIENT))])
            .becomes(REDIRECT, delivered(CLIENT))
            .ca(&[Delivered]),
        Case::new("one for both, known to listen", known(2, asked(CLIENT)))
            .after([fan(1, 0, asked(CLIENT)), fan(1, 1, asked(CLIENT))])
            .becomes(REDIRECT, delivered(CLIENT))
            .fans(|copy| copy)
            .ca(&[Delivered]),
        Case::new("one for who is known to hear another address", known(2, asked(CLIENT).to(EVERYBODY)))
            .after([fan(1, 0, asked(CLIENT)), fan(1, 1, asked(CLIENT))])
            .denied(),
        Case::new("one for who is known to listen, and sent it", known(1, asked(IOC)))
            .after([fan(1, 0, asked(CLIENT))])
            .denied(),
        Case::new("one for who is still known to listen after what it sent itself", known(1, asked(CLIENT)))
            .after([fan(1, 0, asked(CLIENT)), fan(1, 0, asked(IOC))])
            .becomes(REDIRECT, delivered(CLIENT))
            .ca(&[Delivered]),
        Case::new("what is not the fan's", Run { mark: 0, ..fan(1, 0, asked(CLIENT)) })
            .becomes(DROP, asked(CLIENT)),
    ]
}

/// An announcement of RecSync's.
pub(super) fn announcement(address: [u8; 4], port: u16) -> Vec<u8> {
    [&b"RC\0\0"[..], &address, &port.to_be_bytes(), &[0, 0, 0, 0, 0, 7]].concat()
}

/// A beacon of a server on TCP `port`, as RSRV sends it.
fn beacon(port: u16) -> Vec<u8> {
    beacon_of([0; 4], port)
}

fn beacon_of(address: [u8; 4], port: u16) -> Vec<u8> {
    message(13, 13, port, 1, u32::from_be_bytes(address), &[])
}

/// An answer from 5064 and the same from the external port, of which the latter's checksum comes out as 0.
fn with_zero_checksum() -> (Vec<u8>, Vec<u8>) {
    let with = |port, id: u16| {
        let mut bytes = reply(port);
        bytes[30..32].copy_from_slice(&id.to_be_bytes()); // the client's own number for the channel
        bytes
    };
    let zero = |id: &u16| udp(ASKED, CLIENT, &with(61000, *id)).checksum() == 0xffff;
    let id = (0..=u16::MAX).find(zero).unwrap_or_else(|| panic!("16 bits reach every checksum"));
    (with(5064, id), with(61000, id))
}

/// A PV Access message in hexadecimal digits.
pub(super) fn pva(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The mark of what those get that are known to listen, with so many places left to visit.
fn listeners(remaining: u32) -> u32 {
    FanMark { domain: 0, walk: walk::LISTENERS, matched: false, remaining, slot: 0 }.pack()
}

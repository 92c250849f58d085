//! What of a LAN crosses to the others, and how what has crossed is said there. Pure: from frames, and to frames.
//!
//! Only what has its source in the uplink's own subnet begins a crossing, and only if it could go on (a TTL above 1). What has
//! crossed has a source elsewhere and a TTL of 1: so nothing crosses twice, however networks, peers and domains are mixed up.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
};

use abi::{Limit, Protocol, limited};
use wire::{
    Direction, Kind, Step,
    asked::{Asked, CaAsked, Found, Load, PvaAsked},
    ca,
    data::{Descriptor, MISSING},
    pva,
};

use super::subnet::Subnet;
use crate::{
    bounded::make_room,
    config::{DomainConfig, Network, Relayed},
    frame,
    plan::limit,
    protocol::DomainProtocol,
};

const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
/// The TTL of what has crossed.
const LAST_HOP: u8 = 1;
const IPPROTO_UDP: u8 = 17;
/// Beacons a second that cross: each server says one every 15 seconds, and some at its start.
const BEACONS: u32 = 1000;
/// The most hosts whose rates are remembered.
const HOSTS: usize = 4096;

/// Why a datagram does not cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// It is no message of its protocol.
    Malformed,
    /// None of its names begins as `search_prefixes` say.
    Prefix,
    /// It exceeds a rate.
    Limited,
    /// It does not fit into a frame of the uplink, is longer than searches are, or could not be sent.
    Unsent,
    /// Its subnet is not in `lan`, its source is no host of its subnet, or it wants its answers elsewhere.
    OffLan,
    /// It comes from no peer.
    Foreign,
    /// It is sealed with another key, or was changed on its way.
    WrongKey,
    /// It came before.
    Replayed,
    /// It is for an agent that has been started anew since.
    Stale,
    /// This agent sent it.
    Own,
}

impl Refusal {
    pub(super) const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Prefix,
        Self::Limited,
        Self::Unsent,
        Self::OffLan,
        Self::Foreign,
        Self::WrongKey,
        Self::Replayed,
        Self::Stale,
        Self::Own,
    ];

    /// Its name, for programs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Prefix => "prefix",
            Self::Limited => "limited",
            Self::Unsent => "unsent",
            Self::OffLan => "off_lan",
            Self::Foreign => "foreign",
            Self::WrongKey => "wrong_key",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Own => "own",
        }
    }
}

/// A datagram that may cross.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crossing {
    pub(super) kind: Kind,
    pub(super) source: SocketAddrV4,
    /// The port in pods.
    pub(super) port: u16,
    pub(super) payload: Vec<u8>,
}

/// A relayed port whose datagrams cross.
#[derive(Clone, Debug)]
struct Port {
    in_pods: u16,
    spoken: Spoken,
}

#[derive(Clone, Debug)]
enum Spoken {
    Ca,
    Pva,
    /// A described protocol, and whether its datagrams may expect answers.
    Described(Descriptor),
}

/// What decides on datagrams of a domain.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) subnet: Subnet,
    /// Of the uplink.
    address: Ipv4Addr,
    broadcast: Ipv4Addr,
    mac: [u8; 6],
    /// By the port on the LAN.
    ports: BTreeMap<u16, Port>,
    /// How names begin that cross; empty for all.
    prefixes: Vec<String>,
    /// Where answers may go, besides to the source and in the uplink's subnet.
    lan: Vec<Network>,
}

impl Rules {
    /// Those of a domain whose uplink has this address and MAC address.
    pub(super) fn new(
        domain: &DomainConfig,
        subnet: Subnet,
        (address, broadcast): (Ipv4Addr, Ipv4Addr),
        mac: [u8; 6],
    ) -> Self {
        let port = |relayed: Relayed<'_>| {
            let spoken = Spoken::of(relayed.protocol)?;
            Some((relayed.on_lan, Port { in_pods: relayed.in_pods, spoken }))
        };
        let ports = domain.relayed().filter_map(port).collect();
        let (prefixes, lan) = (domain.search_prefixes.clone(), domain.lan.clone());
        Self { subnet, address, broadcast, mac, ports, prefixes, lan }
    }

    /// The ports on the LAN whose datagrams cross.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.ports.keys().copied().collect()
    }

    /// What a frame at the uplink is to other subnets, if this node `leads` its own; `None` if it is nothing to them.
    pub(super) fn judge(
        &self,
        frame: &[u8],
        outgoing: bool,
        leads: bool,
    ) -> Option<Result<Crossing, Refusal>> {
        let Datagram { source, destination, payload } = Datagram::read(frame)?;
        let port = self.ports.get(&destination.port())?;
        let to = *destination.ip();
        let to_node = !outgoing && to == self.address; // no other node has seen it
        let to_all = leads && (to.is_broadcast() || to == self.broadcast);
        if !self.subnet.has_host(*source.ip()) || !to_node && !to_all {
            return None;
        }
        let Some(payload) = payload else { return Some(Err(Refusal::Unsent)) };
        Some(self.accept(&port.spoken, *source.ip(), payload).map(|kind| {
            let mut payload = payload.to_vec();
            if to_node && matches!(port.spoken, Spoken::Pva) {
                make_broadcast(&mut payload);
            }
            Crossing { kind, source, port: port.in_pods, payload }
        }))
    }

    /// Whether what `source` has said to `port` in pods may be said here; at which port, and its kind.
    pub(super) fn welcome(
        &self,
        port: u16,
        source: Ipv4Addr,
        payload: &[u8],
    ) -> Result<(u16, Kind), Refusal> {
        let found = self.ports.iter().find(|(_, found)| found.in_pods == port);
        let (on_lan, Port { spoken, .. }) = found.ok_or(Refusal::Malformed)?;
        Ok((*on_lan, self.accept(spoken, source, payload)?))
    }

    fn accept(&self, spoken: &Spoken, source: Ipv4Addr, payload: &[u8]) -> Result<Kind, Refusal> {
        let kind = spoken.kind(payload).ok_or(Refusal::Malformed)?;
        if kind != Kind::Search {
            return Ok(kind);
        }
        if !self.prefixes.is_empty() && !self.matches(spoken, payload) {
            return Err(Refusal::Prefix);
        }
        if self.keeps_answers(spoken, source, payload) { Ok(kind) } else { Err(Refusal::OffLan) }
    }

    /// Whether the answers to a search go to its source, or stay on the LAN: servers answer to wherever one of PV Access says.
    fn keeps_answers(&self, spoken: &Spoken, source: Ipv4Addr, payload: &[u8]) -> bool {
        let Spoken::Pva = spoken else { return true };
        let Ok(Some((_, named))) = pva::parse(payload, Direction::Announce) else { return false };
        let to = Ipv4Addr::from(named.address);
        let is_on_lan = || {
            let host = Network { address: named.address, prefix: 32 };
            self.subnet.has_host(to) || self.lan.iter().any(|network| network.contains(&host))
        };
        !named.unsupported && (to.is_unspecified() || to == source || is_on_lan())
    }

    /// Whether one of the names that it asks for begins as wanted; true if it asks for none.
    fn matches(&self, spoken: &Spoken, payload: &[u8]) -> bool {
        let wanted = |name: &[u8]| self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        match spoken {
            Spoken::Ca => any_name::<CaAsked>(payload, wanted),
            Spoken::Pva => any_name::<PvaAsked>(payload, wanted),
            Spoken::Described(_) => true,
        }
    }

    /// The frame that says a datagram from `source` to everybody on the LAN, at `port` there.
    pub(super) fn frame(&self, source: SocketAddrV4, port: u16, payload: &[u8]) -> Vec<u8> {
        let to = SocketAddrV4::new(self.broadcast, port);
        frame::udp_by((frame::EVERYBODY, self.mac), LAST_HOP, (source, to), payload)
    }
}

impl Spoken {
    /// How a protocol's datagrams cross; `None` if they do not.
    fn of(protocol: &DomainProtocol) -> Option<Self> {
        match protocol {
            DomainProtocol::BuiltIn(Protocol::Ca) => Some(Self::Ca),
            DomainProtocol::BuiltIn(Protocol::Pva) => Some(Self::Pva),
            DomainProtocol::BuiltIn(_) => None,
            DomainProtocol::Described(described) => {
                described.subnets.then_some(Self::Described(described.descriptor))
            }
        }
    }

    /// What a payload is: a search, or an announcement; `None` if neither.
    fn kind(&self, payload: &[u8]) -> Option<Kind> {
        match self {
            Self::Ca => kind_of_ca(payload),
            Self::Pva => pva::parse(payload, Direction::Announce).ok().flatten().map(|(kind, _)| kind),
            Self::Described(descriptor) => {
                let load = |at: u32| {
                    let half = payload.get(at as usize..).and_then(|rest| rest.first_chunk());
                    half.map_or(MISSING, |half| u32::from(u16::from_be_bytes(*half)))
                };
                let kind = if descriptor.search != 0 { Kind::Search } else { Kind::Beacon };
                descriptor.must.match_in(load).then_some(kind)
            }
        }
    }
}

fn kind_of_ca(payload: &[u8]) -> Option<Kind> {
    let mut found = None;
    let walked = ca::walk(payload, Direction::Announce, |step| match step {
        Step::Plain(Kind::Search) => found = Some(Kind::Search),
        Step::Names(Kind::Beacon, _) if found.is_none() => found = Some(Kind::Beacon),
        _ => {}
    });
    walked.ok().and(found)
}

/// The payload of a datagram, as the walk along its names reads it.
struct Payload<'a>(&'a [u8]);

impl Load for Payload<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk().copied()
    }
}

/// Whether one of the names in a search is `wanted`; true if there is none: it asks who is there.
fn any_name<A: Asked>(payload: &[u8], wanted: impl Fn(&[u8]) -> bool) -> bool {
    let (mut asked, load, mut none) = (A::NEW, Payload(payload), true);
    if !asked.begin(payload.len() as u32, &load) {
        return false;
    }
    for _ in 0..A::STEPS {
        match asked.step(&load) {
            Found::Name { at, length } => {
                none = false;
                if payload
                    .get(at as usize..)
                    .is_some_and(|rest| wanted(&rest[..rest.len().min(length as usize)]))
                {
                    return true;
                }
            }
            Found::Other => {}
            Found::End => break,
        }
    }
    none
}

/// Clears the flag of a search that says "sent to one server".
fn make_broadcast(payload: &mut [u8]) {
    let is_search = payload.get(pva::COMMAND as usize) == Some(&pva::SEARCH);
    if let Some(flags) = payload.get_mut(pva::SEARCH_FLAGS as usize).filter(|_| is_search) {
        *flags &= !pva::UNICAST;
    }
}

/// A whole datagram in a frame whose IPv4 header has no options, as the tap lets it through.
struct Datagram<'a> {
    source: SocketAddrV4,
    destination: SocketAddrV4,
    /// None if the tap has cut it off.
    payload: Option<&'a [u8]>,
}

impl<'a> Datagram<'a> {
    fn read(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET..)?;
        let (ip, rest) = packet.split_first_chunk::<IP>()?;
        let (udp, payload) = rest.split_first_chunk::<UDP>()?;
        let is_whole = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
        if ip[0] != 0x45 || ip[9] != IPPROTO_UDP || !is_whole || ip[8] <= LAST_HOP {
            return None;
        }
        let endpoint = |at: usize, port: [u8; 2]| {
            let address = Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            SocketAddrV4::new(address, u16::from_be_bytes(port))
        };
        let length = usize::from(u16::from_be_bytes([udp[4], udp[5]])).checked_sub(UDP)?;
        Some(Self {
            source: endpoint(12, [udp[0], udp[1]]),
            destination: endpoint(16, [udp[2], udp[3]]),
            payload: payload.get(..length),
        })
    }
}

/// How much crosses: as much as is relayed to pods.
#[derive(Debug)]
pub(super) struct Limits {
    host: Limit,
    domain: Limit,
    beacons: Limit,
    /// When the next datagram of each is due, in nanoseconds.
    hosts: HashMap<Ipv4Addr, u64>,
    searches_due: u64,
    beacons_due: u64,
}

impl Limits {
    /// Those of what leaves a subnet, and of what comes, by the rates of the domain. What comes may have half of the domain's: on
    /// its new LAN it shares that with what is asked there.
    pub(super) fn both(rates: [u32; limited::KINDS]) -> [Self; 2] {
        let mut coming = rates;
        coming[limited::DOMAIN] = coming[limited::DOMAIN].div_ceil(2);
        [Self::new(rates), Self::new(coming)]
    }

    fn new(rates: [u32; limited::KINDS]) -> Self {
        Self {
            host: limit(rates[limited::SOURCE]),
            domain: limit(rates[limited::DOMAIN]),
            beacons: limit(BEACONS),
            hosts: HashMap::new(),
            searches_due: 0,
            beacons_due: 0,
        }
    }

    /// Whether one more of a host may cross at `now`, in nanoseconds.
    pub(super) fn admit(&mut self, kind: Kind, host: Ipv4Addr, now: u64) -> bool {
        if !self.hosts.contains_key(&host) {
            make_room(&mut self.hosts, HOSTS, |due| *due);
        }
        let (limit, due) = match kind {
            Kind::Search => (self.domain, &mut self.searches_due),
            _ => (self.beacons, &mut self.beacons_due),
        };
        take(self.host, self.hosts.entry(host).or_default(), now) && take(limit, due, now)
    }
}

fn take(limit: Limit, due: &mut u64, now: u64) -> bool {
    let next = limit.admit(*due, now);
    if next != 0 {
        *due = next;
    }
    next != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    const HOST: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 2);
    const NODE: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 10);
    const ALL: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 255);
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(172, 23, 1, 2);

    fn rules(lines: &str) -> Rules {
        let text = format!("[domain.a]\nuplink = \"eth0\"\n{lines}");
        let domain = Config::parse(&text).unwrap().domains.remove(0);
        Rules::new(&domain, Subnet::of(NODE, 24).unwrap(), (NODE, ALL), [2, 0, 0, 0, 0, 1])
    }

    fn search(name: &str) -> Vec<u8> {
        let mut body = name.as_bytes().to_vec();
        body.resize(name.len() / 8 * 8 + 8, 0);
        let mut bytes = [0u16, 0, 13, 13, 0, 0, 0, 0, 6, body.len() as u16, 5, 13, 0, 1, 0, 1]
            .map(u16::to_be_bytes)
            .concat();
        bytes.extend(body);
        bytes
    }

    const BEACON: [u8; 16] = [0, 13, 0, 0, 0, 13, 0x13, 0xc8, 0, 0, 0, 1, 0, 0, 0, 0];

    /// A frame as hosts send it.
    fn frame(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = rules("").frame(SocketAddrV4::new(from, 40000), port, payload);
        frame[ETHERNET + 8] = 64;
        frame[ETHERNET + 16..][..4].copy_from_slice(&to.octets());
        frame
    }

    fn judged(rules: &Rules, frame: &[u8], outgoing: bool) -> String {
        judged_by(rules, frame, outgoing, true)
    }

    fn judged_by(rules: &Rules, frame: &[u8], outgoing: bool, leads: bool) -> String {
        match rules.judge(frame, outgoing, leads) {
            None => "nothing".into(),
            Some(Err(refusal)) => refusal.name().into(),
            Some(Ok(crossing)) => format!("{:?} {}", crossing.kind, crossing.port),
        }
    }

    #[test]
    fn what_began_in_the_own_subnet_crosses() {
        let (rules, asks) = (rules("lan_ports = { 5064 = 8064 }"), search("A:X"));
        for (from, to, port, outgoing, expected) in [
            (HOST, ALL, 8064, false, "Search 5064"),
            (HOST, Ipv4Addr::BROADCAST, 8064, false, "Search 5064"),
            (HOST, NODE, 8064, false, "Search 5064"),
            (NODE, ALL, 8064, true, "Search 5064"),
            (NODE, HOST, 8064, true, "nothing"),
            (HOST, HOST, 8064, false, "nothing"),
            (HOST, ALL, 5064, false, "nothing"),
            (HOST, ALL, 5065, false, "Search 5065"),
            (ELSEWHERE, ALL, 8064, false, "nothing"),
            (ELSEWHERE, NODE, 8064, false, "nothing"),
            (ALL, Ipv4Addr::BROADCAST, 8064, false, "nothing"),
            (Ipv4Addr::new(172, 23, 0, 0), ALL, 8064, false, "nothing"),
            (HOST, Ipv4Addr::new(224, 0, 0, 1), 8064, false, "nothing"),
            (HOST, ALL, 5076, false, "malformed"),
        ] {
            assert_eq!(
                judged(&rules, &frame(from, to, port, &asks), outgoing),
                expected,
                "{from} {to}:{port}"
            );
        }
        assert_eq!(judged(&rules, &frame(HOST, ALL, 5065, &BEACON), false), "Beacon 5065");
        let long = frame(HOST, ALL, 8064, &asks);
        assert_eq!(judged(&rules, &long[..long.len() - 1], false), "unsent", "longer than the tap keeps");
        for (to, expected) in [(ALL, "nothing"), (Ipv4Addr::BROADCAST, "nothing"), (NODE, "Search 5064")] {
            let frame = frame(HOST, to, 8064, &asks);
            assert_eq!(judged_by(&rules, &frame, false, false), expected, "{to}, where another node relays");
        }
    }

    #[test]
    fn what_has_crossed_never_crosses_again() {
        let (rules, asks) = (rules(""), search("A:X"));
        for source in [ELSEWHERE, HOST] {
            let frame = rules.frame(SocketAddrV4::new(source, 40000), 5064, &asks);
            assert_eq!(judged(&rules, &frame, false), "nothing");
            assert_eq!(judged(&rules, &frame, true), "nothing");
        }
    }

    #[test]
    fn only_searches_with_a_wanted_name_cross() {
        let rules = rules("subnets = { peers = [\"a\"] }\nsearch_prefixes = [\"BL07I-\", \"SIM:\"]");
        for (payload, expected) in [
            (search("BL07I-MO:X"), "Search 5064"),
            (search("SIM:1"), "Search 5064"),
            ([search("NONE:1"), search("SIM:1")].concat(), "Search 5064"),
            (search("sim:1"), "prefix"),
            (search("BL07I"), "prefix"),
            (BEACON.to_vec(), "Beacon 5064"),
        ] {
            assert_eq!(judged(&rules, &frame(HOST, ALL, 5064, &payload), false), expected);
            let welcome = rules.welcome(5064, HOST, &payload).map(|_| ()).map_err(Refusal::name);
            assert_eq!(welcome.is_ok(), expected != "prefix");
        }
        assert_eq!(rules.welcome(9999, HOST, &search("SIM:1")), Err(Refusal::Malformed));
    }

    #[test]
    fn a_described_protocol_crosses_if_its_description_says_so() {
        let describe = |more: &str| {
            rules(&format!(
                "protocols = [\"x\"]\n[protocol.x]\nports = [7000]\nmust = {{ offset = 0, bytes = \"5243\" }}\n{more}"
            ))
        };
        let frame = |payload: &[u8]| frame(HOST, ALL, 7000, payload);
        assert_eq!(judged(&describe(""), &frame(b"RC01"), false), "nothing");
        assert_eq!(judged(&describe("subnets = true"), &frame(b"RC01"), false), "Search 7000");
        let announced = describe("subnets = true\ndirection = \"announce\"");
        assert_eq!(judged(&announced, &frame(b"RC01"), false), "Beacon 7000");
        assert_eq!(judged(&announced, &frame(b"RX01"), false), "malformed");
    }

    /// A search of PV Access to one server, with this address for answers.
    fn search_of_pva(answers: [u8; 16]) -> Vec<u8> {
        let mut payload =
            [&[0xca, 2, 0x80, 3, 0, 0, 0, 37, 0, 0, 0, 1, 0x81, 0, 0, 0][..], &answers, &[0x9c, 0x40, 1, 3]]
                .concat();
        payload.extend(b"tcp");
        payload.extend([0, 1, 0, 0, 0, 1, 1, b'A']);
        payload
    }

    #[test]
    fn a_search_whose_answers_would_leave_the_lan_does_not_cross() {
        let rules = rules("lan = [\"172.23.0.0/16\"]");
        let mapped = |address: [u8; 4]| Ipv4Addr::from(address).to_ipv6_mapped().octets();
        let foreign = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        for (answers, expected) in [
            ([0; 16], "Search 5076"),
            (mapped([0; 4]), "Search 5076"),
            (mapped(HOST.octets()), "Search 5076"),
            (mapped([172, 23, 0, 3]), "Search 5076"),
            (mapped(ELSEWHERE.octets()), "Search 5076"),
            (mapped([203, 0, 113, 1]), "off_lan"),
            (mapped([255; 4]), "off_lan"),
            (foreign, "off_lan"),
        ] {
            let payload = search_of_pva(answers);
            assert_eq!(judged(&rules, &frame(HOST, ALL, 5076, &payload), false), expected, "{answers:?}");
            let welcome = rules.welcome(5076, HOST, &payload);
            assert_eq!(welcome == Err(Refusal::OffLan), expected == "off_lan", "{answers:?}");
        }
        let elsewhere = search_of_pva(mapped(ELSEWHERE.octets()));
        let alone = self::rules("");
        assert_eq!(alone.welcome(5076, ELSEWHERE, &elsewhere), Ok((5076, Kind::Search)), "to its source");
        assert_eq!(alone.welcome(5076, HOST, &elsewhere), Err(Refusal::OffLan), "without `lan`");
    }

    #[test]
    fn a_search_of_pv_access_to_one_server_becomes_one_to_all() {
        let payload = search_of_pva([0; 16]);
        let crossing = rules("").judge(&frame(HOST, NODE, 5076, &payload), false, false).unwrap().unwrap();
        assert_eq!((payload[12], crossing.payload[12]), (0x81, 0x01));
    }

    #[test]
    fn frames_have_right_checksums() {
        for payload in [&b"odd"[..], b"even"] {
            let frame = rules("").frame(SocketAddrV4::new(ELSEWHERE, 40000), 5064, payload);
            let (ip, udp) = frame[ETHERNET..].split_at(IP);
            assert_eq!(frame::internet_checksum(ip), 0);
            let pseudo = [&ip[12..], &[0, IPPROTO_UDP], &udp[4..6]].concat();
            assert_eq!(frame::internet_checksum(&[&pseudo, udp].concat()), 0);
            assert_eq!(&udp[8..], payload);
        }
    }

    #[test]
    fn a_host_and_all_together_have_their_rates_and_beacons_their_own() {
        let mut limits = Limits::new([0, 2, 3]);
        let admitted =
            |limits: &mut Limits, kind, host| (0..100).filter(|_| limits.admit(kind, host, 1)).count();
        assert_eq!(admitted(&mut limits, Kind::Search, HOST), 10);
        assert_eq!(admitted(&mut limits, Kind::Search, ELSEWHERE), 5);
        assert_eq!(admitted(&mut limits, Kind::Beacon, NODE), 10);
        for host in 0..=HOSTS as u32 * 2 {
            limits.admit(Kind::Search, host.into(), 1);
        }
        assert!(limits.hosts.len() <= HOSTS);
    }

    #[test]
    fn what_comes_may_have_half_of_what_all_may_have() {
        for (rate, expected) in [(0, [100, 100]), (1, [5, 5]), (4, [20, 10]), (5, [25, 15])] {
            let admitted = Limits::both([0, 0, rate])
                .map(|mut limits| (0..100).filter(|_| limits.admit(Kind::Search, HOST, 1)).count());
            assert_eq!(admitted, expected, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_on_the_wire_is_judged(
            payload in prop::collection::vec(prop_oneof![Just(0u8), Just(6), Just(3), Just(8), any::<u8>()], 0..200),
            port in prop_oneof![Just(5064u16), Just(5065), Just(5076)],
            (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
            begins_pva in any::<bool>(),
        ) {
            let mut payload = payload;
            if begins_pva && payload.len() >= 8 {
                payload[..8].copy_from_slice(&[0xca, 2, 0x80, 3, 0, 0, 0, 0]);
            }
            let rules = rules("subnets = { peers = [\"a\"] }\nsearch_prefixes = [\"BL07I-\"]");
            let mut frame = frame(HOST, ALL, port, &payload);
            let _ = rules.judge(&frame, false, true);
            let at = at.index(frame.len());
            frame[at] = byte;
            let _ = rules.judge(&frame, true, true);
            let _ = rules.judge(&frame[..at], false, true);
        }
    }
}

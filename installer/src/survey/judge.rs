//! What follows from the facts for each pod: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use membership::annotation;
use view::survey::{Held, Peer, Surveyed, Unicast, Verdict};

use super::{
    facts::{CA, CAMERA, Facts, Holder, Lan, Own, PVA, PVA_SEARCH, REPEATER},
    settings,
    sockets::{Kind, Socket},
};

/// Peers of a pod that are listed.
const LISTED: usize = 64;
/// Stands for an address that the pod is to be given.
const ADDRESS: &str = "ADDRESS";
/// What gateways are called, and which protocol they serve.
const GATEWAYS: [(&str, &str); 3] = [("gateway", "ca"), ("ca-gateway", "ca"), ("pvagw", "pva")];
/// Bits of capabilities (linux/capability.h).
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
/// `ETH_P_ALL`, `ETH_P_IP`: what aravis receives a stream by.
const STREAMS: [u16; 2] = [0x0003, 0x0800];
/// EtherTypes of field buses and the like.
const ETHERTYPES: [(u16, &str); 5] =
    [(0x0003, "all frames"), (0x0806, "ARP"), (0x8892, "PROFINET"), (0x88a4, "EtherCAT"), (0x88f7, "PTP")];
/// `IPPROTO_ICMP`.
const ICMP: u16 = 1;
/// What usually receives at these UDP ports.
const SERVICES: [(u16, &str); 6] =
    [(67, "DHCP"), (69, "TFTP"), (111, "portmap"), (123, "NTP"), (162, "SNMP traps"), (514, "syslog")];

/// What is found of each holder that has anything relayed, and how many pods have not.
pub(super) fn judge(node: &str, facts: &Facts) -> (Vec<Surveyed>, u32) {
    let (concerned, others): (Vec<_>, Vec<_>) =
        facts.holders.iter().filter_map(|holder| Case::new(facts, holder)).partition(Case::is_concerned);
    let others = others.iter().filter(|case| case.holder.pod.is_some()).count();
    (concerned.iter().map(|case| case.surveyed(node)).collect(), others as u32)
}

/// A holder in its surroundings.
struct Case<'a> {
    facts: &'a Facts,
    holder: &'a Holder,
    lan: &'a Lan,
    peers: BTreeSet<Peer>,
}

/// What a pod needs to be a member.
#[derive(Default)]
struct Needs {
    /// Why it needs an address.
    address: Vec<String>,
    /// Ports that it has to pin, as `tcp/7001=7001`.
    pins: Vec<String>,
    /// What the domain has to relay for it.
    configuration: Vec<String>,
    notes: Vec<String>,
}

impl<'a> Case<'a> {
    fn new(facts: &'a Facts, holder: &'a Holder) -> Option<Self> {
        let lan = lan(facts, holder)?;
        let mut case = Self { facts, holder, lan, peers: BTreeSet::new() };
        if holder.pod.is_some() {
            case.peers = case.peers();
        }
        Some(case)
    }

    /// Whether it has anything to do with what is relayed.
    fn is_concerned(&self) -> bool {
        let speaks = |peer: &Peer| peer.role.is_some() || peer.way == "all" && self.relays(peer.port);
        self.holder.unreadable.is_some()
            || !self.ports().is_empty()
            || self.holder.pod.is_some()
                && (!self.holder.settings.is_empty() || self.peers.iter().any(speaks))
    }

    fn surveyed(&self, node: &str) -> Surveyed {
        let (stays, needs) = (self.stays(), self.needs());
        let verdict = self.verdict(&stays, &needs);
        let moves = [Verdict::Move, Verdict::Address].contains(&verdict);
        let of_moving = |texts: Vec<String>| if moves { texts } else { vec![] };
        let why = match verdict {
            Verdict::Stay => stays,
            Verdict::Address => needs.address.clone(),
            Verdict::Unknown => self.holder.unreadable.iter().cloned().collect(),
            _ => vec![],
        };
        Surveyed {
            node: node.into(),
            pod: self.holder.pod.clone(),
            programs: self.holder.programs.iter().cloned().collect(),
            verdict,
            why,
            annotations: if moves { self.annotations(&needs) } else { BTreeMap::new() },
            configuration: of_moving([needs.configuration, self.configuration(verdict)].concat()),
            ports: self.ports(),
            peers: self.peers.iter().take(LISTED).cloned().collect(),
            more_peers: self.peers.len().saturating_sub(LISTED) as u32,
            settings: if moves { settings::judge(self.holder, self.facts, self.lan) } else { vec![] },
            notes: of_moving([needs.notes, self.notes()].concat()),
        }
    }

    fn verdict(&self, stays: &[String], needs: &Needs) -> Verdict {
        if self.holder.unreadable.is_some() {
            Verdict::Unknown
        } else if self.holder.pod.is_none() {
            Verdict::Native
        } else if !stays.is_empty() {
            Verdict::Stay
        } else if self.is_repeater() {
            Verdict::Spare
        } else if !needs.address.is_empty() {
            Verdict::Address
        } else {
            Verdict::Move
        }
    }

    /// Whether it does nothing but pass on beacons to the clients of its host.
    fn is_repeater(&self) -> bool {
        let ports = self.ports();
        !ports.is_empty()
            && ports.iter().all(|held| held.protocol == "ca" && held.transport == "udp" && held.port != CA)
            && self.own_ports().is_empty()
            && self.peers.iter().all(|peer| peer.way == "all")
    }

    fn annotations(&self, needs: &Needs) -> BTreeMap<String, String> {
        let mut found = BTreeMap::from([(annotation::DOMAIN.to_owned(), self.lan.domain.clone())]);
        if !needs.address.is_empty() {
            found.insert(annotation::ADDRESS.into(), ADDRESS.into());
        } else if !needs.pins.is_empty() {
            found.insert(annotation::PORTS.into(), needs.pins.join(", "));
        }
        found
    }

    /// The relayed ports that it has, and its servers' usual ones.
    fn ports(&self) -> Vec<Held> {
        let relayed = self.facts.lans.iter().flat_map(|lan| &lan.ports).collect::<BTreeMap<_, _>>();
        let held = |(port, protocol): (&u16, &String)| {
            self.holder.sockets.iter().any(|socket| is_at(socket, *port)).then(|| Held {
                protocol: protocol.clone(),
                transport: "udp".into(),
                port: *port,
                shared: self.shared(*port),
                unicast: self.gets_unicast(*port),
            })
        };
        let server = |(protocol, port): &(&str, u16)| {
            let listens = |socket: &Socket| socket.listens().is_some_and(|at| at.port() == *port);
            self.holder.sockets.iter().any(listens).then(|| Held {
                protocol: (*protocol).into(),
                transport: "tcp".into(),
                port: *port,
                shared: vec![],
                unicast: Unicast::All,
            })
        };
        relayed
            .into_iter()
            .filter_map(held)
            .chain([("ca", CA), ("pva", PVA)].iter().filter_map(server))
            .collect()
    }

    /// Who else has a UDP port.
    fn shared(&self, port: u16) -> Vec<String> {
        let others = self.facts.holders.iter().filter(|other| *other != self.holder);
        let others = others.filter(|other| other.sockets.iter().any(|socket| is_at(socket, port)));
        others.map(|other| other.pod.clone().unwrap_or_else(|| "processes of the node".into())).collect()
    }

    /// Which datagrams to the node's address it gets at a UDP port. A socket that is bound to that address takes precedence; of several
    /// the kernel chooses one, for each client another, as EPICS sets `SO_REUSEPORT`.
    fn gets_unicast(&self, port: u16) -> Unicast {
        let rank = |socket: &Socket| match socket.kind {
            Kind::Bound(local) if local.port() == port => match *local.ip() {
                ip if ip == self.lan.address => Some(0),
                ip if ip.is_unspecified() => Some(1),
                _ => None,
            },
            _ => None,
        };
        let best = |holder: &Holder| holder.sockets.iter().filter_map(rank).min();
        let ranks: Vec<_> = self.facts.holders.iter().filter_map(best).collect();
        let (own, first) = (best(self.holder), ranks.iter().min().copied());
        match ranks.iter().filter(|rank| Some(**rank) == first).count() {
            _ if own.is_none() || own != first => Unicast::None,
            1 => Unicast::All,
            _ => Unicast::Some,
        }
    }

    fn relays(&self, port: u16) -> bool {
        self.lan.ports.contains_key(&port)
    }

    /// Whom it talks to.
    fn peers(&self) -> BTreeSet<Peer> {
        let listens: BTreeSet<_> =
            self.holder.sockets.iter().filter_map(Socket::listens).map(|at| at.port()).collect();
        let connected = |socket: &Socket| match socket.kind {
            Kind::Connected { tcp: true, local, remote } if listens.contains(&local.port()) => {
                Some(peer("from", true, SocketAddrV4::new(*remote.ip(), local.port())))
            }
            Kind::Connected { tcp, remote, .. } => Some(self.towards(tcp, remote)),
            _ => None,
        };
        let connected = self.holder.sockets.iter().filter_map(connected);
        let all = connected.chain(self.holder.sent.iter().map(|to| self.towards(false, *to)));
        all.filter(|peer| !peer.address.is_loopback()).collect()
    }

    fn towards(&self, tcp: bool, to: SocketAddrV4) -> Peer {
        peer(if self.facts.is_for_all(*to.ip()) { "all" } else { "to" }, tcp, to)
    }

    /// Why it cannot be a member at all.
    fn stays(&self) -> Vec<String> {
        let mut found: Vec<_> = self.frames().filter(|(ethertype, _)| !self.is_stream(*ethertype)).map(|(ethertype, at)| {
            let of = ETHERTYPES.iter().find(|(known, _)| *known == ethertype);
            let of = of.map_or_else(|| format!("{ethertype:#06x}"), |(_, name)| (*name).to_owned());
            format!("it has a raw packet socket ({of}) at {at}: a pod has only its own interface, which no such device is on")
        }).collect();
        found.extend(self.bound_elsewhere());
        found.sort();
        found.dedup();
        found
    }

    /// EtherTypes of its packet sockets, and their interfaces.
    fn frames(&self) -> impl Iterator<Item = (u16, String)> {
        self.holder.sockets.iter().filter_map(|socket| match socket.kind {
            Kind::Packet { ethertype, interface: 0 } => Some((ethertype, "all interfaces".to_owned())),
            Kind::Packet { ethertype, interface } => {
                let name = self.facts.interfaces.get(&interface);
                Some((ethertype, name.map_or_else(|| format!("interface {interface}"), Clone::clone)))
            }
            _ => None,
        })
    }

    /// Whether a packet socket is one by which a camera's stream is received.
    fn is_stream(&self, ethertype: u16) -> bool {
        STREAMS.contains(&ethertype) && self.has_camera()
    }

    fn has_camera(&self) -> bool {
        self.peers.iter().any(|peer| peer.port == CAMERA && peer.way == "to")
    }

    /// Sockets that belong to an interface that the pod would not have.
    fn bound_elsewhere(&self) -> impl Iterator<Item = String> {
        self.holder.sockets.iter().filter_map(|socket| {
            let (transport, at) = endpoint(socket)?;
            let own = self.facts.interface_of(*at.ip()).filter(|own| own.interface != self.lan.interface)?;
            Some(format!(
                "its {} socket is bound to {} of {}: a pod has one interface, and is on one LAN",
                transport.to_uppercase(),
                port_or_any(self.facts, at),
                own.interface
            ))
        })
    }

    /// Its ports that are neither relayed, nor a server's own, nor chosen by the kernel: who uses one was told which.
    fn own_ports(&self) -> BTreeSet<(&'static str, u16)> {
        let servers: BTreeSet<_> = [CA, PVA].into_iter().chain(settings::server_ports(self.holder)).collect();
        let is_own = |(transport, at): &(&str, SocketAddrV4)| {
            let port = at.port();
            let is_relayed =
                *transport == "udp" && (self.relays(port) || self.facts.known.contains_key(&port));
            let is_told = !self.facts.is_chosen(port) && !servers.contains(&port) && !is_relayed;
            is_told && !at.ip().is_loopback() && !at.ip().is_multicast()
        };
        let endpoints = self.holder.sockets.iter().filter_map(endpoint);
        endpoints.filter(is_own).map(|(transport, at)| (transport, at.port())).collect()
    }

    fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for (transport, port) in self.own_ports() {
            let name = format!("{} port {port}", transport.to_uppercase());
            let peers: Vec<_> = self.connected_to(port).map(|address| address.to_string()).collect();
            match (self.gateway(), transport) {
                _ if self.may_pin(port) => needs.pins.push(format!("{transport}/{port}={port}")),
                (Some(_), "tcp") => {} // its answers name it
                (Some(protocol), _) => {
                    needs.configuration.push(format!("search_ports = {{ {port} = \"{protocol}\" }}"));
                }
                (None, "tcp") if peers.is_empty() => needs.notes.push(format!(
                    "it listens at {name}: if somebody on the LAN connects there, give it an address of its own ({}: {ADDRESS})",
                    annotation::ADDRESS
                )),
                (None, "tcp") => {
                    needs.address.push(format!("{} connects to its {name}, which was told the port", peers.join(", ")));
                }
                (None, _) => needs.address.push(format!(
                    "it receives at {name}{}: who sends there without having been asked was told the port",
                    service(port)
                )),
            }
        }
        let raw = self.holder.sockets.iter().filter_map(|socket| match socket.kind {
            Kind::Raw { protocol } if protocol != ICMP => Some(protocol),
            _ => None,
        });
        let raw: BTreeSet<_> = raw.collect();
        needs.address.extend(raw.iter().map(|protocol| {
            format!(
                "it has a raw socket of IP protocol {protocol}, which has no ports that could be translated"
            )
        }));
        needs
    }

    /// Who is connected to a TCP port, but for the node itself.
    fn connected_to(&self, port: u16) -> impl Iterator<Item = Ipv4Addr> {
        let from = self.peers.iter().filter(move |peer| peer.way == "from" && peer.port == port);
        from.map(|peer| peer.address).filter(|address| !self.facts.is_own(*address))
    }

    fn may_pin(&self, port: u16) -> bool {
        self.lan.pins.is_some_and(|(first, last)| (first..=last).contains(&port))
    }

    /// What the domain needs besides.
    fn configuration(&self, verdict: Verdict) -> Vec<String> {
        let named = |port: u16| self.facts.known.get(&port).filter(|name| !self.lan.protocols.contains(name));
        let broadcast: BTreeSet<_> = self.peers.iter().filter(|peer| peer.way == "all").collect();
        let received = self.holder.sockets.iter().filter_map(Socket::bound).map(|at| at.port());
        let ports =
            broadcast.iter().map(|peer| peer.port).chain(received).chain(self.has_camera().then_some(CAMERA));
        let mut found = vec![];
        let missing: BTreeSet<_> = ports.filter(|port| !self.relays(*port)).filter_map(named).collect();
        if !missing.is_empty() {
            let all: Vec<_> =
                self.lan.protocols.iter().chain(missing).map(|name| format!("\"{name}\"")).collect();
            found.push(format!("protocols = [{}]", all.join(", ")));
        }
        for peer in broadcast.iter().filter(|peer| !self.facts.known.contains_key(&peer.port)) {
            if !self.relays(peer.port) {
                found.push(format!(
                    "search_ports = {{ {} = \"relay\" }}, if it is to reach everybody on the LAN",
                    peer.port
                ));
            }
            if peer.address.is_multicast() && !self.lan.groups.contains(&(peer.address, peer.port)) {
                found.push(format!("groups = {{ {} = \"{}\" }}", peer.port, peer.address));
            }
        }
        if verdict == Verdict::Address && !self.lan.gives_addresses {
            found.push(format!("addresses = [\"{ADDRESS}\"], a free one of its LAN: docs/lan-address.md"));
        }
        found
    }

    /// What else is to be known.
    fn notes(&self) -> Vec<String> {
        let holder = self.holder;
        let mut found = vec![];
        let mut note = |applies: bool, text: &str| found.extend(applies.then(|| text.to_owned()));
        note(
            self.frames().any(|(ethertype, _)| self.is_stream(ethertype)),
            "it takes a camera's stream from a raw packet socket; without NET_RAW, aravis takes a UDP socket, which works in a pod",
        );
        note(
            self.gateway().is_some(),
            "a gateway: move it last, and without iocast.io/pvs. Until then it finds pods by broadcast. It may stay, too",
        );
        let is_allowed = |bit: u32| holder.capabilities >> bit & 1 == 1;
        note(
            is_allowed(SYS_ADMIN),
            "it is privileged: what it sets of the network (net.ipv4, routes) would be the pod's alone, and is not seen here",
        );
        note(
            is_allowed(NET_ADMIN) && !is_allowed(SYS_ADMIN),
            "it has NET_ADMIN: members need no capability; what it sets of the network would be the pod's alone",
        );
        note(
            holder.domain.is_some(),
            "it is annotated already, and on the node's network: only hostNetwork is in the way",
        );
        let devices: Vec<_> = holder.devices.iter().map(String::as_str).collect();
        if !devices.is_empty() {
            found.push(format!(
                "it uses {} of this node: these stay as they are, if the pod keeps them",
                devices.join(", ")
            ));
        }
        found.extend(self.far_clients());
        found
    }

    /// Which protocol it serves, if it is a gateway.
    fn gateway(&self) -> Option<&'static str> {
        let known = GATEWAYS.iter().find(|(name, _)| self.holder.programs.contains(*name));
        known.map(|(_, protocol)| *protocol)
    }

    /// Clients that are neither on the LAN nor on a network of the node.
    fn far_clients(&self) -> Option<String> {
        let is_near = |address: Ipv4Addr| {
            let near =
                |own: &Own| datapath::link::network(address, own.address.prefix) == own.address.network();
            self.lan.has(address) || self.facts.own.iter().any(near)
        };
        let served: BTreeSet<_> =
            self.ports().iter().filter(|held| held.transport == "tcp").map(|held| held.port).collect();
        let from = self.peers.iter().filter(|peer| peer.way == "from" && served.contains(&peer.port));
        let far: Vec<_> =
            from.filter(|peer| !is_near(peer.address)).map(|peer| peer.address.to_string()).collect();
        let more = if far.len() > 3 { format!(" and {} more", far.len() - 3) } else { String::new() };
        let named = far.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        (!far.is_empty()).then(|| {
            format!("{named}{more} are not on the LAN: if they are behind a router, put their network into `lan` of the domain")
        })
    }
}

/// What usually receives at a UDP port, in brackets.
fn service(port: u16) -> String {
    let known = SERVICES.iter().find(|(known, _)| *known == port);
    known.map_or_else(String::new, |(_, name)| format!(" ({name})"))
}

/// The domain that it would be in: the one that it asks for, or the one with most of its peers.
fn lan<'a>(facts: &'a Facts, holder: &Holder) -> Option<&'a Lan> {
    let asked = facts.lans.iter().find(|lan| Some(&lan.domain) == holder.domain.as_ref());
    let addresses = holder.sockets.iter().filter_map(|socket| match socket.kind {
        Kind::Connected { remote, .. } => Some(*remote.ip()),
        Kind::Bound(local) | Kind::Listens(local) => Some(*local.ip()),
        _ => None,
    });
    let addresses: Vec<_> = addresses.chain(holder.sent.iter().map(|to| *to.ip())).collect();
    let count = |lan: &&Lan| addresses.iter().filter(|address| lan.has(**address)).count();
    // Of several with as many, the first.
    asked.or_else(|| facts.lans.iter().rev().max_by_key(count))
}

/// Whether it is an unconnected UDP socket on a port, heard by others than the node itself.
fn is_at(socket: &Socket, port: u16) -> bool {
    socket.bound().is_some_and(|at| at.port() == port && !at.ip().is_loopback())
}

/// Where a socket is heard by whoever knows its port.
fn endpoint(socket: &Socket) -> Option<(&'static str, SocketAddrV4)> {
    socket.bound().map(|at| ("udp", at)).or_else(|| socket.listens().map(|at| ("tcp", at)))
}

/// An endpoint, whose port does not matter if the kernel chose it.
fn port_or_any(facts: &Facts, at: SocketAddrV4) -> String {
    if facts.is_chosen(at.port()) { at.ip().to_string() } else { at.to_string() }
}

fn peer(way: &str, tcp: bool, at: SocketAddrV4) -> Peer {
    let role = match at.port() {
        CAMERA if !tcp => Some("camera"),
        CA | REPEATER => Some("ca"),
        PVA | PVA_SEARCH => Some("pva"),
        _ => None,
    };
    Peer {
        way: way.into(),
        transport: if tcp { "tcp" } else { "udp" }.into(),
        address: *at.ip(),
        port: at.port(),
        role: role.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::sample::{bound, connected, facts, holder, listens, packet, raw};

    /// A pod, and what is said of it.
    struct Story {
        name: &'static str,
        holder: Holder,
        verdict: Verdict,
        /// In the reasons, configuration, settings and notes, in one text.
        says: &'static [&'static str],
        annotations: &'static [(&'static str, &'static str)],
    }

    const MEMBER: &[(&str, &str)] = &[("iocast.io/domain", "bl07")];
    const ADDRESSED: &[(&str, &str)] = &[("iocast.io/address", "ADDRESS"), ("iocast.io/domain", "bl07")];

    fn ioc() -> Holder {
        holder("bl07/ioc", "softIoc", vec![bound("0.0.0.0:5064"), listens("0.0.0.0:5064")])
    }

    fn with(sockets: Vec<Socket>) -> Holder {
        let mut found = ioc();
        found.sockets.extend(sockets);
        found
    }

    fn sends(to: &str) -> Holder {
        let mut found = ioc();
        found.sent.insert(to.parse().unwrap());
        found
    }

    fn stories() -> Vec<Story> {
        let story =
            |name, holder, verdict, says, annotations| Story { name, holder, verdict, says, annotations };
        use Verdict::{Address, Move, Spare, Stay, Unknown};
        vec![
            story("a plain IOC", ioc(), Move, &[], MEMBER),
            story(
                "a plain IOC with clients",
                with(vec![connected("172.23.0.10:5064", "172.23.0.2:40000")]),
                Move,
                &[],
                MEMBER,
            ),
            story(
                "one with a device that it connects to",
                with(vec![connected("172.23.0.10:40000", "172.23.0.40:4001")]),
                Move,
                &[],
                MEMBER,
            ),
            story(
                "one whose device connects back",
                with(vec![listens("0.0.0.0:7001"), connected("172.23.0.10:7001", "172.23.0.40:1024")]),
                Address,
                &["172.23.0.40 connects to its TCP port 7001", "addresses = [\"ADDRESS\"]"],
                ADDRESSED,
            ),
            story(
                "the same at a port that it may pin",
                with(vec![listens("0.0.0.0:65001"), connected("172.23.0.10:65001", "172.23.0.40:1024")]),
                Move,
                &[],
                &[("iocast.io/domain", "bl07"), ("iocast.io/ports", "tcp/65001=65001")],
            ),
            story(
                "one that listens for nobody",
                with(vec![listens("0.0.0.0:7001")]),
                Move,
                &["it listens at TCP port 7001"],
                MEMBER,
            ),
            story("one with a console", with(vec![listens("127.0.0.1:7001")]), Move, &[], MEMBER),
            story(
                "a second one, with a port of the kernel's choice",
                with(vec![listens("0.0.0.0:40001")]),
                Move,
                &[],
                MEMBER,
            ),
            story(
                "one that serves files",
                with(vec![bound("0.0.0.0:69")]),
                Address,
                &["UDP port 69 (TFTP)"],
                ADDRESSED,
            ),
            story(
                "one that hears at a port of its own",
                with(vec![bound("0.0.0.0:9000")]),
                Address,
                &["UDP port 9000"],
                ADDRESSED,
            ),
            story("one that asks from any port", with(vec![bound("0.0.0.0:40001")]), Move, &[], MEMBER),
            story("raw IP", with(vec![raw(89)]), Address, &["IP protocol 89"], ADDRESSED),
            story("ping", with(vec![raw(1)]), Move, &[], MEMBER),
            story("EtherCAT", with(vec![packet(0x88a4, 2)]), Stay, &["(EtherCAT) at eth1"], &[]),
            story("a sniffer", with(vec![packet(3, 0)]), Stay, &["(all frames) at all interfaces"], &[]),
            story("another bus", with(vec![packet(0x88f7, 9)]), Stay, &["(PTP) at interface 9"], &[]),
            story(
                "a camera",
                sends("172.23.0.9:3956"),
                Move,
                &["protocols = [\"ca\", \"pva\", \"gvcp\"]"],
                MEMBER,
            ),
            story(
                "a camera by a packet socket",
                Holder { sockets: [ioc().sockets, vec![packet(3, 1)]].concat(), ..sends("172.23.0.9:3956") },
                Move,
                &["without NET_RAW"],
                MEMBER,
            ),
            story(
                "a camera on another network",
                Holder {
                    sockets: [ioc().sockets, vec![bound("192.168.250.1:40002")]].concat(),
                    ..sends("192.168.250.9:3956")
                },
                Stay,
                &["UDP socket is bound to 192.168.250.1 of eth1"],
                &[],
            ),
            story(
                "one bound to the LAN's address",
                holder("bl07/ioc", "softIoc", vec![bound("172.23.0.10:5064"), bound("172.23.0.255:5064")]),
                Move,
                &[],
                MEMBER,
            ),
            story(
                "one bound to another",
                with(vec![listens("192.168.250.1:80")]),
                Stay,
                &["192.168.250.1:80 of eth1"],
                &[],
            ),
            story(
                "one that broadcasts what is described",
                sends("172.23.0.255:48899"),
                Move,
                &["protocols = [\"ca\", \"pva\", \"ads\"]"],
                MEMBER,
            ),
            story(
                "one that broadcasts something",
                sends("172.23.0.255:9100"),
                Move,
                &["search_ports = { 9100 = \"relay\" }"],
                MEMBER,
            ),
            story(
                "one that sends to a group",
                sends("239.1.2.3:9100"),
                Move,
                &["groups = { 9100 = \"239.1.2.3\" }"],
                MEMBER,
            ),
            story("one that searches", sends("172.23.0.255:5064"), Move, &[], MEMBER),
            story(
                "a client far away",
                with(vec![connected("172.23.0.10:5064", "10.9.9.9:40000")]),
                Move,
                &["10.9.9.9 are not on the LAN"],
                MEMBER,
            ),
            story("a repeater", holder("a/b", "caRepeater", vec![bound("0.0.0.0:5065")]), Spare, &[], &[]),
            story(
                "a gateway",
                holder("a/b", "pvagw", vec![bound("0.0.0.0:5076"), listens("0.0.0.0:5075")]),
                Move,
                &["a gateway: move it last"],
                MEMBER,
            ),
            story(
                "a gateway at other ports",
                holder(
                    "a/b",
                    "pvagw",
                    vec![bound("0.0.0.0:5076"), bound("0.0.0.0:5176"), listens("0.0.0.0:5175")],
                ),
                Move,
                &["search_ports = { 5176 = \"pva\" }"],
                MEMBER,
            ),
            story(
                "a serial port",
                Holder { devices: ["/dev/ttyUSB0".to_owned()].into(), ..ioc() },
                Move,
                &["it uses /dev/ttyUSB0"],
                MEMBER,
            ),
            story(
                "capabilities",
                Holder { capabilities: 1 << NET_ADMIN, ..ioc() },
                Move,
                &["it has NET_ADMIN"],
                MEMBER,
            ),
            story(
                "a privileged one",
                Holder { capabilities: u64::MAX, ..ioc() },
                Move,
                &["it is privileged"],
                MEMBER,
            ),
            story(
                "annotated",
                Holder { domain: Some("bl07".into()), ..ioc() },
                Move,
                &["annotated already"],
                MEMBER,
            ),
            story(
                "not to be read",
                Holder { unreadable: Some("Permission denied".into()), ..ioc() },
                Unknown,
                &["denied"],
                &[],
            ),
            story(
                "a client with settings alone",
                Holder {
                    sockets: vec![],
                    settings: [("EPICS_CA_ADDR_LIST".into(), "127.0.0.1".into())].into(),
                    ..ioc()
                },
                Move,
                &["the pod alone"],
                MEMBER,
            ),
        ]
    }

    fn judged(holders: Vec<Holder>) -> (Vec<Surveyed>, u32) {
        judge("node-1", &Facts { holders, ..facts() })
    }

    #[test]
    fn each_pod_has_its_verdict_with_the_reason_and_what_to_write() {
        for Story { name, holder, verdict, says, annotations } in stories() {
            let (found, others) = judged(vec![holder]);
            assert_eq!((found.len(), others), (1, 0), "{name}");
            let found = &found[0];
            let settings = found.settings.iter().map(|setting| setting.becomes.clone());
            let text = [&found.why[..], &found.configuration, &found.notes].concat();
            let text = text.into_iter().chain(settings).collect::<Vec<_>>();
            assert_eq!(found.verdict, verdict, "{name}: {text:?}");
            assert!(says.iter().all(|says| text.join("\n").contains(says)), "{name}: {text:?}");
            assert!(!says.is_empty() || text.is_empty(), "{name}: {text:?}");
            let expected =
                annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(found.annotations, expected, "{name}");
        }
    }

    #[test]
    fn who_shares_a_port_gets_what_is_sent_to_the_node_by_precedence_or_by_chance() {
        use Unicast::{All, None, Some};
        let at = |name: Option<&str>, address: &str| Holder {
            pod: name.map(str::to_owned),
            sockets: vec![bound(&format!("{address}:5064"))],
            ..ioc()
        };
        let (a, b) = (Option::Some("a"), Option::Some("b"));
        for (holders, expected) in [
            (vec![at(a, "0.0.0.0"), at(b, "0.0.0.0")], [Some, Some]),
            (vec![at(a, "0.0.0.0"), at(b, "0.0.0.0"), at(Option::None, "172.23.0.10")], [None, None]),
            (vec![at(a, "0.0.0.0"), at(b, "172.23.0.10")], [None, All]),
            (vec![at(a, "172.23.0.10"), at(b, "172.23.0.10"), at(Option::None, "0.0.0.0")], [Some, Some]),
            (vec![at(a, "0.0.0.0"), at(b, "172.23.0.255")], [All, None]),
        ] {
            let (found, _) = judged(holders);
            for (pod, unicast) in ["a", "b"].into_iter().zip(expected) {
                let found = found.iter().find(|found| found.pod.as_deref() == Option::Some(pod)).unwrap();
                let held = &found.ports[0];
                assert_eq!(held.unicast, unicast, "{found:?}");
                assert!(!held.shared.is_empty(), "{found:?}");
            }
            let natives: Vec<_> = found.iter().filter(|found| found.pod.is_none()).collect();
            assert!(
                natives.iter().all(|found| found.verdict == Verdict::Native && found.annotations.is_empty())
            );
        }
    }

    #[test]
    fn pods_without_anything_relayed_are_counted_and_not_named() {
        let proxy = holder("kube-system/proxy", "kube-proxy", vec![listens("0.0.0.0:10256")]);
        let native = Holder { pod: None, ..holder("", "sshd", vec![listens("0.0.0.0:22")]) };
        assert_eq!(judged(vec![proxy, native]), (vec![], 1));
    }

    #[test]
    fn it_is_for_the_domain_with_most_of_its_peers_or_the_one_that_it_asks_for() {
        let mut facts = facts();
        facts.lans.push(Lan {
            domain: "bl08".into(),
            interface: "eth1".into(),
            address: [192, 168, 250, 1].into(),
            networks: vec![([192, 168, 250, 1].into(), 24)],
            ..facts.lans[0].clone()
        });
        let near = with(vec![connected("192.168.250.1:40000", "192.168.250.9:4001")]);
        let asks = Holder { domain: Some("bl07".into()), ..near.clone() };
        for (holder, domain) in [(ioc(), "bl07"), (near, "bl08"), (asks, "bl07")] {
            assert_eq!(lan(&facts, &holder).map(|lan| lan.domain.as_str()), Some(domain));
        }
    }

    #[test]
    fn peers_are_listed_to_a_bound() {
        let many = (0..100).map(|host| connected("172.23.0.10:40000", &format!("172.23.0.{host}:4001")));
        let (found, _) = judged(vec![with(many.collect())]);
        assert_eq!((found[0].peers.len(), found[0].more_peers), (LISTED, 36));
    }
}

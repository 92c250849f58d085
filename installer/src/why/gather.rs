//! Gathers the facts: watches, asks from this node, and, if no client asks, in a client's name.

use std::{
    collections::BTreeSet,
    error::Error,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd as _,
    path::Path,
    slice::from_ref,
    time::{Duration, Instant, SystemTime},
};

use abi::{Protocol, TCP};
use datapath::{Arrival, FAN_DEVICE, Hook, State, Tap, Whose, firewall, link::Link, occupants};

use super::{
    connect,
    facts::{Connection, Ear, Facts, Hearing, Passing, Place, Server, Sort},
    near,
    options::Options,
    pods,
    watch::{Watch, has_asked},
};
use crate::{
    absent::{self, Unjoined},
    ask::{
        Asker, Heard, Target,
        domains::{self, Domain, Lan},
        search,
        wait::wait,
    },
    config::Config,
    doctor,
    frame::{self, Passed, SYN},
};

/// How long a client is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long answers are waited for: servers need well under a millisecond, but may be busy.
const ANSWER: Duration = Duration::from_millis(400);
/// Pods in which another port is looked for, at most: each takes a tenth of a second.
const SCANNED: usize = 4;
/// Kinds of what came that are told apart, at most.
const MOST: usize = 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// All facts; without the datapath, only that it is missing.
pub(super) fn gather(bpffs: &Path, options: &Options) -> Outcome<Facts> {
    let facts = Facts {
        pv: options.pv.clone(),
        from: options.from,
        at_once: options.ask,
        passive: options.passive,
        ..Facts::default()
    };
    let state = match State::open(bpffs).and_then(|state| check_fan(bpffs).map(|()| state)) {
        Ok(state) => state,
        Err(error) => return Ok(Facts { no_datapath: Some(error.to_string()), ..facts }),
    };
    let gathering = Gathering::begin(bpffs, options, state, facts)?;
    if options.passive { gathering.look() } else { gathering.finish() }
}

/// An error if the fan cannot deliver.
fn check_fan(bpffs: &Path) -> datapath::Result<()> {
    let broken = |what: &str| Err(datapath::Error::Bpf { what: FAN_DEVICE.into(), reason: what.into() });
    match doctor::fan(bpffs)? {
        Some((true, true)) => Ok(()),
        Some((false, _)) => broken("it is down"),
        Some((true, false)) => broken("it has no program"),
        None => broken("it does not exist"),
    }
}

/// Facts that grow.
struct Gathering<'a> {
    options: &'a Options,
    state: State,
    facts: Facts,
    lans: Vec<Lan>,
    places: Vec<pods::Place>,
    watch: Watch,
    /// None if nobody is to be asked.
    asker: Option<Asker>,
    taps: Vec<Tap>,
    /// Who answered us, for which name.
    heard: Vec<Heard>,
    /// Different each time: ids of names, ports, sequence numbers.
    random: u32,
}

impl<'a> Gathering<'a> {
    fn begin(bpffs: &Path, options: &'a Options, state: State, mut facts: Facts) -> Outcome<Self> {
        let config = Config::read(&options.config).map(|config| config.domains).unwrap_or_default();
        let lans = domains::read(bpffs, &config, &state, options.protocol)?;
        facts.domains = lans.iter().map(|lan| lan.domain.clone()).collect();
        let mut watch = Watch::new(bpffs, &state, &options.pv)?;
        let random = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
        let asker = (!options.passive).then(|| Asker::new(random)).transpose()?;
        asker.iter().flat_map(Asker::ports).for_each(|port| watch.ask_from(port));
        connect::ports(random).into_iter().for_each(|port| watch.ask_on_behalf_from(port));
        let whose = options.from.map_or(Whose::Everybody, Whose::Host);
        let links = lans.iter().filter_map(|lan| lan.link.as_ref());
        let taps = links.map(|link| Tap::open(link.index, &whose)).collect::<Result<_, _>>()?;
        let places = pods::find(&state, &facts.domains)?;
        Ok(Self { options, state, facts, lans, places, watch, asker, taps, heard: vec![], random })
    }

    /// Looks whether a client asks, and who answers; asks nobody, and puts nothing in.
    fn look(mut self) -> Outcome<Facts> {
        self.await_client()?;
        self.near();
        self.facts.searches = self.watch.end()?;
        self.facts.servers = self.who_replied();
        self.settle_pods();
        self.facts.dropping = dropping();
        Ok(self.facts)
    }

    /// Who has the PV, as far as a client was seen to be answered.
    fn who_replied(&self) -> Vec<Server> {
        let mut found: Vec<Server> = vec![];
        for search in &self.facts.searches {
            for reply in &search.replies {
                let pod = self.places.iter().find(|place| place.pod.name == reply.pod);
                let address = pod.map(|place| place.pod.address).or_else(|| reply.pod.parse().ok());
                let Some((address, port)) = address.zip(reply.port) else { continue };
                let Some(place) = self.where_is(address) else { continue };
                let (at, after) = (SocketAddrV4::new(address, port), reply.after.unwrap_or_default());
                let server = Server { protocol: search.protocol, at, place, after, guid: vec![] };
                if found.iter().all(|known| (known.protocol, known.at) != (server.protocol, server.at)) {
                    found.push(server);
                }
            }
        }
        found
    }

    fn finish(mut self) -> Outcome<Facts> {
        self.ask()?;
        self.await_client()?;
        self.look_further()?;
        self.facts.servers = self.servers();
        self.settle_pods();
        self.facts.searches = self.watch.searches().to_vec();
        if !has_asked(&self.facts.searches, self.facts.from) {
            self.ask_in_its_name()?;
        }
        self.facts.searches = self.watch.end()?;
        self.facts.dropping = dropping();
        self.facts.connection = self.connect()?;
        Ok(self.facts)
    }

    /// Asks every pod that listens, and every LAN.
    fn ask(&mut self) -> Outcome<()> {
        let options = self.options;
        let on_lan = self.lans.iter().filter(|lan| lan.domain.fault.is_none()).flat_map(|lan| {
            let to = lan.domain.broadcast;
            lan.domain.ports.iter().filter_map(move |(protocol, _, port)| {
                Some((*protocol, SocketAddrV4::new(to?, *port), false))
            })
        });
        let targets: Vec<Target> = self.in_pods().chain(on_lan).collect();
        self.ask_for(from_ref(&options.pv), &targets, true)
    }

    fn in_pods(&self) -> impl Iterator<Item = Target> {
        self.places.iter().flat_map(pods::Place::targets)
    }

    /// Asks for names, and waits for answers: for all, as more than one may have a name, or for the first.
    fn ask_for(&mut self, names: &[String], targets: &[Target], all: bool) -> Outcome<()> {
        let (began, before) = (Instant::now(), self.heard.len());
        self.put(names, targets);
        let mut again = Some(ANSWER / 2);
        while began.elapsed() < ANSWER && (all || self.heard.len() == before) {
            let until = again.unwrap_or(ANSWER);
            self.pass(until.saturating_sub(began.elapsed()))?;
            // A datagram may be lost.
            if began.elapsed() >= until && self.heard.len() == before && again.take().is_some() {
                self.put(names, targets);
            }
        }
        Ok(())
    }

    fn put(&mut self, names: &[String], targets: &[Target]) {
        if let Some(asker) = &mut self.asker {
            asker.ask(names, targets);
        }
    }

    /// Waits for something to come, at most so long, and takes it in.
    fn pass(&mut self, time: Duration) -> Outcome<()> {
        let taps = self.taps.iter().map(Tap::as_fd);
        let sockets = self.asker.iter().flat_map(Asker::sockets).map(|socket| socket.as_fd());
        let sources: Vec<_> = taps.chain(sockets).chain([self.watch.events().as_fd()]).collect();
        wait(&sources, time.min(Duration::from_millis(100))); // another watcher may have read what would wake us
        self.heard.extend(self.asker.iter().flat_map(Asker::hear));
        self.watch.look()?;
        for (at, tap) in self.taps.iter().enumerate() {
            while let Some(passed) = tap.take() {
                let lan = self.lans.iter().filter(|lan| lan.link.is_some()).nth(at);
                if let (false, Some(lan)) = (passed.outgoing, lan) {
                    note(&mut self.facts, lan, connect::ports(self.random), frame::read(&passed.bytes));
                }
            }
        }
        Ok(())
    }

    /// Waits for a client to ask, and then for the answers to it.
    fn await_client(&mut self) -> Outcome<()> {
        let began = Instant::now();
        let mut end = if self.options.ask { Duration::ZERO } else { PATIENCE.saturating_sub(ANSWER) };
        let mut asked = false;
        while began.elapsed() < end {
            self.pass(end.saturating_sub(began.elapsed()))?;
            if !asked && has_asked(self.watch.searches(), self.facts.from) {
                asked = true;
                end = end.min(began.elapsed() + ANSWER);
            }
        }
        self.facts.waited = if self.options.ask { ANSWER } else { PATIENCE };
        Ok(())
    }

    /// Where nobody has the PV: looks for servers at other ports, and for names that may be meant.
    fn look_further(&mut self) -> Outcome<()> {
        let options = self.options;
        if self.heard.iter().any(|heard| heard.name == self.options.pv) {
            return Ok(());
        }
        let silent = |place: &&mut pods::Place| {
            place.pod.domain.is_some() && place.pod.ears.iter().all(|ear| ear.hearing == Hearing::Nothing)
        };
        let mut scanned = vec![];
        // Other programs have sockets, too: only for somebody who looks for one client do they get a search.
        let most = if options.from.is_some() { SCANNED } else { 0 };
        for place in self.places.iter_mut().filter(silent).take(most) {
            for port in pods::open_ports(place)? {
                let to = SocketAddrV4::new(place.pod.address, port);
                let spoken = place.pod.ears.iter().map(|ear| (ear.protocol, to, true));
                scanned.extend(spoken);
            }
        }
        if !scanned.is_empty() {
            self.ask_for(from_ref(&options.pv), &scanned, false)?;
            self.misplaced();
        }
        let slips = near::slips(&self.options.pv);
        let targets: Vec<_> = self.in_pods().collect();
        self.ask_for(&slips, &targets, false)?;
        self.near();
        Ok(())
    }

    /// Notes at which other port a pod has the PV.
    fn misplaced(&mut self) {
        for heard in self.heard.iter().filter(|heard| heard.name == self.options.pv) {
            let place = self.places.iter_mut().find(|place| place.pod.address == *heard.from.ip());
            let ears = place.into_iter().flat_map(|place| place.pod.ears.iter_mut());
            let of_protocol = |ear: &&mut Ear| ear.protocol == heard.protocol;
            ears.filter(of_protocol).for_each(|ear| ear.hearing = Hearing::Port(heard.from.port()));
        }
    }

    /// Names that may be meant, with who has them: those that we asked for, then those that others did.
    fn near(&mut self) {
        let pv = &self.options.pv;
        let slips = self.heard.iter().filter(|heard| heard.name != *pv);
        let mut found: Vec<_> =
            slips.map(|heard| (heard.name.clone(), self.name_of(*heard.from.ip()))).collect();
        let answered = self.watch.answered.iter().filter(|(name, _)| near::is_near(pv, name));
        found.extend(answered.map(|(name, who)| (name.clone(), who.clone())));
        self.facts.near = found;
    }

    fn name_of(&self, address: Ipv4Addr) -> String {
        self.place_at(address).map_or_else(|| address.to_string(), |place| place.pod.name.clone())
    }

    fn place_at(&self, address: Ipv4Addr) -> Option<&pods::Place> {
        self.places
            .iter()
            .find(|place| place.pod.address == address || place.pod.lan_address == Some(address))
    }

    /// Who has the PV: each server once, whichever way it was asked.
    fn servers(&self) -> Vec<Server> {
        let mut found: Vec<Server> = vec![];
        for heard in self.heard.iter().filter(|heard| heard.name == self.options.pv) {
            let Some(place) = self.where_is(*heard.from.ip()) else { continue };
            if self.places.iter().any(|at| is_misplaced(at, heard)) {
                continue;
            }
            let Heard { protocol, server: at, after, ref guid, .. } = *heard;
            let is_here = !matches!(place, Place::Lan(_)); // where it has more than one address
            let same = |known: &Server| {
                known.protocol == protocol
                    && (known.place == place && (known.at == at || is_here && known.at.port() == at.port())
                        || !guid.is_empty() && known.guid == *guid)
            };
            if !found.iter().any(same) {
                found.push(Server { protocol, at, place, after, guid: guid.clone() });
            }
        }
        found.sort_by_key(|server| (server.protocol as u32, server.at));
        found
    }

    fn where_is(&self, address: Ipv4Addr) -> Option<Place> {
        if let Some(place) = self.place_at(address) {
            return Some(Place::Pod(place.pod.name.clone()));
        }
        if address.is_loopback() || self.lans.iter().any(|lan| lan.domain.address == Some(address)) {
            return Some(Place::Node);
        }
        let lan = self.lans.iter().find(|lan| lan.domain.network_of(address).is_some());
        lan.map(|lan| Place::Lan(lan.domain.name.clone()))
    }

    /// Names the pods that are no members, as far as the runtime knows them.
    fn settle_pods(&mut self) {
        let is_member = |server: &Server| match &server.place {
            Place::Pod(name) => self.places.iter().any(|at| at.pod.name == *name && at.pod.domain.is_some()),
            _ => false,
        };
        let is_clear = self.facts.servers.iter().any(is_member);
        let ask = || absent::unjoined(&self.options.runtime, &self.state).unwrap_or_default();
        let unjoined = if is_clear { vec![] } else { ask() };
        for Unjoined { pod, domain, address, why } in unjoined {
            let absent = domain.zip(Some(why.unwrap_or_default()));
            let known = self
                .places
                .iter_mut()
                .find(|place| Some(place.pod.address) == address && place.pod.domain.is_none());
            match known {
                Some(place) => {
                    let former = std::mem::replace(&mut place.pod.name, pod.clone());
                    for server in &mut self.facts.servers {
                        if server.place == Place::Pod(former.clone()) {
                            server.place = Place::Pod(pod.clone());
                        }
                    }
                    place.pod.absent = absent;
                }
                None if absent.is_some() => self.facts.pods.push(pods::nameless(pod, absent)),
                None => {}
            }
        }
        self.facts.pods.extend(self.places.iter().map(|place| place.pod.clone()));
    }

    /// Puts in a search in the client's name, and waits for what becomes of it.
    fn ask_in_its_name(&mut self) -> Outcome<()> {
        let Some((lan, link, client)) = self.client() else { return Ok(()) };
        let Some(broadcast) = lan.domain.broadcast else { return Ok(()) };
        let (arrival, ports) = (Arrival::at(link.index)?, lan.domain.ports.clone());
        // Once more if a pod that has the PV does not answer: a datagram may be lost, and a server busy.
        for _ in 0..2 {
            self.put_search(&arrival, &ports, broadcast, client)?;
            let began = Instant::now();
            while began.elapsed() < ANSWER && !self.is_answered() {
                self.pass(ANSWER.saturating_sub(began.elapsed()))?;
            }
            if self.is_answered() || !self.is_in_pod() {
                break;
            }
        }
        Ok(())
    }

    /// Puts in a search of the client's at each of these ports.
    fn put_search(
        &self,
        arrival: &Arrival,
        ports: &[(Protocol, u16, u16)],
        broadcast: Ipv4Addr,
        client: Ipv4Addr,
    ) -> Outcome<()> {
        let [of_ca, of_pva, _] = connect::ports(self.random);
        let mut asked = BTreeSet::new();
        for (protocol, _, port) in ports.iter().filter(|(.., port)| asked.insert(*port)) {
            let own = if *protocol == Protocol::Pva { of_pva } else { of_ca };
            let from = SocketAddrV4::new(client, own);
            let datagram = search::search(*protocol, self.random, &[&self.options.pv], (from.port(), false));
            let to = SocketAddrV4::new(broadcast, *port);
            arrival.put(&frame::udp(frame::EVERYBODY, from, to, &datagram))?;
        }
        Ok(())
    }

    /// Whether a pod of this node has the PV.
    fn is_in_pod(&self) -> bool {
        self.facts.servers.iter().any(|server| matches!(server.place, Place::Pod(_)))
    }

    /// Whether as many answers to what was put in have come as servers are known.
    fn is_answered(&self) -> bool {
        let ours = self.watch.searches().iter().filter(|search| search.ours);
        let replies: usize = ours.map(|search| search.replies.len()).sum();
        let pods = self.facts.servers.iter().filter(|server| matches!(server.place, Place::Pod(_))).count();
        pods > 0 && replies >= pods
    }

    /// The client, or a host that could be one, with its LAN.
    fn client(&self) -> Option<(&Lan, &Link, Ipv4Addr)> {
        let name = &self.facts.domain()?.name;
        let lan = self.lans.iter().find(|lan| lan.domain.name == *name && lan.domain.fault.is_none())?;
        let link = lan.link.as_ref()?;
        // What is from the node itself does not come in by the uplink.
        let is_outside = |host: &Ipv4Addr| !matches!(self.where_is(*host), Some(Place::Pod(_) | Place::Node));
        let asker = || {
            let searches = self.facts.searches.iter();
            searches.filter(|search| search.pod.is_none()).map(|search| search.asker).find(is_outside)
        };
        let neighbour = || {
            let hosts = datapath::link::neighbours(link.index).ok()?.into_iter();
            hosts.filter(|host| self.where_is(*host) == Some(Place::Lan(name.clone()))).min()
        };
        Some((lan, link, self.facts.from.or_else(asker).or_else(neighbour).filter(is_outside)?))
    }

    /// Tries to connect to the first pod that has the PV, in the client's name.
    fn connect(&self) -> Outcome<Option<Connection>> {
        let Some((lan, uplink, client)) = self.client() else { return Ok(None) };
        for server in &self.facts.servers {
            let Place::Pod(name) = &server.place else { continue };
            let of_domain = |place: &&pods::Place| {
                place.pod.name == *name && place.pod.domain.as_ref() == Some(&lan.domain.name)
            };
            let Some(place) = self.places.iter().find(of_domain) else { continue };
            let inside = place.pod.lan_address.unwrap_or(place.pod.address);
            let inside = SocketAddrV4::new(inside, server.at.port());
            let Some(to) = self.external(lan, place, server)? else { continue };
            let [.., own] = connect::ports(self.random);
            let from = SocketAddrV4::new(client, own);
            let attempt =
                connect::Attempt { uplink, veth: place.veth, from, to, inside, sequence: self.random };
            return Ok(Some(Connection {
                from: client,
                to,
                pod: name.clone(),
                inside,
                outcome: connect::attempt(&attempt)?,
                programs: programs(place.veth),
            }));
        }
        Ok(None)
    }

    /// What a client connects to: the pod's LAN address, or the external port that its answer named.
    fn external(&self, lan: &Lan, place: &pods::Place, server: &Server) -> Outcome<Option<SocketAddrV4>> {
        let port = server.at.port();
        if let Some(address) = place.pod.lan_address {
            return Ok(Some(SocketAddrV4::new(address, port)));
        }
        let Some(uplink) = lan.domain.address else { return Ok(None) };
        let replies = self.facts.searches.iter().filter(|search| search.protocol == server.protocol);
        let mut replies =
            replies.flat_map(|search| &search.replies).filter(|reply| reply.pod == place.pod.name);
        if let Some(named) = replies.find_map(|reply| reply.port.filter(|_| is_translated(reply.verdict))) {
            return Ok(Some(SocketAddrV4::new(uplink, named)));
        }
        let pod = (place.pod.address, port);
        let found = self.state.externals()?.into_iter().find(|external| {
            external.pod_address() == pod
                && external.external.protocol == u16::from(TCP)
                && external.external_address().0 == uplink
        });
        Ok(found.map(|external| SocketAddrV4::new(uplink, external.external.port)))
    }
}

/// Whether an answer with this verdict names an external port.
fn is_translated(verdict: abi::Verdict) -> bool {
    verdict == abi::Verdict::Answered
}

/// Whether this answer came from a port where no search of a client's comes.
fn is_misplaced(place: &pods::Place, heard: &Heard) -> bool {
    let port = heard.from.port();
    place.pod.address == *heard.from.ip()
        && place
            .pod
            .ears
            .iter()
            .any(|ear| ear.protocol == heard.protocol && ear.hearing == Hearing::Port(port))
}

/// Chains of the firewall that drop what they do not accept; none if they cannot be read.
fn dropping() -> Vec<String> {
    let chains = firewall::forward_chains().unwrap_or_default();
    let drops = chains.iter().filter(|chain| chain.drops);
    drops.map(|chain| format!("{} {}", chain.table, chain.name)).collect()
}

/// Programs of others at the pod's veth, towards the pod, if they are visible.
fn programs(veth: u32) -> Vec<String> {
    let device = datapath::link::by_index(veth).ok().flatten();
    let found = device.and_then(|device| occupants(Hook::ToLan, &device).ok().flatten());
    found.unwrap_or_default().into_iter().map(|other| other.name).collect()
}

/// Notes what came to a LAN's uplink, unless a domain relays it: of the client all, of others searches for the PV.
fn note(facts: &mut Facts, lan: &Lan, own: [u16; 3], passed: Option<Passed>) {
    let Some((from, what)) = passed.and_then(|passed| sort(facts, lan, own, passed)) else { return };
    if !matches!(what, Sort::Search(..)) && facts.from != Some(from) {
        return;
    }
    let is_full = facts.passing.len() >= MOST;
    match facts.passing.iter_mut().find(|known| known.from == from && known.what == what) {
        Some(known) => known.times += 1,
        None if !is_full => facts.passing.push(Passing { from, what, times: 1 }),
        None => {}
    }
}

/// Whether a datagram to this address is for hosts of the domain, of which the node is one.
fn is_for_us(domain: &Domain, to: Ipv4Addr) -> bool {
    to.is_broadcast() || to.is_multicast() || [domain.address, domain.broadcast].contains(&Some(to))
}

/// Who sent what; `None` if a domain relays it, or if it is nothing that tells anything.
fn sort(facts: &Facts, lan: &Lan, own: [u16; 3], passed: Passed) -> Option<(Ipv4Addr, Sort)> {
    let relays = |protocol: Protocol, port: u16| {
        lan.domain.ports.iter().any(|(spoken, _, lan)| (*spoken, *lan) == (protocol, port))
    };
    match passed {
        Passed::Udp { from, to, payload } if !own.contains(&from.port()) => {
            let what = match search::searched(&payload) {
                Some((protocol, names)) if is_for_us(&lan.domain, *to.ip()) && names.contains(&facts.pv) => {
                    if relays(protocol, to.port()) {
                        return None;
                    }
                    Sort::Search(protocol, to)
                }
                Some(_) => Sort::OtherSearch(to),
                None => Sort::Udp(to),
            };
            Some((*from.ip(), what))
        }
        Passed::Tcp { from, to, flags, .. } if flags & SYN != 0 && !own.contains(&from.port()) => {
            Some((*from.ip(), Sort::Tcp(to)))
        }
        Passed::Arp(from) | Passed::Other(from) => Some((from, Sort::Other)),
        Passed::Udp { .. } | Passed::Tcp { .. } => None,
    }
}

//! A look: names are learnt from what passes, asked for on each LAN, and whoever has one is noted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use abi::{NO_ADDRESS, Protocol, TCP, text};
use datapath::{Error, Events, External, State, kernel_clock};
use view::{Duplicate, Server};

use super::names::Names;
use crate::{
    ask::{
        Asker, Heard, Target,
        domains::{self, Domain},
        is_ours,
    },
    config::DomainConfig,
    snoop::{
        datagram::{Datagram, Message},
        directory::Directory,
        lease::{LEASE, Renewal},
        questions::Questions,
    },
};

/// Searches remembered, to see which names somebody has: strangers make them up.
const QUESTIONS: usize = 20_000;
/// Bytes of the longest name among them.
const QUESTION: usize = 255;
/// How long answers are waited for: a busy server, or a gateway that asks others, takes its time.
const ANSWER: Duration = Duration::from_secs(1);
/// The most events read at once before anything else gets its turn.
const BATCH: usize = 1024;
/// Names that an asker has ids for, before another takes its place.
const IDS: usize = 30_000;
/// Servers of a name that are told apart: more make it no worse.
const SERVERS: usize = 16;
/// Duplicates that are remembered of a domain: enough to see that something is very wrong.
const MOST: usize = 1000;

type Outcome<T> = datapath::Result<T>;

/// What is kept from look to look, by domain.
#[derive(Default)]
pub(super) struct Memory(pub(super) BTreeMap<String, Remembered>);

/// Of a domain.
#[derive(Default)]
pub(super) struct Remembered {
    pub(super) names: Names,
    found: BTreeMap<Key, Vec<Answerer>>,
}

/// A name, and the protocol in which servers have it.
type Key = (String, &'static str);

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answerer {
    /// The pod on this node.
    pod: Option<Pod>,
    /// Its TCP socket, as the node sees it.
    address: SocketAddrV4,
    guid: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    name: String,
    address: Ipv4Addr,
    lan_address: Option<Ipv4Addr>,
}

/// A running look.
pub(super) struct Probe {
    state: State,
    events: Events,
    /// Whether names are learnt.
    learns: bool,
    renewal: Renewal,
    directory: Directory,
    questions: Questions,
    places: Vec<Place>,
    began: Instant,
}

/// A domain, and what is going on there.
struct Place {
    lan: Domain,
    targets: Vec<Target>,
    asker: Asker,
    pace: Pace,
    memory: Remembered,
    pods: Vec<Pod>,
    /// Names that wait for answers, and since when.
    pending: VecDeque<(Instant, Vec<String>)>,
    /// Who has answered, for each of them.
    answers: HashMap<Key, Vec<Answerer>>,
}

impl Probe {
    /// Begins a look at the domains, with what is remembered of former ones.
    pub(super) fn begin(
        bpffs: &Path,
        configured: &[DomainConfig],
        protocol: Option<Protocol>,
        (mut memory, learns): (Memory, bool),
    ) -> Outcome<Self> {
        let state = State::open(bpffs)?;
        let mut places = vec![];
        for lan in domains::read(bpffs, configured, &state, protocol)? {
            let remembered = memory.0.remove(&lan.domain.name).unwrap_or_default();
            places.push(Place::new(lan.domain, remembered)?);
        }
        let (events, questions) = (Events::open(bpffs)?, Questions::bounded(QUESTIONS, QUESTION));
        let directory = Directory::read(&state)?;
        let mut probe = Self {
            state,
            events,
            learns,
            renewal: Renewal::default(),
            directory,
            questions,
            places,
            began: Instant::now(),
        };
        probe.renew()?;
        Ok(probe)
    }

    /// Asks for these names first, at once, in each domain.
    pub(super) fn ask_for(&mut self, names: &[String]) {
        let now = Instant::now();
        for place in &mut self.places {
            names.iter().rev().for_each(|name| place.memory.names.put_first(name, now));
            place.pace.allow(names.len());
        }
    }

    /// Asks once more for the names that were asked for last.
    pub(super) fn ask_again(&mut self) {
        for place in &mut self.places {
            if let Some((_, names)) = place.pending.back() {
                place.asker.ask(names, &place.targets);
            }
        }
    }

    /// Why domains are left out: a line for each.
    pub(super) fn troubles(&self) -> impl Iterator<Item = String> {
        self.places.iter().filter_map(|place| {
            let (fault, _) = place.lan.fault.as_ref()?;
            Some(format!("domain `{}` is left out: its uplink {} {fault}", place.lan.name, place.lan.uplink))
        })
    }

    /// Whether nobody can be asked, in any domain.
    pub(super) fn is_mute(&self) -> bool {
        self.places.iter().all(|place| place.targets.is_empty())
    }

    /// What may wake us.
    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Does what there is to do now.
    pub(super) fn step(&mut self, rate: u32) -> Outcome<()> {
        self.renew()?;
        self.learn();
        let now = Instant::now();
        self.places.iter_mut().for_each(|place| place.step(rate, now));
        Ok(())
    }

    /// Whether all that was to be asked for has been, and answers have had their time.
    pub(super) fn is_over(&self) -> bool {
        self.places.iter().all(|place| place.pending.is_empty())
    }

    /// Extends the deadline for events, if it is time, and reads who is who.
    fn renew(&mut self) -> Outcome<()> {
        if !self.renewal.is_due() {
            return Ok(());
        }
        if self.learns {
            self.events.watch(LEASE, false)?;
        }
        self.directory = Directory::read(&self.state)?;
        self.questions.forget(kernel_clock()?);
        let pods = pods(&self.state)?;
        for place in &mut self.places {
            place.pods = pods.get(&place.lan.name).cloned().unwrap_or_default();
        }
        Ok(())
    }

    fn learn(&mut self) {
        let now = Instant::now();
        for _ in 0..if self.learns { BATCH } else { 0 } {
            let Some((event, payload)) = self.events.take() else { break };
            let Some(datagram) = Datagram::read(&event, &payload) else { continue };
            self.questions.take_in(&datagram);
            let Message::Search(names) = &datagram.message else { continue };
            if datagram.is_delivery() || names.iter().any(|(id, _)| is_ours(*id)) {
                continue;
            }
            let domain = self.directory.domain(datagram.domain);
            if let Some(place) = self.places.iter_mut().find(|place| place.lan.name == domain) {
                let host = *datagram.source.ip();
                names.iter().for_each(|(_, name)| place.memory.names.learn(host, name, now));
            }
        }
    }

    /// How many PVs clients keep asking for in vain, by domain.
    pub(super) fn unanswered(&self) -> BTreeMap<String, usize> {
        let mut found: BTreeMap<_, BTreeSet<String>> =
            self.places.iter().map(|place| (place.lan.name.clone(), BTreeSet::new())).collect();
        for row in self.questions.unanswered() {
            found.entry(self.directory.domain(row.domain)).or_default().insert(row.name);
        }
        found.into_iter().map(|(domain, names)| (domain, names.len())).collect()
    }

    /// For how long it has been looked, how many names were asked for, and how many datagrams passed unread.
    pub(super) fn extent(&self) -> Outcome<(Duration, u64, u64)> {
        let names = self.places.iter().map(|place| place.memory.names.asked() as u64).sum();
        let lost = if self.learns { self.events.lost()? } else { 0 };
        Ok((self.began.elapsed(), names, lost))
    }

    /// The PVs that more than one server has.
    pub(super) fn found(&self, node: &str) -> Outcome<Vec<Duplicate>> {
        let externals = self.state.externals()?;
        let external = |uplink: Option<Ipv4Addr>, pod: (Ipv4Addr, u16)| {
            let is_its = |external: &&External| {
                external.pod_address() == pod
                    && external.external.protocol == u16::from(TCP)
                    && Some(external.external_address().0) == uplink
            };
            let found = externals.iter().find(is_its)?;
            Some(SocketAddrV4::new(uplink?, found.external.port))
        };
        let mut duplicates = vec![];
        for Place { lan, memory, .. } in &self.places {
            let server = |answerer: &Answerer| Server {
                address: answerer.on_lan(|pod| external(lan.address, pod)),
                pod: answerer.pod.as_ref().map(|pod| pod.name.clone()),
                node: answerer.pod.as_ref().map(|_| node.to_owned()),
            };
            for ((pv, protocol), answerers) in &memory.found {
                let servers: Vec<_> = answerers.iter().map(server).collect();
                let (domain, protocol) = (lan.name.clone(), (*protocol).to_owned());
                duplicates.push(Duplicate { domain, protocol, pv: pv.clone(), servers });
            }
        }
        Ok(duplicates)
    }

    /// Ends the look, and returns what is worth remembering.
    pub(super) fn end(mut self) -> Outcome<Memory> {
        if self.learns {
            self.events.stop()?;
        }
        Ok(Memory(self.places.into_iter().map(|place| (place.lan.name, place.memory)).collect()))
    }
}

impl Remembered {
    /// The names that were duplicates.
    pub(super) fn suspects(&self) -> Vec<String> {
        self.found.keys().map(|(name, _)| name.clone()).collect()
    }
}

impl Place {
    fn new(lan: Domain, memory: Remembered) -> Outcome<Self> {
        let broadcast = lan.broadcast.filter(|_| lan.fault.is_none());
        let to = |port| Some(SocketAddrV4::new(broadcast?, port));
        let ports = lan.ports.iter();
        let targets = ports.filter_map(|(protocol, _, port)| Some((*protocol, to(*port)?, false))).collect();
        Ok(Self {
            targets,
            asker: asker()?,
            pace: Pace::default(),
            memory,
            pods: vec![],
            pending: VecDeque::new(),
            answers: HashMap::new(),
            lan,
        })
    }

    fn step(&mut self, rate: u32, now: Instant) {
        self.hear();
        self.settle(now);
        if self.targets.is_empty() {
            return; // names keep their turns
        }
        let names: Vec<_> =
            (0..self.pace.due(rate, now)).map_while(|_| self.memory.names.next(now)).collect();
        if names.is_empty() {
            return;
        }
        self.pace.spend(names.len());
        if self.asker.names() + names.len() > IDS {
            self.renew_asker();
        }
        self.asker.ask(&names, &self.targets);
        self.answers.extend(names.iter().flat_map(|name| keys(name)).map(|key| (key, vec![])));
        self.pending.push_back((now, names));
    }

    /// Begins with the ids anew. What is not answered yet is asked for again at its next turn.
    fn renew_asker(&mut self) {
        if let Ok(asker) = asker() {
            self.asker = asker;
        }
    }

    fn hear(&mut self) {
        for heard in self.asker.hear() {
            let pod = self.pods.iter().find(|pod| pod.is_at(*heard.from.ip()));
            let Heard { name, protocol, server: address, guid, .. } = heard;
            // What comes later may be of a server that has another address by the next turn.
            if let Some(known) = self.answers.get_mut(&(name, protocol.name())) {
                note(known, Answerer { pod: pod.cloned(), address, guid });
            }
        }
    }

    /// Judges the names whose answers have had their time.
    fn settle(&mut self, now: Instant) {
        while self.pending.front().is_some_and(|(asked, _)| now.saturating_duration_since(*asked) >= ANSWER) {
            for name in self.pending.pop_front().into_iter().flat_map(|(_, names)| names) {
                for key in keys(&name) {
                    let answerers = self.answers.remove(&key).unwrap_or_default();
                    self.judge(key, answerers);
                }
            }
        }
    }

    fn judge(&mut self, key: Key, answerers: Vec<Answerer>) {
        if answerers.len() < 2 {
            self.memory.found.remove(&key);
        } else if self.memory.found.len() < MOST || self.memory.found.contains_key(&key) {
            self.memory.found.insert(key, answerers);
        }
    }
}

impl Pod {
    fn is_at(&self, address: Ipv4Addr) -> bool {
        self.address == address || self.lan_address == Some(address)
    }
}

impl Answerer {
    /// Whether it is the same server, whichever way it was asked: a socket of a pod, or of a host, or an identity in PV Access.
    fn is(&self, other: &Self) -> bool {
        let is_of_same_pod = self.pod.is_some() && self.pod == other.pod;
        self.address == other.address
            || is_of_same_pod && self.address.port() == other.address.port()
            || !self.guid.is_empty() && self.guid == other.guid
    }

    /// Its TCP socket as the LAN sees it; as the node does while the LAN does not.
    fn on_lan(&self, external: impl Fn((Ipv4Addr, u16)) -> Option<SocketAddrV4>) -> SocketAddrV4 {
        let Some(pod) = &self.pod else { return self.address };
        let port = self.address.port();
        match pod.lan_address {
            Some(address) => SocketAddrV4::new(address, port),
            None => external((pod.address, port)).unwrap_or(self.address),
        }
    }
}

/// How many names may be asked for now: so many a second, and no more at once than in one.
#[derive(Default)]
struct Pace {
    allowance: f64,
    last: Option<Instant>,
}

impl Pace {
    fn due(&mut self, rate: u32, now: Instant) -> usize {
        let passed = self.last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        self.last = Some(now);
        let rate = f64::from(rate);
        if self.allowance < rate {
            self.allowance = (self.allowance + passed * rate).min(rate);
        }
        self.allowance as usize
    }

    /// Allows as many as these at once.
    fn allow(&mut self, names: usize) {
        self.allowance += names as f64;
    }

    fn spend(&mut self, names: usize) {
        self.allowance -= names as f64;
    }
}

/// A name in each protocol.
fn keys(name: &str) -> [Key; 2] {
    [Protocol::Ca, Protocol::Pva].map(|protocol| (name.to_owned(), protocol.name()))
}

fn asker() -> Outcome<Asker> {
    let random = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
    Asker::new(random).map_err(|source| Error::Kernel { what: "cannot open a socket".into(), source })
}

fn note(known: &mut Vec<Answerer>, answerer: Answerer) {
    if known.len() < SERVERS && !known.iter().any(|other| other.is(&answerer)) {
        known.push(answerer);
    }
}

/// The members of each domain.
fn pods(state: &State) -> Outcome<BTreeMap<String, Vec<Pod>>> {
    let (domains, mut found) = (state.domains()?, BTreeMap::<_, Vec<_>>::new());
    for (_, attachment) in state.attachments()? {
        let Some(member) = state.member(attachment.member)? else { continue };
        let Some((_, domain)) = domains.iter().find(|(number, _)| *number == member.domain) else { continue };
        found.entry(text(&domain.name).to_owned()).or_default().push(Pod {
            name: format!("{}/{}", text(&attachment.namespace), text(&attachment.pod)),
            address: member.address.into(),
            lan_address: (member.lan_address != NO_ADDRESS).then(|| member.lan_address.into()),
        });
    }
    Ok(found)
}

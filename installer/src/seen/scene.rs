//! What the maps and the kernel say of a node while it is watched: domains, members, where they listen, circuits, counters.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::{Duration, Instant},
};

use abi::{Circuit, NO_ADDRESS, TCP, UDP, Verdict, text};
use datapath::{Lookup, Result, State, link};

use super::rate::WINDOW;
use crate::{snoop::directory::Directory, uplink};

/// A client that no pod has a connected socket with (RFC 5737).
const SOMEBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40_000);
/// How often what is cheap is read, and what takes longer.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(5);
/// What takes longer takes at most this part of the time.
const PART: u32 = 50;

/// A domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Domain {
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) uplink: Option<String>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) problem: Option<String>,
    broadcast: Option<Ipv4Addr>,
}

/// A member pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Interface index of its host-side veth.
    pub(super) veth: u32,
    /// Which of the members that this interface has had.
    generation: u32,
    pub(super) domain: u16,
    pub(super) pod: String,
    pub(super) address: Ipv4Addr,
    pub(super) lan_address: Option<Ipv4Addr>,
    pub(super) listens: Vec<u16>,
}

/// Packets by domain and verdict, all protocols together.
type Counts = HashMap<(u16, Verdict), u64>;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Scene {
    pub(super) directory: Directory,
    pub(super) domains: Vec<Domain>,
    pub(super) members: Vec<Member>,
    /// TCP circuits by domain, client and member.
    pub(super) circuits: HashMap<(u16, Ipv4Addr, u32), u32>,
    /// The external sockets of pods' TCP sockets.
    pub(super) externals: HashMap<SocketAddrV4, SocketAddrV4>,
    /// Of the last seconds.
    counts: VecDeque<(Instant, Counts)>,
    read: Option<Instant>,
    /// When what takes longer is due.
    due: Option<Instant>,
}

impl Scene {
    /// Reads again what it is time for.
    pub(super) fn refresh(&mut self, bpffs: &Path, state: &State) -> Result<()> {
        if self.read.is_some_and(|read| read.elapsed() < OFTEN) {
            return Ok(());
        }
        self.read = Some(Instant::now());
        self.directory = Directory::read(state)?;
        self.count(state)?;
        if self.due.is_none_or(|due| Instant::now() >= due) {
            let began = Instant::now();
            self.look(bpffs, state)?;
            self.due = Some(Instant::now() + SELDOM.max(began.elapsed() * PART));
        }
        Ok(())
    }

    fn count(&mut self, state: &State) -> Result<()> {
        let mut counts = Counts::new();
        for counter in state.counters()? {
            *counts.entry((counter.domain, counter.verdict)).or_default() += counter.packets;
        }
        self.counts.push_back((Instant::now(), counts));
        while self.counts.get(1).is_some_and(|(time, _)| time.elapsed() >= WINDOW) {
            self.counts.pop_front();
        }
        Ok(())
    }

    /// How many packets a second got this verdict; `None` if too little time has passed.
    pub(super) fn counted(&self, domain: u16, verdict: Verdict) -> Option<f64> {
        let ((from, first), (to, last)) = (self.counts.front()?, self.counts.back()?);
        let time = to.duration_since(*from).as_secs_f64();
        let packets = |counts: &Counts| counts.get(&(domain, verdict)).copied().unwrap_or(0);
        (time > 0.0).then(|| packets(last).saturating_sub(packets(first)) as f64 / time)
    }

    fn look(&mut self, bpffs: &Path, state: &State) -> Result<()> {
        self.domains = domains(bpffs, state)?;
        self.members = members(state, &self.domains)?;
        self.circuits.clear();
        let is_one = |circuit: &Circuit| {
            let is =
                |member: &Member| (member.veth, member.generation) == (circuit.member, circuit.generation);
            self.members.iter().any(is)
        };
        for (key, circuit) in state.established()?.into_iter().filter(|(_, circuit)| is_one(circuit)) {
            *self.circuits.entry((circuit.domain, key.peer.into(), circuit.member)).or_default() += 1;
        }
        self.externals = state
            .externals()?
            .iter()
            .filter(|external| external.external.protocol == u16::from(TCP))
            .map(|external| {
                let socket = |(address, port)| SocketAddrV4::new(address, port);
                (socket(external.pod_address()), socket(external.external_address()))
            })
            .collect();
        Ok(())
    }
}

fn domains(bpffs: &Path, state: &State) -> Result<Vec<Domain>> {
    let mut found = vec![];
    for (number, domain) in state.domains()? {
        let uplink = if domain.uplink == 0 { None } else { link::by_index(domain.uplink)? };
        let addresses = uplink.as_ref().map_or(Ok(vec![]), |uplink| link::addresses(uplink.index))?;
        let first = addresses.first();
        found.push(Domain {
            number,
            name: text(&domain.name).into(),
            address: first.map(|found| found.address),
            broadcast: first.map(|found| found.broadcast.unwrap_or_else(|| found.natural_broadcast())),
            problem: uplink::trouble(bpffs, domain.uplink)?,
            uplink: uplink.map(|uplink| uplink.name),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn members(state: &State, domains: &[Domain]) -> Result<Vec<Member>> {
    let (lookup, mut found) = (Lookup::new()?, vec![]);
    for (_, attachment) in state.attachments()? {
        let Some(member) = state.member(attachment.member)? else { continue };
        let lan_address = (member.lan_address != NO_ADDRESS).then(|| member.lan_address.into());
        let lan = domains.iter().find(|domain| domain.number == member.domain);
        let lan = lan.and_then(|lan| lan.broadcast).filter(|_| lan_address.is_some());
        let mut listens = vec![];
        for (port, _) in state.pod_relays(member.domain)? {
            if hears(&lookup, &member, lan, port)? {
                listens.push(port);
            }
        }
        listens.sort_unstable();
        found.push(Member {
            veth: attachment.member,
            generation: attachment.generation,
            domain: member.domain,
            pod: format!("{}/{}", text(&attachment.namespace), text(&attachment.pod)),
            address: member.address.into(),
            lan_address,
            listens,
        });
    }
    found.sort_by(|a, b| (a.domain, &a.pod).cmp(&(b.domain, &b.pod)));
    Ok(found)
}

/// Whether a pod has a socket that gets a search, at its own broadcast address, the LAN's, or 255.255.255.255.
fn hears(lookup: &Lookup, member: &abi::Member, lan: Option<Ipv4Addr>, port: u16) -> Result<bool> {
    for to in [Some(member.broadcast.into()), lan, Some(Ipv4Addr::BROADCAST)].into_iter().flatten() {
        if lookup.bound(member.netns, UDP, SOMEBODY, SocketAddrV4::new(to, port))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

//! What the programs of the datapath say about the PV while we watch.

use std::{
    collections::{BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use abi::{Point, Protocol, Verdict};
use datapath::{Events, State};

use super::facts::{Reply, Search};
use crate::{
    ask::is_ours,
    snoop::{
        datagram::{Datagram, Message},
        directory::Directory,
        lease::{LEASE, Renewal},
        questions::Questions,
    },
};

/// Names remembered that somebody has.
const MOST: usize = 10_000;

/// Watches.
pub(super) struct Watch {
    events: Events,
    questions: Questions,
    directory: Directory,
    renewal: Renewal,
    pv: String,
    /// Our own ports: what comes from them is no client's.
    own: BTreeSet<u16>,
    /// Ports from which we ask on the client's behalf.
    on_behalf: BTreeSet<u16>,
    searches: Vec<Search>,
    /// Names that were answered, and by whom.
    pub(super) answered: HashMap<String, String>,
}

impl Watch {
    pub(super) fn new(bpffs: &Path, state: &State, pv: &str) -> datapath::Result<Self> {
        let mut watch = Self {
            events: Events::open(bpffs)?,
            questions: Questions::default(),
            directory: Directory::read(state)?,
            renewal: Renewal::default(),
            pv: pv.into(),
            own: BTreeSet::new(),
            on_behalf: BTreeSet::new(),
            searches: vec![],
            answered: HashMap::new(),
        };
        watch.look()?;
        Ok(watch)
    }

    /// What comes from this port of the node is ours.
    pub(super) fn ask_from(&mut self, port: u16) {
        self.own.insert(port);
    }

    /// What comes from this port is on the client's behalf.
    pub(super) fn ask_on_behalf_from(&mut self, port: u16) {
        self.on_behalf.insert(port);
    }

    /// Takes in what has happened since the last look.
    pub(super) fn look(&mut self) -> datapath::Result<()> {
        if self.renewal.is_due() {
            self.events.watch(LEASE, true)?;
        }
        self.look_on();
        Ok(())
    }

    /// Stops the events, and returns what was seen of the PV.
    pub(super) fn end(&mut self) -> datapath::Result<Vec<Search>> {
        self.events.stop()?;
        self.look_on();
        Ok(std::mem::take(&mut self.searches))
    }

    fn look_on(&mut self) {
        while let Some((event, payload)) = self.events.take() {
            if let Some(datagram) = Datagram::read(&event, &payload) {
                self.take_in(&datagram);
            }
        }
    }

    /// To wait for.
    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// The searches for the PV so far.
    pub(super) fn searches(&self) -> &[Search] {
        &self.searches
    }

    fn take_in(&mut self, datagram: &Datagram) {
        let (names, after) = self.questions.take_in(datagram);
        match &datagram.message {
            Message::Search(_) if !names.contains(&self.pv) => {}
            Message::Search(_) if datagram.is_delivery() => self.deliver(datagram),
            Message::Search(_) => self.ask(datagram),
            Message::Reply(_) => self.answer(datagram, &names, after),
            _ => {}
        }
    }

    fn ask(&mut self, datagram: &Datagram) {
        let Datagram { source, protocol, domain, verdict, destination: to, .. } = *datagram;
        let is_agents =
            matches!(&datagram.message, Message::Search(asked) if asked.iter().all(|(id, _)| is_ours(*id)));
        let is_own = datagram.point == Point::FromNode && self.own.contains(&source.port());
        if is_own || is_agents && !self.on_behalf.contains(&source.port()) {
            return;
        }
        let pod = self.directory.behind(datagram.member).filter(|_| datagram.point == Point::FromPod);
        let search = Search {
            asker: *source.ip(),
            pod: pod.map(str::to_owned),
            to,
            protocol,
            domain: self.directory.domain(domain),
            verdict,
            times: 1,
            limited: u32::from(verdict == Verdict::Limited),
            ours: self.on_behalf.contains(&source.port()),
            given: vec![],
            replies: vec![],
        };
        let same = |known: &&mut Search| {
            (known.asker, known.to, known.protocol, known.ours) == (search.asker, to, protocol, search.ours)
        };
        match self.searches.iter_mut().find(same) {
            Some(known) => {
                known.times += 1;
                known.limited += search.limited;
                // One that gets through is enough for an answer.
                if !is_relayed(known.verdict) {
                    known.verdict = verdict;
                }
            }
            None => self.searches.push(search),
        }
    }

    /// The search of this protocol that came last from this host and was, or was not, ours.
    fn search_of(&mut self, client: SocketAddrV4, protocol: Protocol) -> Option<&mut Search> {
        let ours = self.on_behalf.contains(&client.port());
        let of = |search: &&mut Search| {
            (search.asker, search.protocol, search.ours) == (*client.ip(), protocol, ours)
        };
        self.searches.iter_mut().rev().find(of)
    }

    fn deliver(&mut self, datagram: &Datagram) {
        let pod = self.directory.behind(datagram.member).map(str::to_owned);
        if let (Some(pod), Some(search)) = (pod, self.search_of(datagram.source, datagram.protocol))
            && !search.given.contains(&pod)
        {
            search.given.push(pod);
        }
    }

    fn answer(&mut self, datagram: &Datagram, names: &[String], after: Option<Duration>) {
        let pod = match datagram.point {
            Point::FromPod => self.directory.behind(datagram.member).map(str::to_owned),
            _ => None,
        };
        let pod = pod.unwrap_or_else(|| datagram.source.ip().to_string());
        let room = MOST.saturating_sub(self.answered.len());
        self.answered.extend(names.iter().take(room).map(|name| (name.clone(), pod.clone())));
        if !names.contains(&self.pv) {
            return;
        }
        let reply = Reply { pod, verdict: datagram.verdict, port: datagram.server_port, after };
        let Some(client) = datagram.client else { return };
        if let Some(search) = self.search_of(client, datagram.protocol)
            && search.replies.iter().all(|known| known.pod != reply.pod)
        {
            search.replies.push(reply);
        }
    }
}

/// Whether a search with this verdict reaches pods.
fn is_relayed(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Relayed | Verdict::Sent | Verdict::Direct | Verdict::TranslatedIn)
}

/// Whether a client, rather than we on its behalf, has asked.
pub(super) fn has_asked(searches: &[Search], from: Option<Ipv4Addr>) -> bool {
    searches.iter().any(|search| !search.ours && from.is_none_or(|from| from == search.asker))
}

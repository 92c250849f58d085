//! Tallies and scene as an answer, with the names of everything. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::{Protocol, Verdict};
use view::{Answered, Asked, Duplicate, Prefix, Reader, Seen, Talker, Unanswered};

use super::{
    scene::{Domain, Member, Scene},
    tallies::{Answer, Given, Kind, Server, Tallies},
};

/// Rows of a list, at most.
const TALKERS: usize = 100;
const ROWS: usize = 1000;

/// What all is made of.
pub(super) struct Report<'a> {
    pub(super) node: &'a str,
    pub(super) scene: &'a Scene,
    pub(super) tallies: &'a Tallies,
    /// The kernel's monotonic clock, and when it started, since the Unix epoch.
    pub(super) now: Duration,
    pub(super) boot: Duration,
    pub(super) lost: u64,
}

impl Report<'_> {
    pub(super) fn seen(&self) -> Seen {
        let answers = self.answers();
        Seen {
            time: self.epoch(self.now),
            seconds: self.tallies.since(self.now).as_secs_f64(),
            lost: self.lost,
            domains: self.scene.domains.iter().map(|domain| self.domain(domain)).collect(),
            talkers: self.talkers(),
            prefixes: self.prefixes(),
            pods: self.scene.members.iter().map(|member| self.pod(member)).collect(),
            unanswered: self.unanswered(),
            duplicates: self.duplicates(),
            readers: self.readers(),
            answers,
            ..Seen::nothing(vec![Asked::answered(self.node)])
        }
    }

    fn epoch(&self, time: Duration) -> f64 {
        (self.boot + time).as_secs_f64()
    }

    /// How many packets a second of a domain got a verdict, as the datapath counted them.
    fn counted(&self, domain: u16) -> impl Fn(Verdict) -> Option<f64> {
        move |verdict| {
            let counted = |verdict| self.scene.counted(domain, verdict);
            match verdict {
                Verdict::Answered | Verdict::Limited | Verdict::Delivered | Verdict::Sent => counted(verdict),
                // What a pod sends to the LAN was relayed to other pods before.
                Verdict::Relayed => Some(counted(verdict)? - counted(Verdict::Sent)?),
                _ => None,
            }
        }
    }

    fn domain(&self, domain: &Domain) -> view::Domain {
        let number = domain.number;
        let counted = self.counted(number);
        let rate = |kind| self.tallies.rate((number, kind), self.now, &counted);
        view::Domain {
            node: self.node.into(),
            name: domain.name.clone(),
            uplink: domain.uplink.clone(),
            address: domain.address,
            problem: domain.problem.clone(),
            members: self.scene.members.iter().filter(|member| member.domain == number).count() as u32,
            clients: self.tallies.hosts.keys().filter(|(of, _)| *of == number).count() as u32,
            searches: rate(Kind::Search),
            answers: rate(Kind::Answer),
            beacons: rate(Kind::Beacon),
            limited: counted(Verdict::Limited).unwrap_or(0.0),
            circuits: self.circuits(|of, _| of == number),
        }
    }

    fn pod(&self, member: &Member) -> view::Pod {
        let tally = self.tallies.pods.get(&member.veth);
        let (counted, at) = (self.counted(member.domain), self.tallies.since(self.now));
        let weight = |verdict| self.tallies.weight((member.domain, verdict), self.now, &counted);
        let answers = tally.map_or([0.0; 2], |pod| pod.answers.map(|rate| rate.at(at)));
        view::Pod {
            node: self.node.into(),
            domain: self.name(member.domain),
            pod: member.pod.clone(),
            address: member.address,
            lan_address: member.lan_address,
            listens: member.listens.clone(),
            heard: tally.map_or(0.0, |pod| pod.heard.at(at)) * weight(Verdict::Delivered),
            answers: answers[0] * weight(Verdict::Answered) + answers[1] * weight(Verdict::Direct),
            circuits: self.circuits(|_, veth| veth == member.veth),
            latency_ms: tally.and_then(|pod| pod.latency()).map(|latency| latency.as_secs_f64() * 1e3),
        }
    }

    /// Of these domains and members.
    fn circuits(&self, is_wanted: impl Fn(u16, u32) -> bool) -> u32 {
        let all = self.scene.circuits.iter();
        all.filter(|((domain, _, veth), _)| is_wanted(*domain, *veth)).map(|(_, count)| count).sum()
    }

    fn talkers(&self) -> Vec<Talker> {
        let at = self.tallies.since(self.now);
        let mut found: Vec<_> = self
            .tallies
            .hosts
            .iter()
            .map(|((domain, host), tally)| {
                let weight = self.search_weight(*domain);
                Talker {
                    domain: self.name(*domain),
                    host: *host,
                    pod: self.pod_at(*host),
                    searches: tally.searches.at(at) * weight,
                    names: tally.names.at(at) * weight,
                }
            })
            .filter(|talker| talker.searches > 0.0)
            .collect();
        found.sort_by(|a, b| {
            b.searches.total_cmp(&a.searches).then_with(|| (&a.domain, a.host).cmp(&(&b.domain, b.host)))
        });
        found.truncate(TALKERS);
        found
    }

    fn prefixes(&self) -> Vec<Prefix> {
        let at = self.tallies.since(self.now);
        let prefixes = self.tallies.prefixes.iter().map(|((domain, prefix), tally)| Prefix {
            domain: self.name(*domain),
            prefix: prefix.clone(),
            names: tally.names.at(at) * self.search_weight(*domain),
        });
        let mut found: Vec<_> = prefixes.filter(|prefix| prefix.names > 0.0).collect();
        found.sort_by(|a, b| {
            b.names.total_cmp(&a.names).then_with(|| (&a.domain, &a.prefix).cmp(&(&b.domain, &b.prefix)))
        });
        found.truncate(TALKERS);
        found
    }

    fn search_weight(&self, domain: u16) -> f64 {
        self.tallies.search_weight(domain, self.now, &self.counted(domain))
    }

    fn unanswered(&self) -> Vec<Unanswered> {
        let rows = self.tallies.questions.unanswered().into_iter().take(ROWS);
        let row = |row: crate::snoop::questions::Unanswered| Unanswered {
            domain: self.name(row.domain),
            protocol: self.protocol(row.protocol),
            pv: row.name,
            client: row.client,
            client_pod: self.pod_at(row.client),
            asked: row.times,
            since: self.epoch(row.first),
            last: self.epoch(row.last),
        };
        rows.map(row).collect()
    }

    /// The last ones.
    fn answers(&self) -> Vec<Answered> {
        let mut all: Vec<_> = self.tallies.answers.iter().collect();
        all.sort_by(|(_, a), (_, b)| b.last.cmp(&a.last));
        let answered = |(answer, given): (&Answer, &Given)| Answered {
            domain: self.name(answer.domain),
            protocol: self.protocol(answer.protocol),
            pv: answer.pv.clone(),
            client: answer.client,
            server: self.server(answer, given),
            last: self.epoch(given.last),
        };
        all.into_iter().take(ROWS).map(answered).collect()
    }

    fn duplicates(&self) -> Vec<Duplicate> {
        let mut servers: BTreeMap<_, BTreeMap<Server, (&Answer, &Given)>> = BTreeMap::new();
        for (answer, given) in &self.tallies.answers {
            let key = (answer.domain, answer.protocol as u32, &*answer.pv);
            servers.entry(key).or_default().insert(answer.server, (answer, given));
        }
        let several = servers.into_values().filter(|servers| servers.len() > 1).take(ROWS);
        let duplicate = |servers: BTreeMap<Server, (&Answer, &Given)>| {
            let (answer, _) = servers.values().next()?;
            let all: BTreeSet<_> =
                servers.values().map(|(answer, given)| self.server(answer, given)).collect();
            Some(Duplicate {
                domain: self.name(answer.domain),
                protocol: self.protocol(answer.protocol),
                pv: answer.pv.clone(),
                servers: all.into_iter().collect(),
            })
        };
        several.filter_map(duplicate).collect()
    }

    fn readers(&self) -> Vec<Reader> {
        type Parties = (u16, Ipv4Addr, u32);
        let mut found: BTreeMap<Parties, (u32, BTreeSet<&str>)> = BTreeMap::new();
        for (parties, circuits) in &self.scene.circuits {
            found.entry(*parties).or_default().0 = *circuits;
        }
        for answer in self.tallies.answers.keys() {
            if let Server::Member(member) = answer.server {
                found.entry((answer.domain, answer.client, member)).or_default().1.insert(&answer.pv);
            }
        }
        let reader = |((domain, client, member), (circuits, pvs)): (Parties, (u32, BTreeSet<&str>))| Reader {
            domain: self.name(domain),
            client,
            client_pod: self.pod_at(client),
            pod: self.scene.directory.behind(member).unwrap_or("gone").to_owned(),
            node: self.node.into(),
            circuits,
            pvs: pvs.into_iter().map(str::to_owned).collect(),
        };
        found.into_iter().take(ROWS).map(reader).collect()
    }

    /// A server, by the socket that the LAN sees, where there is one.
    fn server(&self, answer: &Answer, given: &Given) -> view::Server {
        let Server::Member(veth) = answer.server else {
            return view::Server { address: given.address, pod: None, node: None };
        };
        let member = self.scene.members.iter().find(|member| member.veth == veth);
        let lan = self.scene.domains.iter().find(|domain| domain.number == answer.domain);
        let has_lan_address = member.is_some_and(|member| member.lan_address == Some(*given.address.ip()));
        let uplink = lan.and_then(|lan| lan.address).filter(|_| !has_lan_address);
        let address = match (given.verdict, uplink) {
            (Verdict::Answered, Some(uplink)) => SocketAddrV4::new(uplink, given.address.port()),
            _ => self.scene.externals.get(&given.address).copied().unwrap_or(given.address),
        };
        let pod = self.scene.directory.behind(veth).map(str::to_owned);
        view::Server { address, pod, node: Some(self.node.into()) }
    }

    fn name(&self, domain: u16) -> String {
        self.scene.directory.domain(domain)
    }

    fn protocol(&self, protocol: Protocol) -> String {
        self.scene.directory.protocol(protocol)
    }

    fn pod_at(&self, address: Ipv4Addr) -> Option<String> {
        self.scene.directory.at(address).map(str::to_owned)
    }
}

//! Tallies and scene as an answer, with the names of everything. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::{Protocol, Verdict};
use view::{Answered, Asked, Duplicate, Prefix, Reader, Seen, Talker, Unanswered};

use super::{
    scene::{Domain, Member, Scene},
    tallies::{Answer, Given, Kind, Pod, Server, Tallies},
};

/// Rows of a list, at most.
const TALKERS: usize = 100;
const ROWS: usize = 1000;
/// PVs of one reader, at most.
const PVS: usize = 100;
/// Servers of one PV answer a search within this time; one that answers later has taken the place of the other.
const AT_ONCE: Duration = Duration::from_secs(2);

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
            latency_ms: tally.and_then(Pod::latency).map(|latency| latency.as_secs_f64() * 1e3),
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
        all.sort_by_key(|(_, given)| Reverse(given.last));
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

    /// PVs that several servers answered at one time, to one client.
    fn duplicates(&self) -> Vec<Duplicate> {
        let mut asked: HashMap<_, Vec<(&Answer, &Given)>> = HashMap::new();
        for (answer, given) in &self.tallies.answers {
            let key = (answer.domain, answer.protocol, &answer.pv, answer.client);
            asked.entry(key).or_default().push((answer, given));
        }
        let mut found: BTreeMap<_, BTreeMap<SocketAddrV4, view::Server>> = BTreeMap::new();
        for ((domain, protocol, pv, _), answers) in asked.into_iter().filter(|(_, answers)| answers.len() > 1)
        {
            let last = answers.iter().map(|(_, given)| given.last).max().unwrap_or_default();
            let at_once = answers.into_iter().filter(|(_, given)| given.last + AT_ONCE >= last);
            let servers = at_once.map(|(answer, given)| self.server(answer, given));
            let key = (self.name(domain), self.protocol(protocol), pv);
            found.entry(key).or_default().extend(servers.map(|server| (server.address, server)));
        }
        let several = found.into_iter().filter(|(_, servers)| servers.len() > 1).take(ROWS);
        let duplicate = |((domain, protocol, pv), servers): ((_, _, &String), BTreeMap<_, _>)| Duplicate {
            domain,
            protocol,
            pv: pv.clone(),
            servers: servers.into_values().collect(),
        };
        several.map(duplicate).collect()
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
        let reader = |((domain, client, member), (circuits, pvs)): (Parties, (u32, BTreeSet<&str>))| {
            Some(Reader {
                domain: self.name(domain),
                client,
                client_pod: self.pod_at(client),
                pod: self.scene.directory.behind(member)?.to_owned(),
                node: self.node.into(),
                circuits,
                pvs: pvs.into_iter().take(PVS).map(str::to_owned).collect(),
            })
        };
        found.into_iter().filter_map(reader).take(ROWS).collect()
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

#[cfg(test)]
mod tests {
    use abi::Point;

    use super::*;
    use crate::snoop::datagram::{
        Datagram,
        tests::{ca_reply, ca_search, event},
    };

    const CLIENT: &str = "172.23.0.2:41234";
    const PODS: [(u32, &str, &str); 2] =
        [(7, "10.244.1.2:5064", "bl07/ioc-a"), (8, "10.244.1.3:5064", "bl07/ioc-b")];

    fn scene() -> Scene {
        let mut scene = Scene::default();
        scene.directory.domains.insert(0, "lab".into());
        scene.directory.members.extend(PODS.map(|(veth, _, pod)| (veth, pod.to_owned())));
        scene
    }

    /// A search for `A` at this time, and an answer of each of these pods.
    fn ask(tallies: &mut Tallies, milliseconds: u64, pods: &[(u32, &str, &str)]) {
        let search = event(milliseconds, Point::FromLan, Verdict::Relayed, [CLIENT, "172.23.0.255:5064"]);
        tallies.take_in(&Datagram::read(&search, &ca_search(&["A"])).unwrap());
        for (member, socket, _) in pods {
            let answer = event(milliseconds + 1, Point::FromPod, Verdict::Answered, [socket, CLIENT]);
            let answer = abi::Event { member: *member, ..answer };
            tallies.take_in(&Datagram::read(&answer, &ca_reply(1)).unwrap());
        }
    }

    fn seen(tallies: &Tallies, milliseconds: u64) -> Seen {
        let now = Duration::from_millis(milliseconds);
        Report { node: "node-1", scene: &scene(), tallies, now, boot: Duration::ZERO, lost: 0 }.seen()
    }

    #[test]
    fn two_pods_that_answer_at_once_are_duplicates_and_one_that_takes_the_place_of_another_is_not() {
        let mut tallies = Tallies::new(Duration::ZERO);
        ask(&mut tallies, 0, &PODS);
        let [duplicate] = &seen(&tallies, 100).duplicates[..] else { panic!("none or several") };
        let pods: Vec<_> = duplicate.servers.iter().map(|server| server.pod.as_deref()).collect();
        assert_eq!((&*duplicate.pv, pods), ("A", vec![Some("bl07/ioc-a"), Some("bl07/ioc-b")]));
        ask(&mut tallies, 5000, &PODS[1..]);
        assert_eq!(seen(&tallies, 5100).duplicates, []);
    }

    #[test]
    fn who_asks_is_a_reader_of_who_answers_and_what_nobody_answers_is_waited_for() {
        let mut tallies = Tallies::new(Duration::ZERO);
        ask(&mut tallies, 0, &PODS[..1]);
        let all = seen(&tallies, 1000);
        let [reader] = &all.readers[..] else { panic!("{:?}", all.readers) };
        assert_eq!(
            (&*reader.pod, &reader.pvs[..], reader.circuits),
            ("bl07/ioc-a", &["A".to_owned()][..], 0)
        );
        assert_eq!((all.unanswered.len(), all.answers.len(), all.talkers.len()), (0, 1, 1));
        for time in [1000, 2000, 3000] {
            ask(&mut tallies, time, &[]);
        }
        let [row] = &seen(&tallies, 4000).unanswered[..] else { panic!("none or several") };
        assert_eq!((&*row.pv, row.asked, row.since, row.last), ("A", 3, 1.0, 3.0));
    }
}

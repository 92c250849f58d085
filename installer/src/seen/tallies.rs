//! What datagrams tell: pure, and of bounded size, whatever strangers send. What gives way is the least recent.

use std::{
    collections::{HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::{Point, Protocol, Verdict};

use super::rate::Rate;
use crate::{
    bounded::make_room,
    snoop::{
        datagram::{Datagram, Message},
        questions::Questions,
    },
};

/// Names that clients wait for; at most 400 bytes each.
const QUESTIONS: usize = 20_000;
/// Names that were answered, by client and server; at most 450 bytes each.
const ANSWERS: usize = 20_000;
/// The longest name that is remembered, bytes: others are counted only.
const LONGEST: usize = 256;
/// Hosts and pods that search, some 100 bytes each.
const HOSTS: usize = 4096;
/// Beginnings of names, some 150 bytes each, and the longest that is told from another, characters.
const PREFIXES: usize = 4096;
const PREFIX: usize = 24;
/// Pods, some 800 bytes each.
const PODS: usize = 4096;
/// Answers of which the median is shown.
const LATENCIES: usize = 64;
/// What ends the first part of a name.
const SEPARATORS: [char; 4] = [':', '-', '_', '.'];

/// Datagrams of one kind in one domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Search,
    Answer,
    Beacon,
    /// A copy of a search that a pod gets.
    Heard,
    Other,
}

/// Who searches.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) searches: Rate,
    pub(super) names: Rate,
    last: Duration,
}

/// What begins with the same.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    pub(super) names: Rate,
    last: Duration,
}

/// A pod's part.
#[derive(Debug, Default)]
pub(super) struct Pod {
    pub(super) heard: Rate,
    /// Answers to clients on the LAN, which the datapath counts, and to others.
    pub(super) answers: [Rate; 2],
    latencies: VecDeque<Duration>,
    last: Duration,
}

impl Pod {
    pub(super) fn latency(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Who answered: a member, by the interface index of its host-side veth, or a server on the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Server {
    Member(u32),
    Lan(SocketAddrV4),
}

/// A name that a server has, and a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) domain: u16,
    pub(super) protocol: Protocol,
    pub(super) pv: String,
    pub(super) client: Ipv4Addr,
    pub(super) server: Server,
}

/// When it was answered last, and what the server named then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) last: Duration,
    pub(super) verdict: Verdict,
    /// Where the answer came from, and its TCP port.
    pub(super) address: SocketAddrV4,
}

/// All of it. Times are the kernel's monotonic clock.
pub(super) struct Tallies {
    pub(super) began: Duration,
    pub(super) questions: Questions,
    pub(super) answers: HashMap<Answer, Given>,
    pub(super) hosts: HashMap<(u16, Ipv4Addr), Host>,
    pub(super) prefixes: HashMap<(u16, String), Prefix>,
    pub(super) pods: HashMap<u32, Pod>,
    /// There are no more than domains, verdicts and kinds.
    kinds: HashMap<(u16, Verdict, Kind), Rate>,
    taken: Rate,
    lost: Rate,
}

impl Tallies {
    pub(super) fn new(began: Duration) -> Self {
        Self {
            began,
            questions: Questions::bounded(QUESTIONS, LONGEST),
            answers: HashMap::new(),
            hosts: HashMap::new(),
            prefixes: HashMap::new(),
            pods: HashMap::new(),
            kinds: HashMap::new(),
            taken: Rate::default(),
            lost: Rate::default(),
        }
    }

    /// Takes in a datagram; how much work that was, in datagrams of one name.
    pub(super) fn take_in(&mut self, datagram: &Datagram) -> u32 {
        let time = self.since(datagram.time);
        let (pvs, latency) = self.questions.take_in(datagram);
        let kind = kind(datagram);
        self.taken.add(time, 1);
        self.kinds.entry((datagram.domain, datagram.verdict, kind)).or_default().add(time, 1);
        match kind {
            Kind::Search => self.search(datagram, &pvs),
            Kind::Answer => self.answer(datagram, &pvs, latency),
            Kind::Heard => {
                self.pod(datagram.member, datagram.time).heard.add(time, 1);
            }
            Kind::Beacon | Kind::Other => {}
        }
        1 + pvs.len() as u32
    }

    /// Notes that so many were not taken in.
    pub(super) fn lose(&mut self, now: Duration, count: u64) {
        let time = self.since(now);
        self.lost.add(time, u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Forgets what is long over.
    pub(super) fn forget(&mut self, now: Duration) {
        self.questions.forget(now);
    }

    /// Of this kind, a second, and as many as there were of this verdict according to `counted`, if that is known.
    pub(super) fn rate(
        &self,
        (domain, kind): (u16, Kind),
        now: Duration,
        counted: &impl Fn(Verdict) -> Option<f64>,
    ) -> f64 {
        let of = Verdict::ALL.iter().filter_map(|verdict| {
            let rate = self.kinds.get(&(domain, *verdict, kind))?.at(self.since(now));
            Some(rate * self.weight((domain, *verdict), now, counted))
        });
        of.fold(0.0, |all, rate| all + rate) // an empty sum would be -0
    }

    /// How many datagrams one that was taken in stands for: 1 unless some were lost.
    pub(super) fn weight(
        &self,
        (domain, verdict): (u16, Verdict),
        now: Duration,
        counted: &impl Fn(Verdict) -> Option<f64>,
    ) -> f64 {
        let at = self.since(now);
        let (taken, lost) = (self.taken.at(at), self.lost.at(at));
        if lost == 0.0 {
            return 1.0;
        }
        let of_verdict = self.kinds.iter().filter(|((of, with, _), _)| (*of, *with) == (domain, verdict));
        let seen: f64 = of_verdict.map(|(_, rate)| rate.at(at)).sum();
        match counted(verdict) {
            Some(counted) if seen > 0.0 => (counted / seen).max(1.0),
            _ => (taken + lost) / taken.max(1.0),
        }
    }

    /// How many searches one that was taken in stands for, on average.
    pub(super) fn search_weight(
        &self,
        domain: u16,
        now: Duration,
        counted: &impl Fn(Verdict) -> Option<f64>,
    ) -> f64 {
        let all = self.rate((domain, Kind::Search), now, counted);
        let taken: f64 = Verdict::ALL
            .iter()
            .filter_map(|verdict| self.kinds.get(&(domain, *verdict, Kind::Search)))
            .map(|rate| rate.at(self.since(now)))
            .sum();
        if taken > 0.0 { all / taken } else { 1.0 }
    }

    pub(super) fn since(&self, time: Duration) -> Duration {
        time.saturating_sub(self.began)
    }

    fn search(&mut self, datagram: &Datagram, pvs: &[String]) {
        let (time, domain) = (self.since(datagram.time), datagram.domain);
        let Some(client) = datagram.client else { return };
        let key = (domain, *client.ip());
        if !self.hosts.contains_key(&key) {
            make_room(&mut self.hosts, HOSTS, |host| host.last);
        }
        let host = self.hosts.entry(key).or_default();
        host.searches.add(time, 1);
        host.names.add(time, pvs.len() as u32);
        host.last = datagram.time;
        for pv in pvs {
            let key = (domain, prefix(pv));
            if !self.prefixes.contains_key(&key) {
                make_room(&mut self.prefixes, PREFIXES, |prefix| prefix.last);
            }
            let prefix = self.prefixes.entry(key).or_default();
            prefix.names.add(time, 1);
            prefix.last = datagram.time;
        }
    }

    fn answer(&mut self, datagram: &Datagram, pvs: &[String], latency: Option<Duration>) {
        let Datagram { time, domain, protocol, verdict, source, .. } = *datagram;
        let address = SocketAddrV4::new(*source.ip(), datagram.server_port.unwrap_or(source.port()));
        let server = match datagram.point {
            Point::FromPod => Server::Member(datagram.member),
            _ => Server::Lan(address),
        };
        if let Server::Member(member) = server {
            let since = self.since(time);
            let pod = self.pod(member, time);
            pod.answers[usize::from(verdict != Verdict::Answered)].add(since, 1);
            pod.latencies.extend(latency);
            while pod.latencies.len() > LATENCIES {
                pod.latencies.pop_front();
            }
        }
        let Some(client) = datagram.client else { return };
        for pv in pvs {
            let key = Answer { domain, protocol, pv: pv.clone(), client: *client.ip(), server };
            if !self.answers.contains_key(&key) {
                make_room(&mut self.answers, ANSWERS, |given| given.last);
            }
            self.answers.insert(key, Given { last: time, verdict, address });
        }
    }

    fn pod(&mut self, member: u32, time: Duration) -> &mut Pod {
        if !self.pods.contains_key(&member) {
            make_room(&mut self.pods, PODS, |pod| pod.last);
        }
        let pod = self.pods.entry(member).or_default();
        pod.last = time;
        pod
    }
}

fn kind(datagram: &Datagram) -> Kind {
    match (&datagram.message, datagram.is_delivery()) {
        (Message::Search(_), true) => Kind::Heard,
        (_, true) => Kind::Other,
        (Message::Search(_), _) => Kind::Search,
        (Message::Reply(_), _) => Kind::Answer,
        (Message::Beacon, _) => Kind::Beacon,
        (Message::Other, _) => Kind::Other,
    }
}

/// The first part of a name, with the separator.
fn prefix(pv: &str) -> String {
    let end = pv.find(SEPARATORS).map_or(pv.len(), |at| at + 1);
    pv[..end].chars().take(PREFIX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snoop::datagram::tests::{ca_reply, ca_search, event};

    const LAN: &str = "172.23.0.255:5064";

    fn search(client: &str, names: &[&str], milliseconds: u64) -> Datagram {
        let event = event(milliseconds, Point::FromLan, Verdict::Relayed, [client, LAN]);
        Datagram::read(&event, &ca_search(names)).unwrap()
    }

    #[test]
    fn the_first_part_of_a_name_is_its_prefix() {
        for (pv, expected) in [
            ("BL07:Motor-1.RBV", "BL07:"),
            ("BL07-Motor:1", "BL07-"),
            ("plain", "plain"),
            ("", ""),
            (":x", ":"),
            (&"\u{e9}".repeat(99), &"\u{e9}".repeat(PREFIX)),
        ] {
            assert_eq!(prefix(pv), expected);
        }
    }

    #[test]
    fn made_up_names_and_addresses_take_no_more_than_their_place_and_who_goes_on_stays() {
        let mut tallies = Tallies::new(Duration::ZERO);
        for number in 0..60_000_u32 {
            let client = format!("{}:40000", Ipv4Addr::from(0x0a00_0000 + number));
            let name = format!("{number}:{}", "x".repeat(number as usize % 300));
            tallies.take_in(&search(&client, &[&name], u64::from(number) / 10));
            if number % 100 == 0 {
                tallies.take_in(&search("172.23.0.2:1", &["REAL:NAME"], u64::from(number) / 10));
            }
        }
        assert!(tallies.hosts.len() <= HOSTS && tallies.prefixes.len() <= PREFIXES);
        assert!(tallies.hosts.contains_key(&(0, [172, 23, 0, 2].into())));
        let waits = tallies.questions.unanswered();
        assert_eq!(waits.iter().map(|row| (&*row.name, row.times)).collect::<Vec<_>>(), [("REAL:NAME", 600)]);
    }

    #[test]
    fn rates_of_a_sample_are_those_of_all() {
        let mut tallies = Tallies::new(Duration::ZERO);
        for time in 0..10_000 {
            let now = Duration::from_millis(time);
            // One of four is looked at.
            if time % 4 == 0 {
                tallies.take_in(&search("172.23.0.2:1", &["A"], time));
            } else {
                tallies.lose(now, 1);
            }
        }
        let now = Duration::from_secs(10);
        let unknown = |_| None;
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.1, "{found}");
        close(tallies.rate((0, Kind::Search), now, &unknown), 1000.0);
        let counted = |verdict| (verdict == Verdict::Relayed).then_some(2000.0);
        close(tallies.rate((0, Kind::Search), now, &counted), 2000.0);
        close(tallies.search_weight(0, now, &counted), 8.0);
    }

    #[test]
    fn answers_are_remembered_by_client_and_server_with_the_median_of_their_latency() {
        let mut tallies = Tallies::new(Duration::ZERO);
        for time in 0..5 {
            tallies.take_in(&search("172.23.0.2:41234", &["A"], 100 * time));
            let sockets = ["10.244.1.2:5064", "172.23.0.2:41234"];
            let event = event(100 * time + 1 + time * time, Point::FromPod, Verdict::Answered, sockets);
            let event = abi::Event { member: 7, ..event };
            tallies.take_in(&Datagram::read(&event, &ca_reply(1)).unwrap());
        }
        let [(answer, given)] = tallies.answers.iter().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!((&*answer.pv, answer.server), ("A", Server::Member(7)));
        assert_eq!(given.address, "10.244.1.2:61000".parse().unwrap());
        assert_eq!(tallies.pods[&7].latency(), Some(Duration::from_millis(5)));
    }
}

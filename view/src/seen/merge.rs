//! What several nodes saw, as one answer. They see the same LAN: what all of them count is not added up.

use std::collections::BTreeMap;

use super::{Answered, Duplicate, Prefix, Seen, Server, Talker, Unanswered};

/// Seconds by which the clocks of two nodes, and a search and its answer, may differ.
const SKEW: f64 = 1.0;
/// Seconds within which several servers answer the same search; one that answers later has taken the place of the other.
const AT_ONCE: f64 = 2.0 + SKEW;

impl Seen {
    /// Takes in what other nodes saw.
    pub(super) fn take_in(&mut self, others: Vec<Self>) {
        let mut them = Self::nothing(vec![]);
        for other in others {
            self.nodes.extend(other.nodes);
            (self.time, self.seconds) = (self.time.max(other.time), self.seconds.max(other.seconds));
            self.lost += other.lost;
            self.domains.extend(other.domains);
            self.pods.extend(other.pods);
            self.readers.extend(other.readers);
            them.talkers.extend(other.talkers);
            them.prefixes.extend(other.prefixes);
            them.answers.extend(other.answers);
            them.unanswered.extend(other.unanswered);
            them.duplicates.extend(other.duplicates);
        }
        self.sort();
        talkers(&mut self.talkers, them.talkers);
        prefixes(&mut self.prefixes, them.prefixes);
        answers(&mut self.answers, them.answers);
        unanswered(&mut self.unanswered, them.unanswered, &self.answers);
        several(&mut self.duplicates, them.duplicates, &self.answers);
    }

    fn sort(&mut self) {
        self.nodes.sort_by(|a, b| (&a.node, &a.error).cmp(&(&b.node, &b.error)));
        self.domains.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        self.pods.sort_by(|a, b| (&a.domain, &a.pod, &a.node).cmp(&(&b.domain, &b.pod, &b.node)));
        self.readers.sort_by(|a, b| {
            (&a.domain, a.client, &a.pod, &a.node).cmp(&(&b.domain, b.client, &b.pod, &b.node))
        });
    }
}

/// Both lists as one in the order of keys; those with the same key are joined.
fn union<T, K: Ord>(mine: &mut Vec<T>, others: Vec<T>, key: impl Fn(&T) -> K, join: impl Fn(&mut T, T)) {
    let mut known = BTreeMap::new();
    for item in mine.drain(..).chain(others) {
        match known.entry(key(&item)) {
            std::collections::btree_map::Entry::Vacant(place) => drop(place.insert(item)),
            std::collections::btree_map::Entry::Occupied(mut place) => join(place.get_mut(), item),
        }
    }
    mine.extend(known.into_values());
}

fn talkers(mine: &mut Vec<Talker>, others: Vec<Talker>) {
    let key = |talker: &Talker| (talker.domain.clone(), talker.host);
    union(mine, others, key, |a, b| {
        (a.searches, a.names) = (a.searches.max(b.searches), a.names.max(b.names));
        a.pod = a.pod.take().max(b.pod);
    });
    mine.sort_by(|a, b| b.searches.total_cmp(&a.searches));
}

fn prefixes(mine: &mut Vec<Prefix>, others: Vec<Prefix>) {
    let key = |prefix: &Prefix| (prefix.domain.clone(), prefix.prefix.clone());
    union(mine, others, key, |a, b| a.names = a.names.max(b.names));
    mine.sort_by(|a, b| b.names.total_cmp(&a.names));
}

fn answers(mine: &mut Vec<Answered>, others: Vec<Answered>) {
    let key = |answer: &Answered| {
        let Answered { domain, protocol, pv, client, server, .. } = answer;
        (domain.clone(), protocol.clone(), pv.clone(), *client, server.address)
    };
    union(mine, others, key, |a, b| {
        a.last = a.last.max(b.last);
        a.server.know(b.server);
    });
    mine.sort_by(|a, b| b.last.total_cmp(&a.last));
}

/// What one node saw asked, and another one answered, is answered.
fn unanswered(mine: &mut Vec<Unanswered>, others: Vec<Unanswered>, answers: &[Answered]) {
    let key = |row: &Unanswered| (row.domain.clone(), row.protocol.clone(), row.pv.clone(), row.client);
    union(mine, others, key, |a, b| {
        (a.asked, a.since, a.last) = (a.asked.max(b.asked), a.since.min(b.since), a.last.max(b.last));
        a.client_pod = a.client_pod.take().max(b.client_pod);
    });
    let mut last = BTreeMap::new();
    for answer in answers {
        let key = (&*answer.domain, &*answer.protocol, &*answer.pv, answer.client);
        let time: &mut f64 = last.entry(key).or_insert(answer.last);
        *time = time.max(answer.last);
    }
    mine.retain(|row| {
        let key = (&*row.domain, &*row.protocol, &*row.pv, row.client);
        last.get(&key).is_none_or(|time| time + SKEW < row.last)
    });
    mine.sort_by_key(|row| std::cmp::Reverse(row.asked));
}

/// Two nodes that saw one server each, at one time and of one client, saw two.
fn several(mine: &mut Vec<Duplicate>, others: Vec<Duplicate>, answers: &[Answered]) {
    let asked = |row: &Answered| (row.domain.clone(), row.protocol.clone(), row.pv.clone(), row.client);
    let mut last = BTreeMap::new();
    for answer in answers {
        let time: &mut f64 = last.entry(asked(answer)).or_insert(answer.last);
        *time = time.max(answer.last);
    }
    let at_once = answers.iter().filter(|row| last[&asked(row)] <= row.last + AT_ONCE);
    let answered = at_once.map(|Answered { domain, protocol, pv, server, .. }| Duplicate {
        domain: domain.clone(),
        protocol: protocol.clone(),
        pv: pv.clone(),
        servers: vec![server.clone()],
    });
    let others = others.into_iter().chain(answered).collect();
    join(mine, others);
    mine.retain(|row| row.servers.len() > 1);
    mine.sort_by(|a, b| (&a.domain, &a.protocol, &a.pv).cmp(&(&b.domain, &b.protocol, &b.pv)));
}

/// Takes in what other nodes found. Of a server that one knows as a pod, and another by its address alone, the pod stays.
pub(crate) fn join(known: &mut Vec<Duplicate>, others: Vec<Duplicate>) {
    let mut found = BTreeMap::new();
    for Duplicate { domain, protocol, pv, servers } in known.drain(..).chain(others) {
        let all: &mut BTreeMap<_, Server> = found.entry((domain, pv, protocol)).or_default();
        for server in servers {
            all.entry(server.address).or_insert_with(|| server.clone()).know(server);
        }
    }
    known.extend(found.into_iter().map(|((domain, pv, protocol), servers)| Duplicate {
        domain,
        protocol,
        pv,
        servers: servers.into_values().collect(),
    }));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Answer as _, Asked};

    const CLIENT: [u8; 4] = [172, 23, 0, 2];

    fn waits(pv: &str, asked: u32, since: f64, last: f64) -> Unanswered {
        Unanswered {
            domain: "lab".into(),
            protocol: "ca".into(),
            pv: pv.into(),
            client: CLIENT.into(),
            client_pod: None,
            asked,
            since,
            last,
        }
    }

    fn answered(pv: &str, server: u8, pod: Option<&str>, last: f64) -> Answered {
        let address = std::net::SocketAddrV4::new([172, 23, 0, server].into(), 61000);
        let server = Server { address, pod: pod.map(str::to_owned), node: None };
        Answered {
            domain: "lab".into(),
            protocol: "ca".into(),
            pv: pv.into(),
            client: CLIENT.into(),
            server,
            last,
        }
    }

    fn talker(host: u8, searches: f64) -> Talker {
        Talker { domain: "lab".into(), host: [172, 23, 0, host].into(), pod: None, searches, names: searches }
    }

    fn seen(node: &str) -> Seen {
        Seen::nothing(vec![Asked::answered(node)])
    }

    fn merged(a: &Seen, b: &Seen) -> Seen {
        let mut all = a.clone();
        all.merge(b.clone());
        all
    }

    /// Each case: what one node saw, what another one saw, what is so.
    #[test]
    fn what_several_nodes_saw_is_not_added_up_and_what_one_saw_answered_is() {
        let case = |one: Seen, other: Seen| merged(&one, &other);

        let all = case(
            Seen { talkers: vec![talker(2, 5.0), talker(3, 9.0)], lost: 1, ..seen("a") },
            Seen { talkers: vec![talker(2, 7.0)], lost: 2, ..seen("b") },
        );
        assert_eq!(all.talkers, [talker(3, 9.0), talker(2, 7.0)], "a broadcast is seen by every node");
        assert_eq!((all.lost, all.nodes.len()), (3, 2));

        let all = case(
            Seen { unanswered: vec![waits("A", 3, 10.0, 20.0)], ..seen("a") },
            Seen { unanswered: vec![waits("A", 5, 8.0, 19.0)], ..seen("b") },
        );
        assert_eq!(all.unanswered, [waits("A", 5, 8.0, 20.0)], "nobody answers");

        for (last, remain) in [(20.001, 0), (19.5, 0), (12.0, 1)] {
            let all = case(
                Seen { unanswered: vec![waits("A", 3, 10.0, 20.0)], ..seen("a") },
                Seen { answers: vec![answered("A", 11, None, last)], ..seen("b") },
            );
            assert_eq!(all.unanswered.len(), remain, "answered at {last}, asked last at 20");
        }

        let all = case(
            Seen { answers: vec![answered("A", 11, None, 5.0)], ..seen("a") },
            Seen { answers: vec![answered("A", 12, Some("x/y"), 6.0)], ..seen("b") },
        );
        let [duplicate] = &all.duplicates[..] else { panic!("{:?}", all.duplicates) };
        assert_eq!((&*duplicate.pv, duplicate.servers.len()), ("A", 2), "each node saw one server");
        let all = case(
            Seen { answers: vec![answered("A", 11, None, 5.0)], ..seen("a") },
            Seen { answers: vec![answered("A", 12, None, 60.0)], ..seen("b") },
        );
        assert_eq!(all.duplicates, [], "the server has moved");
        let all = case(
            Seen { answers: vec![answered("B", 11, None, 5.0)], ..seen("a") },
            Seen { answers: vec![answered("B", 11, Some("x/z"), 5.0)], ..seen("b") },
        );
        assert_eq!(
            all.answers.iter().find(|answer| answer.pv == "B").unwrap().server.pod.as_deref(),
            Some("x/z")
        );
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        let pv = prop::sample::select(vec!["A", "B", "C"]);
        let number = || (0..5u8).prop_map(f64::from);
        let talkers = prop::collection::btree_map(2..6u8, number(), 0..4);
        let waiting = prop::collection::btree_map(pv.clone(), (0..5u32, number(), number()), 0..3);
        // At one time: which servers are at once depends on when each answered last, to any of the nodes.
        let answers = prop::collection::btree_map((pv, 11..14u8), (0..3u8).prop_map(f64::from), 0..4);
        (talkers, waiting, answers, 0..9u64).prop_map(|(talkers, waiting, answers, lost)| {
            let talkers = talkers.into_iter().map(|(host, rate)| talker(host, rate));
            // What concerns no answer: that one is answered depends on when it was asked last, by any of the nodes.
            let waiting = waiting.into_iter();
            let waiting =
                waiting.map(|(pv, (asked, since, last))| waits(&format!("not {pv}"), asked, since, last));
            let answers = answers.into_iter();
            let answers = answers.map(|((pv, server), last)| answered(pv, server, None, last));
            let mut all = Seen {
                talkers: talkers.collect(),
                unanswered: waiting.collect(),
                answers: answers.collect(),
                lost,
                ..seen("node")
            };
            all.merge(Seen::nothing(vec![])); // in order, and with its own duplicates
            all
        })
    }

    proptest! {
        #[test]
        fn it_does_not_matter_which_node_answers_first(a in any_seen(), b in any_seen(), c in any_seen()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }
    }
}

//! Which clients wait for which PVs: replies are matched to searches by the client's socket and its id for the name.
//!
//! Not every answer is seen here: those between hosts on the LAN, or from a process on this node, are not. So a name counts
//! as unanswered only while its client keeps searching for it.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::Protocol;

use super::datagram::{Datagram, Message};
use crate::bounded::make_room;

/// The most names remembered, some 130 bytes each; those asked for once give way first, then the least recent.
const MOST: usize = 100_000;
/// The longest name that is remembered, bytes.
const LONGEST: usize = 1000;
/// How long a name is remembered after its last search. Channel Access clients search at least every 5 minutes.
const AGE: Duration = Duration::from_secs(600);
/// How long a client must search without an answer to be listed: longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// A client's name for a PV.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    domain: u16,
    protocol: Protocol,
    client: SocketAddrV4,
    id: u32,
}

/// A PV that a client searched for.
#[derive(Debug)]
struct Question {
    name: String,
    /// How often it searched since the last answer.
    times: u32,
    /// When it began to.
    first: Duration,
    /// When it asked last.
    last: Duration,
}

/// A PV that a client keeps searching for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    pub(crate) domain: u16,
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    pub(crate) client: Ipv4Addr,
    /// How often it searched.
    pub(crate) times: u32,
    /// When it began to.
    pub(crate) first: Duration,
    /// When it asked last.
    pub(crate) last: Duration,
}

/// All searches that are remembered.
#[derive(Debug)]
pub(crate) struct Questions {
    known: HashMap<Key, Question>,
    most: usize,
    longest: usize,
}

impl Default for Questions {
    fn default() -> Self {
        Self::bounded(MOST, LONGEST)
    }
}

impl Questions {
    /// None yet, and at most so many, with names of at most so many bytes.
    pub(crate) fn bounded(most: usize, longest: usize) -> Self {
        Self { known: HashMap::new(), most, longest }
    }

    /// Records a datagram. Returns the PVs that it is about, and how long after the search an answer came.
    pub(crate) fn take_in(&mut self, datagram: &Datagram) -> (Vec<String>, Option<Duration>) {
        let key = |id| {
            let Datagram { domain, protocol, client, .. } = *datagram;
            Some(Key { domain, protocol, client: client?, id })
        };
        match &datagram.message {
            Message::Search(asked) => {
                for (id, name) in asked.iter().filter(|_| !datagram.is_delivery()) {
                    key(*id).into_iter().for_each(|key| self.ask(key, name, datagram.time));
                }
                (asked.iter().map(|(_, name)| name.clone()).collect(), None)
            }
            Message::Reply(ids) => {
                let keys = ids.iter().filter_map(|id| key(*id));
                let answered: Vec<_> = keys.filter_map(|key| self.answer(&key, datagram.time)).collect();
                let latency = answered.iter().map(|(_, latency)| *latency).max();
                (answered.into_iter().map(|(name, _)| name).collect(), latency)
            }
            Message::Beacon | Message::Other => (vec![], None),
        }
    }

    fn ask(&mut self, key: Key, name: &str, time: Duration) {
        if name.len() > self.longest {
            return;
        }
        if !self.known.contains_key(&key) {
            make_room(&mut self.known, self.most, |question| (question.times > 1, question.last));
        }
        let new = || Question { name: name.into(), times: 0, first: time, last: time };
        let question = self.known.entry(key).or_insert_with(new);
        if question.times == 0 || question.name != name {
            *question = new(); // the client has reused the id for another name
        }
        question.times += 1;
        // Events of two processors may come in another order.
        question.first = question.first.min(time);
        question.last = question.last.max(time);
    }

    /// The name searched for, and how long ago.
    fn answer(&mut self, key: &Key, time: Duration) -> Option<(String, Duration)> {
        let question = self.known.get_mut(key)?;
        question.times = 0;
        Some((question.name.clone(), time.saturating_sub(question.last)))
    }

    /// Forgets names that nobody searches for any more.
    pub(crate) fn forget(&mut self, now: Duration) {
        self.known.retain(|_, question| now.saturating_sub(question.last) < AGE);
    }

    /// The PVs that clients keep searching for, combined over the sockets of a host, the most frequent first.
    pub(crate) fn unanswered(&self) -> Vec<Unanswered> {
        let mut found: HashMap<_, Unanswered> = HashMap::new();
        for (key, question) in self.known.iter().filter(|(_, question)| question.is_in_vain()) {
            let Question { name, times, first, last } = question;
            let (domain, protocol, client) = (key.domain, key.protocol, *key.client.ip());
            let new = || {
                let (name, first, last) = (name.clone(), *first, *last);
                Unanswered { domain, protocol, name, client, times: 0, first, last }
            };
            let row = found.entry((domain, protocol, name, client)).or_insert_with(new);
            row.times += times;
            row.first = row.first.min(*first);
            row.last = row.last.max(*last);
        }
        let mut rows: Vec<_> = found.into_values().collect();
        rows.sort_by(|a, b| {
            b.times.cmp(&a.times).then_with(|| (&a.name, a.client).cmp(&(&b.name, b.client)))
        });
        rows
    }
}

impl Question {
    fn is_in_vain(&self) -> bool {
        self.times > 1 && self.last.saturating_sub(self.first) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use abi::{Point, Verdict};

    use super::{
        super::datagram::tests::{ca_reply, ca_search, event},
        *,
    };

    const CLIENT: &str = "172.23.0.2:41234";
    const LAN: &str = "172.23.0.255:5064";
    const SERVER: &str = "10.244.1.2:5064";

    fn asked(questions: &mut Questions, milliseconds: u64, client: &str, names: &[&str]) -> Vec<String> {
        let event = event(milliseconds, Point::FromLan, Verdict::Relayed, [client, LAN]);
        questions.take_in(&Datagram::read(&event, &ca_search(names)).unwrap()).0
    }

    fn answered(questions: &mut Questions, milliseconds: u64, id: u8) -> (Vec<String>, Option<Duration>) {
        let event = event(milliseconds, Point::FromPod, Verdict::Answered, [SERVER, CLIENT]);
        questions.take_in(&Datagram::read(&event, &ca_reply(id)).unwrap())
    }

    fn unanswered(questions: &Questions) -> Vec<(String, String, u32)> {
        let rows = questions.unanswered();
        rows.into_iter().map(|row| (row.name, row.client.to_string(), row.times)).collect()
    }

    #[test]
    fn a_reply_is_matched_to_the_name_and_the_time_of_its_question() {
        let mut questions = Questions::default();
        assert_eq!(asked(&mut questions, 100, CLIENT, &["A:NAME", "B:NAME"]), ["A:NAME", "B:NAME"]);
        let latency = Some(Duration::from_millis(3));
        assert_eq!(answered(&mut questions, 103, 2), (vec!["B:NAME".to_owned()], latency));
    }

    #[test]
    fn a_reply_to_a_question_that_was_not_seen_has_no_name() {
        assert_eq!(answered(&mut Questions::default(), 103, 2), (vec![], None));
    }

    #[test]
    fn only_what_a_client_keeps_asking_for_without_an_answer_is_unanswered() {
        let mut questions = Questions::default();
        for time in [0, 30, 90, 1000] {
            asked(&mut questions, time, CLIENT, &["NOPE", "A:NAME"]);
            answered(&mut questions, time + 1, 2);
        }
        asked(&mut questions, 0, "172.23.0.3:1", &["N:NAME"]); // answered on the LAN: it does not ask again
        assert_eq!(unanswered(&questions), [("NOPE".into(), "172.23.0.2".into(), 4)]);
    }

    #[test]
    fn events_of_two_processors_may_come_in_another_order() {
        let mut questions = Questions::default();
        for time in [31, 30, 2000, 1999] {
            asked(&mut questions, time, CLIENT, &["NOPE"]);
        }
        let rows = questions.unanswered();
        let times = rows.iter().map(|row| (row.first.as_millis(), row.last.as_millis(), row.times));
        assert_eq!(times.collect::<Vec<_>>(), [(30, 2000, 4)]);
    }

    #[test]
    fn a_burst_of_questions_is_not_yet_in_vain() {
        let mut questions = Questions::default();
        for time in [0, 30, 90, 999] {
            asked(&mut questions, time, CLIENT, &["NOPE"]);
        }
        assert_eq!(unanswered(&questions), []);
    }

    #[test]
    fn the_sockets_of_a_host_are_taken_together_and_hosts_are_not() {
        let mut questions = Questions::default();
        for client in [CLIENT, "172.23.0.2:41235", "172.23.0.3:41234"] {
            asked(&mut questions, 0, client, &["NOPE"]);
            asked(&mut questions, 2000, client, &["NOPE"]);
        }
        let row = |client: &str, times| ("NOPE".to_owned(), client.to_owned(), times);
        assert_eq!(unanswered(&questions), [row("172.23.0.2", 4), row("172.23.0.3", 2)]);
    }

    #[test]
    fn an_id_that_is_given_to_another_name_is_another_question() {
        let mut questions = Questions::default();
        asked(&mut questions, 0, CLIENT, &["NOPE"]);
        asked(&mut questions, 2000, CLIENT, &["OTHER"]);
        assert_eq!(unanswered(&questions), []);
        assert_eq!(answered(&mut questions, 2001, 1).0, ["OTHER"]);
    }

    #[test]
    fn made_up_names_do_not_drive_out_what_is_asked_for_again_and_again() {
        let mut questions = Questions::bounded(100, 20);
        for time in 0..1000 {
            asked(&mut questions, time, CLIENT, &[&format!("MADE:UP:{time}")]);
            asked(&mut questions, time, "172.23.0.3:1", &["NOPE"]);
            asked(&mut questions, time, "172.23.0.3:2", &["LONGER:THAN:A:NAME:MAY:BE"]);
            assert!(questions.known.len() <= 100);
        }
        asked(&mut questions, 2000, "172.23.0.3:1", &["NOPE"]);
        assert_eq!(unanswered(&questions), [("NOPE".into(), "172.23.0.3".into(), 1001)]);
    }

    #[test]
    fn a_copy_that_a_pod_gets_is_no_question_of_its_own() {
        let mut questions = Questions::default();
        for time in [0, 2000] {
            let event = event(time, Point::ToPod, Verdict::Delivered, [CLIENT, "10.244.1.255:5064"]);
            questions.take_in(&Datagram::read(&event, &ca_search(&["NOPE"])).unwrap());
        }
        assert_eq!(unanswered(&questions), []);
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_forgotten() {
        let mut questions = Questions::default();
        asked(&mut questions, 0, CLIENT, &["NOPE"]);
        asked(&mut questions, 2000, CLIENT, &["NOPE"]);
        questions.forget(AGE);
        assert_eq!(unanswered(&questions).len(), 1);
        questions.forget(AGE + Duration::from_secs(2));
        assert_eq!(unanswered(&questions), []);
    }
}

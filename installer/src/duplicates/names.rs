//! The names of a domain that somebody asked for, and when it is whose turn to be asked for again.
//!
//! Strangers make names up, as many as they like: how many are remembered is bounded, each host has its own queue, and of a full
//! memory the host that has most gives way. So a flood delays the names of others, and neither hides nor forgets them.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::Ipv4Addr,
    ops::Bound::{Excluded, Unbounded},
    time::{Duration, Instant},
};

/// The most names, some 200 bytes each, and at most 5 MB.
const MOST: usize = 20_000;
/// The longest name, in bytes. EPICS' own are at most 60 before the field.
const LONGEST: usize = 255;
/// Hosts that are told apart; those beyond share a queue.
const HOSTS: usize = 256;
const OTHERS: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// How long a name is remembered that nobody asks for.
const AGE: Duration = Duration::from_secs(3600);
/// How long a name has to wait for its next turn, if there are few.
const REST: Duration = Duration::from_secs(60);

/// Names to ask for.
#[derive(Default)]
pub(super) struct Names {
    known: HashMap<String, Known>,
    /// By who asked first; each in the order of their turns.
    queues: BTreeMap<Ipv4Addr, VecDeque<String>>,
    /// Whose name was asked for last.
    last: Option<Ipv4Addr>,
}

struct Known {
    /// When somebody searched for it last.
    learnt: Instant,
    /// When it had its turn.
    asked: Option<Instant>,
}

impl Names {
    /// `host` has searched for it.
    pub(super) fn learn(&mut self, host: Ipv4Addr, name: &str, now: Instant) {
        if let Some(known) = self.known.get_mut(name) {
            known.learnt = now;
        } else if !name.is_empty() && name.len() <= LONGEST {
            let is_told_apart = self.queues.contains_key(&host) || self.queues.len() < HOSTS;
            self.remember(if is_told_apart { host } else { OTHERS }, name, now);
        }
    }

    /// How many have had a turn.
    pub(super) fn asked(&self) -> usize {
        self.known.values().filter(|known| known.asked.is_some()).count()
    }

    /// The next turn is this name's.
    pub(super) fn put_first(&mut self, name: &str, now: Instant) {
        let known = self.known.remove(name);
        if known.is_some() {
            self.queues.values_mut().for_each(|queue| queue.retain(|other| other != name));
        }
        self.queues.entry(OTHERS).or_default().push_front(name.into());
        self.known.insert(name.into(), Known { learnt: now, asked: None });
        self.last = None; // `OTHERS` come first
    }

    fn remember(&mut self, host: Ipv4Addr, name: &str, now: Instant) {
        if self.known.len() >= MOST {
            let greedy = self.queues.iter().max_by_key(|(_, queue)| queue.len()).map(|(host, _)| *host);
            match greedy.filter(|greedy| *greedy != host) {
                Some(greedy) => self.forget_last_of(greedy),
                None => return,
            }
        }
        self.queues.entry(host).or_default().push_back(name.into());
        self.known.insert(name.into(), Known { learnt: now, asked: None });
    }

    fn forget_last_of(&mut self, host: Ipv4Addr) {
        if let Some(name) = self.queues.get_mut(&host).and_then(VecDeque::pop_back) {
            self.known.remove(&name);
        }
    }

    /// The name whose turn it is, if one has waited long enough: of each host in turn the one that has waited longest.
    pub(super) fn next(&mut self, now: Instant) -> Option<String> {
        for _ in 0..self.queues.len() {
            let host = self.next_host()?;
            self.last = Some(host);
            if let Some(name) = self.next_of(host, now) {
                return Some(name);
            }
        }
        None
    }

    fn next_host(&self) -> Option<Ipv4Addr> {
        let after = self.last.map_or(Unbounded, Excluded);
        let next = self.queues.range((after, Unbounded)).next();
        next.or_else(|| self.queues.iter().next()).map(|(host, _)| *host)
    }

    fn next_of(&mut self, host: Ipv4Addr, now: Instant) -> Option<String> {
        let queue = self.queues.get_mut(&host)?;
        while let Some(name) = queue.pop_front() {
            let Some(known) = self.known.get_mut(&name) else { continue };
            if now.saturating_duration_since(known.learnt) >= AGE {
                self.known.remove(&name);
                continue;
            }
            if known.asked.is_some_and(|asked| now.saturating_duration_since(asked) < REST) {
                queue.push_front(name);
                return None;
            }
            known.asked = Some(now);
            queue.push_back(name.clone());
            return Some(name);
        }
        self.queues.remove(&host);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + last)
    }

    fn take(names: &mut Names, most: usize, now: Instant) -> Vec<String> {
        (0..most).map_while(|_| names.next(now)).collect()
    }

    #[test]
    fn each_name_has_its_turn_and_then_rests() {
        let (mut names, now) = (Names::default(), Instant::now());
        for name in ["a", "b", "a", "", &"x".repeat(LONGEST + 1)] {
            names.learn(host(1), name, now);
        }
        assert_eq!(take(&mut names, 9, now), ["a", "b"]);
        names.learn(host(2), "c", now);
        assert_eq!(take(&mut names, 9, now + REST / 2), ["c"]);
        assert_eq!(take(&mut names, 9, now + REST), ["a", "b"]);
        names.put_first("b", now);
        assert_eq!(take(&mut names, 1, now + REST), ["b"]);
    }

    #[test]
    fn a_name_that_nobody_asks_for_any_more_is_forgotten() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.learn(host(1), "a", now);
        names.learn(host(1), "b", now + AGE);
        assert_eq!(take(&mut names, 9, now + AGE), ["b"]);
        assert_eq!(names.known.len(), 1);
    }

    #[test]
    fn a_host_that_makes_up_names_neither_fills_the_memory_nor_delays_others() {
        let (mut names, now) = (Names::default(), Instant::now());
        (0..2 * MOST).for_each(|number| names.learn(host(1), &number.to_string(), now));
        assert_eq!(names.known.len(), MOST);
        names.learn(host(2), "a", now);
        assert_eq!(names.known.len(), MOST);
        assert!(take(&mut names, 2, now).contains(&"a".to_owned()));
    }

    #[test]
    fn hosts_without_end_share_what_is_left() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.learn(host(0), "a", now);
        (1..2 * MOST as u32).for_each(|number| names.learn(host(number), &number.to_string(), now));
        assert_eq!((names.known.len(), names.queues.len()), (MOST, HOSTS + 1));
        assert!(take(&mut names, HOSTS + 1, now).contains(&"a".to_owned()));
    }
}

//! Who else is there: the other agents of a domain, which of them to believe, and which node relays for each subnet. A state machine over
//! what comes and what time it is; no I/O.
//!
//! Each agent says hello to all others twice a second. Of those in a subnet that were heard lately and whose uplink carries, the
//! one with the lowest address relays: all come to the same result, and if two do for a moment, servers are asked twice.
//!
//! A hello that does not name this agent's session may be old. It is answered, and nothing else: with that answer the other one
//! knows the session, and its next hello is new. One who is not heard any more is not called by its session either: so who hears
//! nobody is soon believed by nobody, and others relay in its place.
//!
//! A session belongs to the peer that began it: nothing of it counts from any other address, nor when that peer has a newer one.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use ring::aead::LessSafeKey;

use super::{
    crossing::Refusal,
    envelope::{Header, Key, Window, open, seal},
    message::{Copy, Hello, Message},
    subnet::Subnet,
};

/// Time between two hellos.
pub(super) const PERIOD: Duration = Duration::from_millis(500);
/// How long after its last hello an agent counts as there: two may be lost.
pub(super) const PATIENCE: Duration = Duration::from_millis(1600);
/// Former sessions of a peer that are remembered, so that nothing recorded of them counts.
const FORMER: usize = 64;
/// The most peers that are remembered when they are none any more, for the same reason.
const GONE: usize = 1000;

/// The other agents of a domain.
#[derive(Debug)]
pub(super) struct Hellos {
    key: Key,
    /// Of this agent.
    session: u64,
    /// Of the datagram sent last.
    number: u64,
    peers: BTreeMap<SocketAddrV4, Peer>,
    /// Those that were, and may come back.
    gone: BTreeMap<SocketAddrV4, Peer>,
}

/// Another agent.
#[derive(Debug, Default)]
pub(super) struct Peer {
    session: Option<Session>,
    former: VecDeque<u64>,
    /// What it said of itself, and when.
    pub(super) heard: Option<(Instant, Hello)>,
    /// When something came from its address that was sealed with another key.
    pub(super) wrong_key: Option<Instant>,
}

#[derive(Debug)]
struct Session {
    id: u64,
    inward: LessSafeKey,
    outward: LessSafeKey,
    window: Window,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing to do.
    Hello,
    /// A hello is due to somebody, whose session this is.
    Greet(u64),
    /// A copy, in these bytes of a message.
    Copy(Vec<u8>),
}

impl Peer {
    /// What it said, if it is there.
    pub(super) fn hello(&self, now: Instant) -> Option<&Hello> {
        let (heard, hello) = self.heard.as_ref()?;
        (now.saturating_duration_since(*heard) < PATIENCE).then_some(hello)
    }
}

impl Hellos {
    pub(super) fn new(key: Key, session: u64) -> Self {
        Self { key, session, number: 0, peers: BTreeMap::new(), gone: BTreeMap::new() }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn peers(&self) -> &BTreeMap<SocketAddrV4, Peer> {
        &self.peers
    }

    /// The peers are at these addresses from now on.
    pub(super) fn follow(&mut self, addresses: &[SocketAddrV4]) {
        self.gone.append(&mut self.peers);
        let peer = |address: &SocketAddrV4| (*address, self.gone.remove(address).unwrap_or_default());
        self.peers = addresses.iter().map(peer).collect();
    }

    /// Whether it remembers as much as it may: then a new session is due, to which nothing that was recorded belongs.
    pub(super) fn is_full(&self) -> bool {
        self.gone.len() >= GONE || self.peers.values().any(|peer| peer.former.len() >= FORMER)
    }

    /// Whether any peer but the one at this address has this session, or had it.
    fn is_of_another(&self, at: SocketAddrV4, session: u64) -> bool {
        let mut others = self.peers.iter().chain(&self.gone).filter(|(other, _)| **other != at);
        others.any(|(_, peer)| peer.has(session) || peer.former.contains(&session))
    }

    /// Opens what has come from an address.
    pub(super) fn hear(
        &mut self,
        from: SocketAddrV4,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Heard, Refusal> {
        let (header, sealed) = Header::read(datagram).ok_or(Refusal::Foreign)?;
        if header.sender == self.session {
            return Err(Refusal::Own);
        }
        let peer =
            self.peers.get_mut(&from).filter(|_| header.tag == self.key.tag()).ok_or(Refusal::Foreign)?;
        let message = peer.open(&self.key, self.session, &header, sealed);
        if message == Err(Refusal::WrongKey) {
            peer.wrong_key = Some(now);
        }
        let message = message?;
        let hello = match Message::read(&message).ok_or(Refusal::Malformed)? {
            Message::Hello(hello) => hello,
            Message::Copy(_) if header.receiver == self.session && peer.has(header.sender) => {
                return Ok(Heard::Copy(message.clone()));
            }
            Message::Copy(_) => return Err(Refusal::Stale),
        };
        if header.receiver != self.session {
            return Ok(Heard::Greet(header.sender)); // it may be old, and proves nothing
        }
        if peer.has(header.sender) {
            peer.believe(hello, now);
            return Ok(Heard::Hello);
        }
        if self.is_of_another(from, header.sender) {
            return Err(Refusal::Replayed);
        }
        let peer = self.peers.get_mut(&from).ok_or(Refusal::Foreign)?;
        peer.adopt(&self.key, self.session, &header)?;
        peer.believe(hello, now);
        Ok(Heard::Greet(header.sender))
    }

    /// A hello for somebody whose session this is.
    pub(super) fn greet(&mut self, session: u64, hello: &Hello) -> Option<Vec<u8>> {
        let key = self.key.between(self.session, session).ok()?;
        let header = self.header(session);
        seal(&key, &header, &hello.bytes()).ok()
    }

    /// Hellos for all peers.
    pub(super) fn greetings(&mut self, hello: &Hello, now: Instant) -> Vec<(SocketAddrV4, Vec<u8>)> {
        let known = self.peers.iter().map(|(to, peer)| {
            let session = peer.session.as_ref().filter(|_| peer.hello(now).is_some());
            (*to, session.map_or(0, |session| session.id))
        });
        let known: Vec<_> = known.collect();
        known.into_iter().filter_map(|(to, session)| Some((to, self.greet(session, hello)?))).collect()
    }

    /// A copy for a peer; `None` if its session is not known.
    pub(super) fn seal_copy(&mut self, to: SocketAddrV4, copy: &Copy<'_>) -> Option<Vec<u8>> {
        let session = self.peers.get(&to)?.session.as_ref()?.id;
        let header = self.header(session);
        let session = self.peers.get(&to)?.session.as_ref()?;
        seal(&session.outward, &header, &copy.bytes()).ok()
    }

    fn header(&mut self, receiver: u64) -> Header {
        self.number += 1;
        Header { tag: self.key.tag(), sender: self.session, receiver, number: self.number }
    }

    /// The address of the node that relays for the subnet of `own`; `None` if nobody can.
    pub(super) fn leader(&self, own: &Hello, now: Instant) -> Option<Ipv4Addr> {
        let there = self.there(now).map(|(_, hello)| hello).filter(|hello| hello.subnet == own.subnet);
        let able = there.chain([own]).filter(|hello| hello.able);
        able.map(|hello| hello.address).min()
    }

    /// Of each other subnet, the peer that relays for it, and the address of that one's uplink.
    pub(super) fn others(&self, own: &Hello, now: Instant) -> BTreeMap<Subnet, (Ipv4Addr, SocketAddrV4)> {
        let mut found = BTreeMap::new();
        for (at, Hello { address, subnet, able, .. }) in self.there(now) {
            if *able && *subnet != own.subnet {
                let leader = found.entry(*subnet).or_insert((*address, at));
                *leader = (*leader).min((*address, at));
            }
        }
        found
    }

    fn there(&self, now: Instant) -> impl Iterator<Item = (SocketAddrV4, &Hello)> {
        self.peers.iter().filter_map(move |(at, peer)| Some((*at, peer.hello(now)?)))
    }
}

impl Peer {
    /// Whether this is its session now.
    fn has(&self, session: u64) -> bool {
        self.session.as_ref().is_some_and(|own| own.id == session)
    }

    fn open(&mut self, key: &Key, own: u64, header: &Header, sealed: &[u8]) -> Result<Vec<u8>, Refusal> {
        if header.receiver == own
            && let Some(session) = self.session.as_mut().filter(|session| session.id == header.sender)
        {
            let message = open(&session.inward, header, sealed).map_err(|_| Refusal::WrongKey)?;
            return if session.window.take(header.number) { Ok(message) } else { Err(Refusal::Replayed) };
        }
        if header.receiver != own && header.receiver != 0 {
            return Err(Refusal::Stale);
        }
        let inward = key.between(header.sender, header.receiver).map_err(|_| Refusal::WrongKey)?;
        let message = open(&inward, header, sealed).map_err(|_| Refusal::WrongKey)?;
        if self.former.contains(&header.sender) { Err(Refusal::Replayed) } else { Ok(message) }
    }

    fn believe(&mut self, hello: Hello, now: Instant) {
        (self.heard, self.wrong_key) = (Some((now, hello)), None);
    }

    /// It has a new session, which this header names.
    fn adopt(&mut self, key: &Key, own: u64, header: &Header) -> Result<(), Refusal> {
        let between = |sender, receiver| key.between(sender, receiver).map_err(|_| Refusal::WrongKey);
        let mut window = Window::NEW;
        window.take(header.number);
        let (inward, outward) = (between(header.sender, own)?, between(own, header.sender)?);
        let before = self.session.replace(Session { id: header.sender, inward, outward, window });
        self.former.extend(before.map(|session| session.id));
        if self.former.len() > FORMER {
            self.former.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn at(number: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(172, 23, number / 10, 10 + number % 10), 5077)
    }

    /// Who said what to whom, and what came of it.
    type Said = (u8, SocketAddrV4, Vec<u8>, Result<Heard, Refusal>);

    /// Agents that can all hear each other; that of number 12 is in the subnet 172.23.1.0/24, with the address 172.23.1.12.
    struct World {
        now: Instant,
        agents: BTreeMap<u8, (Hello, Hellos)>,
        sessions: u64,
        /// Who hears nobody.
        deaf: Option<u8>,
    }

    impl World {
        fn new(numbers: &[u8]) -> Self {
            let mut world = Self { now: Instant::now(), agents: BTreeMap::new(), sessions: 0, deaf: None };
            numbers.iter().for_each(|number| world.start(*number, SECRET, numbers));
            world
        }

        fn start(&mut self, number: u8, secret: &str, all: &[u8]) {
            let address = *at(number).ip();
            let subnet = Subnet::of(address, 24).unwrap();
            let hello = Hello { address, subnet, able: true, leads: false, node: number.to_string() };
            self.sessions += 1;
            let mut hellos = Hellos::new(Key::new("a", secret), self.sessions);
            hellos.follow(
                &all.iter().filter(|other| **other != number).map(|other| at(*other)).collect::<Vec<_>>(),
            );
            self.agents.insert(number, (hello, hellos));
        }

        /// All say hello, and what follows from that; everything that was said, and what came of it.
        fn tick(&mut self) -> Vec<Said> {
            self.now += PERIOD;
            let mut said = VecDeque::new();
            for (number, (hello, hellos)) in &mut self.agents {
                said.extend(
                    hellos.greetings(hello, self.now).into_iter().map(|(to, bytes)| (*number, to, bytes)),
                );
            }
            let mut outcome = vec![];
            while let Some((from, to, bytes)) = said.pop_front() {
                let Some((number, (hello, hellos))) = self
                    .agents
                    .iter_mut()
                    .find(|(number, _)| at(**number) == to && self.deaf != Some(**number))
                else {
                    continue;
                };
                let heard = hellos.hear(at(from), &bytes, self.now);
                if let Ok(Heard::Greet(session)) = heard {
                    said.push_back((*number, at(from), hellos.greet(session, hello).unwrap()));
                }
                outcome.push((from, to, bytes, heard));
                assert!(outcome.len() < 1000, "they never stop");
            }
            outcome
        }

        fn leader(&self, number: u8) -> Ipv4Addr {
            let (hello, hellos) = &self.agents[&number];
            hellos.leader(hello, self.now).unwrap()
        }

        fn others(&self, number: u8) -> Vec<SocketAddrV4> {
            let (hello, hellos) = &self.agents[&number];
            hellos.others(hello, self.now).into_values().map(|(_, at)| at).collect()
        }

        fn hear(&mut self, number: u8, from: u8, bytes: &[u8]) -> Result<Heard, Refusal> {
            let now = self.now;
            self.agents.get_mut(&number).unwrap().1.hear(at(from), bytes, now)
        }

        fn copy(&mut self, from: u8, to: u8) -> Vec<u8> {
            let (hello, hellos) = self.agents.get_mut(&from).unwrap();
            let copy = Copy { subnet: hello.subnet, source: at(from), port: 5064, payload: b"x" };
            hellos.seal_copy(at(to), &copy).unwrap()
        }
    }

    #[test]
    fn the_lowest_address_of_each_subnet_relays() {
        let mut world = World::new(&[0, 1, 2, 10, 11, 20]);
        assert_eq!(world.leader(2), *at(2).ip(), "as long as it knows no other");
        world.tick();
        for number in [0, 1, 2] {
            assert_eq!((world.leader(number), world.others(number)), (*at(0).ip(), vec![at(10), at(20)]));
        }
        assert_eq!((world.leader(11), world.others(20)), (*at(10).ip(), vec![at(0), at(10)]));
    }

    #[test]
    fn another_takes_over_within_two_seconds_and_gives_it_back() {
        let all = [0, 1, 10];
        let mut world = World::new(&all);
        world.tick();
        world.agents.remove(&0);
        (0..3).for_each(|_| drop(world.tick()));
        assert_eq!((world.leader(1), world.others(10)), (*at(0).ip(), vec![at(0)]));
        world.tick();
        assert_eq!((world.leader(1), world.others(10)), (*at(1).ip(), vec![at(1)]), "2 s");
        world.start(0, SECRET, &all);
        world.tick();
        assert_eq!((world.leader(1), world.others(10)), (*at(0).ip(), vec![at(0)]));
    }

    #[test]
    fn one_whose_uplink_carries_nothing_does_not_relay() {
        let mut world = World::new(&[0, 1, 10]);
        world.agents.get_mut(&0).unwrap().0.able = false;
        world.tick();
        assert_eq!(
            (world.leader(0), world.leader(1), world.others(10)),
            (*at(1).ip(), *at(1).ip(), vec![at(1)])
        );
    }

    #[test]
    fn one_who_hears_nobody_does_not_relay() {
        let mut world = World::new(&[0, 1, 10]);
        world.tick();
        world.deaf = Some(0);
        (0..8).for_each(|_| drop(world.tick()));
        assert_eq!((world.leader(1), world.others(10)), (*at(1).ip(), vec![at(1)]));
        world.deaf = None;
        world.tick();
        assert_eq!((world.leader(1), world.others(10)), (*at(0).ip(), vec![at(0)]));
    }

    #[test]
    fn who_has_another_key_is_noticed_and_not_believed() {
        let mut world = World::new(&[0, 10]);
        world.start(10, "another key of 32 bytes, or more", &[0, 10]);
        let heard = world.tick();
        assert!(heard.iter().all(|(.., heard)| *heard == Err(Refusal::WrongKey)), "{heard:?}");
        let (_, hellos) = &world.agents[&0];
        assert!(hellos.peers()[&at(10)].wrong_key.is_some() && world.others(0).is_empty());
    }

    #[test]
    fn copies_count_once_and_only_from_a_peer() {
        let mut world = World::new(&[0, 10]);
        world.tick();
        let copy = world.copy(0, 10);
        assert_eq!(world.hear(10, 20, &copy), Err(Refusal::Foreign));
        assert!(matches!(world.hear(10, 0, &copy), Ok(Heard::Copy(_))));
        assert_eq!(world.hear(10, 0, &copy), Err(Refusal::Replayed));
        assert_eq!(world.hear(0, 10, &copy), Err(Refusal::Own));
        let mut changed = world.copy(0, 10);
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(world.hear(10, 0, &changed), Err(Refusal::WrongKey));
    }

    #[test]
    fn nothing_that_was_recorded_counts_again_whoever_was_started_anew() {
        let all = [0, 10];
        let mut world = World::new(&all);
        let mut recorded = world.tick();
        let copy = world.copy(0, 10);
        recorded.push((0, at(10), copy, Ok(Heard::Hello)));
        let to_ten: Vec<_> = recorded.into_iter().filter(|(_, to, ..)| *to == at(10)).collect();
        for restarted in [0, 10, 0] {
            world.start(restarted, SECRET, &all);
            world.tick();
            assert_eq!(world.others(10), [at(0)]);
            for (_, _, bytes, _) in &to_ten {
                let heard = world.hear(10, 0, bytes);
                assert!(
                    matches!(heard, Err(Refusal::Replayed | Refusal::Stale) | Ok(Heard::Greet(_))),
                    "{heard:?}"
                );
            }
            let copy = world.copy(0, 10);
            assert!(
                matches!(world.hear(10, 0, &copy), Ok(Heard::Copy(_))),
                "the session is still the new one"
            );
        }
    }

    #[test]
    fn nothing_that_was_recorded_counts_from_the_address_of_another_peer() {
        let mut world = World::new(&[0, 10, 20]);
        let mut recorded = world.tick();
        recorded.extend(world.tick());
        let copy = world.copy(0, 10);
        assert_eq!(world.hear(10, 20, &copy), Err(Refusal::Stale));
        let hellos: Vec<_> =
            recorded.into_iter().filter(|(from, to, ..)| (*from, *to) == (0, at(10))).collect();
        let replayed = hellos.iter().map(|(_, _, bytes, _)| world.hear(10, 20, bytes)).collect::<Vec<_>>();
        assert!(replayed.contains(&Err(Refusal::Replayed)), "{replayed:?}");
        assert!(!replayed.contains(&Ok(Heard::Hello)), "{replayed:?}");
        for from in [0, 20] {
            let copy = world.copy(from, 10);
            assert!(matches!(world.hear(10, from, &copy), Ok(Heard::Copy(_))), "{from} has its own session");
        }
    }

    #[test]
    fn nothing_that_was_recorded_counts_when_a_peer_comes_back() {
        let mut world = World::new(&[0, 10]);
        world.tick();
        let copy = world.copy(0, 10);
        assert!(matches!(world.hear(10, 0, &copy), Ok(Heard::Copy(_))));
        for peers in [vec![], vec![at(0)]] {
            world.agents.get_mut(&10).unwrap().1.follow(&peers);
            world.tick();
            assert!(world.hear(10, 0, &copy).is_err());
        }
        let next = world.copy(0, 10);
        assert!(matches!(world.hear(10, 0, &next), Ok(Heard::Copy(_))), "what is new does");
    }

    #[test]
    fn a_new_session_is_due_before_anything_is_forgotten() {
        let mut world = World::new(&[0, 10]);
        for restarts in 0..=FORMER {
            assert!(!world.agents[&10].1.is_full(), "{restarts}");
            world.start(0, SECRET, &[0, 10]);
            world.tick();
        }
        assert!(world.agents[&10].1.is_full());
        let mut hellos = Hellos::new(Key::new("a", SECRET), 1);
        for number in 0..GONE as u32 {
            assert!(!hellos.is_full(), "{number}");
            hellos.follow(&[SocketAddrV4::new(number.into(), 5077)]);
        }
        hellos.follow(&[]);
        assert!(hellos.is_full());
    }

    #[test]
    fn who_is_no_peer_any_more_is_not_believed() {
        let mut world = World::new(&[0, 10]);
        world.tick();
        let copy = world.copy(0, 10);
        world.agents.get_mut(&10).unwrap().1.follow(&[at(20)]);
        assert_eq!(world.hear(10, 0, &copy), Err(Refusal::Foreign));
    }
}

//! A domain on this node, as far as other subnets are concerned: its uplink, its peers, and what passes between them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use super::{
    crossing::{Crossing, Limits, Refusal, Rules},
    envelope::{Key, session},
    hellos::{Heard, Hellos, Peer},
    message::{Copy, Hello, Message},
    report::{PeerReport, Report, State},
    subnet::Subnet,
};
use crate::{
    config::{DomainConfig, SubnetsConfig},
    places::Lost,
    uplink::{self, Fault},
};
use datapath::{
    Outlet, Tap, Whose,
    link::{self, Link},
};

/// The most frames, or datagrams, of a domain before the others have their turn.
const BATCH: usize = 256;

/// How long after its beginning nobody is missed, as all agents may start together; and how long another key is remembered.
const NOTICE: Duration = Duration::from_secs(10);

/// Datagrams for peers.
pub(super) type Post = Vec<(SocketAddrV4, Vec<u8>)>;

/// A domain.
pub(super) struct Site {
    pub(super) domain: DomainConfig,
    pub(super) settings: SubnetsConfig,
    /// None while there is no key.
    hellos: Option<Hellos>,
    /// Names that lead nowhere.
    lost: Lost,
    node: String,
    lan: Option<Lan>,
    problem: Option<String>,
    /// Of what leaves this subnet, and of what comes.
    limits: [Limits; 2],
    began: Instant,
    counts: Counts,
    /// A second or so ago, and the rates since the one before.
    before: (Instant, u64, u64),
    rates: (u64, u64),
}

/// What has passed.
#[derive(Clone, Debug, Default)]
struct Counts {
    sent: u64,
    received: u64,
    refused: BTreeMap<Refusal, u64>,
}

/// The LAN behind the uplink.
struct Lan {
    uplink: Link,
    hello: Hello,
    broadcast: Ipv4Addr,
    rules: Rules,
    tap: Tap,
    outlet: Outlet,
}

impl Site {
    pub(super) fn new(domain: DomainConfig, settings: SubnetsConfig, node: String) -> Self {
        let now = Instant::now();
        Self {
            limits: Limits::both(domain.rates),
            domain,
            settings,
            hellos: None,
            lost: vec![],
            node,
            lan: None,
            problem: None,
            began: now,
            counts: Counts::default(),
            before: (now, 0, 0),
            rates: (0, 0),
        }
    }

    /// It is configured so from now on; whom it has heard stays heard.
    pub(super) fn follow(&mut self, domain: DomainConfig, settings: SubnetsConfig) {
        self.limits = Limits::both(domain.rates);
        (self.domain, self.settings, self.lan) = (domain, settings, None);
    }

    /// Looks at the key, the peers and the uplink as they are now; why it cannot work, if it cannot.
    pub(super) fn look(&mut self, addresses: &[SocketAddrV4], lost: &Lost, no_socket: Option<String>) {
        self.lost.clone_from(lost);
        let before = self.address();
        let outcome = self.look_at_key().and_then(|()| self.look_at_uplink());
        let has_moved = before.is_some() && before != self.address();
        if has_moved || self.hellos.is_none() {
            (self.hellos, self.lan) = (None, None); // whoever moves begins anew: to others, a session has one address
        }
        let outcome = outcome.and(no_socket.map_or(Ok(()), Err));
        if let Some(hellos) = &mut self.hellos {
            hellos.follow(addresses);
        }
        self.problem = outcome.err();
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.lan.as_ref().map(|lan| lan.hello.address)
    }

    /// Without a key, nobody is a peer.
    fn look_at_key(&mut self) -> Result<(), String> {
        let key = Key::read(&self.domain.name, &self.settings.key).inspect_err(|_| self.hellos = None)?;
        if self.hellos.as_ref().is_none_or(|hellos| *hellos.key() != key || hellos.is_full()) {
            let session = session().map_err(|_| "the kernel has no random numbers".to_owned())?;
            self.hellos = Some(Hellos::new(key, session));
        }
        Ok(())
    }

    fn look_at_uplink(&mut self) -> Result<(), String> {
        let found = self.read_uplink().map_err(|error| error.to_string())?;
        let Some((uplink, hello, broadcast)) = found else {
            self.lan = None;
            return Err(format!("{}, or it has no IPv4 address", uplink::absence(&self.domain.uplink)));
        };
        match &mut self.lan {
            Some(lan) if lan.is_same(&uplink, &hello, broadcast) => lan.hello = hello,
            _ => {
                self.lan = None;
                self.lan = Some(self.open(uplink, hello, broadcast)?);
            }
        }
        Ok(())
    }

    fn read_uplink(&self) -> datapath::Result<Option<(Link, Hello, Ipv4Addr)>> {
        let Some(uplink) = uplink::find(&self.domain.uplink)? else { return Ok(None) };
        let Some(first) = link::addresses(uplink.index)?.into_iter().next() else { return Ok(None) };
        let Some(subnet) = Subnet::of(first.address, first.prefix) else { return Ok(None) };
        let able = Fault::of(&uplink, true).is_none();
        let hello = Hello { address: first.address, subnet, able, leads: false, node: self.node.clone() };
        let broadcast = first.broadcast.unwrap_or_else(|| first.natural_broadcast());
        Ok(Some((uplink, hello, broadcast)))
    }

    fn open(&self, uplink: Link, hello: Hello, broadcast: Ipv4Addr) -> Result<Lan, String> {
        let rules = Rules::new(&self.domain, hello.subnet, (hello.address, broadcast), uplink.mac);
        let ports = rules.ports();
        check_number(ports.len())?;
        let whose = Whose::Asking { host: hello.address, ports };
        let fault = |error: datapath::Error| error.to_string();
        Ok(Lan {
            tap: Tap::open(uplink.index, &whose).map_err(fault)?,
            outlet: Outlet::at(&uplink).map_err(fault)?,
            uplink,
            hello,
            broadcast,
            rules,
        })
    }

    /// What it says of itself.
    fn hello(&self, now: Instant) -> Option<Hello> {
        let (own, hellos) = (&self.lan.as_ref()?.hello, self.hellos.as_ref()?);
        let leads = hellos.leader(own, now) == Some(own.address);
        Some(Hello { leads, ..own.clone() })
    }

    /// Whether it does not know yet where its peers are.
    pub(super) fn is_waiting(&self) -> bool {
        let has_peers = self.hellos.as_ref().is_some_and(|hellos| !hellos.peers().is_empty());
        !has_peers && self.began.elapsed() < NOTICE
    }

    /// What may wake it.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.lan.as_ref().map(|lan| lan.tap.as_fd())
    }

    /// The tag of its datagrams.
    pub(super) fn has_tag(&self, datagram: &[u8]) -> bool {
        self.hellos.as_ref().is_some_and(|hellos| datagram.starts_with(&hellos.key().tag()))
    }

    /// Whether this is a peer's address.
    pub(super) fn has_peer(&self, address: SocketAddrV4) -> bool {
        self.hellos.as_ref().is_some_and(|hellos| hellos.peers().contains_key(&address))
    }

    /// Hellos for all peers.
    pub(super) fn greet(&mut self) -> Post {
        let now = Instant::now();
        let hello = self.hello(now);
        let (Some(hellos), Some(hello)) = (&mut self.hellos, hello) else { return vec![] };
        hellos.greetings(&hello, now)
    }

    /// Copies, for the peers, of what has passed the uplink.
    pub(super) fn take_in(&mut self) -> Post {
        let mut post = vec![];
        let (Some(lan), Some(hellos)) = (&self.lan, &mut self.hellos) else { return post };
        let now = Instant::now();
        let leads = hellos.leader(&lan.hello, now) == Some(lan.hello.address);
        let others: Vec<_> = hellos.others(&lan.hello, now).into_values().map(|(_, to)| to).collect();
        for _ in 0..BATCH {
            let Some(frame) = lan.tap.take() else { break };
            let crossing = match lan.rules.judge(&frame.bytes, frame.outgoing, leads) {
                None => continue,
                Some(Ok(crossing)) => crossing,
                Some(Err(refusal)) => {
                    self.counts.refuse(refusal);
                    continue;
                }
            };
            let Crossing { kind, source, port, payload } = crossing;
            if !self.limits[0].admit(kind, *source.ip(), nanoseconds(self.began)) {
                self.counts.refuse(Refusal::Limited);
                continue;
            }
            let copy = Copy { subnet: lan.hello.subnet, source, port, payload: &payload };
            post.extend(others.iter().filter_map(|to| Some((*to, hellos.seal_copy(*to, &copy)?))));
        }
        post
    }

    /// So many copies have left, and so many have not.
    pub(super) fn count(&mut self, sent: usize, unsent: usize) {
        self.counts.sent += sent as u64;
        if unsent > 0 {
            *self.counts.refused.entry(Refusal::Unsent).or_default() += unsent as u64;
        }
    }

    /// Takes what a peer, or somebody else, has sent. Returns what to answer.
    pub(super) fn hear(&mut self, from: SocketAddrV4, datagram: &[u8]) -> Option<Vec<u8>> {
        let now = Instant::now();
        let outcome = match self.hellos.as_mut()?.hear(from, datagram, now) {
            Ok(Heard::Hello) => Ok(()),
            Ok(Heard::Greet(session)) => {
                let hello = self.hello(now)?;
                return self.hellos.as_mut()?.greet(session, &hello);
            }
            Ok(Heard::Copy(message)) => match Message::read(&message) {
                Some(Message::Copy(copy)) => self.say(&copy),
                _ => Err(Refusal::Malformed),
            },
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(()) => {}
            Err(refusal) => self.counts.refuse(refusal),
        }
        None
    }

    /// Counts a datagram that is no domain's.
    pub(super) fn refuse_foreign(&mut self) {
        self.counts.refuse(Refusal::Foreign);
    }

    /// Says on the LAN what was said on another.
    fn say(&mut self, copy: &Copy<'_>) -> Result<(), Refusal> {
        let lan = self.lan.as_ref().ok_or(Refusal::Unsent)?;
        let host = *copy.source.ip();
        if !copy.subnet.is_in(&self.domain.lan)
            || !copy.subnet.has_host(host)
            || lan.rules.subnet.contains(host)
        {
            return Err(Refusal::OffLan);
        }
        let (port, kind) = lan.rules.welcome(copy.port, host, copy.payload)?;
        if !self.limits[1].admit(kind, host, nanoseconds(self.began)) {
            return Err(Refusal::Limited);
        }
        let frame = lan.rules.frame(copy.source, port, copy.payload);
        match lan.outlet.put(&frame) {
            Ok(true) => self.counts.received += 1,
            Ok(false) | Err(_) => return Err(Refusal::Unsent),
        }
        Ok(())
    }

    /// How it is.
    pub(super) fn report(&mut self) -> Report {
        let now = Instant::now();
        self.measure(now);
        let Counts { sent, received, refused } = &self.counts;
        let count = |refusal: &Refusal| refused.get(refusal).copied().unwrap_or(0);
        let refused = Refusal::ALL.iter().map(|refusal| (refusal.name().to_owned(), count(refusal)));
        let mut report = Report {
            domain: self.domain.name.clone(),
            problem: self.problem.clone(),
            sent: *sent,
            received: *received,
            sent_per_second: self.rates.0,
            received_per_second: self.rates.1,
            refused: refused.collect(),
            lost: self.lost.clone(),
            ..Report::default()
        };
        if let (Some(lan), Some(hellos)) = (&self.lan, &self.hellos) {
            report.subnet = Some(lan.hello.subnet.to_string());
            report.leader = hellos.leader(&lan.hello, now);
            report.leads = report.leader == Some(lan.hello.address);
            let leaders = hellos.others(&lan.hello, now);
            let leads = |address: Ipv4Addr| {
                report.leader == Some(address) || leaders.values().any(|(leader, _)| *leader == address)
            };
            let peers = hellos.peers().iter();
            report.peers = peers.map(|(at, peer)| self.peer(*at, peer, now, leads)).collect();
        }
        report
    }

    fn peer(
        &self,
        at: SocketAddrV4,
        peer: &Peer,
        now: Instant,
        leads: impl Fn(Ipv4Addr) -> bool,
    ) -> PeerReport {
        let hello = peer.hello(now);
        let said = peer.heard.as_ref().map(|(_, hello)| hello);
        let is_recent = |then: Instant| now.saturating_duration_since(then) < NOTICE;
        PeerReport {
            address: at.to_string(),
            node: said.map(|hello| hello.node.clone()),
            subnet: said.map(|hello| hello.subnet.to_string()),
            leads: hello.is_some_and(|hello| hello.able && leads(hello.address)),
            claims: hello.is_some_and(|hello| hello.leads),
            heard_ms: peer
                .heard
                .as_ref()
                .map(|(heard, _)| now.saturating_duration_since(*heard).as_millis() as u64),
            state: match hello {
                Some(hello) if hello.able => State::Heard,
                Some(_) => State::Unable,
                None if peer.wrong_key.is_some_and(is_recent) => State::WrongKey,
                None if peer.heard.is_none() && is_recent(self.began) => State::Expected,
                None => State::Silent,
            },
            on_lan: said.is_none_or(|hello| self.knows(hello.subnet)),
        }
    }

    /// Whether the LAN has this subnet, so that pods may answer.
    fn knows(&self, subnet: Subnet) -> bool {
        subnet.is_in(&self.domain.lan) || self.lan.as_ref().is_some_and(|lan| lan.hello.subnet == subnet)
    }

    fn measure(&mut self, now: Instant) {
        let (then, sent, received) = self.before;
        let millis = now.saturating_duration_since(then).as_millis() as u64;
        if millis >= 900 {
            self.rates = (
                (self.counts.sent - sent) * 1000 / millis,
                (self.counts.received - received) * 1000 / millis,
            );
            self.before = (now, self.counts.sent, self.counts.received);
        }
    }
}

impl Lan {
    fn is_same(&self, uplink: &Link, hello: &Hello, broadcast: Ipv4Addr) -> bool {
        let of = |uplink: &Link| (uplink.index, uplink.mac, uplink.name.clone());
        of(&self.uplink) == of(uplink)
            && (self.hello.address, self.hello.subnet, self.broadcast)
                == (hello.address, hello.subnet, broadcast)
    }
}

impl Counts {
    fn refuse(&mut self, refusal: Refusal) {
        *self.refused.entry(refusal).or_default() += 1;
    }
}

/// Whether a tap can watch so many ports.
fn check_number(ports: usize) -> Result<(), String> {
    match ports {
        0 => Err("none of the domain's protocols crosses".into()),
        1..=Whose::PORTS => Ok(()),
        _ => Err(format!("{ports} ports are too many: at most {} can cross", Whose::PORTS)),
    }
}

/// Since `began`; never 0, which stands for "never" in a limit.
fn nanoseconds(began: Instant) -> u64 {
    began.elapsed().as_nanos() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_needs_ports_that_cross() {
        for (ports, expected) in
            [(0, "none of"), (1, ""), (Whose::PORTS, ""), (Whose::PORTS + 1, "201 ports are too many")]
        {
            let found = check_number(ports).err().unwrap_or_default();
            assert!(
                found.starts_with(expected) && found.is_empty() == expected.is_empty(),
                "{ports}: {found}"
            );
        }
    }

    fn site() -> Site {
        let text =
            "[domain.a]\nuplink = \"no-such-uplink\"\nsubnets = { peers = [\"a\"], key = \"/nowhere/key\" }";
        let domain = crate::config::Config::parse(text).unwrap().domains.remove(0);
        let settings = domain.subnets.clone().unwrap();
        Site::new(domain, settings, "node".into())
    }

    #[test]
    fn another_key_is_believed_for_a_while() {
        let (site, at) = (site(), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5077));
        let mut peer = Peer::default();
        peer.wrong_key = Some(site.began);
        for (seconds, expected) in [(0, State::WrongKey), (9, State::WrongKey), (11, State::Silent)] {
            let now = site.began + Duration::from_secs(seconds);
            assert_eq!(site.peer(at, &peer, now, |_| false).state, expected, "{seconds} s");
        }
    }

    #[test]
    fn without_its_key_a_domain_has_no_peers() {
        let mut site = site();
        site.hellos = Some(Hellos::new(Key::new("a", "0123456789abcdef0123456789abcdef"), 1));
        site.look(&[], &vec![], None);
        let report = site.report();
        assert!(site.hellos.is_none() && site.lan.is_none());
        assert!(report.problem.is_some_and(|problem| problem.contains("/nowhere/key")));
    }
}

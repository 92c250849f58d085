//! LAN addresses of pods, kept: the node's routes to them, what the LAN is told, and what to do when another host claims one.
//!
//! What there is to do is decided from what was seen, without I/O; a pass looks, and acts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use abi::{LanAddress, rival, seconds, standing, text};
use datapath::{
    State,
    arp::Sender,
    kernel_clock,
    lan_address::{self, Lan, bridge_of, is_awaited, is_settled},
    link,
    printable::{mac, printable},
    route::{self, Route},
};
use membership::address;

/// How long a host that claimed an address must have been silent before it counts as gone, and before the node asks for an
/// address that it has lost.
const SILENCE: Duration = Duration::from_secs(60);
/// How many passes in a row ask for a lost address before it is taken back: a question, or its answer, may be lost.
const QUESTIONS: u32 = 3;
/// How long an address may be reserved: its pod starts in less.
const START: Duration = Duration::from_secs(10);

/// The names of standings.
pub(crate) const STANDINGS: [(u16, &str); 4] = [
    (standing::RESERVED, "reserved"),
    (standing::HELD, "held"),
    (standing::TAKEN, "taken"),
    (standing::LOST, "lost"),
];

/// The name of a standing.
pub(crate) fn standing_name(standing: u16) -> &'static str {
    STANDINGS.iter().find(|(known, _)| *known == standing).map_or("?", |(_, name)| name)
}

/// The other host that claims an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rival {
    mac: [u8; 6],
    /// How long ago it did so last.
    age: Duration,
    /// Whether an admin took the address to it.
    has_overruled: bool,
}

impl Rival {
    /// The one that `address` has; `None` if there is none, or it only asked whether anybody has the address.
    fn of(state: &State, address: Ipv4Addr, now: Duration) -> datapath::Result<Option<Self>> {
        let found = state.rival(address.octets())?.filter(|found| found.flags & rival::PROBES == 0);
        Ok(found.map(|found| Self {
            mac: found.mac,
            age: now.saturating_sub(Duration::from_nanos(found.seen)),
            has_overruled: found.flags & rival::OVERRULED != 0,
        }))
    }
}

/// An address, as a pass sees it.
#[derive(Clone, Debug)]
struct Sight {
    address: Ipv4Addr,
    standing: u16,
    /// How long ago it was reserved, or taken.
    age: Duration,
    /// The member that has it; `None` if that is gone, or has not come yet.
    pod: Option<String>,
    /// Whether an admin has taken it to this node before its pod comes.
    is_awaited: bool,
    /// That it is outside of its uplink's network.
    outside: Option<String>,
    /// The route that the node should have; `None` while the domain has no LAN.
    wanted: Option<Way>,
    /// The one that it has.
    route: Option<Way>,
    /// Whether the LAN may not know where it is: the uplink is another, or has come back.
    is_news: bool,
    rival: Option<Rival>,
    /// How many passes before this one, in a row, have asked whether another host has it.
    asked: u32,
    /// Whether another host has claimed it since the first of them.
    is_answered: bool,
}

/// What counts of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    /// Interface index of the device.
    device: u32,
    /// The source of the node's own packets.
    source: Option<Ipv4Addr>,
}

/// What to do about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Forget it: nobody has it.
    Release,
    /// Remove the node's route to it.
    Withdraw,
    /// Set the node's route to it, to its pod.
    Route,
    /// Ask the LAN whether another host has it.
    Ask,
    /// Answer for it again.
    Hold,
    /// Tell the LAN that the node has it.
    Announce,
}

impl Sight {
    /// What there is to do.
    fn steps(&self) -> Vec<Step> {
        if self.pod.is_none() {
            return if self.is_awaited { vec![] } else { vec![Step::Release] };
        }
        match self.standing {
            standing::RESERVED => vec![],
            standing::LOST => self.steps_of_lost(),
            _ => self.steps_of_held(),
        }
    }

    fn steps_of_held(&self) -> Vec<Step> {
        let mut steps: Vec<_> =
            self.wanted.filter(|way| self.route != Some(*way)).map(|_| Step::Route).into_iter().collect();
        steps.extend(self.wanted.and_then(|_| self.telling()));
        steps
    }

    /// What the LAN has to be told, after it was asked: what another host claims meanwhile is the programs' to decide.
    fn telling(&self) -> Option<Step> {
        match (self.is_news, self.asked > 0 && !self.is_answered) {
            _ if self.outside.is_some() => None,
            (true, _) => Some(Step::Ask),
            (false, is_free) => is_free.then_some(Step::Announce),
        }
    }

    /// Without a route, until the other host is gone.
    fn steps_of_lost(&self) -> Vec<Step> {
        if self.wanted.is_none() || self.is_contested() || self.is_answered {
            return self.route.map(|_| Step::Withdraw).into_iter().collect();
        }
        if self.asked < QUESTIONS { vec![Step::Ask] } else { vec![Step::Hold, Step::Route, Step::Announce] }
    }

    /// Whether another host claims it, too.
    fn is_contested(&self) -> bool {
        self.is_claimed_within(SILENCE)
    }

    /// Whether another host has claimed it, in the time before now, from a pod that has it.
    fn is_claimed_within(&self, time: Duration) -> bool {
        let is_held = self.pod.is_some() && self.standing != standing::RESERVED;
        is_held && self.rival.is_some_and(|rival| rival.age < time)
    }

    /// What a person should know, with what to do about it.
    fn problem(&self) -> Option<String> {
        let pod = printable(self.pod.as_ref()?);
        let address = self.address;
        let host =
            self.rival.map_or_else(|| "another host".into(), |rival| format!("the host {}", mac(rival.mac)));
        if self.standing == standing::RESERVED {
            return (self.age >= START).then(|| {
                format!(
                    "{pod} has not got its address {address}: its start was interrupted; delete the pod to have it created \
                     anew"
                )
            });
        }
        if self.standing == standing::LOST && self.rival.is_some_and(|rival| rival.has_overruled) {
            return Some(format!(
                "{pod} has lost its address {address}, which an admin took to another node, {host}: delete the pod if it \
                 runs there; if it is to have the address here: iocast-node take {address}"
            ));
        }
        if self.standing == standing::LOST {
            return Some(format!(
                "{pod} has lost its address {address} to {host}, which the LAN reaches instead: give one of them another \
                 address; if that is a node where the pod no longer runs: iocast-node take {address}"
            ));
        }
        if self.is_contested() {
            return Some(format!(
                "{pod} has the address {address}, which {host} claims, too: give one of them another address"
            ));
        }
        self.outside.as_ref().map(|outside| {
            format!(
                "{pod} has the address {address}, which is now {outside}: delete the pod to have it created anew, with an \
                 address in there"
            )
        })
    }
}

/// What is looked at in an uplink: if one of these changes, the LAN has to learn anew where addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bearing {
    index: u32,
    mac: [u8; 6],
    address: Ipv4Addr,
    port: Option<u32>,
}

/// A domain's LAN, as a pass sees it.
struct View {
    lan: Lan,
    addresses: Vec<link::Address>,
    /// What the uplink is; `None` while it carries nothing.
    bearing: Option<Bearing>,
}

impl View {
    /// The LAN of a domain; `None` while there is none.
    fn of(state: &State, domain: u16) -> datapath::Result<Option<Self>> {
        let lan = match Lan::of(state, domain) {
            Err(datapath::Error::NoUplink(_)) => return Ok(None),
            lan => lan?,
        };
        let addresses = link::addresses(lan.uplink.index)?;
        let carries = lan.uplink.is_up && lan.uplink.has_carrier;
        let has_address = addresses.iter().any(|own| own.address == lan.address);
        let bearing = (carries && has_address).then_some(Bearing {
            index: lan.uplink.index,
            mac: lan.uplink.mac,
            address: lan.address,
            port: lan.uplink.active_port,
        });
        Ok(Some(Self { lan, addresses, bearing }))
    }
}

/// What a pass sees of the node.
struct Scene {
    now: Duration,
    entries: Vec<(abi::Address, LanAddress)>,
    /// The node's routes to addresses.
    routes: Vec<Route>,
    /// The LANs of the domains that have addresses, by their numbers.
    views: BTreeMap<u16, View>,
    /// The members by interface index and generation.
    pods: HashMap<(u32, u32), String>,
}

impl Scene {
    fn look(state: &State) -> datapath::Result<Self> {
        let entries = state.lan_addresses()?;
        let mut views = BTreeMap::new();
        for domain in entries.iter().map(|(_, entry)| entry.domain).collect::<BTreeSet<_>>() {
            views.extend(View::of(state, domain)?.map(|view| (domain, view)));
        }
        let attachments = state.attachments()?.into_iter();
        let pods = attachments.map(|(_, held)| ((held.member, held.generation), address::name(&held)));
        Ok(Self { now: kernel_clock()?, entries, routes: route::routes()?, views, pods: pods.collect() })
    }

    /// An address as it is, without what only the agent remembers.
    fn sight(&self, state: &State, address: Ipv4Addr, entry: &LanAddress) -> datapath::Result<Sight> {
        let now = seconds(self.now.as_nanos() as u64);
        let view = self.views.get(&entry.domain);
        let bearing = view.and_then(|view| view.bearing.as_ref());
        let is_current =
            state.member(entry.member)?.is_some_and(|found| found.generation == entry.generation);
        let pod = self.pods.get(&(entry.member, entry.generation)).filter(|_| is_current).cloned();
        let veth = if pod.is_some() { link::by_index(entry.member)? } else { None };
        let wanted = match (veth, bearing) {
            (Some(veth), Some(bearing)) => Some(Way {
                device: bridge_of(&veth)?.map_or(veth.index, |bridge| bridge.index),
                source: Some(bearing.address),
            }),
            _ => None,
        };
        let route = self.routes.iter().find(|route| route.address == address && route.prefix == 32);
        let lan = view.filter(|_| bearing.is_some());
        Ok(Sight {
            address,
            standing: entry.standing,
            age: Duration::from_secs(now.saturating_sub(entry.since).into()),
            pod,
            is_awaited: is_awaited(entry, now),
            outside: lan.and_then(|view| address::outside(&view.addresses, &view.lan.uplink.name, address)),
            wanted,
            route: route.map(|route| Way { device: route.device, source: route.source }),
            is_news: false,
            rival: Rival::of(state, address, self.now)?,
            asked: 0,
            is_answered: false,
        })
    }
}

/// Questions to the LAN about an address, by passes in a row.
#[derive(Clone, Copy, Debug)]
struct Asked {
    times: u32,
    /// When the first one was.
    since: Duration,
}

/// What the agent remembers from pass to pass.
#[derive(Debug)]
pub(crate) struct Addresses {
    bpffs: PathBuf,
    sender: Sender,
    /// What the uplinks were that carried something, by domain.
    bearings: HashMap<u16, Bearing>,
    /// The addresses that the last pass has asked for.
    asked: HashMap<Ipv4Addr, Asked>,
    /// Addresses that were lost already.
    lost: Vec<Ipv4Addr>,
    /// When the last pass was.
    last: Duration,
    /// How often another host has claimed an address, by domain.
    conflicts: BTreeMap<String, u64>,
}

impl Addresses {
    /// One that counts from now on.
    pub(crate) fn new(bpffs: &Path) -> datapath::Result<Self> {
        Ok(Self {
            bpffs: bpffs.into(),
            sender: Sender::default(),
            bearings: HashMap::new(),
            asked: HashMap::new(),
            lost: vec![],
            last: kernel_clock()?,
            conflicts: BTreeMap::new(),
        })
    }

    /// How often another host has claimed an address of a pod, by domain.
    pub(crate) fn conflicts(&self) -> &BTreeMap<String, u64> {
        &self.conflicts
    }

    /// Keeps all addresses as they should be. Returns what is wrong with some.
    pub(crate) fn pass(&mut self, state: &mut State) -> datapath::Result<Vec<String>> {
        if state.lan_addresses()?.is_empty() && route::routes()?.is_empty() {
            self.last = kernel_clock()?;
            return Ok(vec![]);
        }
        let _lock = state.lock()?; // nobody gives or releases an address meanwhile
        settle(state)?;
        let scene = Scene::look(state)?;
        let mut problems = vec![];
        let is_leaked =
            |route: &&Route| scene.entries.iter().all(|(known, _)| route.address.octets() != *known);
        for route in scene.routes.iter().filter(is_leaked) {
            problems.extend(route::remove_route(route.address).err());
        }
        let mut sights = vec![];
        for (address, entry) in &scene.entries {
            let sight = self.recall(&scene, entry.domain, scene.sight(state, (*address).into(), entry)?);
            problems.extend(self.act(state, &scene, entry, &sight).err());
            sights.push((entry.domain, sight));
        }
        self.count(state, &sights, scene.now)?;
        self.bearings =
            scene.views.into_iter().filter_map(|(domain, view)| Some((domain, view.bearing?))).collect();
        let problems = problems.iter().map(ToString::to_string);
        Ok(problems.chain(sights.iter().filter_map(|(_, sight)| sight.problem())).collect())
    }

    /// Adds what the agent remembers to what it sees of an address.
    fn recall(&self, scene: &Scene, domain: u16, sight: Sight) -> Sight {
        let bearing = scene.views.get(&domain).and_then(|view| view.bearing.as_ref());
        let asked = self.asked.get(&sight.address);
        let claims_after = |asked: &Asked| {
            sight.rival.is_some_and(|rival| rival.age <= scene.now.saturating_sub(asked.since))
        };
        Sight {
            is_news: bearing.is_some() && self.bearings.get(&domain) != bearing,
            asked: asked.map_or(0, |asked| asked.times),
            is_answered: asked.is_some_and(claims_after),
            ..sight
        }
    }

    /// Does what there is to do about an address.
    fn act(
        &mut self,
        state: &mut State,
        scene: &Scene,
        entry: &LanAddress,
        sight: &Sight,
    ) -> datapath::Result<()> {
        let steps = sight.steps();
        let before = self.asked.remove(&sight.address);
        if steps.contains(&Step::Ask) {
            let Asked { times, since } = before.unwrap_or(Asked { times: 0, since: scene.now });
            self.asked.insert(sight.address, Asked { times: times + 1, since });
        }
        let lan = scene.views.get(&entry.domain).map(|view| &view.lan);
        steps
            .into_iter()
            .try_for_each(|step| take(&self.sender, &self.bpffs, state, sight.address, entry, lan, step))
    }

    /// Counts claims of other hosts since the last pass. What has been lost is not counted any more.
    fn count(&mut self, state: &State, sights: &[(u16, Sight)], now: Duration) -> datapath::Result<()> {
        let since = now.saturating_sub(self.last);
        let domains = state.domains()?;
        let contested = sights.iter().filter(|(_, sight)| sight.is_claimed_within(since));
        for (number, _) in contested.filter(|(_, sight)| !self.lost.contains(&sight.address)) {
            let domain = domains.iter().find(|(known, _)| known == number);
            let name = domain.map(|(_, domain)| text(&domain.name).to_owned()).unwrap_or_default();
            *self.conflicts.entry(name).or_default() += 1;
        }
        let lost = sights.iter().filter(|(_, sight)| sight.standing == standing::LOST);
        self.lost = lost.map(|(_, sight)| sight.address).collect();
        self.last = now;
        Ok(())
    }
}

/// Holds what an admin took a while ago as any other address, so that it overrules nobody any more. The caller holds the lock.
fn settle(state: &mut State) -> datapath::Result<()> {
    let now = seconds(kernel_clock()?.as_nanos() as u64);
    for (address, entry) in state.lan_addresses()? {
        if is_settled(&entry, now) {
            state.set_lan_address(address, LanAddress { standing: standing::HELD, ..entry })?;
        }
    }
    Ok(())
}

/// Takes a step. The caller holds the lock.
fn take(
    sender: &Sender,
    bpffs: &Path,
    state: &mut State,
    address: Ipv4Addr,
    entry: &LanAddress,
    lan: Option<&Lan>,
    step: Step,
) -> datapath::Result<()> {
    let key = address.octets();
    match (step, lan) {
        (Step::Release, _) => {
            route::remove_route(address)?;
            state.remove_lan_address(key)?;
            state.forget_rival(key)
        }
        (Step::Withdraw, _) => route::remove_route(address),
        (Step::Hold, _) => {
            state.forget_rival(key)?;
            state.set_lan_address(key, LanAddress { standing: standing::HELD, ..*entry })
        }
        (Step::Route, Some(lan)) => match link::by_index(entry.member)? {
            Some(veth) => lan_address::set_route(bpffs, lan, &veth, address),
            None => Ok(()), // gone meanwhile
        },
        (Step::Ask, Some(lan)) => sender.probe(&lan.uplink, address),
        (Step::Announce, Some(lan)) => {
            sender.announce(&lan.uplink, address, entry.standing == standing::TAKEN)
        }
        (Step::Route | Step::Ask | Step::Announce, None) => Ok(()), // not without a LAN
    }
}

/// The MAC address of the host that has an address with this standing, or has claimed it lately.
pub(crate) fn claimant(state: &State, address: Ipv4Addr, standing: u16) -> datapath::Result<Option<String>> {
    let rival = Rival::of(state, address, kernel_clock()?)?;
    let rival = rival.filter(|rival| standing == standing::LOST || rival.age < SILENCE);
    Ok(rival.map(|rival| mac(rival.mac)))
}

/// What is wrong with some of the addresses as they are.
pub(crate) fn problems(state: &State) -> datapath::Result<Vec<String>> {
    let scene = Scene::look(state)?;
    let mut found = vec![];
    for (address, entry) in &scene.entries {
        found.extend(scene.sight(state, (*address).into(), entry)?.problem());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way { device: 7, source: Some(Ipv4Addr::new(172, 23, 0, 10)) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An address that a pod has, and that is as it should be.
    fn held() -> Sight {
        Sight {
            address: [172, 23, 0, 50].into(),
            standing: standing::HELD,
            pod: Some("pod bl07/ioc-0".into()),
            is_awaited: false,
            outside: None,
            wanted: Some(WAY),
            route: Some(WAY),
            is_news: false,
            rival: None,
            age: Duration::ZERO,
            asked: 0,
            is_answered: false,
        }
    }

    /// One that was lost to another host, whose last sign was so many seconds ago.
    fn lost(age: u64) -> Sight {
        Sight { standing: standing::LOST, rival: Some(rival(age)), route: None, ..held() }
    }

    fn rival(age: u64) -> Rival {
        Rival { mac: [2, 0, 0, 0, 0, 9], age: seconds(age), has_overruled: false }
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        for standing in [standing::HELD, standing::TAKEN, standing::RESERVED] {
            let sight = Sight { standing, ..held() };
            assert_eq!((sight.steps(), sight.problem()), (vec![], None));
        }
    }

    #[test]
    fn an_address_of_nobody_is_released_unless_it_waits_for_its_pod() {
        for standing in [standing::HELD, standing::TAKEN, standing::RESERVED, standing::LOST] {
            let gone = Sight { standing, pod: None, wanted: None, rival: Some(rival(1)), ..held() };
            assert_eq!((gone.steps(), gone.problem()), (vec![Step::Release], None));
        }
        let awaited = Sight { standing: standing::TAKEN, pod: None, is_awaited: true, ..held() };
        assert_eq!(awaited.steps(), []);
    }

    #[test]
    fn a_route_is_set_again_if_it_is_missing_or_another() {
        let other = [None, Some(Way { device: 8, ..WAY }), Some(Way { source: None, ..WAY })];
        for route in other {
            assert_eq!(Sight { route, ..held() }.steps(), [Step::Route]);
            assert_eq!(Sight { route, standing: standing::RESERVED, ..held() }.steps(), []);
            assert_eq!(Sight { route, wanted: None, ..held() }.steps(), [], "without a LAN it stays");
        }
    }

    #[test]
    fn an_uplink_that_comes_back_or_is_another_is_told() {
        let news = Sight { is_news: true, ..held() };
        assert_eq!(news.steps(), [Step::Ask]);
        assert_eq!(Sight { route: None, ..news.clone() }.steps(), [Step::Route, Step::Ask]);
        assert_eq!(Sight { asked: 1, ..news }.steps(), [Step::Ask], "it is another again");
        let asked = Sight { asked: 1, ..held() };
        assert_eq!(asked.steps(), [Step::Announce]);
        assert_eq!(Sight { wanted: None, ..asked.clone() }.steps(), [], "it is gone again");
        assert_eq!(Sight { rival: Some(rival(1)), is_answered: true, ..asked }.steps(), []);
        let outside = || Some("outside of 172.24.0.0/24".into());
        assert_eq!(Sight { is_news: true, outside: outside(), ..held() }.steps(), []);
        assert_eq!(Sight { asked: 1, outside: outside(), ..held() }.steps(), []);
        assert_eq!(Sight { is_news: true, ..lost(1) }.steps(), [], "what is another host's is not announced");
    }

    #[test]
    fn a_lost_address_has_no_route() {
        assert_eq!(Sight { route: Some(WAY), ..lost(1) }.steps(), [Step::Withdraw]);
        let said = lost(1).problem().unwrap();
        assert!(
            said.starts_with("pod bl07/ioc-0 has lost its address 172.23.0.50 to the host 02:00:00:00:00:09")
        );
        assert!(said.contains("iocast-node take 172.23.0.50"), "{said}");
    }

    #[test]
    fn a_lost_address_is_asked_for_after_a_minute_and_taken_back_if_nobody_answers() {
        assert_eq!(lost(59).steps(), []);
        assert_eq!(lost(60).steps(), [Step::Ask]);
        assert_eq!(Sight { rival: None, ..lost(0) }.steps(), [Step::Ask]);
        assert_eq!(Sight { wanted: None, ..lost(60) }.steps(), [], "not without a LAN");
        for asked in [1, 2] {
            assert_eq!(Sight { asked, ..lost(66) }.steps(), [Step::Ask]);
        }
        let asked = Sight { asked: QUESTIONS, ..lost(66) };
        assert_eq!(asked.steps(), [Step::Hold, Step::Route, Step::Announce]);
        assert_eq!(Sight { rival: Some(rival(1)), is_answered: true, ..asked.clone() }.steps(), []);
        assert_eq!(Sight { is_answered: true, ..asked }.steps(), [], "it has answered, however long ago");
    }

    #[test]
    fn an_address_that_an_admin_took_elsewhere_is_named_so() {
        let rival = Rival { has_overruled: true, ..rival(1) };
        let said = Sight { rival: Some(rival), ..lost(1) }.problem().unwrap();
        assert!(said.contains("which an admin took to another node, the host 02:00:00:00:00:09"), "{said}");
    }

    #[test]
    fn an_address_that_stays_reserved_is_named() {
        let reserved = |age| Sight { standing: standing::RESERVED, age: seconds(age), ..held() };
        assert_eq!(reserved(9).problem(), None);
        let said = reserved(10).problem().unwrap();
        assert!(said.starts_with("pod bl07/ioc-0 has not got its address 172.23.0.50"), "{said}");
    }

    #[test]
    fn who_claims_an_address_that_a_pod_has_is_named() {
        let said = Sight { rival: Some(rival(59)), ..held() }.problem().unwrap();
        assert!(said.contains("which the host 02:00:00:00:00:09 claims, too"), "{said}");
        assert_eq!(Sight { rival: Some(rival(60)), ..held() }.problem(), None);
        assert_eq!(Sight { rival: Some(rival(1)), standing: standing::RESERVED, ..held() }.problem(), None);
    }

    #[test]
    fn an_address_outside_of_a_renumbered_network_is_named() {
        let outside = Some("outside of 172.24.0.0/24, the network of uplink eth0".into());
        let said = Sight { outside, ..held() }.problem().unwrap();
        assert!(said.contains("172.23.0.50, which is now outside of 172.24.0.0/24"), "{said}");
        assert!(said.contains("delete the pod to have it created anew"), "{said}");
    }
}

//! The pods of this node, members or not, and which sockets they have: by the kernel's own look-up in each pod's namespace, which
//! nobody has to enter.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use abi::{NO_ADDRESS, Protocol, UDP, text};
use datapath::{
    Lookup, Result, State, kernel_clock,
    link::{self, Link},
};

use super::facts::{Ear, Hearing, Pod};
use crate::ask::domains::Domain;

/// A client that no pod has a connected socket with (RFC 5737).
const SOMEBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 40_000);
/// Ports below are those of the system's services.
const FIRST_PORT: u16 = 1024;

/// A pod, and what of the kernel's is needed to look into it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) pod: Pod,
    /// Interface index of its host-side veth.
    pub(super) veth: u32,
    netns: i32,
    broadcast: Ipv4Addr,
}

/// All of them.
pub(super) fn find(state: &State, domains: &[Domain]) -> Result<Vec<Place>> {
    let mut found = members(state)?;
    let known: Vec<_> = found.iter().map(|place| place.veth).collect();
    for veth in link::all()?.iter().filter(|link| !known.contains(&link.index)) {
        found.extend(stranger(veth));
    }
    let lookup = Lookup::new()?;
    for place in &mut found {
        place.pod.ears = ears(&lookup, place, domains)?;
    }
    Ok(found)
}

fn members(state: &State) -> Result<Vec<Place>> {
    let (domains, answers, now) = (state.domains()?, state.last_answers()?, kernel_clock()?);
    let mut found = vec![];
    for (_, attachment) in state.attachments()? {
        let Some(member) = state.member(attachment.member)? else { continue };
        let domain = domains.iter().find(|(number, _)| *number == member.domain);
        let pod = Pod {
            name: format!("{}/{}", text(&attachment.namespace), text(&attachment.pod)),
            address: member.address.into(),
            lan_address: (member.lan_address != NO_ADDRESS).then(|| member.lan_address.into()),
            domain: domain.map(|(_, domain)| text(&domain.name).to_owned()),
            absent: None,
            ears: vec![],
            answered: since(&answers, attachment.member, now),
            prefixes: state.prefixes(&attachment)?,
        };
        let (netns, broadcast) = (member.netns, member.broadcast.into());
        found.push(Place { pod, veth: attachment.member, netns, broadcast });
    }
    Ok(found)
}

fn since(answers: &BTreeMap<u32, Duration>, member: u32, now: Duration) -> Option<Duration> {
    answers.get(&member).map(|last| now.saturating_sub(*last))
}

/// The pod behind a veth that is no member's, if it has an address.
fn stranger(veth: &Link) -> Option<Place> {
    let (netns, peer) = (veth.peer_netns?, veth.peer.filter(|_| veth.kind == "veth")?);
    let mut addresses = link::addresses_in(netns, peer).ok()?.into_iter();
    let address = addresses.find(|address| !address.address.is_link_local())?;
    let pod = Pod {
        name: address.address.to_string(),
        address: address.address,
        lan_address: None,
        domain: None,
        absent: None,
        ears: vec![],
        answered: None,
        prefixes: vec![],
    };
    let broadcast = address.broadcast.unwrap_or_else(|| address.natural_broadcast());
    Some(Place { pod, veth: veth.index, netns, broadcast })
}

/// How a pod hears the searches of its domain, or, if it is in none, of any.
fn ears(lookup: &Lookup, place: &Place, domains: &[Domain]) -> Result<Vec<Ear>> {
    let concerns = |domain: &&Domain| place.pod.domain.as_ref().is_none_or(|name| *name == domain.name);
    let mut found: Vec<Ear> = vec![];
    let ports = domains
        .iter()
        .filter(concerns)
        .flat_map(|domain| domain.ports.iter().map(|(protocol, port, _)| (protocol, port, domain.broadcast)));
    for (protocol, port, lan) in ports {
        if found.iter().any(|ear| (ear.protocol, ear.port) == (*protocol, *port)) {
            continue;
        }
        let lan = lan.filter(|_| place.pod.lan_address.is_some());
        found.push(Ear { protocol: *protocol, port: *port, hearing: hearing(lookup, place, lan, *port)? });
    }
    Ok(found)
}

/// How a pod hears at `port`; `lan` is the broadcast address of the LAN on which it has an address.
fn hearing(lookup: &Lookup, place: &Place, lan: Option<Ipv4Addr>, port: u16) -> Result<Hearing> {
    let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, SOMEBODY.port());
    for (from, to, hearing) in [
        (SOMEBODY, lan.unwrap_or(place.broadcast), Hearing::Hears),
        (SOMEBODY, place.broadcast, Hearing::Hears),
        (SOMEBODY, Ipv4Addr::BROADCAST, Hearing::Hears),
        (SOMEBODY, place.pod.address, Hearing::Unicast),
        (loopback, Ipv4Addr::LOCALHOST, Hearing::Loopback),
    ] {
        if lookup.bound(place.netns, UDP, from, SocketAddrV4::new(to, port))?.is_some() {
            return Ok(hearing);
        }
    }
    Ok(Hearing::Nothing)
}

/// The UDP ports at which a pod has sockets.
pub(super) fn open_ports(place: &Place) -> Result<Vec<u16>> {
    let lookup = Lookup::new()?;
    let mut found = vec![];
    for port in FIRST_PORT..=u16::MAX {
        let to = SocketAddrV4::new(place.pod.address, port);
        if lookup.bound(place.netns, UDP, SOMEBODY, to)?.is_some() {
            found.push(port);
        }
    }
    Ok(found)
}

impl Place {
    /// Where to ask the pod itself.
    pub(super) fn targets(&self) -> impl Iterator<Item = (Protocol, SocketAddrV4, bool)> {
        let addresses = [Some(self.pod.address), self.pod.lan_address].into_iter().flatten();
        let hearing =
            self.pod.ears.iter().filter(|ear| matches!(ear.hearing, Hearing::Hears | Hearing::Unicast));
        hearing.flat_map(move |ear| {
            addresses.clone().map(|address| (ear.protocol, SocketAddrV4::new(address, ear.port), true))
        })
    }
}

/// A pod of which only the runtime knows.
pub(super) fn nameless(name: String, absent: Option<(String, String)>) -> Pod {
    let address = Ipv4Addr::UNSPECIFIED;
    Pod {
        name,
        address,
        lan_address: None,
        domain: None,
        absent,
        ears: vec![],
        answered: None,
        prefixes: vec![],
    }
}

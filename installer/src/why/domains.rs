//! The domains of this node and their uplinks, as the answer needs them.

use std::{net::Ipv4Addr, path::Path};

use abi::{Protocol, lan, paths, text};
use datapath::{
    Error, FAN_DEVICE, Hook, Result, State, is_attached,
    link::{self, Link},
};

use super::facts::Domain;
use crate::{
    config::{Config, DomainConfig},
    doctor,
    uplink::{self, Fault},
};

/// A domain, and its uplink if there is one.
#[derive(Clone, Debug)]
pub(super) struct Lan {
    pub(super) domain: Domain,
    pub(super) link: Option<Link>,
}

/// An error if the fan cannot deliver.
pub(super) fn check_fan(bpffs: &Path) -> Result<()> {
    let broken = |what: &str| Err(Error::Bpf { what: FAN_DEVICE.into(), reason: what.into() });
    match doctor::fan(bpffs)? {
        Some((true, true)) => Ok(()),
        Some((false, _)) => broken("it is down"),
        Some((true, false)) => broken("it has no program"),
        None => broken("it does not exist"),
    }
}

/// All of them, with the ports of this protocol, or of both.
pub(super) fn read(bpffs: &Path, config: &Path, state: &State, wanted: Option<Protocol>) -> Result<Vec<Lan>> {
    let config = Config::read(config).map(|config| config.domains).unwrap_or_default();
    let mut found = vec![];
    for (number, domain) in state.domains()? {
        let name = text(&domain.name).to_owned();
        let configured = config.iter().find(|configured| configured.name == name);
        let link = find(domain.uplink, configured)?;
        let (address, broadcast) = address(link.as_ref())?;
        found.push(Lan {
            domain: Domain {
                uplink: named(link.as_ref(), configured),
                address,
                broadcast,
                fault: fault(bpffs, link.as_ref(), address.is_some())?,
                networks: networks(state, number)?,
                ports: ports(state, number, wanted)?,
                externals: (domain.first_port, domain.last_port),
                name,
            },
            link,
        });
    }
    Ok(found)
}

/// The interface that is the uplink, or is to be it.
fn find(index: u32, configured: Option<&DomainConfig>) -> Result<Option<Link>> {
    let attached = if index == 0 { None } else { link::by_index(index)? };
    match (attached, configured) {
        (None, Some(configured)) => uplink::find(&configured.uplink),
        (attached, _) => Ok(attached),
    }
}

fn named(link: Option<&Link>, configured: Option<&DomainConfig>) -> String {
    let wanted = configured.map_or("?", |configured| configured.uplink.as_str());
    link.map_or_else(|| wanted.to_owned(), |link| link.name.clone())
}

fn address(link: Option<&Link>) -> Result<(Option<Ipv4Addr>, Option<Ipv4Addr>)> {
    let addresses = link.map_or(Ok(vec![]), |link| link::addresses(link.index))?;
    let first = addresses.first();
    let broadcast = first.map(|found| found.broadcast.unwrap_or_else(|| found.natural_broadcast()));
    Ok((first.map(|found| found.address), broadcast))
}

/// What is wrong with an uplink, and what to do about it.
fn fault(bpffs: &Path, link: Option<&Link>, has_address: bool) -> Result<Option<(String, String)>> {
    let Some(link) = link else {
        let set = "set `uplink` to the node's interface on that LAN";
        return Ok(Some(("does not exist".into(), set.into())));
    };
    if let Some(fault) = Fault::of(link, has_address) {
        return Ok(Some((fault.to_string(), fault.advice(&link.name))));
    }
    for hook in [Hook::FromLan, Hook::ToLan] {
        if !is_attached(bpffs, hook, link)? {
            let found = format!("has no program {hook}");
            return Ok(Some((found, "run the agent, which attaches it within seconds".into())));
        }
    }
    Ok(None)
}

fn networks(state: &State, domain: u16) -> Result<Vec<(Ipv4Addr, u8)>> {
    let networks = state.networks(domain)?.into_iter();
    Ok(networks
        .filter(|(.., flags)| flags & lan::HOSTS != 0)
        .map(|(address, prefix, _)| (address, prefix))
        .collect())
}

/// The ports at which clients on the LAN search, and are answered.
fn ports(state: &State, domain: u16, wanted: Option<Protocol>) -> Result<Vec<(Protocol, u16, u16)>> {
    const SEARCHES: u16 = paths::LAN_TO_PODS | paths::ANSWERED;
    let relays =
        state.pod_relays(domain)?.into_iter().filter(|(_, relay)| relay.flags & SEARCHES == SEARCHES);
    let spoken = relays.filter_map(|(port, relay)| Some((Protocol::find(relay.protocol)?, port, relay.port)));
    let has_names = |protocol: Protocol| {
        [Protocol::Ca, Protocol::Pva].contains(&protocol) && wanted.is_none_or(|wanted| wanted == protocol)
    };
    let mut ports: Vec<_> = spoken.filter(|(protocol, ..)| has_names(*protocol)).collect();
    ports.sort_by_key(|(protocol, port, _)| (*protocol as u32, *port));
    Ok(ports)
}

//! The domains of this node and their uplinks, as the answer needs them.

use std::{net::Ipv4Addr, path::Path};

use abi::{Protocol, lan, paths, text};
use datapath::{
    Hook, Result, State, is_attached,
    link::{self, Link, network},
};

use crate::{
    config::DomainConfig,
    uplink::{self, Fault},
};

/// A domain of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) name: String,
    /// The uplink's name; as configured if there is no such interface.
    pub(crate) uplink: String,
    pub(crate) address: Option<Ipv4Addr>,
    /// The LAN's broadcast address.
    pub(crate) broadcast: Option<Ipv4Addr>,
    /// What is wrong with the uplink, and what to do about it.
    pub(crate) fault: Option<(String, String)>,
    /// The networks whose hosts are on the LAN: address and prefix.
    pub(crate) networks: Vec<(Ipv4Addr, u8)>,
    /// Protocols, and the UDP ports of their searches in pods and on the LAN.
    pub(crate) ports: Vec<(Protocol, u16, u16)>,
    /// Its external ports.
    pub(crate) externals: (u16, u16),
}

impl Domain {
    /// The network of the LAN that `host` is in.
    pub(crate) fn network_of(&self, host: Ipv4Addr) -> Option<(Ipv4Addr, u8)> {
        let networks = self.networks.iter().map(|(address, prefix)| (network(*address, *prefix), *prefix));
        networks.into_iter().find(|(address, prefix)| network(host, *prefix) == *address)
    }
}

/// A domain, and its uplink if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Lan {
    pub(crate) domain: Domain,
    pub(crate) link: Option<Link>,
}

/// All of them, as far as they are configured with what that says, with the ports of this protocol, or of both.
pub(crate) fn read(
    bpffs: &Path,
    config: &[DomainConfig],
    state: &State,
    wanted: Option<Protocol>,
) -> Result<Vec<Lan>> {
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

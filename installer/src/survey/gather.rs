//! Gathers the facts: asks the runtime for pods, the kernel for processes and sockets, and watches what is sent. Changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::SocketAddrV4,
};

use abi::Protocol;
use datapath::link::{self, network};

use super::{
    facts::{Facts, Holder, Lan, Own},
    options::Options,
    processes::{self, Open, Process},
    sockets::{self, Socket},
    watch,
};
use crate::{
    config::{AUTO, Config, DomainConfig},
    cri::{Cri, Sandbox},
    error::Error as Fault,
    protocol,
    say::complain,
    uplink,
};

/// Programs, settings and devices of a pod that are kept, of each kind.
const KEPT: usize = 64;
/// Stands for a domain that is not configured yet.
const DOMAIN: &str = "DOMAIN";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A pod with the node's network, or none, and the inodes of its sockets.
type Found = (Holder, BTreeSet<u64>);

/// All facts; an error if processes of pods are not visible here.
pub(super) fn gather(options: &Options) -> Outcome<Facts> {
    let lans = lans(options)?;
    let links = link::all()?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let own = link::all_addresses()?.into_iter().filter(|(_, address)| !address.address.is_loopback());
    let own = own.filter_map(|(index, address)| Some(Own { interface: name(index)?, address })).collect();
    let sent = watch::watch(options.time()).unwrap_or_else(|error| {
        complain(format!("{error}; without it, whom unconnected sockets speak to is not known"));
        BTreeSet::new()
    });
    let (mut found, natives) = holders(options)?;
    let sockets = sockets::read()?;
    let relayed: BTreeSet<_> = lans.iter().flat_map(|lan| lan.ports.keys().copied()).collect();
    found.push(native(natives, &sockets, &relayed));
    let holders =
        found.into_iter().map(|(holder, inodes)| joined(holder, &inodes, &sockets, &sent, &relayed));
    Ok(Facts {
        own,
        interfaces: links.iter().map(|link| (link.index, link.name.clone())).collect(),
        chosen: processes::chosen_ports(),
        known: protocol::included(),
        holders: holders.collect(),
        lans,
    })
}

/// A holder with its sockets, and where they sent. At a relayed port, which several share, nobody knows whose datagram it was.
fn joined(
    holder: Holder,
    inodes: &BTreeSet<u64>,
    sockets: &[Socket],
    sent: &BTreeSet<(SocketAddrV4, SocketAddrV4)>,
    relayed: &BTreeSet<u16>,
) -> Holder {
    let sockets: Vec<_> = sockets.iter().filter(|socket| inodes.contains(&socket.inode)).copied().collect();
    let sends = |from: &SocketAddrV4| {
        let is_it =
            |at: SocketAddrV4| at.port() == from.port() && (at.ip().is_unspecified() || at.ip() == from.ip());
        !relayed.contains(&from.port()) && sockets.iter().filter_map(Socket::bound).any(is_it)
    };
    let sent = sent.iter().filter(|(from, _)| sends(from)).map(|(_, to)| *to).collect();
    Holder { sockets, sent, ..holder }
}

/// Those of the node's processes that have relayed ports, as one.
fn native(processes: Vec<Found>, sockets: &[Socket], relayed: &BTreeSet<u16>) -> Found {
    let is_relayed = |socket: &&Socket| socket.bound().is_some_and(|at| relayed.contains(&at.port()));
    let inodes: BTreeSet<_> = sockets.iter().filter(is_relayed).map(|socket| socket.inode).collect();
    let concerned = processes.into_iter().filter(|(_, own)| !own.is_disjoint(&inodes));
    concerned.fold(Found::default(), |(mut all, mut inodes), (process, own)| {
        all.programs.extend(process.programs);
        inodes.extend(own);
        (all, inodes)
    })
}

/// Pods with the node's network, and the node's own processes.
fn holders(options: &Options) -> Outcome<(Vec<Found>, Vec<Found>)> {
    let socket = options.runtime.socket().ok_or(Fault::NoRuntime)?;
    let cri = Cri::connect(&socket)?;
    let (mut pods, mut sandboxes) = (BTreeMap::new(), BTreeMap::new());
    for sandbox in cri.sandboxes()?.into_iter().filter(|sandbox| sandbox.ready) {
        let on_host = cri.netns(&sandbox.id)?.is_none();
        sandboxes.insert(sandbox.id.clone(), (sandbox, on_host));
    }
    let mut whose: BTreeMap<String, String> = sandboxes.keys().map(|id| (id.clone(), id.clone())).collect();
    let containers = cri.containers()?;
    whose.extend(containers.iter().cloned());
    let own = processes::own_container();
    let (mut natives, mut seen) = (vec![], BTreeSet::new());
    for process in processes::all()? {
        let container = process.container();
        let Some(container) = container.filter(|container| whose.contains_key(container)) else {
            natives.extend(outside(process));
            continue;
        };
        let Some((sandbox, true)) = whose.get(&container).and_then(|id| sandboxes.get(id)) else { continue };
        if Some(&container) != own.as_ref() {
            seen.insert(sandbox.id.clone());
        }
        let is_pause = container == sandbox.id;
        let pod = pods.entry(sandbox.id.clone()).or_insert_with(|| (empty(sandbox), BTreeSet::new()));
        if !is_pause {
            add(pod, process);
        }
    }
    let own_pod = own.as_ref().and_then(|own| whose.get(own));
    let on_host = |id: &String| sandboxes.get(id).is_some_and(|(_, on_host)| *on_host);
    let mut expected = containers.iter().map(|(_, id)| id).filter(|id| on_host(id) && Some(*id) != own_pod);
    if seen.is_empty() && expected.next().is_some() && !processes::are_all_visible() {
        return Err(Fault::NoProcesses.into());
    }
    let mut found: Vec<_> = pods.into_values().collect();
    found.sort_by(|(a, _), (b, _)| a.pod.cmp(&b.pod));
    Ok((found, natives))
}

fn empty(sandbox: &Sandbox) -> Holder {
    let pod = format!("{}/{}", sandbox.namespace, sandbox.name);
    Holder { pod: Some(pod), domain: sandbox.domain.clone(), ..Holder::default() }
}

/// Adds what a process of a pod has.
fn add((holder, inodes): &mut Found, process: Process) {
    if holder.programs.len() < KEPT {
        holder.programs.insert(process.name());
    }
    holder.capabilities |= process.capabilities();
    let looked = process.open().and_then(|open| Ok((open, process.settings()?)));
    match looked {
        Ok((Open { sockets, devices }, settings)) => {
            inodes.extend(sockets);
            holder.devices.extend(devices.into_iter().take(KEPT.saturating_sub(holder.devices.len())));
            holder.settings.extend(settings.into_iter().take(KEPT.saturating_sub(holder.settings.len())));
        }
        Err(error) if is_gone(&error) => {}
        Err(error) => {
            holder.unreadable =
                Some(format!("its processes cannot be looked into ({error}): that takes SYS_PTRACE"));
        }
    }
}

/// Whether a process has ended meanwhile.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESRCH)
}

/// A process in no pod, if it has the node's network.
fn outside(process: Process) -> Option<Found> {
    process.has_our_network().ok().filter(|has| *has)?;
    let holder = Holder { programs: [process.name()].into(), ..Holder::default() };
    Some((holder, process.open().ok()?.sockets))
}

/// The domains that have an uplink here; if none is configured, one that stands for it.
fn lans(options: &Options) -> Outcome<Vec<Lan>> {
    let configured = match Config::read(&options.config) {
        Ok(config) => config
            .domains
            .iter()
            .filter_map(|domain| lan(domain).transpose())
            .collect::<Result<Vec<_>, _>>()?,
        Err(error) => {
            complain(format!("{error}; `{DOMAIN}` stands for a domain that is not configured yet"));
            vec![]
        }
    };
    if !configured.is_empty() {
        return Ok(configured);
    }
    let uplink = match &options.uplink {
        Some(uplink) => Some(uplink.clone()),
        None if uplink::find(AUTO)?.is_some() => Some(AUTO.into()),
        None => uplink::candidates()?.into_iter().next(),
    };
    let uplink = uplink.ok_or("this node has no interface on a LAN; name it with --uplink")?;
    let text = format!("[domain.{DOMAIN}]\nuplink = \"{uplink}\"\n");
    let domain = Config::parse(&text).map_err(|_| format!("`{uplink}` is no interface"))?.domains;
    let lan = domain.first().map(lan).transpose()?.flatten();
    Ok(vec![lan.ok_or_else(|| format!("{}; name the uplink with --uplink", uplink::absence(&uplink)))?])
}

/// A domain on this node; none if its uplink is not there, or has no address.
fn lan(domain: &DomainConfig) -> Outcome<Option<Lan>> {
    let Some(link) = uplink::find(&domain.uplink)? else { return Ok(None) };
    let addresses = link::addresses(link.index)?;
    let Some(first) = addresses.first() else { return Ok(None) };
    let more = domain.lan.iter().map(|network| (network.address.into(), network.prefix));
    Ok(Some(Lan {
        domain: domain.name.clone(),
        interface: link.name,
        address: first.address,
        broadcast: first.broadcast.unwrap_or_else(|| first.natural_broadcast()),
        networks: addresses
            .iter()
            .map(|own| (network(own.address, own.prefix), own.prefix))
            .chain(more)
            .collect(),
        protocols: domain.protocols.iter().map(|protocol| protocol.name().to_owned()).collect(),
        // To cameras only their control is sent, by whoever wants one.
        ports: domain
            .relayed()
            .filter(|port| !port.protocol.is(Protocol::Gvcp))
            .map(|port| (port.in_pods, port.protocol.name().to_owned()))
            .collect(),
        groups: domain.groups(),
        pins: domain.pins.map(|pins| (pins.first, pins.last)),
        gives_addresses: !domain.addresses.is_empty(),
    }))
}

//! Finds a domain's uplink: the interface of that name, the one with an address in that network, or, with `auto`, the one of
//! the default route; and says whether it carries, and over what.

use std::{
    collections::HashMap,
    fmt::{self, Display, Formatter},
    fs,
    net::Ipv4Addr,
    path::Path,
};

use datapath::{
    Error, Hook, State, is_attached,
    link::{self, Link},
    printable,
};

use crate::config::{AUTO, Config, DomainConfig, Network, parse_network};

/// The routes of the process's network namespace (Linux `Documentation/filesystems/proc`).
const ROUTES: &str = "/proc/net/route";

/// The interface that `uplink` refers to at the moment; `None` if there is none.
pub(crate) fn find(uplink: &str) -> Result<Option<Link>, Error> {
    if let Some(network) = parse_network(uplink) {
        return by_network(network);
    }
    if uplink != AUTO {
        return link::by_name(uplink);
    }
    let routes = fs::read_to_string(ROUTES).unwrap_or_default();
    default_route(&routes).map_or(Ok(None), link::by_name)
}

/// The names of the interfaces that may be an uplink: those in a network. Others come and go with pods.
pub(crate) fn candidates() -> Result<Vec<String>, Error> {
    let mut found = vec![];
    for name in link::names()? {
        let addresses = link::by_name(&name)?.map_or(Ok(vec![]), |device| link::addresses(device.index))?;
        if addresses.iter().any(|address| address.prefix < 32 && !address.address.is_loopback()) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Why [`find`] found nothing.
pub(crate) fn absence(uplink: &str) -> String {
    match parse_network(uplink) {
        Some(_) => format!("no interface has an address in {uplink}"),
        None if uplink == AUTO => "there is no default route".into(),
        None => format!("there is no interface `{uplink}`"),
    }
}

/// Why an uplink that exists carries nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Down,
    NoCarrier,
    NoAddress,
}

impl Fault {
    /// The first of them that `device` has.
    pub(crate) fn of(device: &Link, has_address: bool) -> Option<Self> {
        match (device.is_up, device.has_carrier, has_address) {
            (false, ..) => Some(Self::Down),
            (_, false, _) => Some(Self::NoCarrier),
            (_, _, false) => Some(Self::NoAddress),
            _ => None,
        }
    }

    /// What to do about it.
    pub(crate) fn advice(self, device: &str) -> String {
        match self {
            Self::Down => format!("bring it up: ip link set {device} up"),
            Self::NoCarrier => "check its cable, and the switch's port".into(),
            Self::NoAddress => "give it one, or set `uplink` to the node's interface on that LAN".into(),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "is down",
            Self::NoCarrier => "has no carrier",
            Self::NoAddress => "has no IPv4 address",
        })
    }
}

/// Why a domain has no LAN through its uplink, the device with this interface index, 0 for none; `None` if it has.
pub(crate) fn trouble(bpffs: &Path, index: u32) -> Result<Option<String>, Error> {
    let missing = || Ok(Some("is not attached".into()));
    let device = if index == 0 { None } else { link::by_index(index)? };
    let Some(device) = device else { return missing() };
    if let Some(fault) = Fault::of(&device, !link::addresses(index)?.is_empty()) {
        return Ok(Some(fault.to_string()));
    }
    for hook in [Hook::FromLan, Hook::ToLan] {
        if !is_attached(bpffs, hook, &device)? {
            return missing();
        }
    }
    Ok(None)
}

/// What each domain's uplink was when it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Uplinks {
    known: HashMap<String, String>,
}

impl Uplinks {
    /// Announces uplinks that have become other ones since: another port of a bond, another VLAN, address or interface.
    pub(crate) fn look(&mut self, config: &Config, state: &State) -> Result<Vec<String>, Error> {
        let (uplinks, mut changes) = (state.uplinks()?, vec![]);
        for DomainConfig { name, uplink, .. } in &config.domains {
            let Some(device) = find(uplink)? else { continue };
            let Some((_, found)) = uplinks.iter().find(|(index, _)| *index == device.index) else { continue };
            changes.extend(self.note(name, &description(&device, found.address)?));
        }
        Ok(changes)
    }

    /// Remembers what the uplink of `domain` is. Returns what has changed.
    fn note(&mut self, domain: &str, now: &str) -> Option<String> {
        let before = self.known.insert(domain.into(), now.into())?;
        (before != now).then(|| format!("domain `{domain}`: its uplink is now {now}; it was {before}"))
    }
}

/// What `device` is, and over what it carries.
fn description(device: &Link, address: [u8; 4]) -> Result<String, Error> {
    let below = device.active_port.or(device.vlan.and(device.peer)).map_or(Ok(None), link::by_index)?;
    Ok(described(device, address, below.as_ref().map(|below| below.name.as_str())))
}

fn described(device: &Link, address: [u8; 4], below: Option<&str>) -> String {
    let Link { name, index, mac, vlan, .. } = device;
    let mac = printable::mac(*mac);
    let vlan = vlan.map(|tag| format!(", VLAN {tag}")).unwrap_or_default();
    let below = below.map(|below| format!(", over {below}")).unwrap_or_default();
    format!("{name} (number {index}, {mac}, {}{vlan}{below})", Ipv4Addr::from(address))
}

/// The first interface that has an address in `network`.
fn by_network(network: Network) -> Result<Option<Link>, Error> {
    for name in link::names()? {
        let Some(device) = link::by_name(&name)? else { continue };
        let inside = |address: [u8; 4]| network.contains(&Network { address, prefix: 32 });
        if link::addresses(device.index)?.iter().any(|found| inside(found.address.octets())) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// The interface of the default route with the lowest metric. Columns: interface, destination, gateway, flags, references,
/// use, metric, mask.
fn default_route(routes: &str) -> Option<&str> {
    let found = routes.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [interface, "00000000", _, _, _, _, metric, "00000000", ..] = columns[..] else { return None };
        Some((metric.parse::<u32>().ok()?, interface))
    });
    found.min().map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                      eth0\t00000000\t010017AC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                      eth0\t000017AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_route(routes), Some("eth0"));
        assert_eq!(default_route(""), None);
    }

    #[test]
    fn an_uplink_that_becomes_another_is_announced_once() {
        let bond = Link {
            index: 4,
            name: "bond0".into(),
            mac: [2, 0, 0, 0, 0, 1],
            kind: "bond".into(),
            peer: None,
            peer_netns: None,
            mtu: 1500,
            is_up: true,
            has_carrier: true,
            vlan: None,
            active_port: Some(2),
            controller: None,
        };
        let over = |port| described(&bond, [172, 23, 0, 10], Some(port));
        let mut uplinks = Uplinks::default();
        assert_eq!(uplinks.note("bl07", &over("eth0")), None);
        let announced = uplinks.note("bl07", &over("eth1")).unwrap();
        assert_eq!(
            announced,
            "domain `bl07`: its uplink is now bond0 (number 4, 02:00:00:00:00:01, 172.23.0.10, over eth1); it was \
             bond0 (number 4, 02:00:00:00:00:01, 172.23.0.10, over eth0)"
        );
        assert_eq!(uplinks.note("bl07", &over("eth1")), None);
        let tagged = Link { vlan: Some(7), ..bond };
        assert!(
            uplinks.note("bl07", &described(&tagged, [172, 23, 0, 10], None)).unwrap().contains("VLAN 7")
        );
    }

    #[test]
    fn an_uplink_carries_that_is_up_with_carrier_and_address() {
        let device = |is_up, has_carrier| Link {
            index: 4,
            name: "eth0".into(),
            mac: [0; 6],
            kind: String::new(),
            peer: None,
            peer_netns: None,
            mtu: 1500,
            is_up,
            has_carrier,
            vlan: None,
            active_port: None,
            controller: None,
        };
        assert_eq!(Fault::of(&device(true, true), true), None);
        assert_eq!(Fault::of(&device(false, false), false), Some(Fault::Down));
        assert_eq!(Fault::of(&device(true, false), false), Some(Fault::NoCarrier));
        assert_eq!(Fault::of(&device(true, true), false), Some(Fault::NoAddress));
    }
}

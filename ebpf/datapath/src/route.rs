//! IPv4 routes of the calling thread's network namespace: ours, and the default one. Only the main table is looked at.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use nix::errno::Errno;

use crate::{Error, Result, netlink};

/// What marks a route as ours ("i"); `ip route` shows it as `proto 105`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(105);

/// A route through one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network's address.
    pub address: Ipv4Addr,
    /// Its prefix length, bits.
    pub prefix: u8,
    /// Interface index of the device.
    pub device: u32,
    /// The next hop; `None` if the network's hosts are on the device's link.
    pub gateway: Option<Ipv4Addr>,
    /// The source of packets whose sender has not chosen one.
    pub source: Option<Ipv4Addr>,
}

/// Sends packets for `address` through `device`, with `source` as the source of this host's own. Replaces a route of ours; an
/// error if there is another's.
pub fn set_route(address: Ipv4Addr, device: u32, source: Ipv4Addr) -> Result<()> {
    let route = Route { address, prefix: 32, device, gateway: None, source: Some(source) };
    match change(&route, NLM_F_CREATE | NLM_F_EXCL) {
        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(Errno::EEXIST as i32) => {
            let is_ours = routes()?.iter().any(|ours| (ours.address, ours.prefix) == (address, 32));
            if is_ours { set(&route) } else { Err(Error::RouteTaken { address }) }
        }
        done => done,
    }
}

/// Removes our route to `address`; not an error if there is none.
pub fn remove_route(address: Ipv4Addr) -> Result<()> {
    remove(address, 32)
}

/// Our routes.
pub fn routes() -> Result<Vec<Route>> {
    dump(PROTOCOL, None)
}

/// Removes all of our routes.
pub(crate) fn remove_all() -> Result<()> {
    routes()?.iter().try_for_each(|route| remove(route.address, route.prefix))
}

/// The default route through `device` that packets take; `None` if there is none.
pub fn default_route(device: u32) -> Result<Option<Route>> {
    let all = dump(RouteProtocol::Unspec, Some(device))?; // the kernel lists the preferred one first
    Ok(all.into_iter().find(|route| route.prefix == 0))
}

/// Sets a route of ours; replaces one to the same network.
pub fn set(route: &Route) -> Result<()> {
    change(route, NLM_F_CREATE | NLM_F_REPLACE)
}

fn change(route: &Route, flags: u16) -> Result<()> {
    let Route { address, prefix, .. } = route;
    netlink::change(Message::NewRoute(message(route)), flags)
        .map_err(|error| Error::kernel(format!("cannot set the route to {address}/{prefix}"), error))
}

/// Removes our route to a network; not an error if there is none.
pub fn remove(address: Ipv4Addr, prefix: u8) -> Result<()> {
    let mut request = to(address, prefix);
    request.header.scope = RouteScope::NoWhere; // any
    match netlink::change(Message::DelRoute(request), 0) {
        Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => {
            Err(Error::kernel(format!("cannot remove the route to {address}/{prefix}"), error))
        }
        _ => Ok(()),
    }
}

fn dump(protocol: RouteProtocol, device: Option<u32>) -> Result<Vec<Route>> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.header.protocol = protocol;
    request.attributes.extend(device.map(RouteAttribute::Oif));
    let answers = match netlink::dump(Message::GetRoute(request)) {
        // A namespace without any route has no table.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => vec![],
        answers => answers.map_err(|error| Error::kernel("cannot list the routes", error))?,
    };
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            Message::NewRoute(message) => parse(message),
            _ => None,
        })
        .collect())
}

/// `None` for a route that does not go through one device.
fn parse(message: &RouteMessage) -> Option<Route> {
    let (mut address, mut device, mut gateway, mut source) = (Ipv4Addr::UNSPECIFIED, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(found)) => address = *found,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(found)) => gateway = Some(*found),
            RouteAttribute::PrefSource(RouteAddress::Inet(found)) => source = Some(*found),
            _ => {}
        }
    }
    let prefix = message.header.destination_prefix_length;
    Some(Route { address, prefix, device: device?, gateway, source })
}

fn message(route: &Route) -> RouteMessage {
    let mut message = to(route.address, route.prefix);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Oif(route.device));
    if let Some(gateway) = route.gateway {
        message.header.scope = RouteScope::Universe;
        message.header.flags = RouteFlags::Onlink; // such as 169.254.1.1, which is in no network of the device
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

fn to(address: Ipv4Addr, prefix: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 23, 0, 50);

    #[test]
    fn a_route_is_read_as_it_is_written() {
        let on_link = Route {
            address: ADDRESS,
            prefix: 32,
            device: 7,
            gateway: None,
            source: Some([10, 0, 0, 1].into()),
        };
        let behind = Route { prefix: 24, gateway: Some([169, 254, 1, 1].into()), ..on_link };
        for route in [on_link, behind] {
            assert_eq!(parse(&message(&route)), Some(route));
        }
    }

    #[test]
    fn what_has_no_next_hop_is_on_the_link() {
        let on_link = Route { address: ADDRESS, prefix: 32, device: 7, gateway: None, source: None };
        let header = message(&on_link).header;
        assert_eq!((header.scope, header.flags), (RouteScope::Link, RouteFlags::empty()));
        let header = message(&Route { gateway: Some([10, 0, 0, 1].into()), ..on_link }).header;
        assert_eq!((header.scope, header.flags), (RouteScope::Universe, RouteFlags::Onlink));
    }

    #[test]
    fn a_default_route_has_no_destination_and_one_with_several_hops_no_device() {
        let mut message = RouteMessage::default();
        assert_eq!(parse(&message), None);
        message.attributes.push(RouteAttribute::Oif(2));
        let expected =
            Route { address: Ipv4Addr::UNSPECIFIED, prefix: 0, device: 2, gateway: None, source: None };
        assert_eq!(parse(&message), Some(expected));
    }
}

//! Network devices and addresses of the calling thread's network namespace, and, read only, of others that it has an id
//! for.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        InfoBond, InfoData, InfoKind, InfoVeth, InfoVlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use nix::errno::Errno;

use crate::{Error, Result, netlink};

/// The address of this host whose peer is a group that the device joins, see [`crate::groups`]. No other has it.
pub(crate) const JOINING: Ipv4Addr = Ipv4Addr::new(127, 105, 0, 1);

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address; zeros where the device has none.
    pub mac: [u8; 6],
    /// What kind of virtual device it is, such as `veth` or `macvlan`; empty for a physical one.
    pub kind: String,
    /// Interface index of its peer (veth) or lower device, in that one's namespace.
    pub peer: Option<u32>,
    /// The id of the peer's namespace in this one; `None` if the peer is in this one.
    pub peer_netns: Option<i32>,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Whether there is a link below it: a cable, a peer that is up, a port that is.
    pub has_carrier: bool,
    /// The tag of a VLAN device.
    pub vlan: Option<u16>,
    /// Interface index of the port that a bond uses, if it uses one at a time.
    pub active_port: Option<u32>,
    /// Interface index of the bridge or bond that it is a port of.
    pub controller: Option<u32>,
}

/// An IPv4 address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length, bits.
    pub prefix: u8,
    /// The broadcast address, where one is configured.
    pub broadcast: Option<Ipv4Addr>,
}

impl Address {
    /// The broadcast address that matches the prefix: the network's, or the limited one if the prefix has none.
    pub fn natural_broadcast(&self) -> Ipv4Addr {
        if self.prefix >= 31 {
            Ipv4Addr::BROADCAST
        } else {
            Ipv4Addr::from(u32::from(self.address) | host_bits(self.prefix))
        }
    }

    /// The address of its network.
    pub fn network(&self) -> Ipv4Addr {
        network(self.address, self.prefix)
    }
}

/// The address of the network with this prefix, in bits, that `address` is in.
pub fn network(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) & !host_bits(prefix))
}

/// The bits behind a prefix.
pub fn host_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

/// The device called `name`; `None` if there is none.
pub fn by_name(name: &str) -> Result<Option<Link>> {
    named(name, None)
}

/// The device called `name` in the namespace with id `netns`; `None` if there is none.
pub(crate) fn by_name_in(netns: i32, name: &str) -> Result<Option<Link>> {
    named(name, Some(netns))
}

fn named(name: &str, netns: Option<i32>) -> Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.into()));
    request.attributes.extend(netns.map(LinkAttribute::IfNetnsId));
    find(request).map_err(|error| Error::kernel(format!("cannot look up interface {name}"), error))
}

/// The device with interface index `index`; `None` if there is none.
pub fn by_index(index: u32) -> Result<Option<Link>> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    find(request).map_err(|error| Error::kernel(format!("cannot look up interface number {index}"), error))
}

/// All devices.
pub fn all() -> Result<Vec<Link>> {
    let answers = netlink::dump(Message::GetLink(LinkMessage::default()))
        .map_err(|error| Error::kernel("cannot list the interfaces", error))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            Message::NewLink(link) => Some(parse_link(link)),
            _ => None,
        })
        .collect())
}

/// The names of all devices.
pub fn names() -> Result<Vec<String>> {
    Ok(all()?.into_iter().map(|link| link.name).collect())
}

fn find(mut request: LinkMessage) -> std::io::Result<Option<Link>> {
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match netlink::get(Message::GetLink(request)) {
        Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
            Message::NewLink(link) => Some(parse_link(&link)),
            _ => None,
        })),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        is_up: message.header.flags.contains(LinkFlags::Up),
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id),
            LinkAttribute::LinkInfo(info) => info.iter().for_each(|info| link.take_in(info)),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

impl Link {
    fn take_in(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vlan(data)) => {
                self.vlan =
                    data.iter().find_map(|of| if let InfoVlan::Id(id) = of { Some(*id) } else { None });
            }
            LinkInfo::Data(InfoData::Bond(data)) => {
                let port =
                    |of: &InfoBond| if let InfoBond::ActivePort(port) = of { Some(*port) } else { None };
                self.active_port = data.iter().find_map(port).filter(|port| *port != 0);
            }
            _ => {}
        }
    }
}

/// The IPv4 addresses of device `index`, in the kernel's order; not those that only join groups.
pub fn addresses(index: u32) -> Result<Vec<Address>> {
    addresses_of(index, None)
}

/// The IPv4 addresses of all devices, each with the interface index of its device.
pub fn all_addresses() -> Result<Vec<(u32, Address)>> {
    let found = dump_addresses(0, None)
        .map_err(|error| Error::kernel("cannot list the addresses of the node", error))?;
    Ok(found.iter().filter_map(|message| Some((message.header.index, parse_address(message)?))).collect())
}

/// The IPv4 addresses of device `index` in the namespace with id `netns`, in the kernel's order.
pub fn addresses_in(netns: i32, index: u32) -> Result<Vec<Address>> {
    addresses_of(index, Some(netns))
}

fn addresses_of(index: u32, netns: Option<i32>) -> Result<Vec<Address>> {
    let found = dump_addresses(index, netns).map_err(|error| {
        Error::kernel(format!("cannot list the addresses of interface number {index}"), error)
    })?;
    Ok(found.iter().filter(|message| message.header.index == index).filter_map(parse_address).collect())
}

/// What the kernel says of the IPv4 addresses of device `index`, 0 for all devices.
pub(crate) fn dump_addresses(index: u32, netns: Option<i32>) -> std::io::Result<Vec<AddressMessage>> {
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    request.header.index = index;
    request.attributes.extend(netns.map(AddressAttribute::TargetNetNsId));
    let answers = netlink::dump(Message::GetAddress(request))?.into_iter();
    Ok(answers
        .filter_map(|answer| match answer {
            Message::NewAddress(message) => Some(message),
            _ => None,
        })
        .collect())
}

fn parse_address(message: &AddressMessage) -> Option<Address> {
    let mut address = None;
    let mut broadcast = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(local)) => address = Some(*local),
            AddressAttribute::Broadcast(found) => broadcast = Some(*found),
            _ => {}
        }
    }
    let address = address.filter(|address| *address != JOINING)?;
    Some(Address { address, prefix: message.header.prefix_len, broadcast })
}

/// The device through which this namespace sends packets to `address`; `None` if there is no route.
pub fn towards(address: Ipv4Addr) -> Result<Option<u32>> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    request.header.destination_prefix_length = 32;
    request.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
    let answers = match netlink::get(Message::GetRoute(request)) {
        Err(error) if is_one_of(&error, &[Errno::ENETUNREACH, Errno::EHOSTUNREACH]) => return Ok(None),
        answers => {
            answers.map_err(|error| Error::kernel(format!("cannot look up the route to {address}"), error))?
        }
    };
    Ok(answers.iter().find_map(|answer| match answer {
        Message::NewRoute(route) => route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }),
        _ => None,
    }))
}

/// Gives `address` of device `index` a broadcast address if it has none, and returns the one it then has.
///
/// The kernel cannot change the broadcast address of an existing address. A twin with another prefix stands in meanwhile, so
/// that the device never loses the address, nor a route with it.
pub fn ensure_broadcast(index: u32, address: Address) -> Result<Ipv4Addr> {
    if let Some(broadcast) = address.broadcast {
        return Ok(broadcast);
    }
    let twin = Address { prefix: if address.prefix == 31 { 30 } else { 31 }, ..address };
    let wanted = Address { broadcast: Some(address.natural_broadcast()), ..address };
    let steps: [(&str, &dyn Fn() -> std::io::Result<()>); 4] = [
        ("add a twin of", &|| {
            add_address(index, twin, Some(AddressAttribute::Flags(AddressFlags::Noprefixroute)))
        }),
        ("remove", &|| remove_address(index, address)),
        ("set the broadcast address of", &|| add_address(index, wanted, None)),
        ("remove the twin of", &|| remove_address(index, twin)),
    ];
    for (number, (what, step)) in steps.into_iter().enumerate() {
        if let Err(error) = step() {
            // Undo as far as possible: the first step, and the second if it was carried out.
            if number == 2 {
                let _ = add_address(index, address, None);
            }
            if number > 0 {
                let _ = remove_address(index, twin);
            }
            let Address { address, prefix, .. } = address;
            return Err(Error::kernel(format!("cannot {what} the pod's address {address}/{prefix}"), error));
        }
    }
    Ok(address.natural_broadcast())
}

/// Gives a device an address besides those that it has; not an error if it has it.
///
/// It has a label of its own. By the device's name alone, SIOCGIFBRDADDR gives the broadcast address of the first: servers of
/// pvAccessCPP, which ask so for each address, would listen there twice and answer each search twice.
pub fn give_address(device: &Link, address: Address) -> Result<()> {
    let label = label(&device.name).map(AddressAttribute::Label);
    match add_address(device.index, address, label) {
        Err(error) if !is_one_of(&error, &[Errno::EEXIST]) => {
            Err(Error::kernel(format!("cannot add the address {}", address.address), error))
        }
        _ => Ok(()),
    }
}

/// Takes an address from device `index`, and with it the routes that prefer it as source; not an error if it does not have
/// it.
pub fn take_address(index: u32, address: Address) -> Result<()> {
    match remove_address(index, address) {
        Err(error) if !is_one_of(&error, &[Errno::EADDRNOTAVAIL]) => {
            Err(Error::kernel(format!("cannot remove the address {}", address.address), error))
        }
        _ => Ok(()),
    }
}

/// A label for an address of the device with this name, if that leaves room for one.
fn label(device: &str) -> Option<String> {
    let label = format!("{device}:lan");
    (label.len() < nix::libc::IFNAMSIZ).then_some(label)
}

fn add_address(index: u32, address: Address, more: Option<AddressAttribute>) -> std::io::Result<()> {
    let mut message = address_message(index, address);
    message.attributes.extend(more);
    netlink::change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn remove_address(index: u32, address: Address) -> std::io::Result<()> {
    netlink::change(Message::DelAddress(address_message(index, address)), 0)
}

fn address_message(index: u32, address: Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = address.prefix;
    let ip = IpAddr::V4(address.address);
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message.attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
    message
}

/// Forgets which MAC address `address` has on the link of device `index`; not an error if that is not known.
pub(crate) fn forget_neighbour(index: u32, address: Ipv4Addr) -> Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    match netlink::change(Message::DelNeighbour(message), 0) {
        Err(error) if !is_one_of(&error, &[Errno::ENOENT]) => {
            Err(Error::kernel(format!("cannot forget the neighbour {address}"), error))
        }
        _ => Ok(()),
    }
}

/// The hosts on the link of device `index` that have answered it.
pub fn neighbours(index: u32) -> Result<Vec<Ipv4Addr>> {
    let mut request = NeighbourMessage::default();
    request.header.family = AddressFamily::Inet;
    let answers = netlink::dump(Message::GetNeighbour(request))
        .map_err(|error| Error::kernel("cannot list the neighbours", error))?;
    let known = answers.iter().filter_map(|answer| match answer {
        Message::NewNeighbour(found) if found.header.ifindex == index => neighbour(found),
        _ => None,
    });
    Ok(known.collect())
}

/// The neighbour's address, if it has told its MAC address.
fn neighbour(found: &NeighbourMessage) -> Option<Ipv4Addr> {
    let has_mac =
        found.attributes.iter().any(|attribute| matches!(attribute, NeighbourAttribute::LinkLayerAddress(_)));
    let address = found.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    address.filter(|address| has_mac && !address.is_multicast() && !address.is_broadcast())
}

/// Creates a veth pair `name`/`peer` with the largest MTU; an existing one is left as it is.
pub(crate) fn create_veth(name: &str, peer: &str) -> Result<()> {
    let named = |name: &str| {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(65535)];
        message
    };
    let mut message = named(name);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(peer)))),
    ]));
    match netlink::change(Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.raw_os_error() != Some(Errno::EEXIST as i32) => {
            Err(Error::kernel(format!("cannot create the veth pair {name}, {peer}"), error))
        }
        _ => Ok(()),
    }
}

/// Deletes the device called `name`, and with it its peer; not an error if there is none.
pub(crate) fn delete(name: &str) -> Result<()> {
    let Some(device) = by_name(name)? else { return Ok(()) };
    let mut message = LinkMessage::default();
    message.header.index = device.index;
    match netlink::change(Message::DelLink(message), 0) {
        Err(error) if !is_one_of(&error, &[Errno::ENODEV]) => {
            Err(Error::kernel(format!("cannot delete {name}"), error))
        }
        _ => Ok(()),
    }
}

/// Brings device `index` up, without ARP.
pub(crate) fn set_up(index: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    netlink::change(Message::SetLink(message), 0)
        .map_err(|error| Error::kernel(format!("cannot bring interface number {index} up"), error))
}

/// Whether the kernel's answer is one of these.
pub(crate) fn is_one_of(error: &std::io::Error, codes: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|found| codes.iter().any(|code| *code as i32 == found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bonds_active_port_and_a_vlans_tag_are_read() {
        let read = |data| {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Data(data)]));
            let link = parse_link(&message);
            (link.active_port, link.vlan)
        };
        assert_eq!(
            read(InfoData::Bond(vec![InfoBond::MiiMon(100), InfoBond::ActivePort(4)])),
            (Some(4), None)
        );
        assert_eq!(read(InfoData::Bond(vec![InfoBond::ActivePort(0)])), (None, None), "it has none");
        assert_eq!(read(InfoData::Vlan(vec![InfoVlan::Id(7)])), (None, Some(7)));
    }

    #[test]
    fn a_network_is_named_without_a_host() {
        let of = |prefix| network([172, 23, 5, 10].into(), prefix).octets();
        assert_eq!([of(24), of(16), of(32)], [[172, 23, 5, 0], [172, 23, 0, 0], [172, 23, 5, 10]]);
        assert_eq!(of(0), [0; 4]);
    }

    #[test]
    fn the_natural_broadcast_address_is_the_networks_or_the_limited_one() {
        let of =
            |prefix| Address { address: [10, 244, 1, 5].into(), prefix, broadcast: None }.natural_broadcast();
        assert_eq!(of(24), Ipv4Addr::new(10, 244, 1, 255));
        assert_eq!(of(16), Ipv4Addr::new(10, 244, 255, 255));
        assert_eq!(of(31), Ipv4Addr::BROADCAST);
        assert_eq!(of(32), Ipv4Addr::BROADCAST);
        assert_eq!(of(0), Ipv4Addr::BROADCAST);
    }
}
